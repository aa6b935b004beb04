"""SentencePiece vocabularies: trained from the corpus, kept with the run.

Enters: lines of text. Leaves: lists of token ids, and text again; every line made of covered characters comes back
exactly as it was.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from flax_s2s.config import BOS, EOS, LEAST_COVERAGE, PAD, UNK, UserError, VocabConfig
from flax_s2s.data import features
from flax_s2s.data.corpus import Pair

_BREAKS = re.compile(r"[\r\n]*\n[\r\n]*")
_CHARACTERS = re.compile(".", re.DOTALL)
_WORDS = re.compile("\u2581?[^\u2581]+|\u2581")
_LONGEST_TRAINING_LINE_BYTES = 1 << 16
_LONGEST_WORD_BYTES = 7_996  # a longer piece SentencePiece 0.2.3 writes, and cannot read
_SPACE = "\u2581"  # SentencePiece's own sign for a space
_RESERVED = "\u2585"  # SentencePiece's own sign for what it does not know: it leaves out lines that hold it
_DEFAULT_SIZE, _EVERYTHING = 8_000, 10_000_000  # SentencePiece's time grows with what is asked for, without end near 2**31
_MOST_PAIRS = 1_000_000  # that a vocabulary is trained from: SentencePiece holds them all in memory
_FEATURES = "features.json"
_THREADS = 4  # fixed, because SentencePiece's sums, and so its pieces, depend on the number of threads


class Vocabulary:
    """One SentencePiece model.

    A literal U+2581, SentencePiece's own sign for a space, is read as a space.
    """

    def __init__(self, model: bytes) -> None:
        """Takes a serialized SentencePiece model."""
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.load_from_serialized_proto(model)  # the constructor would take empty bytes for no model
        self._size = int(self._processor.get_piece_size())
        self._inside: Any = None
        self._ids: dict[str, int] | None = None  # of the pieces, as they are written

    def __len__(self) -> int:
        """Number of tokens, the special ones included."""
        return self._size

    @property
    def joined_words(self) -> list[str]:
        """Tokens that hold white space other than U+0020, at which nothing is split, between other characters."""
        return [piece for piece in self.pieces(range(UNK + 1, len(self))) if len(piece.strip(_SPACE).split()) > 1]

    @property
    def sha256(self) -> str:
        """Hash of the model, which a checkpoint is bound to."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """`["Two dogs."]` -> `[[412, 1033, 7]]`; neither BOS nor EOS is added. A line break, which no training text has, is a space."""
        ids: list[list[int]] = self._processor.encode([_BREAKS.sub(" ", line) for line in lines], out_type=int)
        return ids

    def sample(self, lines: Sequence[str], rate: float, seed: int) -> list[list[int]]:
        """Like `encode`, each line split at random, see `config.VocabConfig.sampling`; the same seed and lines give the same tokens."""
        sentencepiece.set_random_generator_seed(seed)
        how: dict[str, Any] = {"enable_sampling": True, "alpha": rate, "nbest_size": -1}
        ids: list[list[int]] = self._processor.encode(list(lines), out_type=int, num_threads=1, **how)  # draws depend on the threads
        return ids

    def split(self, lines: Sequence[str], draw: tuple[float, int] | None = None) -> list[list[str]]:
        """The pieces of each line. Of what the vocabulary lacks, each character is one, of vocabularies of words each word; see `number`.

        Args:
            lines: as for `encode`.
            draw: rate and seed of `sample`; None: split as always.
        """
        how: dict[str, Any] = {}
        if draw:
            sentencepiece.set_random_generator_seed(draw[1])
            how = {"enable_sampling": True, "alpha": draw[0], "nbest_size": -1, "num_threads": 1}
        return [self._parts(row) for row in self._processor.encode([_BREAKS.sub(" ", line) for line in lines], out_type=str, **how)]

    def _parts(self, pieces: Sequence[str]) -> list[str]:
        """SentencePiece makes one piece of neighbors that it does not know."""
        known = self._numbers
        if all(piece in known for piece in pieces):
            return list(pieces)
        parts = _WORDS if self._is_of_words else _CHARACTERS
        return [part for piece in pieces for part in ([piece] if piece in known else parts.findall(piece))]

    def number(self, pieces: Sequence[str], lacking: Sequence[str] = (), first: int = UNK) -> list[int]:
        """The tokens of the pieces that `split` found; those of `lacking` are `first`, the one after it, ..., and others UNK."""
        beyond, known = {piece: first + place for place, piece in enumerate(lacking)}, self._numbers
        return [known[piece] if piece in known else beyond.get(piece, UNK) for piece in pieces]

    def lacks(self, pieces: Sequence[str]) -> tuple[str, ...]:
        """The pieces that the vocabulary does not have, each once, in order."""
        known = self._numbers
        return tuple(dict.fromkeys(piece for piece in pieces if piece not in known))

    @cached_property
    def _pieces(self) -> list[str]:
        return [str(self._processor.id_to_piece(i)) for i in range(len(self))]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Of the pieces, as SentencePiece splits text into them."""
        return {piece: i for i, piece in enumerate(self._pieces)}

    @cached_property
    def _is_of_words(self) -> bool:
        proto: Any = sentencepiece_model_pb2
        return bool(proto.ModelProto.FromString(self.model).trainer_spec.model_type == proto.TrainerSpec.WORD)

    def split_inside(self, text: str) -> list[str]:
        """The pieces, as of `split`, of text that goes on inside a word: without the space that a line is taken to begin with."""
        if self._inside is None:
            proto: Any = sentencepiece_model_pb2
            proto = proto.ModelProto.FromString(self.model)
            proto.normalizer_spec.add_dummy_prefix = False
            self._inside = sentencepiece.SentencePieceProcessor()
            self._inside.load_from_serialized_proto(proto.SerializeToString())
        return self._parts(self._inside.encode(text, out_type=str))

    @cached_property
    def folded_texts(self) -> list[bytes]:
        """What each token adds to a text, in UTF-8 without regard to case (as by str.casefold); special tokens add nothing."""
        found = []
        for i, piece in enumerate(self.pieces(range(len(self)))):
            text = piece.replace(_SPACE, " ").casefold().encode()
            if self._processor.is_byte(i):
                text = bytes([int(piece[1:-1], 16)]).lower()
            found.append(b"" if i <= UNK else text)
        return found

    @staticmethod
    def fold(lacking: Sequence[str]) -> list[bytes]:
        """The same of what a sentence has beyond the vocabulary."""
        return [text.replace(_SPACE, " ").casefold().encode() for text in lacking]

    def decode(self, ids: Sequence[Sequence[int]], lacking: Sequence[Sequence[str]] = ()) -> list[str]:
        """`[[412, 1033, 7]]` -> `["Two dogs."]`; special tokens leave no trace.

        Args:
            ids: of each line.
            lacking: of each line what its tokens beyond the vocabulary stand for; empty: it has none such.
        """
        rows = [[int(i) for i in row if i > UNK] for row in ids]
        beyond = {number: texts for number, texts in enumerate(lacking) if texts and max(rows[number], default=0) >= len(self)}
        lines: list[str] = self._processor.decode([[] if number in beyond else row for number, row in enumerate(rows)])
        for number, texts in beyond.items():
            lines[number] = self._processor.decode(self._written(rows[number], texts))
        return [self._with_spaces(line, row) if _SPACE in line else line for line, row in zip(lines, rows, strict=True)]

    def _with_spaces(self, line: str, row: list[int]) -> str:
        """Spaces before unknown words, be those in bytes or beyond the vocabulary, come out of SentencePiece 0.2.3 as its own sign."""
        begins = row[0] >= len(self) or self._processor.is_byte(row[0])
        return line.removeprefix(_SPACE if begins else "").replace(_SPACE, " ")

    def pieces(self, ids: Sequence[int], lacking: Sequence[str] = ()) -> list[str]:
        """The tokens as they are written inside SentencePiece, for pictures and reports; `lacking` as in `decode`."""
        return [piece.rstrip("\n") for piece in self._written(ids, lacking)]

    def _written(self, ids: Sequence[int], lacking: Sequence[str]) -> list[str]:
        known, pieces = len(self), self._pieces
        return [pieces[i] if i < known else lacking[i - known] for i in map(int, ids)]

    def find(self, pieces: Sequence[str], lacking: Sequence[str] = ()) -> list[int] | None:
        """The tokens that `pieces` writes so; None where one is no token of this vocabulary, nor one of `lacking`."""
        if self._ids is None:  # of two that are written alike, the special one
            self._ids = {piece: i for i, piece in reversed(list(enumerate(self.pieces(range(len(self))))))}
        beyond = {piece: len(self) + place for place, piece in enumerate(lacking)}
        ids = [self._ids.get(piece, beyond.get(piece)) for piece in pieces]
        return None if None in ids else [i for i in ids if i is not None]


class Vocabularies(NamedTuple):
    """The source's and the target's vocabulary; one and the same object when joint.

    Features (see `data.features`) are further tokens of the source: their ids follow those of its vocabulary, and they stand before
    its text.

    Where models copy (`model.copy`), what a source holds that its vocabulary lacks are further tokens of this pair alone: the first of
    them, the second, ... (see `find_lacking`) have the ids that follow `sizes`, on either side (See et al. 2017, section 2.2).
    """

    source: Vocabulary
    target: Vocabulary
    features: tuple[str, ...] = ()  # in order
    copy: bool = False  # then both sides share one vocabulary

    @property
    def joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return self.source is self.target

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens of a source, features among them, and of a target."""
        return len(self.source) + len(self.features), len(self.target)

    @property
    def sha256(self) -> str:
        """Hash of both models, of the features, and of how text is split."""
        features = f" {json.dumps(self.features)}" if self.features else ""
        copy = " copy" if self.copy else ""
        return hashlib.sha256(f"{self.source.sha256} {self.target.sha256}{features}{copy}".encode()).hexdigest()

    def find_lacking(self, sources: Sequence[str]) -> list[tuple[str, ...]]:
        """Of each source what its vocabulary lacks and can be copied, each once, in order; nothing where models do not copy."""
        return [self.source.lacks(pieces) for pieces in self.source.split(sources)] if self.copy else [()] * len(sources)

    def keep_lacking(self, lacking: Sequence[str], ids: Sequence[int]) -> tuple[str, ...]:
        """Of what a source lacks that which its first tokens hold, where the rest is cut off: the rest cannot be copied."""
        first = self.sizes[0]
        return tuple(lacking[: max([*ids, first - 1]) + 1 - first])

    def encode_sources(self, lines: Sequence[str], bundles: Sequence[str], draw: tuple[float, int] | None = None) -> list[list[int]]:
        """Of each source the features of its bundle and then its text; features that no training pair has are unknown tokens.

        Args:
            lines: the texts.
            bundles: of each, empty where there are none.
            draw: rate and seed of `Vocabulary.sample`; None: split as always.
        """
        if self.copy:
            split, first = self.source.split(lines, draw), self.sizes[0]
            ids = [self.source.number(pieces, self.source.lacks(pieces), first) for pieces in split]
        else:
            ids = self.source.sample(lines, *draw) if draw else self.source.encode(lines)
        if not self.features:
            return ids
        place = {feature: len(self.source) + number for number, feature in enumerate(self.features)}
        return [[*(place.get(feature, UNK) for feature in features.split(bundle)), *own] for own, bundle in zip(ids, bundles, strict=True)]

    def count_unknown(self, ids: Sequence[int]) -> int:
        """How many tokens of a source no training pair has."""
        first = self.sizes[0]
        return list(ids).count(UNK) + (sum(i >= first for i in ids) if self.copy else 0)

    def encode_targets(
        self, lines: Sequence[str], lacking: Sequence[Sequence[str]], draw: tuple[float, int] | None = None
    ) -> list[list[int]]:
        """Of each target its tokens; `lacking` is what `find_lacking` says of its source, and `draw` as in `encode_sources`."""
        if self.copy:
            split, first = self.target.split(lines, draw), self.sizes[1]
            return [self.target.number(pieces, texts, first) for pieces, texts in zip(split, lacking, strict=True)]
        return self.target.sample(lines, *draw) if draw else self.target.encode(lines)

    def encode_inside(self, text: str, lacking: Sequence[str]) -> list[int]:
        """The tokens of text that goes on inside a word of a target; `lacking` as in `encode_targets`."""
        return self.target.number(self.target.split_inside(text), lacking, self.sizes[1])

    def source_pieces(self, ids: Sequence[int], lacking: Sequence[str] = ()) -> list[str]:
        """The tokens of a source as they are written, for pictures and reports; `lacking` is what `find_lacking` says of it."""
        pieces = [*self.features, *lacking]
        known = len(self.source)
        return [pieces[i - known] if i >= known else self.source.pieces([i])[0] for i in map(int, ids)]


def train(pairs: Iterable[Pair], config: VocabConfig, bundles: bool = False, copy: bool = False) -> Vocabularies:
    """Trains the vocabularies of a corpus; the same pairs give the same bytes.

    Of a large corpus only every second, third, ... pair is used, so many that at most a million remain; of lines, those of at most
    65,536 bytes.

    Args:
        pairs: read several times.
        config: kind and size.
        bundles: whether pairs have features.
        copy: see `Vocabularies`.

    Raises:
        UserError: no pair has a feature; the text is too small, or its alphabet too large, for `vocab.size`; or no line of a side can be used.
    """
    every = -(-sum(1 for _ in pairs) // _MOST_PAIRS) or 1

    def chosen() -> Iterator[Pair]:
        return itertools.islice(pairs, 0, None, every)

    named = sorted({feature for bundle in {pair.features for pair in pairs} for feature in features.split(bundle)}) if bundles else []
    if bundles and not named:
        raise UserError("no training pair has a feature: data.features names a side that is blank throughout; check it, or leave it out")
    if config.joint:
        both = _train_one((line for pair in chosen() for line in (pair.source, pair.target)), "the text", config)
        return Vocabularies(both, both, tuple(named), copy)
    target = config if config.target_kind == "same" else dataclasses.replace(config, kind=config.target_kind)
    source = _train_one((pair.source for pair in chosen()), "the source", config)
    return Vocabularies(source, _train_one((pair.target for pair in chosen()), "the target", target), tuple(named))


def choose_size(kind: str, size: int) -> int:
    """The tokens that a `vocab.size` allows: 0 is all characters or words, and of subwords so many as are usual."""
    return size or (_EVERYTHING if kind in ("char", "word") else _DEFAULT_SIZE)


def planned_sizes(config: VocabConfig) -> tuple[int, int] | None:
    """The tokens of source and target where no text is at hand; None where they are all that the text has."""
    kinds = (config.kind, config.kind if config.target_kind == "same" else config.target_kind)
    sizes = [choose_size(kind, config.size) for kind in kinds]
    return None if _EVERYTHING in sizes else (sizes[0], sizes[1])


class _Seen:
    """The lines of a side on their way to SentencePiece, which leaves some out and does not say which."""

    def __init__(self, lines: Iterable[str], side: str) -> None:
        self._lines, self.side = lines, side
        self.lines = self.blank = self.long = self.reserved = self.longest_word = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            try:
                size = len(line.encode())
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{self.side} holds half of a surrogate pair, U+{ord(error.object[error.start]):04X}, which is no text; take it out"
                ) from None
            self.lines += 1
            self.blank += not line.strip("\r\n")
            self.long += size > _LONGEST_TRAINING_LINE_BYTES
            self.reserved += _RESERVED in line
            if size > _LONGEST_WORD_BYTES:
                self.longest_word = max(self.longest_word, *(len(word.encode()) for word in line.split(" ")))
            yield line

    def why_none(self) -> str:
        """Why no line is left."""
        counts = {
            "longer than 65,536 bytes": self.long,
            "blank": self.blank,
            "lines with a U+2585, which SentencePiece keeps for itself": self.reserved,
        }
        found = [f"{count:,} are {why}" for why, count in counts.items() if count]
        if self.lines and self.lines in counts.values():
            found = [f"all {self.lines:,} lines of {self.side} are {why}" for why, count in counts.items() if count == self.lines]
            return f"{found[0]}; a vocabulary is made of lines of text, such as sentences: cut them, or check what is read"
        return f"{self.side} has no line that a vocabulary can be made of: of {self.lines:,} {', '.join(found) or 'there is none'}; check what is read"


def _train_one(lines: Iterable[str], side: str, config: VocabConfig) -> Vocabulary:
    model, seen = io.BytesIO(), _Seen(lines, side)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(seen),
            model_writer=model,
            model_type=config.kind,
            vocab_size=choose_size(config.kind, config.size),
            hard_vocab_limit=config.kind in ("unigram", "bpe"),
            user_defined_symbols=[] if config.kind == "word" else list(config.symbols),  # words are whole already
            character_coverage=config.character_coverage,
            byte_fallback=config.byte_fallback,
            normalization_rule_name=config.normalization,
            remove_extra_whitespaces=False,
            max_sentence_length=_LONGEST_TRAINING_LINE_BYTES,
            num_threads=_THREADS,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            pad_piece="<pad>\n",  # no line holds a line break, so no text is taken for a special token
            bos_piece="<s>\n",
            eos_piece="</s>\n",
            unk_piece="<unk>\n",
            minloglevel=3,
        )
        return Vocabulary(model.getvalue())
    except (RuntimeError, OSError) as error:
        raise _explain(error, config, seen) from None


def _explain(error: Exception, config: VocabConfig, seen: _Seen) -> UserError:
    """SentencePiece's message, turned into one that names the field and a value that would do."""
    text, size = str(error), choose_size(config.kind, config.size)
    if "sentences_.empty()" in text:
        return UserError(seen.why_none())
    if "piece is too long" in text:
        return UserError(
            f"{seen.side} has a word of {seen.longest_word:,} bytes, and a token has at most {_LONGEST_WORD_BYTES:,}; vocab.kind=word "
            "splits at spaces (U+0020): take such lines out, or use another vocab.kind"
        )
    most = re.search(r"value <= (\d+)", text)
    if most:
        return UserError(f"vocab.size={size} is larger than the text allows; use at most {most[1]}")
    if "required_chars" in text or "smaller than required_chars" in text:
        least = re.search(r"\d+ vs (\d+)", text)
        remedy = f"use at least {least[1]}" if least else "use a larger one"
        lower = ", or lower vocab.character_coverage" if config.character_coverage > LEAST_COVERAGE else ""
        spelled = " and set vocab.byte_fallback" if lower and not config.byte_fallback else ""
        return UserError(f"vocab.size={size} is too small for the characters of the text; {remedy}{lower}{spelled}")
    return UserError(f"the vocabulary cannot be trained with vocab.kind={config.kind} and vocab.size={size}: {text}")


def save(vocabularies: Vocabularies, folder: epath.Path) -> None:
    """Writes `features.json`, where there are any, and `joint.model`, or `source.model` and `target.model`; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {"joint": vocabularies.source} if vocabularies.joint else {"source": vocabularies.source, "target": vocabularies.target}
    contents = {f"{name}.model": vocabulary.model for name, vocabulary in named.items()}
    if vocabularies.features:  # first: who finds the models finds all
        contents = {_FEATURES: json.dumps(vocabularies.features, ensure_ascii=False, indent=0).encode(), **contents}
    else:
        (folder / _FEATURES).unlink(missing_ok=True)
    for name, content in contents.items():
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)


def load(folder: epath.Path, joint: bool, copy: bool = False) -> Vocabularies | None:
    """Reads what `save` wrote; None when it is not (wholly) there. `copy` as in `Vocabularies`.

    Raises:
        UserError: a file is not a SentencePiece model.
    """
    names = ["joint"] if joint else ["source", "target"]
    files = [folder / f"{name}.model" for name in names]
    if not all(file.exists() for file in files):
        return None
    try:
        found = [Vocabulary(file.read_bytes()) for file in files]
        named = _read_features(folder / _FEATURES)
    except (RuntimeError, ValueError):
        raise UserError(f"{folder} holds a damaged vocabulary; restore it from a copy of the run directory") from None
    return Vocabularies(found[0], found[-1], named, copy)


def _read_features(file: epath.Path) -> tuple[str, ...]:
    """What `save` wrote of the features; none where there is no such file.

    Raises:
        ValueError: it is damaged.
    """
    if not file.exists():
        return ()
    found = json.loads(file.read_text())
    if not isinstance(found, list) or not all(isinstance(feature, str) for feature in found):
        raise ValueError(f"{file} must hold a list of strings")
    return tuple(found)
