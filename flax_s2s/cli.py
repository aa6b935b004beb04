"""The command line: parses, dispatches to a command; whatever comes of it ends in `job`, which sets the exit code (see `errors`)."""

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

import tyro

from flax_s2s import __version__, errors
from flax_s2s.answers.files import Files
from flax_s2s.config import Config, DecodingConfig, Metric, Tokenizer, UserError, is_preset, load_preset, nearest
from flax_s2s.runtime import job, processor
from flax_s2s.runtime.cluster import Flags

USAGE = """\
usage: python -m flax_s2s VERB ...

  train CONFIG --run-dir DIR     train a model; `train DIR` goes on where it stopped
  evaluate RUN_DIR...            translate a split of the corpus and score it
  compare RUN_A RUN_B            translate a split with both, and say where they differ and whether chance explains it
  decode RUN_DIR...              translate lines, stdin to stdout or a file to a file
  score RUN_DIR...               log-probability of given pairs or candidates, and the perplexity
  inspect CONFIG or RUN_DIR      parameters, FLOPs, shapes, padding and memory, before training
  bench CONFIG                   measured speed of training and decoding, as one JSON line
  shortlist RUN_DIR              learn which target tokens are worth trying for a source, to decode faster
  sweep CONFIG                   train with several seeds, and print the mean and the deviation of the scores
  verify-resume CONFIG           train straight and killed at random moments, and compare the final states

CONFIG is a preset, by name (quickstart) or as a file (configs/quickstart.py); each of its fields can be given as an option.
`VERB --help` explains the options; `train CONFIG --help` shows every field with that preset's value; --version says which this is."""

_OTHER_NAMES = {
    **dict.fromkeys(("translate", "predict", "generate", "infer", "inference", "sample"), "`decode RUN_DIR` translates lines"),
    "serve": "there is no server yet; `decode RUN_DIR` answers the lines of stdin as they come",
    **dict.fromkeys(("test", "eval", "validate", "bleu"), "`evaluate RUN_DIR` translates a split and scores it"),
    **dict.fromkeys(("resume", "continue"), "`train RUN_DIR` goes on with a run"),
    **dict.fromkeys(("finetune", "fine-tune"), "`train CONFIG --run-dir NEW --init-from RUN_DIR` begins with what a run has learned"),
    **dict.fromkeys(("fit", "run", "start"), "`train CONFIG` trains a model"),
    **dict.fromkeys(("perplexity", "rescore", "rerank"), "`score RUN_DIR` scores given pairs"),
    **dict.fromkeys(("info", "summary", "show"), "`inspect CONFIG` or `inspect RUN_DIR` says what a model amounts to"),
    **dict.fromkeys(("benchmark", "profile"), "`bench CONFIG` measures speed"),
}  # what people call the verbs elsewhere

T = TypeVar("T")


@dataclasses.dataclass
class Train:
    """Trains a model, or goes on with a run: by the same command again, or by `train RUN_DIR` alone.

    Most used; all options are explained below:
      --run-dir DIR                     folder of the run
      --init-from RUN_DIR               begin a new run with what another one has learned (fine-tuning)
      --data.folder DIR                 where the corpus is
      --data.source en                  its sides: file suffixes, columns or fields
      --data.target de
      --training.steps 3000             how long
      --optimizer.learning-rate 1e-3    how fast
      --model.hidden-size 512           how large
      --model.dropout 0.3               how much is dropped
      --vocab.kind bpe                  what the tokens are

    Where a run is there, options change only what decides nothing of what is learned: steps, intervals, folders, devices. More
    steps train it further, as long as its learning rate is not zero. With schedule=cosine it is zero at the end, which is
    where the run was begun to end; what it has learned is trained further as a new run:
      train RUN_DIR --run-dir NEW --init-from RUN_DIR --optimizer.decay-steps 0 --training.steps 3000
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str
    """Folder of the run."""
    init_from: str = ""
    """Folder of another run, whose parameters and vocabulary a new run starts from (fine-tuning); empty: they are new."""
    place: Annotated[Flags, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Flags)


@dataclasses.dataclass
class Inspect:
    """Says what a configuration amounts to, without training it.

    Most used; all options are explained below:
      --data.folder DIR            where the corpus is; without one there are no shapes and no memory
      --data.batch-tokens 2048     how many tokens a batch has
      --model.hidden-size 512      how large the model is
      --no-memory                  quicker: nothing is compiled
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    memory: bool = True
    """Compile the train step of every shape and say the memory it takes."""


@dataclasses.dataclass
class Bench:
    """Measures training and decoding, and prints one JSON line.

    Most used; all options are explained below:
      --rounds 5                   how often each is measured
      --data.folder DIR            where the corpus is
      --data.batch-tokens 2048     how many tokens a batch has
      --model.hidden-size 512      how large the model is
      --training.devices 1         how many devices
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    rounds: int = 5
    """Measurements of each kind; medians are printed."""


@dataclasses.dataclass
class Sweep:
    """Trains with several seeds, evaluates each run and all as one, and prints one table.

    The same command goes on where it was stopped.

    Most used; all options are explained below:
      --run-dir DIR                folder of the sweep
      --seeds 1 2 3                one run each
      --split test                 what is translated
      --metrics bleu chrf          what is measured
      --json FILE                  where all scores are written
      --data.folder DIR            where the corpus is
      --training.steps 3000        how long each run is
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str
    """Folder of the sweep; each run is a folder in it."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of parameters, dropout and data order."""
    ensemble: bool = True
    """Evaluate all runs as one, too."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to translate."""
    metrics: tuple[Metric, ...] = ()
    """Metrics; none: as configured."""
    merge_sources: bool = False
    """Pairs with the same source are one sentence with several right targets, also where evaluation.merge_sources does not say so."""
    references: tuple[str, ...] = ()
    """Files of further references, see `evaluate --help`."""
    json: str = ""
    """File that all scores are written to; empty: none."""


@dataclasses.dataclass
class VerifyResume:
    """Trains twice, straight through and killed at random moments, and compares the final states bit by bit.

    Most used; all options are explained below:
      --run-dir DIR                      folder for both runs
      --kills 5                          how often
      --training.steps 3000              how long the runs are
      --training.save-every-steps 100    how often they are saved
      --data.folder DIR                  where the corpus is
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str
    """Folder for both runs; it must not exist yet."""
    kills: int = 5
    """How often the second run is killed; by each process, where a place starts several."""
    seed_of_kills: int = 1
    """Seed of the moments."""


@dataclasses.dataclass
class Evaluate:
    """Translates a split of the corpus and scores it; several runs translate as one.

    Most used; all options are explained below:
      --split test             what is translated
      --metrics bleu chrf      what is measured
      --beam-size 5            how wide the search is
      --samples 10             translations that are printed
      --references FILE        further right answers
      --json FILE              where the scores are written
      --checkpoint last        another checkpoint than the best one
      --data-folder DIR        where the corpus has moved to
      --calibration FILE       how sure the model is, as a picture
    """

    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")]
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to translate."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""
    samples: int = 0
    """Translations printed next to their references."""
    metrics: tuple[Metric, ...] = ()
    """Metrics, see `train CONFIG --help`; none: as configured."""
    merge_sources: bool = False
    """Pairs with the same source are one sentence with several right targets, also where evaluation.merge_sources does not say so."""
    language: str = ""
    """Language of the target (ISO 639 or BCP 47), where data.target does not say it."""
    tokenizer: Tokenizer = "auto"
    """sacreBLEU's tokenizer, see `train CONFIG --help`."""
    references: tuple[str, ...] = ()
    """Files of further references, a line for each pair of the split; a blank line is none. A .tsv has lines of a source, a tab and a
    right target of it instead, in any order."""
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals; 0: no intervals."""
    calibration: str = ""
    """Picture (.png, .pdf or .svg) of how often the model is right at a given confidence, for which a temperature is fitted on the
    validation split; it is also printed, and written to --json. Empty: none."""
    json: str = ""
    """File that the scores are written to; empty: none."""


@dataclasses.dataclass
class Compare:
    """Translates a split of the corpus with two runs, and says where they differ and whether chance explains it.

    Most used; all options are explained below:
      --split test             what is translated
      --metrics bleu chrf      what is measured
      --beam-size 5            how wide the search is
      --samples 10             sentences that are printed
      --json FILE              where the comparison is written
      --checkpoint last        another checkpoint than the best one
      --data-folder DIR        where the corpus has moved to
    """

    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")]
    checkpoint: str = "best"
    """Checkpoint of each run to use: best, last, or a step."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to translate."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""
    samples: int = 3
    """Sentences printed where the second run is better by most, and as many where the first is."""
    metrics: tuple[Metric, ...] = ()
    """Metrics, see `train CONFIG --help`; none: as configured."""
    merge_sources: bool = False
    """Pairs with the same source are one sentence with several right targets, also where evaluation.merge_sources does not say so."""
    language: str = ""
    """Language of the target (ISO 639 or BCP 47), where data.target does not say it."""
    tokenizer: Tokenizer = "auto"
    """sacreBLEU's tokenizer, see `train CONFIG --help`."""
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals and p-values."""
    json: str = ""
    """File that the comparison is written to; empty: none."""


@dataclasses.dataclass
class Decode:
    """Translates lines, one out for each one in, in order; several runs translate as one.

    Most used; all options are explained below, those of the search last:
      --input FILE             files to read; else stdin
      --output FILE            file to write; else stdout
      --form jsonl             objects in and out, with scores, tokens and flags
      --output-form nbest      another form of the output than of the input
      --beam-size 5            how wide the search is
      --n-best 5               how many translations of a line
      --length-penalty 1.0     larger: longer translations
      --temperature 1.0        sampling instead of search
      --checkpoint last        another checkpoint than the best one
      --shard 0/8              a part of a large job
    """

    output_form: Literal["auto", "text", "jsonl", "nbest"] = "auto"
    """Text, JSON objects, or an n-best list as of Moses (number ||| text ||| logp= tokens= ||| score); auto: as the input, or by the output's
    ending .jsonl."""
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    language: str = ""
    """Language of the references (ISO 639 or BCP 47), where data.target does not say it."""
    tokenizer: Tokenizer = "auto"
    """sacreBLEU's tokenizer for them, see `train CONFIG --help`."""
    blocklist: str = ""
    """File of phrases, one a line, that no translation contains, whatever their case; empty: none."""
    abstain_below: float = 0.0
    """The placeholder instead of a translation whose confidence, the mean probability of a token, is below this; 0: never."""
    placeholder: str = "[uncertain]"
    """What stands for a translation that is not confident enough."""
    attention: str = ""
    """File for what each translation looked at, one JSON object a line; empty: none."""
    pictures: str = ""
    """Folder for pictures of that; empty: none."""
    picture_lines: tuple[int, ...] = tuple(range(1, 11))
    """Numbers of the lines that are drawn, from 1."""
    files: Annotated[Files, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Files)
    """The target of columns is a reference: where every line has one, the summary has BLEU and chrF. Objects have a source, and by choice id, prefix, include, exclude, seed; objects answer them."""
    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=DecodingConfig)


@dataclasses.dataclass
class LearnShortlist:
    """Learns from a run's training pairs which target tokens are worth trying for a source; `decode RUN_DIR --shortlist 256` then uses it."""

    run_dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a trained run."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""


@dataclasses.dataclass
class Score:
    """Natural log-probability of each target given its source, one line out for each one in, and the perplexity; several runs score as one.

    Most used; all options are explained below:
      --source FILE            lines of sources
      --target FILE            and their targets
      --input FILE             or pairs in one file; else stdin
      --output FILE            file to write; else stdout
      --form jsonl             objects in and out, with candidates
      --length-penalty 1.0     of the scores by which candidates are sorted
      --checkpoint last        another checkpoint than the best one
      --shard 0/8              a part of a large job
    """

    length_penalty: float
    """Exponent of the length penalty, over which the log-probability is the score; candidates are sorted by it."""
    ensemble: Literal["probabilities", "log-probabilities"]
    """What is averaged over several runs."""
    rows: int
    """Pairs scored at once by each device."""
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    source: str = ""
    """File of source lines, instead of --input."""
    target: str = ""
    """File of as many target lines."""
    files: Annotated[Files, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Files)
    """stdin holds columns too, unless --form says otherwise. Objects have a source, and a target or a list of candidates, or are what
    `decode` writes as JSONL; objects answer them, the best candidate first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    processor.share_heap()
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
    given = tyro.cli(kind, args=arguments, prog=prog) if default is None else tyro.cli(kind, args=arguments, prog=prog, default=default)
    if getattr(given, "run_dir", None) == "":  # it would be the working directory
        raise UserError("--run-dir is empty, perhaps because a shell variable is not set; name a folder, '.' for this one")
    return given


def _asks_for_help(arguments: list[str]) -> bool:
    return bool({"-h", "--help"} & set(arguments))


def _first(arguments: list[str], verb: str, what: str = "a preset") -> tuple[str, list[str]]:
    """The first argument, which names what to begin with (none where only help is asked for), and the others."""
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
        return train.run(given.config, given.run_dir, given.place, given.init_from, command)


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
    return sweep.run(given.config, given.run_dir, sweep.Options(given.seeds, given.ensemble, how))


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
    """Says what it is that stands where a run directory belongs: a preset, or a file."""
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
    measured = {name: getattr(config.evaluation, name) for name in ("language", "tokenizer")}
    given = _parse(Evaluate, "evaluate RUN_DIR...", options, Evaluate(decoding=config.decoding, **measured))
    from flax_s2s.commands import evaluate

    chosen = evaluate.Options(**{name: getattr(given, name) for name in evaluate.Options._fields})
    return evaluate.run(run_dirs, given.checkpoint, given.decoding, chosen)


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


def _shortlist(arguments: list[str]) -> int:
    given = _parse(LearnShortlist, "shortlist", arguments)
    _refuse_no_run(given.run_dir, "shortlist")
    from flax_s2s.commands import shortlist

    return shortlist.run(given.run_dir, given.data_folder)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "compare": _compare,
    "decode": _decode,
    "score": _score,
    "inspect": _inspect,
    "bench": _bench,
    "shortlist": _shortlist,
    "sweep": _sweep,
    "verify-resume": _verify_resume,
}
