"""SentencePiece vocabularies: trained from the corpus, kept with the run.

Enters: lines of text. Leaves: lists of token ids, and text again; every line made of covered characters comes back
exactly as it was.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from flax_s2s.config import EOS, UNK, UnicodeForm, UserError
from flax_s2s.data import features

_BREAKS = re.compile(r"[\r\n]*\n[\r\n]*")
_CHARACTERS = re.compile(".", re.DOTALL)
_WORDS = re.compile("\u2581?[^\u2581]+|\u2581")
_FEW = 64  # lines: of several at once SentencePiece starts threads, be it one, which takes longer than a few lines do one by one
_SPACE = "\u2581"  # SentencePiece's own sign for a space
_FORMS: tuple[UnicodeForm, ...] = ("NFC", "NFD")  # a model whose text is split in one says so at the end of its normalizer's name
RESERVED = "\u2585"  # SentencePiece's own sign for what it does not know: it leaves out lines that hold it
_FEATURES = "features.json"


def in_form(text: str, form: UnicodeForm) -> str:
    """Text in a Unicode form."""
    return text if form == "given" else unicodedata.normalize(form, text)


TOKENS = "tokens"
"""What SentencePiece calls the input's format, of vocabularies whose lines are tokens: each one that is unknown is one (`Vocabulary.apart`), not all neighbors."""


class Vocabulary:
    """One SentencePiece model.

    A literal U+2581, SentencePiece's own sign for a space, is read as a space.
    """

    def __init__(self, model: bytes) -> None:
        """Takes a serialized SentencePiece model."""
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.load_from_serialized_proto(model)  # the constructor would take empty bytes for no model
        proto: Any = sentencepiece_model_pb2
        spec = proto.ModelProto.FromString(model)
        self._is_of_words = bool(spec.trainer_spec.model_type == proto.TrainerSpec.WORD)
        self.apart = bool(spec.trainer_spec.input_format == TOKENS)
        self.form: UnicodeForm = next((form for form in _FORMS if spec.normalizer_spec.name.endswith(f" {form}")), "given")
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
    def plain_kind(self) -> Literal["char", "word", ""]:
        """Whether text is split at characters, or at words, and nothing else is done with it; empty: it is not."""
        proto: Any = sentencepiece_model_pb2
        model = proto.ModelProto.FromString(self.model)
        how, kinds = model.normalizer_spec, {proto.TrainerSpec.CHAR: "char", proto.TrainerSpec.WORD: "word"}
        plain = how.add_dummy_prefix and not how.remove_extra_whitespaces and how.escape_whitespaces and not how.precompiled_charsmap
        plain = plain and not model.trainer_spec.treat_whitespace_as_suffix and not model.denormalizer_spec.precompiled_charsmap
        plain = plain and not any(piece.type == proto.ModelProto.SentencePiece.BYTE for piece in model.pieces)
        found: Literal["char", "word", ""] = kinds.get(model.trainer_spec.model_type, "") if plain else ""  # type: ignore[assignment]
        return found

    @property
    def sha256(self) -> str:
        """Hash of the model, which a checkpoint is bound to."""
        return hashlib.sha256(self.model).hexdigest()

    def prepare(self, text: str) -> str:
        """Text as it is split: in the Unicode form of `vocab.unicode_form`; a line break, which no training text has, is a space."""
        return in_form(_BREAKS.sub(" ", text), self.form)

    def finish(self, text: str) -> str:
        """Text as it is given out: composed, where it is split in a Unicode form."""
        return text if self.form == "given" else in_form(text, "NFC")

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """`["Two dogs."]` -> `[[412, 1033, 7]]`; neither BOS nor EOS is added."""
        if self.apart:
            return [self.number(row) for row in self.split([line.strip(" ") for line in lines])]
        return self._encode(lines, int)

    def sample(self, lines: Sequence[str], rate: float, seed: int) -> list[list[int]]:
        """Like `encode`, each line split at random, see `config.VocabConfig.sampling`; the same seed and lines give the same tokens."""
        sentencepiece.set_random_generator_seed(seed)
        how: dict[str, Any] = {"enable_sampling": True, "alpha": rate, "nbest_size": -1}
        # Draws depend on the threads.
        ids: list[list[int]] = self._processor.encode(list(map(self.prepare, lines)), out_type=int, num_threads=1, **how)
        return ids

    def split(self, lines: Sequence[str], draw: tuple[float, int] | None = None) -> list[list[str]]:
        """The pieces of each line. Of what the vocabulary lacks, each character is one, of vocabularies of words each word; see `number`.

        Args:
            lines: as for `encode`.
            draw: rate and seed of `sample`; None: split as always.
        """
        if not draw:
            return [self._parts(row) for row in self._encode(lines, str)]
        sentencepiece.set_random_generator_seed(draw[1])
        how: dict[str, Any] = {"enable_sampling": True, "alpha": draw[0], "nbest_size": -1, "num_threads": 1}
        return [self._parts(row) for row in self._processor.encode(list(map(self.prepare, lines)), out_type=str, **how)]

    def _encode(self, lines: Sequence[str], kind: type) -> Any:
        prepared = list(map(self.prepare, lines))
        if len(prepared) >= _FEW:
            return self._processor.encode(prepared, out_type=kind)
        return [self._processor.encode(line, out_type=kind) for line in prepared]

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

    def split_inside(self, text: str) -> list[str]:
        """The pieces, as of `split`, of text that goes on inside a word: without the space that a line is taken to begin with."""
        if self._inside is None:
            proto: Any = sentencepiece_model_pb2
            proto = proto.ModelProto.FromString(self.model)
            proto.normalizer_spec.add_dummy_prefix = False
            self._inside = sentencepiece.SentencePieceProcessor()
            self._inside.load_from_serialized_proto(proto.SerializeToString())
        return self._parts(self._inside.encode(self.prepare(text), out_type=str))

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
        known = [[] if number in beyond else row for number, row in enumerate(rows)]
        lines: list[str] = self._processor.decode(known) if len(known) >= _FEW else list(map(self._processor.decode, known))
        for number, texts in beyond.items():
            lines[number] = self._processor.decode(self._written(rows[number], texts))
        return [self.finish(self._with_spaces(line, row) if _SPACE in line else line) for line, row in zip(lines, rows, strict=True)]

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

    def read_sources(self, lines: Sequence[str], bundles: Sequence[str], most: int) -> list[list[str]]:
        """Of each source its tokens as they are written, as far as a model reads it: at most so many with the end mark, which is the last."""
        numbers = [[*ids[: most - 1], EOS] for ids in self.encode_sources(lines, bundles)]
        return [self.source_pieces(ids, lacking) for ids, lacking in zip(numbers, self.find_lacking(lines), strict=True)]


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
