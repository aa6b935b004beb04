"""SentencePiece vocabularies: trained from the corpus, kept with the run.

Enters: lines of text. Leaves: lists of token ids, and text again; every line made of covered characters comes back
exactly as it was.
"""

import dataclasses
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from flax_s2s.config import BOS, EOS, PAD, UNK, UserError, VocabConfig
from flax_s2s.data.corpus import Pair

_LONGEST_TRAINING_LINE_BYTES = 1 << 16
_MOST_PAIRS = 1_000_000  # that a vocabulary is trained from: SentencePiece holds them all in memory
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
        self._inside: Any = None
        self._ids: dict[str, int] | None = None  # of the pieces, as they are written

    def __len__(self) -> int:
        """Number of tokens, the special ones included."""
        return int(self._processor.get_piece_size())

    @property
    def sha256(self) -> str:
        """Hash of the model, which a checkpoint is bound to."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """`["Two dogs."]` -> `[[412, 1033, 7]]`; neither BOS nor EOS is added."""
        ids: list[list[int]] = self._processor.encode(list(lines), out_type=int)
        return ids

    def sample(self, lines: Sequence[str], rate: float, seed: int) -> list[list[int]]:
        """Like `encode`, each line split at random, see `config.VocabConfig.sampling`; the same seed and lines give the same tokens."""
        sentencepiece.set_random_generator_seed(seed)
        how: dict[str, Any] = {"enable_sampling": True, "alpha": rate, "nbest_size": -1}
        ids: list[list[int]] = self._processor.encode(list(lines), out_type=int, num_threads=1, **how)  # draws depend on the threads
        return ids

    def encode_inside(self, text: str) -> list[int]:
        """The tokens of text that goes on inside a word: without the space that a line is taken to begin with."""
        if self._inside is None:
            proto: Any = sentencepiece_model_pb2
            proto = proto.ModelProto.FromString(self.model)
            proto.normalizer_spec.add_dummy_prefix = False
            self._inside = sentencepiece.SentencePieceProcessor()
            self._inside.load_from_serialized_proto(proto.SerializeToString())
        ids: list[int] = self._inside.encode(text, out_type=int)
        return ids

    def folded_texts(self) -> list[bytes]:
        """What each token adds to a text, in UTF-8 without regard to case (as by str.casefold); special tokens add nothing."""
        found = []
        for i, piece in enumerate(self.pieces(range(len(self)))):
            text = piece.replace("\u2581", " ").casefold().encode()
            if self._processor.is_byte(i):
                text = bytes([int(piece[1:-1], 16)]).lower()
            found.append(b"" if i <= UNK else text)
        return found

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """`[[412, 1033, 7]]` -> `["Two dogs."]`; special tokens leave no trace."""
        lines: list[str] = self._processor.decode([[int(i) for i in row if i > UNK] for row in ids])
        return lines

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The tokens as they are written inside SentencePiece, for pictures and reports."""
        return [str(self._processor.id_to_piece(int(i))).rstrip("\n") for i in ids]

    def find(self, pieces: Sequence[str]) -> list[int] | None:
        """The tokens that `pieces` writes so; None where one is no token of this vocabulary."""
        if self._ids is None:  # of two that are written alike, the special one
            self._ids = {piece: i for i, piece in reversed(list(enumerate(self.pieces(range(len(self))))))}
        ids = [self._ids.get(piece) for piece in pieces]
        return None if None in ids else [i for i in ids if i is not None]


class Vocabularies(NamedTuple):
    """The source's and the target's vocabulary; one and the same object when joint."""

    source: Vocabulary
    target: Vocabulary

    @property
    def joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return self.source is self.target

    @property
    def sha256(self) -> str:
        """Hash of both models."""
        return hashlib.sha256(f"{self.source.sha256} {self.target.sha256}".encode()).hexdigest()


def train(pairs: Iterable[Pair], config: VocabConfig) -> Vocabularies:
    """Trains the vocabularies of a corpus; the same pairs give the same bytes.

    Of a large corpus only every second, third, ... pair is used, so many that at most a million remain.

    Args:
        pairs: read several times.
        config: kind and size.

    Raises:
        UserError: the text is too small, or its alphabet too large, for `vocab.size`.
    """
    every = -(-sum(1 for _ in pairs) // _MOST_PAIRS) or 1

    def chosen() -> Iterator[Pair]:
        return itertools.islice(pairs, 0, None, every)

    if config.joint:
        both = _train_one((line for pair in chosen() for line in pair), config)
        return Vocabularies(both, both)
    target = config if config.target_kind == "same" else dataclasses.replace(config, kind=config.target_kind)
    sides = ((pair[side] for pair in chosen()) for side in (0, 1))
    return Vocabularies(*(_train_one(lines, own) for lines, own in zip(sides, (config, target), strict=True)))


def _train_one(lines: Iterable[str], config: VocabConfig) -> Vocabulary:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.size,
            hard_vocab_limit=config.kind in ("unigram", "bpe"),
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
    except (RuntimeError, OSError) as error:
        raise _explain(error, config) from None
    return Vocabulary(model.getvalue())


def _explain(error: Exception, config: VocabConfig) -> UserError:
    """SentencePiece's message, turned into one that names the field and a value that would do."""
    text = str(error)
    most = re.search(r"value <= (\d+)", text)
    if most:
        return UserError(f"vocab.size={config.size} is larger than the text allows; use at most {most[1]}")
    if "required_chars" in text or "smaller than required_chars" in text:
        least = re.search(r"\d+ vs (\d+)", text)
        remedy = f"use at least {least[1]}" if least else "use a larger one"
        return UserError(
            f"vocab.size={config.size} is too small for the characters of the text; {remedy}, or lower vocab.character_coverage and set vocab.byte_fallback"
        )
    return UserError(f"the vocabulary cannot be trained with vocab.kind={config.kind} and vocab.size={config.size}: {text}")


def save(vocabularies: Vocabularies, folder: epath.Path) -> None:
    """Writes `joint.model`, or `source.model` and `target.model`; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {"joint": vocabularies.source} if vocabularies.joint else vocabularies._asdict()
    for name, vocabulary in named.items():
        partial = folder / f"{name}.model.partial"
        partial.write_bytes(vocabulary.model)
        partial.replace(folder / f"{name}.model")


def load(folder: epath.Path, joint: bool) -> Vocabularies | None:
    """Reads what `save` wrote; None when it is not (wholly) there.

    Raises:
        UserError: a file is not a SentencePiece model.
    """
    names = ["joint"] if joint else ["source", "target"]
    files = [folder / f"{name}.model" for name in names]
    if not all(file.exists() for file in files):
        return None
    try:
        found = [Vocabulary(file.read_bytes()) for file in files]
    except RuntimeError:
        raise UserError(f"{folder} holds a damaged vocabulary; restore it from a copy of the run directory") from None
    return Vocabularies(found[0], found[-1])
