"""`export RUN_DIR`: writes a folder that translates without JAX, and compares its translations with those of `decode`."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from flax_s2s import __version__
from flax_s2s.commands.wiring import Opened, console, load_split, make_translator, open_runs
from flax_s2s.config import DecodingConfig, Failure, UserError
from flax_s2s.data.corpus import Pair
from flax_s2s.data.files import read_lines
from flax_s2s.decoding.requests import Request
from flax_s2s.evaluation.evaluate import spread
from flax_s2s.export import folder as folders
from flax_s2s.export import runtime
from flax_s2s.runs import manifests, rundir

_LEAST, _MOST = 1e-4, 200  # how far scores may be apart; lines that are compared, unless a file says which
_FAR = 1e-2  # the same text with scores so far apart is no proof
_SHOWN = 10


class Options(NamedTuple):
    """What is exported where, and what it is compared on."""

    output: str
    checkpoint: str
    data_folder: str
    parity: str


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
    files = folders.make_files(config, opened.params[0], opened.vocabularies, origin)
    with out.status("comparing its translations with those of decode"):
        parity = _compare(opened, files, pairs)
    files["parity.json"] = (json.dumps(parity, indent=2, ensure_ascii=False) + "\n").encode()
    if parity["differ"] > parity["ties"]:
        first = next(one for one in parity["examples"] if not one["tie"])
        raise Failure(
            f"the exported model does not say the same as decode: {parity['differ']} of {parity['lines']} translations differ, such as of "
            f"{first['source']!r}: {first['decode']!r} and {first['exported']!r}; nothing was written. Report this, with the run's config.json"
        )
    folders.write(output, files)
    size = sum(map(len, files.values())) / 2**20
    out.print(
        f"{output}: {size:.1f} MB; {parity['equal']} of {parity['lines']} translations are those of decode, scores within "
        f"{parity['largest_score_difference']:.1e}" + (f"; {parity['ties']} are as good, by their scores" if parity["ties"] else "")
    )
    return 0


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


def _compare(opened: Opened, files: dict[str, bytes], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Both translations of each pair's source; where texts differ, scores that are as near as those of equal ones are a tie."""
    with tempfile.TemporaryDirectory(prefix="flax_s2s_") as name:
        for file, content in files.items():
            (epath.Path(name) / file).write_bytes(content)
        exported = runtime.load(name)
    translator = make_translator(opened)
    wanted = translator(translator.lay_out(opened.params), [Request(pair.source, features=pair.features) for pair in pairs])
    lists = [exported.translate(pair.source, pair.features) for pair in pairs]
    found = [best[0] for best in lists]
    apart = [abs(one.score - other.score) for one, other in zip(wanted, found, strict=True)]
    differing = [
        i
        for i, (one, best) in enumerate(zip(wanted, lists, strict=True))
        if [one.text, *(other.text for other in one.others)] != [other.text for other in best] or apart[i] > _FAR
    ]
    ties = [i for i in differing if apart[i] <= _LEAST]
    return {
        "runtime": f"translate.py, NumPy {np.__version__}",
        "beam_size": opened.config.decoding.beam_size,
        "n_best": opened.config.decoding.n_best,
        "lines": len(pairs),
        "equal": len(pairs) - len(differing),
        "differ": len(differing),
        "ties": len(ties),
        "largest_score_difference": max((apart[i] for i in range(len(pairs)) if i not in differing), default=0.0),
        "examples": [
            {
                "source": pairs[i].source,
                "decode": wanted[i].text,
                "exported": found[i].text,
                "tie": i in ties,
                "scores": [wanted[i].score, found[i].score],
            }
            for i in sorted(differing, key=lambda i: i in ties)[:_SHOWN]
        ],
    }
