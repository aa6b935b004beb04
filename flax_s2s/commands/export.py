"""`export RUN_DIR`: writes a folder that translates without JAX, and compares its translations with those of `decode`.

By NumPy and by the ONNX graphs, line for line. In float32 they must be the same; of int8 what differs is said, and what that costs in the run's own metrics.
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from flax_s2s import __version__
from flax_s2s.commands.wiring import Opened, console, load_split, make_translator, open_runs
from flax_s2s.config import Config, DecodingConfig, Failure, UserError
from flax_s2s.data.corpus import Pair
from flax_s2s.data.files import read_lines
from flax_s2s.decoding.requests import Request
from flax_s2s.evaluation.evaluate import make_examples, score_defined, spread
from flax_s2s.export import folder as folders
from flax_s2s.export import graph, runtime
from flax_s2s.runs import manifests, rundir

_LEAST, _MOST = 1e-4, 200  # how far scores may be apart; lines that are compared, unless a file says which
_FAR = 1e-2  # the same text with scores so far apart is no proof


class Options(NamedTuple):
    """What is exported where, and what it is compared on."""

    output: str
    checkpoint: str
    data_folder: str
    parity: str
    quantize: str = "none"


def run(run_dirs: Sequence[str], decoding: DecodingConfig, options: Options) -> int:
    """Writes the folder, once its translations are the same.

    Raises:
        UserError: the run, or what is asked for, cannot be exported; or there is nothing to compare on.
        Failure: the translations differ.
    """
    if len(run_dirs) > 1:
        raise UserError(f"{len(run_dirs)} runs cannot be exported as one: the folder holds one model; give one of {' '.join(run_dirs)}")
    if not options.output:
        raise UserError("export needs --output, a folder to write; for example: export runs/mine --output mine-exported")
    output, out = folders.find_place(options.output), console()
    config = dataclasses.replace(rundir.read_config(rundir.make_path(run_dirs[0])), decoding=decoding)
    folders.check(config)
    graph.load_onnx()
    pairs = _lines(config, options)
    opened = open_runs(run_dirs, options.checkpoint, dataclasses.replace(decoding, compute="float32"), join=False)
    folders.check(config, opened.vocabularies)
    manifest = manifests.read(opened.folder / rundir.CHECKPOINTS / str(opened.steps[0]))
    origin = {
        "flax_s2s": __version__,
        "step": opened.steps[0],
        "state_sha256": manifest.state_sha256,
        "vocabulary_sha256": opened.vocabularies.sha256,
        "source": config.data.source,
        "target": config.data.target,
    }
    files = folders.make_files(config, opened.params[0], opened.vocabularies, origin, options.quantize == "int8")
    with out.status("comparing its translations with those of decode"):
        parity = _compare(opened, files, pairs, config)
    files["parity.json"] = (json.dumps(parity, indent=2, ensure_ascii=False) + "\n").encode()
    for name, one in parity["runtimes"].items():
        if options.quantize == "none" and one["differ"] > one["ties"]:
            raise Failure(
                f"the exported model does not say the same as decode: by {name} {one['differ']} of {parity['lines']} translations differ, such as "
                f"{_first(parity, name)}; nothing was written. Report this, with the run's config.json"
            )
    folders.write(output, files)
    size = sum(map(len, files.values())) / 2**20
    out.print(f"{output}: {size:.1f} MB")
    for name, one in parity["runtimes"].items():
        ties = f"; {one['ties']} are as good, by their scores" if one["ties"] else ""
        costs = "".join(
            f"; {metric} {score:.2f}, decode {parity['metrics'][metric]:.2f}" for metric, score in one["metrics"].items() if one["differ"]
        )
        out.print(
            f"{name}: {one['equal']} of {parity['lines']} translations are those of decode, scores within "
            f"{one['largest_score_difference']:.1e}{ties}{costs}",
            highlight=False,
        )
    return 0


def _first(parity: dict[str, Any], name: str) -> str:
    """The first line that a runtime translates in another way, ties aside."""
    one = next(one for one in parity["translations"] if one[name].get("differs"))
    return f"of {one['source']!r}: {one['decode']['text']!r} and {one[name]['text']!r}"


def _lines(config: Any, options: Options) -> list[Pair]:
    """What is compared: lines of a file, with features a bundle and a tab before each; or validation pairs."""
    if not options.parity:
        try:
            found = load_split(config, "valid", options.data_folder).pairs
        except UserError as error:
            raise UserError(
                f"{error}\nexport compares on validation pairs; where they are not at hand, give lines: --parity FILE"
            ) from None
        return [found[i] for i in spread(len(found), _MOST)]
    lines = read_lines(options.parity)
    if not any(line.strip() for line in lines):
        raise UserError(f"--parity {options.parity} has no lines with text; give some sources, one a line")
    if not config.data.features:
        return [Pair(line, "") for line in lines]
    if without := next((number for number, line in enumerate(lines, 1) if "\t" not in line), 0):
        raise UserError(f"--parity {options.parity} line {without} has no features; give them, a tab and the source")
    return [Pair(source, "", bundle) for bundle, _, source in (line.rpartition("\t") for line in lines)]


def _compare(opened: Opened, files: dict[str, bytes], pairs: Sequence[Pair], config: Config) -> dict[str, Any]:
    """All translations of each pair's source; where texts differ, scores that are as near as those of equal ones are a tie."""
    translator = make_translator(opened)
    wanted = translator(translator.lay_out(opened.params), [Request(pair.source, features=pair.features) for pair in pairs])
    rows: list[dict[str, Any]] = [
        {"source": pair.source, **({"features": pair.features} if pair.features else {}), "decode": {"text": one.text, "score": one.score}}
        for pair, one in zip(pairs, wanted, strict=True)
    ]
    runtimes = {}
    with tempfile.TemporaryDirectory(prefix="flax_s2s_") as name:
        for file, content in files.items():
            (epath.Path(name) / file).write_bytes(content)
        graph.check(Path(name))
        for engine in ("onnx", "numpy"):
            try:
                exported = runtime.load(name, engine)
            except runtime.FolderError as error:
                raise Failure(f"{error}; nothing was written") from None
            lists = exported.translate_all([pair.source for pair in pairs], [pair.features for pair in pairs])
            runtimes[exported.engine.name] = _count(wanted, lists, rows, exported.engine.name) | {
                "metrics": _measure(config, pairs, [best[0].text for best in lists])
            }
    return {
        "beam_size": opened.config.decoding.beam_size,
        "n_best": opened.config.decoding.n_best,
        "lines": len(pairs),
        "metrics": _measure(config, pairs, [one.text for one in wanted]),
        "runtimes": runtimes,
        "translations": rows,
    }


def _count(wanted: Sequence[Any], lists: Sequence[Any], rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """How many are equal; each row learns what this runtime said."""
    equal, ties, same = 0, 0, [0.0]
    for one, found, row in zip(wanted, lists, rows, strict=True):
        many = [one, *one.others]
        row[name] = {"text": found[0].text, "score": found[0].score}
        if len(many) > 1:
            row[name]["others"] = [other.text for other in found[1:]]
        far = max(abs(mine.score - other.score) for mine, other in zip(many, found, strict=False)) if len(many) == len(found) else np.inf
        if [mine.text for mine in many] == [other.text for other in found] and far <= _FAR:
            equal += 1
            same.append(far)
        elif far <= _LEAST * max(1.0, abs(one.score)):
            ties += 1
        else:
            row[name]["differs"] = True
    return {"equal": equal, "differ": len(rows) - equal, "ties": ties, "largest_score_difference": max(same)}


def _measure(config: Config, pairs: Sequence[Pair], texts: Sequence[str]) -> dict[str, float]:
    """The run's metrics, where the lines have translations to compare with."""
    examples = make_examples(pairs, False, form=config.vocab.unicode_form)
    scores = score_defined(examples, texts, config.evaluation, config.data.target)[0] if all(pair.target for pair in pairs) else {}
    return {name: one.score for name, one in scores.items()}
