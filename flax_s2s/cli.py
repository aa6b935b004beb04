"""The command line: parses, dispatches to a command; whatever comes of it ends in `job`, which sets the exit code (see `errors`)."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

import tyro

from flax_s2s import job, processor
from flax_s2s.cluster import Flags
from flax_s2s.config import Config, DecodingConfig, Metric, UserError, load_preset, nearest
from flax_s2s.files import Files

USAGE = """\
usage: python -m flax_s2s VERB ...

  train CONFIG --run-dir DIR     train a model; given the same DIR again, go on where it stopped
  evaluate RUN_DIR...            translate a split of the corpus and score it
  compare RUN_A RUN_B            translate a split with both, and say where they differ and whether chance explains it
  decode RUN_DIR...              translate lines, stdin to stdout or a file to a file
  score RUN_DIR...               log-probability of given pairs or candidates, and the perplexity
  inspect CONFIG or RUN_DIR      parameters, FLOPs, shapes, padding and memory, before training
  bench CONFIG                   measured speed of training and decoding, as one JSON line
  shortlist RUN_DIR              learn which target tokens are worth trying for a source, to decode faster
  sweep CONFIG                   train with several seeds, and print the mean and the deviation of the scores
  verify-resume CONFIG           train straight and killed at random moments, and compare the final states

CONFIG is a preset such as configs/quickstart.py; each of its fields can be given as an option.
`VERB --help` explains the options; `train CONFIG --help` shows every field with that preset's value."""

T = TypeVar("T")


@dataclasses.dataclass
class Train:
    """Trains a model, or continues the run that --run-dir holds."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str
    """Folder of the run."""
    init_from: str = ""
    """Folder of another run, whose parameters and vocabulary a new run starts from (fine-tuning); empty: they are new."""
    place: Annotated[Flags, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Flags)


@dataclasses.dataclass
class Inspect:
    """Says what a configuration amounts to, without training it."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    memory: bool = True
    """Compile the train step of every shape and say the memory it takes."""


@dataclasses.dataclass
class Bench:
    """Measures training and decoding, and prints one JSON line."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    rounds: int = 5
    """Measurements of each kind; medians are printed."""


@dataclasses.dataclass
class Sweep:
    """Trains with several seeds, evaluates each run and all as one, and prints one table.

    The same command goes on where it was stopped.
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
    """Trains twice, straight through and killed at random moments, and compares the final states bit by bit."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str
    """Folder for both runs; it must not exist yet."""
    kills: int = 5
    """How often the second run is killed; by each process, where a place starts several."""
    seed_of_kills: int = 1
    """Seed of the moments."""


@dataclasses.dataclass
class Evaluate:
    """Translates a split of the corpus and scores it; several runs translate as one."""

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
    """Translates a split of the corpus with two runs, and says where they differ and whether chance explains it."""

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
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals and p-values."""
    json: str = ""
    """File that the comparison is written to; empty: none."""


@dataclasses.dataclass
class Decode:
    """Translates lines, one out for each one in, in order; several runs translate as one."""

    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")]
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
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
    """Of columns, the first is translated, and a second one is a reference: where every line has one, the summary has BLEU and chrF. Objects have a source, and by choice id, prefix, include, exclude, seed; objects answer them."""


@dataclasses.dataclass
class LearnShortlist:
    """Learns from a run's training pairs which target tokens are worth trying for a source; `--shortlist` then uses it."""

    run_dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a trained run."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""


@dataclasses.dataclass
class Score:
    """Natural log-probability of each target given its source, one line out for each one in, and the perplexity; several runs score as one."""

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
    """Of columns, the second is the target of the first; so is stdin, unless --form says jsonl. Objects have a source, and a target or a
    list of candidates, or are what `decode --form jsonl` writes; objects answer them, the best candidate first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    processor.share_heap()
    try:
        return job.end(_dispatch(arguments))
    except BrokenPipeError:  # the reader of stdout has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more when it ends
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return job.fail(error)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, flush=True)
        return 0
    verb = VERBS.get(arguments[0])
    if verb is None:
        raise UserError(f"there is no verb {arguments[0]!r}{nearest(arguments[0], VERBS)}; verbs: {', '.join(VERBS)}")
    return verb(arguments[1:])


def _parse(kind: type[T], verb: str, arguments: list[str], default: T | None = None) -> T:
    """Reads options into a dataclass; a mistake is tyro's box and exit code 2."""
    if default is None:
        return tyro.cli(kind, args=arguments, prog=f"flax_s2s {verb}")
    return tyro.cli(kind, args=arguments, prog=f"flax_s2s {verb}", default=default)


def _first(arguments: list[str], verb: str) -> tuple[str, list[str]]:
    """The first argument, which names the preset (none where only help is asked for), and the others."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if {"-h", "--help"} & set(arguments):
        return "", arguments
    raise UserError(f"{verb} needs a preset as its first argument, for example: {verb} configs/quickstart.py")


def _train(arguments: list[str]) -> int:
    preset, options = _first(arguments, "train")
    default = Train(load_preset(preset) if preset else Config(), f"runs/{os.path.splitext(os.path.basename(preset))[0]}")
    given = _parse(Train, "train CONFIG", options, default)
    with job.listen():  # before the imports: they take seconds
        from flax_s2s.commands import train

        return train.run(given.config, given.run_dir, given.place, given.init_from)


def _inspect(arguments: list[str]) -> int:
    name, options = _first(arguments, "inspect")
    run_dir = name if os.path.isdir(name) else ""
    config = load_preset(name) if name and not run_dir else Config()
    if run_dir:
        from etils import epath

        from flax_s2s.rundir import read_config

        config = read_config(epath.Path(run_dir))
    given = _parse(Inspect, "inspect CONFIG|RUN_DIR", options, Inspect(config))
    from flax_s2s.commands import inspect

    return inspect.run(given.config, run_dir, given.memory)


def _bench(arguments: list[str]) -> int:
    preset, options = _first(arguments, "bench")
    given = _parse(Bench, "bench CONFIG", options, Bench(load_preset(preset) if preset else Config()))
    from flax_s2s.commands import bench

    return bench.run(given.config, given.rounds)


def _sweep(arguments: list[str]) -> int:
    preset, options = _first(arguments, "sweep")
    name = os.path.splitext(os.path.basename(preset))[0]
    given = _parse(Sweep, "sweep CONFIG", options, Sweep(load_preset(preset) if preset else Config(), f"runs/sweep-{name}"))
    from flax_s2s.commands import evaluate, sweep

    asked = {name: getattr(given, name) for name in ("split", "metrics", "merge_sources", "references", "json")}
    how = evaluate.Options(**asked, data_folder="", samples=0, resamples=0, calibration="")
    return sweep.run(given.config, given.run_dir, sweep.Options(given.seeds, given.ensemble, how))


def _verify_resume(arguments: list[str]) -> int:
    preset, options = _first(arguments, "verify-resume")
    name = os.path.splitext(os.path.basename(preset))[0]
    default = VerifyResume(load_preset(preset) if preset else Config(), f"runs/verify-resume-{name}")
    given = _parse(VerifyResume, "verify-resume CONFIG", options, default)
    from flax_s2s.commands import verify_resume

    return verify_resume.run(given.config, given.run_dir, given.kills, given.seed_of_kills)


def _runs(arguments: list[str], verb: str) -> tuple[list[str], list[str], DecodingConfig]:
    """The run directories, which come first, the options after them, and how the first run is configured to decode."""
    count = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    run_dirs, options = arguments[:count], arguments[count:]
    if not run_dirs:
        if {"-h", "--help"} & set(options):
            return [], options, DecodingConfig()
        raise UserError(f"{verb} needs a RUN_DIR as its first argument, or several, for example: {verb} runs/quickstart")
    from flax_s2s.rundir import make_path, read_config

    return run_dirs, options, read_config(make_path(run_dirs[0])).decoding


def _evaluate(arguments: list[str]) -> int:
    run_dirs, options, decoding = _runs(arguments, "evaluate")
    given = _parse(Evaluate, "evaluate RUN_DIR...", options, Evaluate(decoding))
    from flax_s2s.commands import evaluate

    chosen = evaluate.Options(**{name: getattr(given, name) for name in evaluate.Options._fields})
    return evaluate.run(run_dirs, given.checkpoint, given.decoding, chosen)


def _compare(arguments: list[str]) -> int:
    run_dirs, options, decoding = _runs(arguments, "compare")
    given = _parse(Compare, "compare RUN_A RUN_B", options, Compare(decoding))
    from flax_s2s.commands import compare

    chosen = compare.Options(**{name: getattr(given, name) for name in compare.Options._fields})
    return compare.run(run_dirs, given.checkpoint, given.decoding, chosen)


def _decode(arguments: list[str]) -> int:
    run_dirs, options, decoding = _runs(arguments, "decode")
    given = _parse(Decode, "decode RUN_DIR...", options, Decode(decoding))
    from flax_s2s.commands import decode

    chosen = decode.Options(**{name: getattr(given, name) for name in decode.Options._fields})
    return decode.run(run_dirs, given.checkpoint, given.decoding, given.files, chosen)


def _score(arguments: list[str]) -> int:
    run_dirs, options, decoding = _runs(arguments, "score")
    chosen = ("length_penalty", "ensemble", "rows")
    given = _parse(Score, "score RUN_DIR...", options, Score(*(getattr(decoding, name) for name in chosen)))
    from flax_s2s.commands import score

    decoding = dataclasses.replace(decoding, **{name: getattr(given, name) for name in chosen})
    return score.run(run_dirs, given.checkpoint, decoding, given.files, given.source, given.target)


def _shortlist(arguments: list[str]) -> int:
    given = _parse(LearnShortlist, "shortlist", arguments)
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
