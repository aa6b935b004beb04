"""A tokenized corpus on disk: made once, kept by the hash of its content, and read as it is needed.

Enters: a `Reader` and its vocabularies. Leaves: token pairs that are mapped from files, not held in memory, so that ten
million pairs start as fast as the files can be hashed.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int

from flax_s2s.config import UNK, DataConfig, UserError
from flax_s2s.data.batching import Filtered, Ragged, TokenPairs, add_end, choose_sequences, keep_fitting, keeping, needed
from flax_s2s.data.corpus import Counts, Pair, Reader
from flax_s2s.data.hallucination import hallucinate
from flax_s2s.data.vocab import Vocabularies

_FORMAT = 2  # raised when the files change their form
_PAIRS_AT_ONCE = 10_000
_SIDES = ("source", "target")
_ABANDONED_SECS = 24 * 3600.0  # a half-made folder this old is of a process that was killed


class Tokens(NamedTuple):
    """A tokenized corpus and what is known of its text."""

    pairs: TokenPairs
    filtered: Filtered
    unknown: tuple[int, int]
    """Unknown tokens of source and target, in the pairs that are kept."""
    sha256: str
    """Hash of the pairs' text in their order, before filtering."""
    counts: Counts
    """Where the pairs went before filtering."""
    keeping: dict[str, int]
    """Fields of the data, and values that would keep nearly all pairs that are left out by length or ratio."""


class Draw(NamedTuple):
    """Which of the many corpora that are drawn from one: split into other tokens, or with other letters."""

    rate: float
    """See `config.VocabConfig.sampling`; 0: split as always."""
    seed: int
    epoch: int
    longest: tuple[int, int]
    """Tokens of source and target; a pair that would have more is as it always is."""
    hallucination: float = 0.0
    """See `config.DataConfig.hallucination`; 0: none."""


def tokenize(pairs: Sequence[Pair], vocabularies: Vocabularies, rate: float = 0.0, seeds: Sequence[int] = (0, 0)) -> TokenPairs:
    """Token ids of both sides, each ending with EOS; with a rate split at random, by a seed for each side."""
    sources, draws = [pair.source for pair in pairs], [(rate, seed) if rate else None for seed in seeds]
    source = vocabularies.encode_sources(sources, [pair.features for pair in pairs], draws[0])
    target = vocabularies.encode_targets([pair.target for pair in pairs], vocabularies.find_lacking(sources), draws[1])
    return TokenPairs(add_end(source), add_end(target))


def _spell(pair: Pair) -> str:
    """A pair as it is hashed."""
    features = f" {len(pair.features)} {pair.features}" if pair.features else ""
    return f"{len(pair.source)} {len(pair.target)} {pair.source}{pair.target}{features}"


def _redraw(pairs: TokenPairs, texts: Sequence[Pair], vocabularies: Vocabularies, draw: Draw, chunk: int) -> TokenPairs:
    """The pairs of a chunk of the corpus, drawn at random where the result is not too long."""
    place = [draw.seed, draw.epoch, chunk]
    texts = hallucinate(texts, draw.hallucination, place) if draw.hallucination else texts
    sampled = tokenize(texts, vocabularies, draw.rate, np.random.SeedSequence(place).generate_state(2).tolist())
    fits = (sampled.source.lengths <= draw.longest[0]) & (sampled.target.lengths <= draw.longest[1])
    both = ((sampled.source, pairs.source), (sampled.target, pairs.target))
    if draw.hallucination:  # a letter may be one of the other side alone, or make a cluster that no text has
        for one, always in both:
            fits &= _count_unknown(one) <= _count_unknown(always)
    return TokenPairs(*(choose_sequences(fits, one, other) for one, other in both))


def _count_unknown(side: Ragged) -> Int[np.ndarray, " rows"]:
    """Of each row; a row is never empty."""
    return np.add.reduceat((side.flat == UNK).astype(np.int64), side.starts[:-1])


def open_tokens(reader: Reader, vocabularies: Vocabularies, config: DataConfig, kept_in: Path | None, draw: Draw | None = None) -> Tokens:
    """The corpus of a reader, tokenized and filtered.

    Args:
        reader: the pairs.
        vocabularies: of both sides.
        config: the limits of length and ratio.
        kept_in: folder of tokenized corpora; None: made anew each time, and kept nowhere.
        draw: how the pairs that are kept without it are drawn at random, kept nowhere either; None: as always.

    Raises:
        UserError: what reading raises; or all pairs are left out.
    """
    content = reader.fingerprint() if kept_in and draw is None else None
    if kept_in is None or content is None:
        with tempfile.TemporaryDirectory(prefix="flax_s2s_") as made:
            _write(Path(made), reader, vocabularies, config, draw)
            return _open(Path(made))  # files that are mapped live on without a name
    folder = kept_in / hashlib.sha256(f"{_FORMAT} {content} {vocabularies.sha256}".encode()).hexdigest()
    try:
        return _open(folder)
    except (OSError, ValueError, KeyError):  # not there, or damaged
        shutil.rmtree(folder, ignore_errors=True)
    _sweep(kept_in)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=kept_in))
    try:
        _write(partial, reader, vocabularies, config, None)
        made_now = _open(partial)  # mapped: it stays, whatever other processes do with the folder
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # or else another process was faster
                raise
        return made_now
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(kept_in: Path) -> None:
    for partial in kept_in.glob("partial-*"):
        if time.time() - partial.stat().st_mtime > _ABANDONED_SECS:
            shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, reader: Reader, vocabularies: Vocabularies, config: DataConfig, draw: Draw | None) -> None:
    """Tokens one after the other, lengths one after the other, and a description, written last."""
    beyond = config.max_source_tokens if vocabularies.copy else 0
    narrow = max(vocabularies.sizes) + beyond <= 1 << 16
    dtype = np.dtype(np.uint16 if narrow else np.int32)
    filtered, text, count, unknown = Filtered(0, 0, 0), hashlib.sha256(), 0, dict.fromkeys(_SIDES, 0)
    needs = []
    stream = iter(reader)
    with _files(folder, "ids") as ids, _files(folder, "lengths") as lengths:
        for number in itertools.count():
            chunk = list(itertools.islice(stream, _PAIRS_AT_ONCE))
            if not chunk:
                break
            text.update("".join(map(_spell, chunk)).encode())
            pairs = tokenize(chunk, vocabularies)
            kept, left_out = keep_fitting(pairs, config)
            filtered = Filtered(*(one + two for one, two in zip(filtered, left_out, strict=True)))
            needs.append(needed(pairs, kept))
            count += len(chunk)
            if len(kept) < len(chunk):
                pairs = pairs.take(kept)
            if draw:
                pairs = _redraw(pairs, [chunk[i] for i in kept], vocabularies, draw, number)
            for side, ragged in zip(_SIDES, (pairs.source, pairs.target), strict=True):
                unknown[side] += int((ragged.flat == UNK).sum())
                ids[side].write(ragged.flat.astype(dtype).tobytes())
                lengths[side].write(ragged.lengths.astype(np.int32).tobytes())
    remedy = keeping(np.concatenate(needs, axis=1), count, config)
    if sum(filtered) == count:
        values = ", ".join(f"data.{name} to {value}" for name, value in remedy.items())
        raise UserError(f"all {count:,} pairs were left out ({filtered}); raise {values}")
    described = {
        "dtype": dtype.name,
        "filtered": filtered,
        "unknown": list(unknown.values()),
        "sha256": text.hexdigest(),
        "counts": reader.counts._asdict(),
        "keeping": remedy,
    }
    (folder / "description.json").write_text(json.dumps(described), "utf-8")


@contextlib.contextmanager
def _files(folder: Path, kind: str) -> Iterator[dict[str, BinaryIO]]:
    """A file of each side, open for writing."""
    with contextlib.ExitStack() as stack:
        yield {side: stack.enter_context((folder / f"{side}.{kind}").open("wb")) for side in _SIDES}


def _open(folder: Path) -> Tokens:
    described: dict[str, Any] = json.loads((folder / "description.json").read_text("utf-8"))
    sides = []
    for side in _SIDES:
        lengths = np.fromfile(folder / f"{side}.lengths", np.int32)
        starts = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        flat = np.memmap(folder / f"{side}.ids", described["dtype"], mode="r")
        if len(flat) != starts[-1]:
            raise ValueError(f"{folder} is damaged")
        sides.append(Ragged(flat, starts))
    (source, target), counts = described["unknown"], described["counts"]
    counts = Counts(**counts | {"first": Pair(*counts["first"])})
    filtered = Filtered(*described["filtered"])
    return Tokens(TokenPairs(*sides), filtered, (source, target), described["sha256"], counts, described["keeping"])
