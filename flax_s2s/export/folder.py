"""The exported folder, written whole or not at all.

Enters: one model, its parameters and vocabularies. Leaves: the folder's files, and what says what they are.
"""

import hashlib
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_s2s.config import Config, DecodingConfig, UserError
from flax_s2s.data.vocab import Vocabularies, Vocabulary
from flax_s2s.export import graph
from flax_s2s.model.sizes import zoneout_rate

ABOUT = "model.json"
FORMAT = 1
"""Of the folder, which its `translate.py` compares."""
_LINE, _ZIP_HEADER, _PADDING = (
    64,
    30,
    0xD935,
)  # bytes (a cache line), bytes, and the extra field that Android's zipalign has for what is skipped
_MODEL = """embedding_size hidden_size cell encoder_layers decoder_layers bidirectional_layers residual_from source_end reverse_source attention input_feeding
    attend_embeddings feed_features copy bridge tie""".split()
_DECODING = "beam_size n_best length_penalty max_length_ratio max_length_extra max_source_tokens".split()
# What the exported search does not know, and what it must be.
_USUAL = "coverage_penalty min_tokens end_threshold no_repeat_ngram repetition_penalty groups temperature shortlist".split()


def check(config: Config, vocabularies: Vocabularies | None = None) -> None:
    """Refuses what the folder cannot hold; of the vocabularies where they are known.

    Raises:
        UserError: the model is of such a kind, or its decoding has rules that the exported search does not know.
    """
    model = config.model
    for name, held in (("coverage", False), ("alignment", "soft")):
        if (value := getattr(model, name)) != held:
            raise UserError(
                f"model.{name}={value} cannot be exported yet: the folder's step knows soft attention without coverage; decode it here"
            )
    if model.copy and vocabularies and not vocabularies.source.plain_kind:
        raise UserError("model.copy is exported with characters or words (vocab.kind) as they are, got other tokens; decode it here")
    usual = DecodingConfig()
    for name in _USUAL:
        if (value := getattr(config.decoding, name)) != getattr(usual, name):
            option = name.replace("_", "-")
            raise UserError(
                f"decoding.{name}={value} is not held by an exported search, which knows beam, length penalty and limits; export with "
                f"--{option} {getattr(usual, name)}"
            )


def make_files(
    config: Config, params: Any, vocabularies: Vocabularies, origin: Mapping[str, Any], quantize: bool = False
) -> dict[str, bytes]:
    """The contents of the folder by their names.

    Args:
        config: of the run, with the settings of decoding that are exported.
        params: as the run decodes with.
        vocabularies: of both sides.
        origin: what is known of the run and its checkpoint, for `model.json`.
        quantize: the weights to int8.
    """
    flat = {
        "/".join(str(part.key) for part in path): np.asarray(leaf, np.float32) for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    weights, places = _pack(_quantize(flat) if quantize else flat)
    files = {"weights.npz": weights, "translate.py": Path(__file__).with_name("runtime.py").read_bytes()}
    files["GRAPHS.md"] = Path(__file__).with_name("graphs.md").read_bytes()
    files |= graph.Graphs(config.model, places, zoneout_rate(config.model)).make()
    described = {}
    for side, vocabulary in (("source", vocabularies.source), ("target", vocabularies.target)):
        name, content, described[side] = _vocabulary("joint" if vocabularies.joint else side, vocabulary)
        files[name] = content
    features = {"features": list(vocabularies.features), "features_from": len(vocabularies.source), "target_size": len(vocabularies.target)}
    about = {
        "format": FORMAT,
        "origin": dict(origin),
        "model": {name: getattr(config.model, name) for name in _MODEL} | {"zoneout": zoneout_rate(config.model)},
        "weights": "int8" if quantize else "float32",
        "opset": graph.OPSET,
        "decoding": {name: getattr(config.decoding, name) for name in _DECODING},
        "vocabularies": {**described, **features},
        "holds": [
            "beam search",
            "n-best lists",
            *(["attention"] if config.model.attention != "none" else []),
            *(["features"] if vocabularies.features else []),
            *(["copying"] if config.model.copy else []),
        ],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    files[ABOUT] = (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()
    files["README.md"] = _readme(vocabularies).encode()
    return files


def _quantize(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices in int8, each beside its scales: one for each row of a table, one for each column of what states are multiplied with."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim != 2:
            found[name] = array
            continue
        largest = np.abs(array).max(axis=1 if name.endswith("_table") else 0, keepdims=True)
        scale = np.maximum(largest, np.float32(1e-30)) / np.float32(127)
        found |= {name: np.round(array / scale).astype(np.int8), name + graph.SCALE: scale}
    return found


def _pack(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, dict[str, graph.Place]]:
    """An npz file, and where in it the bytes of each array are: at the start of a cache line, as arrays are that are mapped."""
    out, places = io.BytesIO(), {}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy")  # of 1980, so that the same weights are the same file
            begin = out.tell() + _ZIP_HEADER + len(member.filename.encode()) + 4 + len(content.getvalue()) - array.nbytes
            member.extra = struct.pack("<HH", _PADDING, -begin % _LINE) + bytes(-begin % _LINE)
            archive.writestr(member, content.getvalue())
            places[name] = graph.Place(array.shape, array.dtype == np.int8, begin + -begin % _LINE)
    return out.getvalue(), places


def _vocabulary(name: str, vocabulary: Vocabulary) -> tuple[str, bytes, dict[str, str]]:
    """A file, what is in it, and what says so: pieces where text is split at characters or words alone, else the SentencePiece model."""
    kind, form = vocabulary.plain_kind, {"unicode_form": vocabulary.form}
    if kind:
        pieces = [vocabulary.pieces([i])[0] for i in range(len(vocabulary))]
        return (
            f"{name}.json",
            json.dumps(pieces, ensure_ascii=False).encode(),
            {"kind": kind, "file": f"{name}.json", **form, "unknown": "apart" if vocabulary.apart else "joined"},
        )
    return f"{name}.model", vocabulary.model, {"kind": "sentencepiece", "file": f"{name}.model", **form}


def _readme(vocabularies: Vocabularies) -> str:
    needs = (
        "NumPy (or onnxruntime, which is faster)"
        if vocabularies.source.plain_kind and vocabularies.target.plain_kind
        else "sentencepiece and NumPy (or onnxruntime, which is faster)"
    )
    begins = "; each line begins with its features and a tab" if vocabularies.features else ""
    return (
        f"A translation model, which needs Python and {needs}{begins}:\n\n    python translate.py < in.txt > out.txt\n\n"
        "`python translate.py --help` has the options; model.json says of what run it is, parity.json how its translations were compared; GRAPHS.md is for who\n"
        "runs encoder.onnx and step.onnx from another language.\n"
    )


def find_place(name: str) -> Path:
    """The folder that is written, links resolved; said before any work is done.

    Raises:
        UserError: something is there, it lies in a bucket, or nothing can be made there.
    """
    if "://" in name:
        raise UserError(f"--output {name} must be a folder of this machine; copy it to a bucket when it is written")
    folder = Path(os.path.realpath(name))
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir()) and folder != Path.cwd()):
            raise UserError(f"{name} is there already; give another --output, or remove it, so that nothing is lost")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _partial(folder).mkdir()
        _partial(folder).rmdir()
    except OSError as error:
        raise UserError(f"{name} cannot be written: {error.strerror or error}; give another --output") from None
    return folder


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the folder: all of it appears, or nothing.

    Raises:
        UserError: it cannot be written.
    """
    partial = _partial(folder)
    try:
        partial.mkdir()
        for name, content in files.items():
            (partial / name).write_bytes(content)
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}; give another --output") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.{os.getpid()}.partial"
