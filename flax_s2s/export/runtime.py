"""Translates with the model of this folder, by NumPy alone: lines in, lines out.

    python translate.py < in.txt > out.txt
    python translate.py --n-best 5 --beam-size 5 < in.txt

    import translate
    model = translate.load("FOLDER")
    model.translate("hello")[0].text

The folder was written by `flax-s2s export`; model.json says of which run, and holds the sha256 of every file, which are compared when it is loaded.
Vocabularies of characters and words are read by this file; others need the package sentencepiece. A line that is fed features begins with them and a tab.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import unicodedata
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
        self.kind, self.form = about["kind"], about["unicode_form"]
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
        ids = [self._ids.get(piece, UNK) for piece in self.split(text)]  # of which neighbors that are unknown are one
        return [one for place, one in enumerate(ids) if one != UNK or place == 0 or ids[place - 1] != UNK]

    def split(self, text: str) -> list[str]:
        """The pieces of a line, known or not; of characters and words."""
        text = self._prepare(text)
        found: list[str] = self._cut.findall(_SPACE + text.replace(" ", _SPACE)) if text else []
        return found

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


# The model ---------------------------------------------------------------------------------------------------------


def _largest(values: np.ndarray, count: int) -> list[int]:
    """The places of the largest values, best first, of equal ones the earlier first."""
    least = np.partition(values, len(values) - count)[len(values) - count] if count < len(values) else -np.inf
    places = np.flatnonzero(values >= least)
    chosen: list[int] = places[np.argsort(-values[places], kind="stable")][:count].tolist()
    return chosen


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

    def project(self, inputs: np.ndarray) -> np.ndarray:
        """The inputs' part of the sums."""
        return np.asarray(inputs @ self.own["kernel_in"])

    def step(self, projected: np.ndarray, state: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The next hidden state and cell."""
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

    def read(self, inputs: np.ndarray, backwards: bool) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Outputs [time, units] and final state of a whole sequence."""
        state = (np.zeros((1, self.units), np.float32),) * 2
        projected, outputs = self.project(inputs), np.zeros((len(inputs), self.units), np.float32)
        for place in reversed(range(len(inputs))) if backwards else range(len(inputs)):
            state = self.step(projected[place : place + 1], state)
            outputs[place] = state[0][0]
        return outputs, state


class Memory(NamedTuple):
    """What the decoder knows of a source."""

    values: np.ndarray  # [source tokens, size]
    keys: np.ndarray
    copies: np.ndarray | None  # the target's token that each of the source's is, 0 for none, where the model copies
    lacking: list[str]  # what of the source the vocabulary lacks, each a token behind it
    start: list[tuple[np.ndarray, np.ndarray]]  # of each decoder layer
    beside: np.ndarray | None  # what is added to each target token's embedding


class Model:
    """A model, loaded: `translate` is the beam search of `flax-s2s decode`."""

    def __init__(self, folder: Path) -> None:
        """See `load`."""
        self.about: dict[str, Any] = _read_about(folder)
        self.decoding, how, files = self.about["decoding"], self.about["model"], self.about["vocabularies"]
        self.how, self.source, self.target = how, Vocabulary(folder, files["source"]), Vocabulary(folder, files["target"])
        self.features = {name: files["features_from"] + place for place, name in enumerate(files["features"])}
        with np.load(folder / "weights.npz", allow_pickle=False) as kept:
            self.weights = {name: np.asarray(kept[name], np.float32) for name in kept.files}
        w, zoneout = self.weights, round(how["zoneout"] * 256) / 256
        self.table = w["target_table"]
        self.source_table = w.get("source_table", self.table)
        if "feature_table" in w:
            self.source_table = np.concatenate([self.table, w["feature_table"]])
        self.output, self.bias = w.get("output_table", self.table), w["output_bias"]
        both = [1 + (index < how["bidirectional_layers"]) for index in range(how["encoder_layers"])]
        self.encoder = [[Layer(w, f"encoder/layers/{i}/{d}", how["cell"], zoneout) for d in range(many)] for i, many in enumerate(both)]
        self.decoder = [Layer(w, f"decoder/layers/{i}", how["cell"], zoneout) for i in range(how["decoder_layers"])]

    def encode(self, ids: list[int], lacking: list[str]) -> Memory:
        """Reads a source, its end mark included; ids behind all others are what the vocabulary lacks."""
        how, w, order = self.how, self.weights, np.arange(len(ids))
        if how["reverse_source"]:
            order[:-1] = order[:-1][::-1].copy()
        known, size = len(self.source_table), len(self.table)
        read, copies = np.array(ids)[order], None
        if how["copy"]:
            copies = np.array([one if UNK < one < size else one - known + size if one >= known else 0 for one in ids])
            read = np.where(read < known, read, UNK)
        embedded, finals = self.source_table[read], []
        features = embedded
        for index, directions in enumerate(self.encoder):
            found = [layer.read(features, bool(number)) for number, layer in enumerate(directions)]
            outputs = np.concatenate([one for one, _ in found], axis=-1)
            finals.append(tuple(np.concatenate([final[part] for _, final in found], axis=-1) for part in range(2)))
            features = features + outputs if 0 < how["residual_from"] <= index + 1 else outputs
        if how["attend_embeddings"]:
            features = np.concatenate([features, embedded], axis=-1)
        values = features[order]
        keys = values @ w["decoder/attention/kernel_key"] if "decoder/attention/kernel_key" in w else values
        beside = None
        if how["feed_features"]:
            beside = embedded[read >= len(self.table)].sum(axis=0, dtype=np.float32) @ w["kernel_features"]
        return Memory(values, keys, copies, lacking, [self._start(index, finals) for index in range(how["decoder_layers"])], beside)

    def _start(self, index: int, finals: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        how = self.how
        hidden, cell = finals[min(index + max(how["encoder_layers"] - how["decoder_layers"], 0), how["encoder_layers"] - 1)]
        if how["bridge"] == "zero":
            return (np.zeros((1, how["hidden_size"]), np.float32),) * 2
        if how["bridge"] == "dense":
            kernels = [self.weights.get(f"bridge/layers/{index}/{part}") for part in range(2)]
            if kernels[1] is None:  # of a GRU, whose cell is its hidden state
                state = np.tanh(cell @ kernels[0])
                return state, state
            return np.tanh(hidden @ kernels[0]), np.tanh(cell @ kernels[1])
        return hidden, cell

    def _look(self, queries: np.ndarray, memory: Memory) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and weights of all hypotheses."""
        if self.how["attention"] == "additive":
            hidden = np.tanh((queries @ self.weights["decoder/attention/kernel_query"])[:, None] + memory.keys[None])
            scores = hidden @ self.weights["decoder/attention/vector"]
        else:
            scores = queries @ memory.keys.T
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights @ memory.values, weights

    def step(self, memory: Memory, states: list[Any], feed: np.ndarray | None, last: np.ndarray) -> tuple[list[Any], Any, np.ndarray, Any]:
        """Reads one more token of every hypothesis: next states, what is fed, log-probabilities [rows, vocabulary], attention."""
        how, weights, context = self.how, None, None
        features = self.table[np.where(last < len(self.table), last, UNK)]
        features = features if memory.beside is None else features + memory.beside
        states, entering = list(states), features if feed is None else np.concatenate([features, feed], axis=-1)
        for index, layer in enumerate(self.decoder):
            states[index] = layer.step(layer.project(entering), states[index])
            outputs = states[index][0]
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
        logits = readouts @ self.output.T + self.bias
        highest = logits.max(axis=-1, keepdims=True)
        logp = logits - (highest + np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True)))
        logp = logp if memory.copies is None else self._copy(memory, readouts, weights, logp)
        return states, readouts if how["input_feeding"] else None, logp.astype(np.float32), weights

    def _copy(self, memory: Memory, readouts: np.ndarray, weights: Any, logp: np.ndarray) -> np.ndarray:
        """What is said by copying or else by the softmax layer; behind the vocabulary what it lacks of the source."""
        gate, tokens, size = readouts @ self.weights["copy_vector"] + self.weights["copy_bias"], memory.copies, logp.shape[1]
        copying, generating = -np.logaddexp(0, -gate)[:, None], -np.logaddexp(0, gate)
        sums, held = np.zeros((len(logp), size + len(memory.lacking)), np.float32), np.zeros(size + len(memory.lacking), bool)
        for place, token in enumerate(tokens if tokens is not None else []):
            sums[:, token] += weights[:, place]
            held[token] = True
        least, elsewhere = np.float32(1e-30), sums[:, 0].copy()  # the end mark and features cannot be copied
        held[0] = False
        generated = np.full_like(sums, -np.inf)
        generated[:, :size] = logp + np.logaddexp(generating, copying[:, 0] + np.log(np.maximum(elsewhere, least)))[:, None]
        return np.logaddexp(generated, np.where(held[None], copying + np.log(np.maximum(sums, least)), -np.inf))

    # The search --------------------------------------------------------------------------------------------------------

    def translate(self, line: str, features: str = "", beam_size: int = 0, n_best: int = 0) -> list[Hypothesis]:
        """The best translations of a line, best first, of different texts; of a blank one an empty one.

        Args:
            line: the source.
            features: its bundle, of a model that has features.
            beam_size: live hypotheses; 0: as exported.
            n_best: how many translations; 0: as exported.
        """
        size, wanted = beam_size or self.decoding["beam_size"], n_best or self.decoding["n_best"]
        if not 0 < wanted <= size:
            raise FolderError(f"n_best={wanted} must be at least 1 and at most beam_size={size}; use a larger beam")
        if not line.strip():
            return [Hypothesis("", (), 0.0, 0.0, True, None)]
        bundle = [self.features.get(one, UNK) for one in split_features(features)] if self.features else []
        words, lacking = self.source.number(line, len(self.source_table)) if self.how["copy"] else (self.source.encode(line), [])
        ids = [*bundle, *words][: self.decoding["max_source_tokens"] - 1]
        limit = int((len(ids) + 1) * self.decoding["max_length_ratio"]) + self.decoding["max_length_extra"] + 1
        found: dict[str, Hypothesis] = {}
        for one in self.search(self.encode([*ids, EOS], lacking), limit, size, wanted):
            found.setdefault(one.text, one)
        return list(found.values())[:wanted]

    def search(self, memory: Memory, limit: int, size: int, wanted: int) -> list[Hypothesis]:
        """Beam search: ties go to the earlier hypothesis, then to the smaller token; greedy search's way is never dropped."""
        kept = size if wanted == 1 or size == 1 else 2 * size
        states, readout = memory.start, self.output.shape[1]
        feed = np.zeros((1, readout), np.float32) if self.how["input_feeding"] else None
        ranks, ids, looks = np.zeros(1, np.float32), [()], [()]  # of the live hypotheses
        greedy, last, ended = 0 if size > 1 else -1, np.array([BOS]), list[tuple[Any, ...]]()
        for length in range(1, limit + 1):
            states, feed, logp, weights = self.step(memory, states, feed, last)
            logp[:, [0, BOS, UNK]] = -np.inf
            totals = ranks[:, None] + logp
            order = [place for place in _largest(totals.ravel(), 2 * size) if np.isfinite(totals.flat[place])]
            first = greedy * logp.shape[1] + int(np.argmax(totals[greedy])) if greedy >= 0 else -1
            order += [first] if greedy >= 0 and first not in order else []
            chosen = [divmod(place, logp.shape[1]) for place in order]
            for turn, (place, (parent, token)) in enumerate(zip(order, chosen, strict=True)):
                if token == EOS and (turn < size or place == first):
                    seen = looks[parent] if weights is None else (*looks[parent], weights[parent])
                    ended.append((totals.flat[place] / self._penalty(length), totals.flat[place], (*ids[parent], EOS), seen))
            ended = sorted(ended, key=lambda one: -one[0])[:kept]
            live = [(place, parent, token) for place, (parent, token) in zip(order, chosen, strict=True) if token != EOS]
            if size == 1 and ended:
                break
            best = live[:size] + [one for one in live[size:] if one[0] == first]
            live = best if len(best) <= size else [*best[: size - 1], best[-1]]
            if not live:
                break
            places, parents, last = (np.array(part) for part in zip(*live, strict=True))
            ids = [(*ids[parent], int(token)) for _, parent, token in live]
            looks = [looks[parent] if weights is None else (*looks[parent], weights[parent]) for parent in parents]
            ranks, greedy = totals.flat[places], next((number for number, one in enumerate(live) if one[0] == first), -1)
            states = [tuple(part[parents] for part in state) for state in states]
            feed = None if feed is None else feed[parents]
            most = min(size, wanted)
            if size > 1 and len(ended) >= most and ranks.max() / self._penalty(limit) <= ended[most - 1][0]:
                break
        found = ended or [(rank / self._penalty(limit), rank, own, seen) for rank, own, seen in zip(ranks, ids, looks, strict=True)]
        found = found if ended else sorted(found, key=lambda one: -one[0])
        return [self._describe(memory, *one, finished=bool(ended)) for one in found]

    def _penalty(self, length: int) -> np.float32:
        return np.float32(((5 + length) / 6) ** self.decoding["length_penalty"])

    def _describe(
        self, memory: Memory, score: Any, logp: Any, ids: tuple[int, ...], looks: tuple[Any, ...], *, finished: bool
    ) -> Hypothesis:
        text = " ".join(self.target.decode([one for one in ids if one > UNK], memory.lacking).split("\n"))
        return Hypothesis(text, ids, float(logp), float(score), finished, np.stack(looks) if looks else None)


# The folder --------------------------------------------------------------------------------------------------------


def load(folder: str | Path = ".") -> Model:
    """Loads the model of a folder.

    Raises:
        FolderError: the folder is none that `flax-s2s export` wrote, a file is damaged, or a package is missing.
    """
    try:
        return Model(Path(folder))
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
    used = {"weights.npz", *(about["vocabularies"][side]["file"] for side in ("source", "target"))}
    if not used <= set(about["files"]) or any(name != Path(name).name for name in about["files"]):
        raise FolderError(f"{folder / 'model.json'} does not say what is in {', '.join(sorted(used))}; copy or export it again")
    for name, wanted in about["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != wanted:
            raise FolderError(f"{folder / name} is not the file that was exported (its sha256 differs); copy or export it again")
    return about


def main() -> int:
    """Translates the lines of stdin."""
    parser = argparse.ArgumentParser(description="Translates lines of stdin with the model of this folder.")
    parser.add_argument(
        "--folder", default=str(Path(__file__).resolve().parent), help="the exported folder (default: where this file lies)"
    )
    parser.add_argument("--beam-size", type=int, default=0, help="live hypotheses (default: as exported)")
    parser.add_argument("--n-best", type=int, default=1, help="translations of a line, each with its score before it, if more than one")
    parser.add_argument(
        "--attention", action="store_true", help="after each translation, a tab and the source token that each token looked at most, from 0"
    )
    given = parser.parse_args()
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8", errors="replace", newline="\n")  # type: ignore[union-attr]
    try:
        model = load(given.folder)
        for number, line in enumerate(sys.stdin):
            line = line.removesuffix("\n").removesuffix("\r").removeprefix("" if number else "\ufeff")
            features, tab, source = line.rpartition("\t") if model.features else ("", "", line)
            if model.features and line.strip() and not tab:
                raise FolderError(f"the line {source[:60]!r} has no features; this model reads them and a tab before each source")
            for one in model.translate(source, features, given.beam_size, given.n_best):
                looked = " ".join(map(str, one.attention.argmax(axis=1))) if given.attention and one.attention is not None else ""
                print(
                    (f"{one.score:.4f}\t" if given.n_best > 1 else "") + one.text + (f"\t{looked}" if given.attention else ""), flush=True
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
