"""Translates with the model of this folder: lines in, lines out. By onnxruntime where it is installed, else by NumPy alone.

    python translate.py < in.txt > out.txt
    python translate.py --batch 64 < in.txt > out.txt
    python translate.py --n-best 5 --beam-size 5 < in.txt

    import translate
    model = translate.load("FOLDER")
    model.translate("hello")[0].text

The folder was written by `flax-s2s export`; model.json says of which run, and holds the sha256 of every file, which are compared when it is loaded.
Vocabularies of characters and words are read by this file; others need the package sentencepiece. A line that is fed features begins with them and a tab.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

EOS, BOS, UNK = 2, 1, 3
_SPACE = "\u2581"
_BREAKS = re.compile(r"[\r\n]*\n[\r\n]*")
_LONGEST_FEATURE = 256  # characters of one that is taken apart


class FolderError(Exception):
    """A folder that cannot be used, or a line that cannot be read: what, and what to do."""


class Hypothesis(NamedTuple):
    """A translation, as `decode` finds it."""

    text: str
    ids: tuple[int, ...]  # tokens, the end mark where it is finished
    logp: float
    score: float  # what they are sorted by
    finished: bool  # False: cut at its limit of tokens
    attention: np.ndarray | None  # [tokens, source tokens], features first


# Tokens ------------------------------------------------------------------------------------------------------------


class Vocabulary:
    """Characters or words, by their pieces; or a SentencePiece model."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Reads the file that `about` names."""
        self.kind, self.form, self.apart = about["kind"], about["unicode_form"], about.get("unknown") == "apart"
        if self.kind == "sentencepiece":
            try:
                import sentencepiece
            except ImportError:
                raise FolderError(f"the vocabulary {about['file']} needs the package sentencepiece: pip install sentencepiece") from None
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / about["file"]))
            return
        self.pieces: list[str] = json.loads((folder / about["file"]).read_text("utf-8"))
        self._ids = {piece: number for number, piece in enumerate(self.pieces) if number > UNK}
        longer = sorted((piece for piece in self._ids if len(piece) > 1), key=len, reverse=True)
        self._cut = (
            re.compile("|".join([*map(re.escape, longer), "."]), re.DOTALL) if self.kind == "char" else re.compile(f"{_SPACE}[^{_SPACE}]*")
        )

    def _prepare(self, text: str) -> str:
        text = _BREAKS.sub(" ", text)
        return text if self.form == "given" else unicodedata.normalize(self.form, text)

    def encode(self, text: str) -> list[int]:
        """Tokens of a line."""
        if self.kind == "sentencepiece":
            found: list[int] = self._processor.encode(self._prepare(text))
            return found
        ids = [self._ids.get(piece, UNK) for piece in self.split(text.strip(" ") if self.apart else text)]
        if self.apart:
            return ids
        return [one for place, one in enumerate(ids) if one != UNK or place == 0 or ids[place - 1] != UNK]  # unknown neighbors are one

    def split(self, text: str) -> list[str]:
        """The pieces of a line, known or not."""
        text = self._prepare(text)
        if self.kind == "sentencepiece":
            pieces: list[str] = self._processor.encode(text, out_type=str)
            return pieces
        found: list[str] = self._cut.findall(_SPACE + text.replace(" ", _SPACE)) if text else []
        return found

    def knows(self, piece: str) -> bool:
        """Whether the vocabulary has a piece."""
        return self._processor.piece_to_id(piece) != UNK if self.kind == "sentencepiece" else piece in self._ids

    def number(self, text: str, first: int) -> tuple[list[int], list[str]]:
        """Tokens of a line of which what is not known is `first`, the one after it, ...; and what these stand for."""
        pieces = self.split(text)
        lacking = list(dict.fromkeys(piece for piece in pieces if piece not in self._ids))
        beyond = {piece: first + place for place, piece in enumerate(lacking)}
        return [self._ids[piece] if piece in self._ids else beyond[piece] for piece in pieces], lacking

    def decode(self, ids: list[int], lacking: list[str] | None = None) -> str:
        """The line that tokens make; those behind the vocabulary stand for what is lacking."""
        if self.kind == "sentencepiece":
            text: str = self._processor.decode(ids)  # spaces before words in bytes come out as its own sign
            text = (text.removeprefix(_SPACE) if ids and self._processor.is_byte(ids[0]) else text).replace(_SPACE, " ")
        else:
            pieces = [*self.pieces, *(lacking or [])]
            text = "".join(pieces[one] for one in ids).replace(_SPACE, " ").removeprefix(" ")
        return text if self.form == "given" else unicodedata.normalize("NFC", text)


def split_features(bundle: str) -> list[str]:
    """`V;IMP;ACC(2,SG)` -> `V`, `IMP`, `ACC(2)`, `ACC(SG)`; brackets that do not match are characters like any other."""
    found: list[str] = []
    for whole in filter(None, re.split(r"[;|\s]+", bundle)):
        try:
            leaves, end = _leaves(whole, 0) if len(whole) <= _LONGEST_FEATURE else ([], -1)
        except ValueError:
            end = -1
        found += leaves if end == len(whole) else [whole]
    return found


def _leaves(text: str, begin: int) -> tuple[list[str], int]:
    """The leaves of the feature that begins at a place, and where it ends."""
    end = next((place for place in range(begin, len(text)) if text[place] in "(),"), len(text))
    name, found = text[begin:end], list[str]()
    if text[end : end + 1] != "(":
        return [name], end
    while text[end : end + 1] in ("(", ","):
        inner, end = _leaves(text, end + 1)
        found += [f"{name}({leaf})" for leaf in inner]
        if text[end : end + 1] not in (",", ")"):
            raise ValueError
    return found, end + 1


# The model, by NumPy ---------------------------------------------------------------------------------------------------


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))


def _normal(units: np.ndarray) -> np.ndarray:
    centered = units - units.mean(axis=-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + np.float32(1e-5))


class Layer:
    """One recurrent layer in one direction: an LSTM, one with layer normalization, or a GRU; states are [rows, units]."""

    def __init__(self, weights: dict[str, np.ndarray], name: str, kind: str, zoneout: float) -> None:
        """Takes the arrays below a name."""
        self.own = {key.rpartition("/")[2]: array for key, array in weights.items() if key.rpartition("/")[0] == name}
        self.kind, self.zoneout, self.units = kind, np.float32(zoneout), len(self.own["kernel_rec"])

    def step(self, projected: np.ndarray, state: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The next hidden state and cell, of the inputs' part of the sums."""
        (hidden, cell), own = state, self.own
        recurrent = hidden @ own["kernel_rec"]
        if self.kind == "gru":
            (r, z, n), (r_rec, z_rec, n_rec) = np.split(projected, 3, axis=-1), np.split(recurrent, 3, axis=-1)
            r_bias, z_bias, n_bias, n_rec_bias = np.split(own["bias"], 4)
            r, z = _sigmoid(r + r_rec + r_bias), _sigmoid(z + z_rec + z_bias)
            new = (1 - z) * np.tanh(n + n_bias + r * (n_rec + n_rec_bias)) + z * cell
            new = self.zoneout * cell + (1 - self.zoneout) * new
            return new, new
        sums = projected + recurrent
        if self.kind == "layer_norm_lstm":
            sums = np.concatenate([_normal(part) for part in np.split(sums, 4, axis=-1)], axis=-1) * own["gain"]
        i, f, g, o = np.split(sums + own["bias"], 4, axis=-1)
        new = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
        read = _normal(new) * own["cell_gain"] + own["cell_bias"] if self.kind == "layer_norm_lstm" else new
        new_hidden = _sigmoid(o) * np.tanh(read)
        return self.zoneout * hidden + (1 - self.zoneout) * new_hidden, self.zoneout * cell + (1 - self.zoneout) * new

    def read(self, inputs: np.ndarray, real: np.ndarray, backwards: bool) -> tuple[np.ndarray, Any]:
        """Outputs [batch, length, units], zero where nothing is real, and final states."""
        state: Any = (np.zeros((len(inputs), self.units), np.float32),) * 2
        projected, outputs = inputs @ self.own["kernel_in"], np.zeros((*inputs.shape[:2], self.units), np.float32)
        for place in reversed(range(inputs.shape[1])) if backwards else range(inputs.shape[1]):
            here, new = real[:, place, None], self.step(projected[:, place], state)
            state = tuple(np.where(here, one, old) for one, old in zip(new, state, strict=True))
            outputs[:, place] = np.where(here, new[0], 0)
        return outputs, state


class Arrays:
    """The model by NumPy: `encode` reads sources, `step` makes a step of the search; like the two graphs."""

    def __init__(self, folder: Path, how: dict[str, Any], threads: int = 0) -> None:
        """Loads the weights, of which those in int8 become float32; threads are NumPy's own affair."""
        with np.load(folder / "weights.npz", allow_pickle=False) as kept:
            w = {name: np.asarray(kept[name], np.float32) for name in kept.files}
        self.how, self.weights = how, {name: array * w.get(f"{name}:scale", np.float32(1)) for name, array in w.items() if ":" not in name}
        w, zoneout, self.name = self.weights, how["zoneout"], f"NumPy {np.__version__}"
        self.table = w["target_table"]
        self.source_table = w.get("source_table", self.table)
        if "feature_table" in w:
            self.source_table = np.concatenate([self.table, w["feature_table"]])
        self.output, self.bias = w.get("output_table", self.table), w["output_bias"]
        both = [1 + (index < how["bidirectional_layers"]) for index in range(how["encoder_layers"])]
        self.encoder = [[Layer(w, f"encoder/layers/{i}/{d}", how["cell"], zoneout) for d in range(many)] for i, many in enumerate(both)]
        self.decoder = [Layer(w, f"decoder/layers/{i}", how["cell"], zoneout) for i in range(how["decoder_layers"])]

    def encode(self, tokens: np.ndarray, lengths: np.ndarray, width: int) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Reads sources [batch, length]: what a step needs of them, and the first states.

        width: of the vocabulary and what sources hold beyond it, where the model copies.
        """
        how, w, places = self.how, self.weights, np.arange(tokens.shape[1])[None]
        real = places < lengths[:, None] - (not how["source_end"])
        order = (
            np.where(places < lengths[:, None] - 1, lengths[:, None] - 2 - places, places) if how["reverse_source"] else places + 0 * tokens
        )
        known, size, batch = len(self.source_table), len(self.table), np.arange(len(tokens))[:, None]
        read = np.where(tokens < known, tokens, UNK)[batch, order]
        embedded, finals = self.source_table[read], []
        features = embedded
        for index, directions in enumerate(self.encoder):
            found = [layer.read(features, real, bool(number)) for number, layer in enumerate(directions)]
            outputs = np.concatenate([one for one, _ in found], axis=-1)
            finals.append([np.concatenate([final[part] for _, final in found], axis=-1) for part in range(2)])
            features = features + outputs if 0 < how["residual_from"] <= index + 1 else outputs
        if how["attend_embeddings"]:
            features = np.concatenate([features, embedded], axis=-1)
        values = features[batch, order]
        memory = {"values": values, "keys": values, "mask": np.where(real, np.float32(0), np.float32(-1e30))}
        if "decoder/attention/kernel_key" in w:
            memory["keys"] = values @ w["decoder/attention/kernel_key"]
        if how["copy"]:
            copies = np.where((tokens > UNK) & (tokens < size), tokens, np.where(tokens >= known, tokens - known + size, 0))
            held = np.zeros((len(tokens), width), np.float32)
            held[batch, copies] = 1
            held[:, 0] = 0  # the end mark and features cannot be copied
            memory |= {"copies": copies, "held": held}
        if how["feed_features"]:
            among = (read >= size)[:, :, None]
            memory["beside"] = np.where(among, embedded, 0).sum(axis=1, dtype=np.float32) @ w["kernel_features"]
        states = [part for index in range(how["decoder_layers"]) for part in self._start(index, finals)]
        return memory, states + [np.zeros((len(tokens), self.output.shape[1]), np.float32)] * how["input_feeding"]

    def _start(self, index: int, finals: list[Any]) -> Sequence[np.ndarray]:
        how = self.how
        hidden, cell = finals[min(index + max(how["encoder_layers"] - how["decoder_layers"], 0), how["encoder_layers"] - 1)]
        if how["bridge"] == "zero":
            return (np.zeros((len(hidden), how["hidden_size"]), np.float32),) * 2
        if how["bridge"] == "dense":
            kernels = [self.weights[f"bridge/layers/{index}/{part}"] for part in range(2 - (how["cell"] == "gru"))]
            made = [np.tanh(side @ kernel) for side, kernel in zip((hidden, cell), kernels, strict=False)]
            return made[0], made[-1]  # a GRU's cell is its hidden state
        return hidden, cell

    def _look(self, queries: np.ndarray, memory: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and weights of all hypotheses."""
        rows = len(queries)
        if self.how["attention"] == "additive":
            queries = (queries @ self.weights["decoder/attention/kernel_query"]).reshape(
                len(memory["keys"]), -1, 1, memory["keys"].shape[-1]
            )
            # A sum: NumPy was once seen to warn of an invalid value in the product with a vector, of finite numbers.
            scores = (np.tanh(queries + memory["keys"][:, None]) * self.weights["decoder/attention/vector"]).sum(axis=-1)
        else:
            scores = queries.reshape(len(memory["keys"]), -1, queries.shape[1]) @ memory["keys"].swapaxes(1, 2)
        weights = scores + memory["mask"][:, None]
        weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return (weights @ memory["values"]).reshape(rows, -1), weights.reshape(rows, -1)

    def step(
        self, memory: dict[str, np.ndarray], states: list[np.ndarray], parents: np.ndarray, last: np.ndarray, ranks: np.ndarray, count: int
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray | None]:
        """Reads one more token of every hypothesis: next states, the best totals and their tokens [rows, count], attention.

        parents: the row of `states` that each hypothesis goes on from. ranks: their log-probabilities so far, which the totals hold.
        """
        how, weights, context = self.how, None, None
        states = [state[parents] for state in states]
        features = self.table[np.where(last < len(self.table), last, UNK)]
        if how["feed_features"]:
            beside = memory["beside"][:, None]
            features = (features.reshape(len(beside), -1, beside.shape[-1]) + beside).reshape(features.shape)
        entering = np.concatenate([features, states[-1]], axis=-1) if how["input_feeding"] else features
        for index, layer in enumerate(self.decoder):
            states[2 * index : 2 * index + 2] = layer.step(entering @ layer.own["kernel_in"], states[2 * index : 2 * index + 2])
            outputs = states[2 * index]
            features = features + outputs if index and 0 < how["residual_from"] <= index + 1 else outputs
            if index == 0 and how["attention"] != "none" and not how["input_feeding"]:
                context, weights = self._look(features, memory)
            entering = features if context is None else np.concatenate([features, context], axis=-1)
        if how["input_feeding"]:
            context, weights = self._look(features, memory)
            entering = np.concatenate([features, context], axis=-1)
        readouts = entering
        if "decoder/kernel_readout" in self.weights:
            readouts = entering @ self.weights["decoder/kernel_readout"]
            readouts = readouts if context is None else np.tanh(readouts)
        if how["input_feeding"]:
            states[-1] = readouts
        logits = readouts @ self.output.T + self.bias
        highest = logits.max(axis=-1, keepdims=True)
        logp = logits - (highest + np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True)))
        logp = self._copy(memory, readouts, weights, logp) if how["copy"] else logp
        logp[:, [0, BOS, UNK]] = -np.inf
        totals = (logp + ranks[:, None]).astype(np.float32)
        chosen = np.stack([_largest(row, count) for row in totals])
        return states, np.take_along_axis(totals, chosen, axis=1), chosen, weights

    def _copy(self, memory: dict[str, np.ndarray], readouts: np.ndarray, weights: Any, logp: np.ndarray) -> np.ndarray:
        """What is said by copying or else by the softmax layer; behind the vocabulary what it lacks of the source."""
        gate, size, held = (readouts * self.weights["copy_vector"]).sum(axis=-1) + self.weights["copy_bias"], logp.shape[1], memory["held"]
        copying, generating = -np.logaddexp(0, -gate)[:, None], -np.logaddexp(0, gate)
        sums, beam = np.zeros((len(logp), held.shape[1]), np.float32), len(logp) // len(held)
        copies, rows = np.repeat(memory["copies"], beam, axis=0), np.arange(len(logp))
        for place in range(copies.shape[1]):
            sums[rows, copies[:, place]] += weights[:, place]
        least = np.float32(1e-30)
        generated = np.full_like(sums, -np.inf)
        generated[:, :size] = logp + np.logaddexp(generating, copying[:, 0] + np.log(np.maximum(sums[:, 0], least)))[:, None]
        copied = copying + np.log(np.maximum(sums, least))
        return np.logaddexp(generated, np.where(np.repeat(held, beam, axis=0) > 0, copied, -np.inf))


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the largest values, best first, of equal ones the earlier first."""
    least = np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero(values >= least)
    return places[np.argsort(-values[places], kind="stable")][:count]


class Graphs:
    """The model by onnxruntime: what `Arrays` does, by the graphs of the folder."""

    def __init__(self, folder: Path, how: dict[str, Any], threads: int = 0) -> None:
        """Opens both graphs; threads: 0 for as many as there are cores."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0)
        options.enable_mem_pattern = False  # plans memory for each shape; shapes change from step to step
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a thread that waits leaves its core to others
        try:
            self.encoder, self.decoder = (
                onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
                for name in ("encoder", "step")
            )
        except Exception as error:  # it has a kind for each reason
            raise FolderError(
                f"onnxruntime {onnxruntime.__version__} cannot open the graphs of {folder} (opset {how['opset']}): {str(error).splitlines()[0]}; use a newer one, or --engine numpy"
            ) from None
        self.name, self.copy, given = f"onnxruntime {onnxruntime.__version__}", how["copy"], [one.name for one in self.decoder.get_inputs()]
        self.states = [name for name in given if name.startswith(("hidden_", "cell_", "feed"))]
        self.memory = [name for name in given if name not in (*self.states, "parents", "last", "ranks", "count")]

    def encode(self, tokens: np.ndarray, lengths: np.ndarray, width: int) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """See `Arrays.encode`."""
        given = {"tokens": tokens, "lengths": lengths} | ({"width": np.array([width])} if self.copy else {})
        found = self.encoder.run([*self.memory, *self.states], given)
        return dict(zip(self.memory, found, strict=False)), found[len(self.memory) :]

    def step(
        self, memory: dict[str, np.ndarray], states: list[np.ndarray], parents: np.ndarray, last: np.ndarray, ranks: np.ndarray, count: int
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Arrays.step`."""
        given = {"parents": parents, "last": last, "ranks": ranks, "count": np.array([count])}
        found = self.decoder.run(None, memory | dict(zip(self.states, states, strict=True)) | given)
        totals, chosen, *looks = found[len(self.states) :]
        return found[: len(self.states)], totals, chosen, looks[0] if looks else None


# The search --------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What is kept of one step of the search, to find the way back."""

    parents: np.ndarray  # of each hypothesis, the row that it goes on from
    tokens: np.ndarray
    looks: np.ndarray | None  # attention of each of those rows
    stays: np.ndarray  # which hypotheses are the next step's rows


class Model:
    """A model, loaded: `translate` is the beam search of `flax-s2s decode`."""

    def __init__(self, folder: Path, engine: str, threads: int) -> None:
        """See `load`."""
        self.about: dict[str, Any] = _read_about(folder)
        self.decoding, files = self.about["decoding"], self.about["vocabularies"]
        self.source, self.target = Vocabulary(folder, files["source"]), Vocabulary(folder, files["target"])
        self.features = {name: files["features_from"] + place for place, name in enumerate(files["features"])}
        self.copy, self.cut = self.about["model"]["copy"], 0  # how many sources were too long so far, and lost their ends
        self.sizes = (files["features_from"] + len(files["features"]), files["target_size"])
        self.engine: Arrays | Graphs = _choose(folder, engine)(folder, self.about["model"] | {"opset": self.about["opset"]}, threads)

    def translate(self, line: str, features: str = "", beam_size: int = 0, n_best: int = 0) -> list[Hypothesis]:
        """Translations of a line, best first; of hypotheses with one text the best alone.

        features: a bundle such as `V;PST`, of a model with features. beam_size: live hypotheses; 0: as exported. n_best: how many translations; 0: as exported.
        """
        return self.translate_all([line], [features], beam_size, n_best)[0]

    def translate_all(
        self, lines: Sequence[str], features: Sequence[str] = (), beam_size: int = 0, n_best: int = 0, batch: int = 64
    ) -> list[list[Hypothesis]]:
        """Translations of each line, as `translate` has them; so many lines of like length are translated together."""
        size, wanted = beam_size or self.decoding["beam_size"], n_best or self.decoding["n_best"]
        if not 0 < wanted <= size:
            raise FolderError(f"n_best={wanted} must be at least 1 and at most beam_size={size}; use a larger beam")
        found = [[Hypothesis("", (), 0.0, 0.0, True, None)] for _ in lines]
        sources = {
            place: self._number(line, bundle)
            for place, (line, bundle) in enumerate(zip(lines, features or [""] * len(lines), strict=True))
            if line.strip()
        }
        order = sorted(sources, key=lambda place: len(sources[place][0]))
        for begin in range(0, len(order), batch):
            places = order[begin : begin + batch]
            for place, many in zip(places, self._search([sources[place] for place in places], size, wanted), strict=True):
                distinct: dict[str, Hypothesis] = {}
                for one in many:
                    distinct.setdefault(one.text, one)
                found[place] = list(distinct.values())[:wanted]
        return found

    def _number(self, line: str, features: str) -> tuple[list[int], list[str]]:
        """Tokens of a source, and what of it the vocabulary lacks."""
        bundle = [self.features.get(one, UNK) for one in split_features(features)] if self.features else []
        words, lacking = self.source.number(line, self.sizes[0]) if self.copy else (self.source.encode(line), [])
        most = self.decoding["max_source_tokens"] - 1
        self.cut += len(bundle) + len(words) > most
        return [*[*bundle, *words][:most], EOS], lacking

    def _search(self, sources: list[tuple[list[int], list[str]]], size: int, wanted: int) -> list[list[Hypothesis]]:
        """Beam search: ties go to the earlier hypothesis, then to the smaller token; greedy search's way is never dropped."""
        lengths, kept = np.array([len(ids) for ids, _ in sources]), size if wanted == 1 or size == 1 else 2 * size
        limits = (lengths * self.decoding["max_length_ratio"]).astype(int) + self.decoding["max_length_extra"] + 1
        tokens = np.array([ids + [0] * (lengths.max() - len(ids)) for ids, _ in sources])
        width = self.sizes[1] + max(len(lacking) for _, lacking in sources)
        memory, states = self.engine.encode(tokens, lengths, width)
        alive, open_, count = np.arange(len(sources)), np.ones(len(sources), bool), min(2 * size, width if self.copy else self.sizes[1])
        ranks, last, parents = np.zeros((len(alive), 1), np.float32), np.full((len(alive), 1), BOS), np.arange(len(alive))
        greedy = np.full(len(alive), 0 if size > 1 else -1)  # which of a sentence's hypotheses greedy search has, -1 for none
        history: list[Step] = []
        ended: list[list[tuple[Any, ...]]] = [[] for _ in sources]
        for length in range(1, limits.max() + 1):
            states, totals, tokens, looks = self.engine.step(memory, states, parents, last.ravel(), ranks.ravel(), count)
            before, n = ranks.shape[1], len(alive)
            totals, tokens = totals.reshape(n, -1), tokens.reshape(n, -1)
            first = np.where(greedy >= 0, greedy * count, -1)[:, None]
            order = np.argsort(-totals, axis=1, kind="stable")[:, : 2 * size]
            order = np.concatenate([order, np.where((order == first).any(axis=1, keepdims=True), -1, first)], axis=1)
            totals, tokens = (np.take_along_axis(array, np.maximum(order, 0), axis=1) for array in (totals, tokens))
            valid, is_first, rows = (order >= 0) & np.isfinite(totals), order == first, order // count + before * np.arange(n)[:, None]
            ends = valid & (tokens == EOS)
            for b, turn in np.argwhere(ends & (is_first | (np.arange(order.shape[1]) < size))):
                own, total = ended[alive[b]], totals[b, turn]
                own.append((total / self._penalty(length), total, length, rows[b, turn], True))
                ended[alive[b]] = sorted(own, key=lambda one: -one[0])[:kept]
            live = valid & ~ends
            turns = np.cumsum(live, axis=1) - 1
            crowded = (live & is_first & (turns >= size)).any(axis=1, keepdims=True)  # greedy search's comes last, and stays
            chosen = live & ((turns < size - crowded) | (is_first & crowded))
            b, turn = np.nonzero(chosen)
            slots = np.minimum(turns[b, turn], size - 1)
            ranks, last = np.full((n, size), -np.inf, np.float32), np.zeros((n, size), np.int64)
            whence, greedy = np.repeat(before * np.arange(n), size).reshape(n, size), np.full(n, -1)
            ranks[b, slots], last[b, slots], whence[b, slots] = totals[b, turn], tokens[b, turn], rows[b, turn]
            greedy[b[is_first[b, turn]]] = slots[is_first[b, turn]]
            for b in np.flatnonzero(open_):
                own, best, limit = ended[alive[b]], ranks[b].max(), limits[alive[b]]
                most = min(size, wanted)
                sure = len(own) >= most and (size == 1 or best / self._penalty(limit) <= own[most - 1][0])
                if sure or best == -np.inf or length == limit:
                    open_[b] = False
                    if not own:  # cut at the limit
                        many = [(rank / self._penalty(limit), rank, length, b * size + slot, False) for slot, rank in enumerate(ranks[b])]
                        ended[alive[b]] = sorted((one for one in many if np.isfinite(one[1])), key=lambda one: -one[0])
                    ranks[b] = -np.inf
            few = open_.mean() <= 0.75
            stays = np.flatnonzero(np.repeat(open_ | (not few), size))
            history.append(Step(whence.ravel(), last.ravel(), looks, stays))
            parents = whence.ravel()[stays]
            if not open_.any():
                break
            if few:  # those that are done leave
                memory = {name: array[open_] for name, array in memory.items()}
                alive, ranks, last, greedy, open_ = alive[open_], ranks[open_], last[open_], greedy[open_], open_[open_]
        return [[self._describe(history, source, *one) for one in many] for many, source in zip(ended, sources, strict=True)]

    def _penalty(self, length: int) -> np.float32:
        return np.float32(((5 + length) / 6) ** self.decoding["length_penalty"])

    def _describe(
        self, history: list["Step"], source: tuple[list[int], list[str]], score: Any, logp: Any, length: int, row: int, finished: bool
    ) -> Hypothesis:
        """A hypothesis of so many tokens: finished, from the row that its end mark goes on from; cut, from that of its last token."""
        ids, seen = [EOS] * finished, list[np.ndarray]()
        for step in reversed(range(length)):
            one, is_end = history[step], finished and step == length - 1
            if not is_end:
                ids.append(int(one.tokens[row]))
                row = one.parents[row]
            if one.looks is not None:
                seen.append(one.looks[row])
            row = history[step - 1].stays[row] if step else 0  # among all of the step before
        words, lacking = source
        text = " ".join(self.target.decode([one for one in reversed(ids) if one > UNK], lacking).split("\n"))
        attention = np.stack(seen[::-1])[:, : len(words)] if seen else None
        return Hypothesis(text, tuple(reversed(ids)), float(logp), float(score), finished, attention)


# The folder --------------------------------------------------------------------------------------------------------


def _choose(folder: Path, engine: str) -> type[Arrays] | type[Graphs]:
    if engine == "numpy" or not (folder / "step.onnx").exists():
        return Arrays
    try:
        import onnxruntime  # noqa: F401 looked for
    except ImportError:
        if engine == "onnx":
            raise FolderError("the graphs are run by the package onnxruntime, which is not installed: pip install onnxruntime") from None
        return Arrays
    return Graphs


def load(folder: str | Path = ".", engine: str = "", threads: int = 0) -> Model:
    """Loads the model of a folder.

    engine: `onnx` or `numpy`; empty: onnxruntime where it is installed. threads: of onnxruntime; 0: as many as there are cores.

    Raises:
        FolderError: the folder is none that `flax-s2s export` wrote, a file is damaged, or a package is missing.
    """
    try:
        return Model(Path(folder), engine, threads)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FolderError(
            f"{folder} is no whole exported model: {type(error).__name__} {error}; export it again, or name its folder"
        ) from None


def _read_about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "model.json").read_text("utf-8"))
    if about["format"] != 1:
        raise FolderError(
            f"{folder / 'model.json'} is of format {about['format']}, and this program reads 1; use the translate.py beside it"
        )
    used = {"weights.npz", "encoder.onnx", "step.onnx", *(about["vocabularies"][side]["file"] for side in ("source", "target"))}
    if not used <= set(about["files"]) or any(name != Path(name).name for name in about["files"]):
        raise FolderError(f"{folder / 'model.json'} does not say what is in {', '.join(sorted(used))}; copy or export it again")
    for name, wanted in about["files"].items():
        with open(folder / name, "rb") as file:
            digest = hashlib.sha256()
            while part := file.read(2**20):
                digest.update(part)
        if digest.hexdigest() != wanted:
            raise FolderError(f"{folder / name} is not the file that was exported (its sha256 differs); copy or export it again")
    return about


def _answer(model: Model, lines: list[str], given: argparse.Namespace) -> None:
    split = [line.rpartition("\t") if model.features else ("", "\t", line) for line in lines]
    for line, (_, tab, _) in zip(lines, split, strict=True):
        if line.strip() and not tab:
            raise FolderError(f"the line {line[:60]!r} has no features; this model reads them and a tab before each source")
    sources, bundles = [source for _, _, source in split], [bundle for bundle, _, _ in split]
    for many in model.translate_all(sources, bundles, given.beam_size, given.n_best, max(given.batch, 1)):
        for one in many:
            looked = " ".join(map(str, one.attention.argmax(axis=1))) if given.attention and one.attention is not None else ""
            print(
                (f"{one.score:.4f}\t" if (given.n_best or model.decoding["n_best"]) > 1 else "")
                + one.text
                + (f"\t{looked}" if given.attention else "")
            )
    sys.stdout.flush()


def main() -> int:
    """Translates the lines of stdin."""
    parser = argparse.ArgumentParser(description="Translates lines of stdin with the model of this folder.")
    parser.add_argument(
        "--folder", default=str(Path(__file__).resolve().parent), help="the exported folder (default: where this file lies)"
    )
    parser.add_argument("--beam-size", type=int, default=0, help="live hypotheses (default: as exported)")
    parser.add_argument(
        "--n-best",
        type=int,
        default=0,
        help="translations of a line, each with its score before it, if more than one (default: as exported)",
    )
    parser.add_argument(
        "--batch", type=int, default=1, help="lines that are translated together; 1: each is answered before the next is read"
    )
    parser.add_argument("--engine", default="", choices=["onnx", "numpy"], help="default: onnxruntime where it is installed, else NumPy")
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime (default: as many as there are cores)")
    parser.add_argument(
        "--attention", action="store_true", help="after each translation, a tab and the source token that each token looked at most, from 0"
    )
    given = parser.parse_args()
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8", errors="replace", newline="\n")  # type: ignore[union-attr]
    try:
        model = load(given.folder, given.engine, given.threads)
        lines = (
            line.removesuffix("\n").removesuffix("\r").removeprefix("" if number else "\ufeff") for number, line in enumerate(sys.stdin)
        )
        while some := list(
            itertools.islice(lines, 1 if given.batch == 1 else 16 * max(given.batch, 1))
        ):  # of which those of like length go together
            _answer(model, some, given)
        if model.cut:
            print(
                f"{model.cut} sources were longer than {model.decoding['max_source_tokens']} tokens; what follows was not read",
                file=sys.stderr,
            )
    except FolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has left, as `head` does; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
