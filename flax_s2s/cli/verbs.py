"""Parses the arguments of a verb and hands them to its command; whatever comes of it ends in `job`, which sets the exit code (see `errors`)."""

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from flax_s2s import __version__, errors
from flax_s2s.cli.options import (
    Bench,
    Compare,
    Decode,
    Evaluate,
    Export,
    Import,
    Inspect,
    LearnShortlist,
    Report,
    Score,
    Serve,
    Sweep,
    Train,
    VerifyResume,
)
from flax_s2s.config import Config, UserError, nearest
from flax_s2s.presets import is_preset, load_preset
from flax_s2s.runtime import job

USAGE = """\
usage: python -m flax_s2s VERB ...

  train CONFIG --run-dir DIR     train a model; `train DIR` goes on where it stopped
  evaluate RUN_DIR...            translate a split of the corpus and score it
  report RUN_DIR...              one page that opens offline: data, curves, scores, calibration, sentences with attention
  compare RUN_A RUN_B            translate a split with both, and say where they differ and whether chance explains it
  decode RUN_DIR...              translate lines, stdin to stdout or a file to a file
  score RUN_DIR...               log-probability of given pairs or candidates, and the perplexity
  inspect CONFIG or RUN_DIR      parameters, FLOPs, shapes, padding and memory, before training
  bench CONFIG                   measured speed of training and decoding, as one JSON line
  serve RUN_DIR...               answer over HTTP, with a page to look at translations
  export RUN_DIR                 write a folder that translates without JAX: ONNX graphs, or NumPy alone
  import CHECKPOINT              make a run of a model that OpenNMT-py trained
  shortlist RUN_DIR              learn which target tokens are worth trying for a source, to decode faster
  sweep CONFIG                   train with several seeds, and print the mean and the deviation of the scores
  verify-resume CONFIG           train straight and killed at random moments, and compare the final states

CONFIG is a preset, by name (quickstart) or as a file (configs/quickstart.py); each of its fields can be given as an option.
`VERB --help` explains the options; `train CONFIG --help` shows every field with that preset's value; --version says which this is."""

_OTHER_NAMES = {
    **dict.fromkeys(("translate", "predict", "generate", "infer", "inference", "sample"), "`decode RUN_DIR` translates lines"),
    **dict.fromkeys(("server", "api", "web"), "`serve RUN_DIR` answers over HTTP"),
    **dict.fromkeys(("test", "eval", "validate", "bleu"), "`evaluate RUN_DIR` translates a split and scores it"),
    **dict.fromkeys(("resume", "continue"), "`train RUN_DIR` goes on with a run"),
    **dict.fromkeys(("finetune", "fine-tune"), "`train CONFIG --run-dir NEW --init-from RUN_DIR` begins with what a run has learned"),
    **dict.fromkeys(("fit", "run", "start"), "`train CONFIG` trains a model"),
    **dict.fromkeys(("perplexity", "rescore", "rerank"), "`score RUN_DIR` scores given pairs"),
    **dict.fromkeys(("plot", "dashboard", "html"), "`report RUN_DIR` writes a page of curves, scores and sentences"),
    **dict.fromkeys(("info", "summary", "show"), "`inspect CONFIG` or `inspect RUN_DIR` says what a model amounts to"),
    **dict.fromkeys(("benchmark", "profile"), "`bench CONFIG` measures speed"),
}  # what people call the verbs elsewhere

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    errors.prepare_streams()
    try:
        code = job.end(_dispatch(arguments))
        sys.stdout.flush()  # at Python's own end a full disk is a traceback
        return code
    except BrokenPipeError:  # the reader of stdout has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more when it ends
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return job.fail(error)


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help", "help"):
        print(USAGE, flush=True)
        return 0
    if first in ("-V", "--version"):
        print(f"flax_s2s {__version__}", flush=True)
        return 0
    verb = VERBS.get(first)
    if verb is None:
        raise UserError(f"there is no verb {first!r}{_hint(first)}; verbs: {', '.join(VERBS)}")
    return verb(arguments[1:])


def _hint(word: str) -> str:
    """The remedy clause for what is no verb."""
    if near := nearest(word, ("--version", "--help")):
        return near
    if word.startswith("-"):
        return ": options come after the verb, as in `train quickstart --training.steps 300`"
    if is_preset(word):
        return f", but `train {word}` trains that preset"
    if os.path.isdir(word):
        return f", but `train {word}` goes on with a run, and `evaluate {word}` scores it"
    other = _OTHER_NAMES.get(word.lower())
    return f": {other}" if other else nearest(word, VERBS)


def _parse(kind: type[T], verb: str, arguments: list[str], default: T | None = None) -> T:
    """Reads options into a dataclass; a mistake is tyro's box and exit code 2."""
    if hasattr(default, "config"):  # what the verbs that read runs call so is a field of these
        arguments = [re.sub("^--(language|tokenizer)(?==|$)", r"--evaluation.\1", argument) for argument in arguments]
    prog = f"flax-s2s {verb}"
    if default is None:
        given = tyro.cli(kind, args=arguments, prog=prog)
    else:
        given = tyro.cli(kind, args=arguments, prog=prog, default=default) if arguments else default  # tyro asks every field first
    if getattr(given, "run_dir", None) == "":  # it would be the working directory
        raise UserError("--run-dir is empty, perhaps because a shell variable is not set; name a folder, '.' for this one")
    return given


def _asks_for_help(arguments: list[str]) -> bool:
    return bool({"-h", "--help"} & set(arguments))


def _first(arguments: list[str], verb: str, what: str = "a preset") -> tuple[str, list[str]]:
    """The first argument, which names what to begin with (none where only help is asked for), and the others."""
    if arguments and not arguments[0]:
        raise UserError(f"{verb} is given an empty name, perhaps because a shell variable is not set; it needs {what}")
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    late = next((argument for argument in arguments if argument.endswith(".py")), "")
    if late:
        raise UserError(f"the preset comes first, its options after it: {verb} {late} ...")
    if _asks_for_help(arguments):
        return "", arguments
    raise UserError(f"{verb} needs {what} as its first argument, for example: {verb} quickstart")


def _preset(arguments: list[str], verb: str) -> tuple[str, Config, list[str]]:
    """The preset's name, its configuration, and the other arguments."""
    name, options = _first(arguments, verb)
    if _is_folder(name):
        raise UserError(f"{name} is a folder, and {verb} needs a preset, such as quickstart; train and inspect take a run directory, too")
    return name, load_preset(name) if name else Config(), options


def _stem(name: str) -> str:
    """What a preset's folders are called after."""
    return os.path.splitext(os.path.basename(name))[0] or "NAME"


def _is_folder(name: str) -> bool:
    """Whether it is a run directory, if it is anything; of a folder and a preset of one name, the folder is if it holds a run."""
    return "://" in name or (os.path.isdir(name) and (_holds_run(name) or not is_preset(name)))


def _holds_run(name: str) -> bool:
    return os.path.exists(os.path.join(name, "config.json"))


def _given_run_dir(arguments: list[str]) -> str:
    """What --run-dir says, before its default is known."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = argument.partition("=")
        if name in ("--run-dir", "--run_dir"):
            return value if equals else following
    return ""


def _train(arguments: list[str]) -> int:
    held = _given_run_dir(arguments)
    alone = held and arguments[0].startswith("-")
    what = "a preset or a run directory"
    if alone and ("://" in held or _holds_run(held)):
        name, options = held, arguments  # the run holds its configuration
    else:
        name, options = _first(arguments, "train", f"{what} (there is no run in {held} yet)" if alone else what)
    run_dir = name if _is_folder(name) else f"runs/{_stem(name)}"
    config = _read_run(name) if _is_folder(name) else load_preset(name) if name else Config()
    given = _parse(Train, f"train {name or 'CONFIG|RUN_DIR'}", options, Train(config, run_dir))
    if given.init_from:
        _refuse_no_run(given.init_from, "--init-from")
    with job.listen():  # before the imports: they take seconds
        from flax_s2s.commands import train

        command = shlex.join(["python", "-m", "flax_s2s", "train", *arguments])
        return train.run(given.config, given.run_dir, given.place, given.init_from, command, report=given.report)


def _read_run(name: str) -> Config:
    from flax_s2s.runs.rundir import make_path, read_config

    return read_config(make_path(name))


def _inspect(arguments: list[str]) -> int:
    name, options = _first(arguments, "inspect", "a preset or a run directory")
    run_dir = name if _is_folder(name) else ""
    config = _read_run(name) if run_dir else load_preset(name) if name else Config()
    given = _parse(Inspect, f"inspect {name or 'CONFIG|RUN_DIR'}", options, Inspect(config))
    from flax_s2s.commands import inspect

    return inspect.run(given.config, run_dir, given.memory)


def _bench(arguments: list[str]) -> int:
    name, config, options = _preset(arguments, "bench")
    given = _parse(Bench, f"bench {name or 'CONFIG'}", options, Bench(config))
    from flax_s2s.commands import bench

    return bench.run(given.config, given.rounds)


def _sweep(arguments: list[str]) -> int:
    name, config, options = _preset(arguments, "sweep")
    given = _parse(Sweep, f"sweep {name or 'CONFIG'}", options, Sweep(config, f"runs/sweep-{_stem(name)}"))
    from flax_s2s.commands import evaluate, sweep

    asked = {name: getattr(given, name) for name in ("split", "metrics", "merge_sources", "references", "json")}
    asked |= {name: getattr(given.config.evaluation, name) for name in ("language", "tokenizer")}
    how = evaluate.Options(**asked, data_folder="", samples=0, resamples=0, calibration="")
    return sweep.run(given.config, given.run_dir, sweep.Options(given.seeds, given.each, given.ensemble, how, given.report))


def _verify_resume(arguments: list[str]) -> int:
    name, config, options = _preset(arguments, "verify-resume")
    default = VerifyResume(config, f"runs/verify-resume-{_stem(name)}")
    given = _parse(VerifyResume, f"verify-resume {name or 'CONFIG'}", options, default)
    from flax_s2s.commands import verify_resume

    return verify_resume.run(given.config, given.run_dir, given.kills, given.seed_of_kills)


def _runs(arguments: list[str], verb: str) -> tuple[list[str], list[str], Config]:
    """The run directories, which come first, the options after them, and the first run's configuration."""
    count = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    run_dirs, options = arguments[:count], arguments[count:]
    if not run_dirs:
        if _asks_for_help(options):
            return [], options, Config()
        raise UserError(f"{verb} needs a RUN_DIR as its first argument, or several, for example: {verb} runs/quickstart")
    for name in run_dirs:
        _refuse_no_run(name, verb)
    return run_dirs, options, _read_run(run_dirs[0])


def _refuse_no_run(name: str, verb: str) -> None:
    """Says what it is that stands where a run directory belongs: nothing, a preset, or a file."""
    if not name:  # it would be the working directory
        raise UserError(
            f"the run directory that {verb} is given is empty, perhaps because a shell variable is not set; name a folder, '.' for this one"
        )
    if name.endswith(".py") or (not os.path.exists(name) and is_preset(name)):
        raise UserError(
            f"{name} is a preset, and {verb} needs the run directory of a model, such as runs/{_stem(name)}, which `train {name}` makes"
        )
    if os.path.isfile(name):
        folder = os.path.dirname(name)
        remedy = f"use {folder}" if _holds_run(folder) else f"files are given by options, see {verb} --help"
        raise UserError(f"{name} is a file, and {verb} takes run directories there; {remedy}")


def _evaluate(arguments: list[str]) -> int:
    run_dirs, options, config = _runs(arguments, "evaluate")

    def read(config: Config) -> Evaluate:
        """What is asked for of a run; where no option says, as it is configured."""
        measured = {name: getattr(config.evaluation, name) for name in ("language", "tokenizer")}
        return _parse(Evaluate, "evaluate RUN_DIR...", options, Evaluate(decoding=config.decoding, **measured))

    given = read(config)
    from flax_s2s.commands import evaluate, macro

    def choose(given: Evaluate) -> evaluate.Options:
        return evaluate.Options(**{name: getattr(given, name) for name in evaluate.Options._fields})

    if given.macro:
        each = [(run_dir, read(_read_run(run_dir))) for run_dir in run_dirs]
        return macro.run([macro.Asked(run_dir, own.checkpoint, own.decoding, choose(own)) for run_dir, own in each])
    return evaluate.run(run_dirs, given.checkpoint, given.decoding, choose(given))


def _report(arguments: list[str]) -> int:
    run_dirs, options, _ = _runs(arguments, "report")
    given = _parse(Report, "report RUN_DIR...", options, Report())
    if not given.output:
        raise UserError("--output is empty, perhaps because a shell variable is not set; name a file, such as report.html")
    from flax_s2s.commands import report

    return report.run(run_dirs, given.output, report.Options(**{name: getattr(given, name) for name in report.Options._fields}))


def _compare(arguments: list[str]) -> int:
    run_dirs, options, config = _runs(arguments, "compare")
    measured = {name: getattr(config.evaluation, name) for name in ("language", "tokenizer")}
    given = _parse(Compare, "compare RUN_A RUN_B", options, Compare(decoding=config.decoding, **measured))
    from flax_s2s.commands import compare

    chosen = compare.Options(**{name: getattr(given, name) for name in compare.Options._fields})
    return compare.run(run_dirs, given.checkpoint, given.decoding, chosen)


def _decode(arguments: list[str]) -> int:
    run_dirs, options, config = _runs(arguments, "decode")
    measured = {name: getattr(config.evaluation, name) for name in ("language", "tokenizer")}
    given = _parse(Decode, "decode RUN_DIR...", options, Decode(decoding=config.decoding, **measured))
    from flax_s2s.commands import decode

    chosen = decode.Options(**{name: getattr(given, name) for name in decode.Options._fields})
    return decode.run(run_dirs, given.checkpoint, given.decoding, given.files, chosen)


def _score(arguments: list[str]) -> int:
    run_dirs, options, config = _runs(arguments, "score")
    decoding = config.decoding
    chosen = ("length_penalty", "ensemble", "rows")
    given = _parse(Score, "score RUN_DIR...", options, Score(*(getattr(decoding, name) for name in chosen)))
    from flax_s2s.commands import score

    decoding = dataclasses.replace(decoding, **{name: getattr(given, name) for name in chosen})
    return score.run(run_dirs, given.checkpoint, decoding, given.files, given.source, given.target)


def _serve(arguments: list[str]) -> int:
    from flax_s2s.commands import serve

    if arguments and serve.is_exported(arguments[0]):
        count = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
        names, options, config = arguments[:count], arguments[count:], Config()
    else:
        names, options, config = _runs(arguments, "serve")
    given = _parse(Serve, "serve RUN_DIR...", options, Serve(decoding=serve.settings_of(config)))
    return serve.run(names, given.decoding, serve.Options(**{name: getattr(given, name) for name in serve.Options._fields}))


def _export(arguments: list[str]) -> int:
    run_dirs, options, config = _runs(arguments, "export")
    given = _parse(Export, "export RUN_DIR", options, Export(decoding=config.decoding))
    from flax_s2s.commands import export

    return export.run(run_dirs, given.decoding, export.Options(**{name: getattr(given, name) for name in export.Options._fields}))


def _shortlist(arguments: list[str]) -> int:
    given = _parse(LearnShortlist, "shortlist", arguments)
    _refuse_no_run(given.run_dir, "shortlist")
    from flax_s2s.commands import shortlist

    return shortlist.run(given.run_dir, given.data_folder)


def _import(arguments: list[str]) -> int:
    given = _parse(Import, "import", arguments)
    from flax_s2s.commands import imports

    return imports.run(given.checkpoint, given.run_dir, given.source_model, given.target_model)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "compare": _compare,
    "decode": _decode,
    "score": _score,
    "serve": _serve,
    "inspect": _inspect,
    "bench": _bench,
    "export": _export,
    "import": _import,
    "shortlist": _shortlist,
    "sweep": _sweep,
    "verify-resume": _verify_resume,
}
