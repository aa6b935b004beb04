"""Vocabularies, trained by SentencePiece from the pairs of a corpus, or taken over from models of one's own.

Enters: pairs. Leaves: `Vocabularies`.
"""

import dataclasses
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import regex
import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from flax_s2s.config import BOS, EOS, LEAST_COVERAGE, PAD, UNK, UnicodeForm, UserError, VocabConfig
from flax_s2s.data import features
from flax_s2s.data.corpus import Pair
from flax_s2s.data.vocab import RESERVED, TOKENS, Vocabularies, Vocabulary, in_form

_LONGEST_TRAINING_LINE_BYTES = 1 << 16
_LONGEST_WORD_BYTES = 7_996  # a longer piece SentencePiece 0.2.3 writes, and cannot read
_DEFAULT_SIZE, _EVERYTHING = 8_000, 10_000_000  # SentencePiece's time grows with what is asked for, without end near 2**31
_MOST_PAIRS = 1_000_000  # that a vocabulary is trained from: SentencePiece holds them all in memory
_SPECIAL_IDS = {"pad": PAD, "bos": BOS, "eos": EOS, "unk": UNK}
# No line holds a line break, so no text is taken for a special token. Types: sentencepiece_model.proto's CONTROL and UNKNOWN.
_SPECIAL_PIECES = (("<pad>\n", 3), ("<s>\n", 3), ("</s>\n", 3), ("<unk>\n", 2))
_OWN_TYPES = (1, 4, 6)  # NORMAL, USER_DEFINED and BYTE
_THREADS = 4  # fixed, because SentencePiece's sums, and so its pieces, depend on the number of threads


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
        both = _make_one((line for pair in chosen() for line in (pair.source, pair.target)), "the text", config, config.source_model)
        return Vocabularies(both, both, tuple(named), copy)
    target = config if config.target_kind == "same" else dataclasses.replace(config, kind=config.target_kind)
    source = _make_one((pair.source for pair in chosen()), "the source", config, config.source_model)
    return Vocabularies(source, _make_one((pair.target for pair in chosen()), "the target", target, config.target_model), tuple(named))


def choose_size(kind: str, size: int) -> int:
    """The tokens that a `vocab.size` allows: 0 is all characters or words, and of subwords so many as are usual."""
    return size or (_EVERYTHING if kind in ("char", "word") else _DEFAULT_SIZE)


def planned_sizes(config: VocabConfig) -> tuple[int, int] | None:
    """The tokens of source and target where no text is at hand; None where they are all that the text has."""
    kinds = (config.kind, config.kind if config.target_kind == "same" else config.target_kind)
    files = (config.source_model, config.source_model if config.joint else config.target_model)
    sizes = [
        len(adopt(file, dataclasses.replace(config, kind=kind))) if file else choose_size(kind, config.size)
        for kind, file in zip(kinds, files, strict=True)
    ]
    return None if _EVERYTHING in sizes else (sizes[0], sizes[1])


def _make_one(lines: Iterable[str], side: str, config: VocabConfig, file: str) -> Vocabulary:
    return adopt(file, config) if file else _train_one(lines, side, config)


def adopt(file: str, config: VocabConfig) -> Vocabulary:
    """A SentencePiece model of one's own, whose special tokens are replaced by ours.

    Args:
        file: the model.
        config: the Unicode form, and the kind that the model must be of.

    Raises:
        UserError: it is not there, is no such model, is of another kind, or has a Unicode form of its own where one is asked for.
    """
    proto, model = _proto(), _read_model(file)
    kind = kind_of(file)
    if kind != config.kind:
        raise UserError(
            f"{file} is a model of the kind {kind}, got {config.kind}; give --vocab.kind {kind}, or for the target --vocab.target-kind {kind}"
        )
    if config.unicode_form != "given" and model.normalizer_spec.precompiled_charsmap:
        raise UserError(
            f"{file} brings text into a form of its own ({model.normalizer_spec.name}), got vocab.unicode_form={config.unicode_form}; use given"
        )
    form = Vocabulary(model.SerializeToString()).form
    if form not in ("given", config.unicode_form):
        raise UserError(f"{file} is of a run with vocab.unicode_form={form}, got {config.unicode_form}; give --vocab.unicode-form {form}")
    own = [piece for piece in model.pieces if piece.type in _OWN_TYPES]
    del model.pieces[:]
    model.pieces.extend(proto.ModelProto.SentencePiece(piece=piece, score=0, type=kind) for piece, kind in _SPECIAL_PIECES)
    model.pieces.extend(own)
    for name, value in _special_tokens().items():
        setattr(model.trainer_spec, name, value)
    return Vocabulary(_in_form(model, config).SerializeToString())


def kind_of(file: str) -> Any:
    """The kind of a SentencePiece model of one's own, as `vocab.kind` names it.

    Raises:
        UserError: it is not there, or is no such model.
    """
    return _proto().TrainerSpec.ModelType.Name(_read_model(file).trainer_spec.model_type).lower()


def from_words(words: Sequence[str]) -> Vocabulary:
    """The vocabulary of these words, numbered in their order after the special tokens; what enters is split at white space."""
    proto = _proto()
    model = proto.ModelProto.FromString(_train_one(["a"], "the words", VocabConfig(kind="word")).model)
    own = [proto.ModelProto.SentencePiece(piece=f"\u2581{word}", score=0, type=_OWN_TYPES[0]) for word in words]
    del model.pieces[len(_SPECIAL_PIECES) :]
    model.pieces.extend(own)
    model.trainer_spec.vocab_size, model.trainer_spec.input_format = len(model.pieces), TOKENS
    return Vocabulary(model.SerializeToString())


def _special_tokens() -> dict[str, Any]:
    """Their ids and how they are written, as SentencePiece names both."""
    pieces = [piece for piece, _ in _SPECIAL_PIECES]
    return {f"{name}_id": i for name, i in _SPECIAL_IDS.items()} | {
        f"{name}_piece": piece for name, piece in zip(_SPECIAL_IDS, pieces, strict=True)
    }


def _read_model(file: str) -> Any:
    """Its contents.

    Raises:
        UserError: it is not there, or is no SentencePiece model.
    """
    try:
        content = epath.Path(file).read_bytes()
        sentencepiece.SentencePieceProcessor().load_from_serialized_proto(content)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror or error}; give a SentencePiece model, the .model file that spm_train wrote"
        ) from None
    except RuntimeError:
        raise UserError(f"{file} is no SentencePiece model; give the .model file that spm_train wrote, or leave the field out") from None
    return _proto().ModelProto.FromString(content)


def _in_form(model: Any, config: VocabConfig) -> Any:
    """A model that says which Unicode form its text is split in."""
    if config.unicode_form != "given":
        model.normalizer_spec.name = f"{model.normalizer_spec.name.removesuffix(f' {config.unicode_form}')} {config.unicode_form}"
    return model


def _proto() -> Any:
    return sentencepiece_model_pb2


class _Seen:
    """The lines of a side on their way to SentencePiece, which leaves some out and does not say which."""

    def __init__(self, lines: Iterable[str], side: str, form: UnicodeForm) -> None:
        self._lines, self.side, self._form = lines, side, form
        self.lines = self.blank = self.long = self.reserved = self.longest_word = 0

    def __iter__(self) -> Iterator[str]:
        for given in self._lines:
            line = in_form(given, self._form)
            try:
                size = len(line.encode())
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{self.side} holds half of a surrogate pair, U+{ord(error.object[error.start]):04X}, which is no text; take it out"
                ) from None
            self.lines += 1
            self.blank += not line.strip("\r\n")
            self.long += size > _LONGEST_TRAINING_LINE_BYTES
            self.reserved += RESERVED in line
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
    model = io.BytesIO()
    formed = dict.fromkeys(in_form(one, config.unicode_form) for one in config.symbols)
    symbols, parts = [] if config.kind == "word" else list(formed), ""  # words are whole already
    if config.clusters and config.kind == "char":
        lines = list(lines)
        clusters = _find_clusters(lines, config)
        symbols += [one for one in clusters if one not in symbols]
        parts = "".join(sorted({part for one in clusters for part in one}))  # what training has inside of clusters alone is known, too
        if 0 < config.size <= len(symbols) + len(_SPECIAL_IDS):
            raise UserError(
                f"vocab.size={config.size} must hold {len(symbols):,} clusters and symbols of {side} beside others; use 0, or a larger one"
            )
    seen = _Seen(lines, side, config.unicode_form)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(seen),
            model_writer=model,
            model_type=config.kind,
            vocab_size=choose_size(config.kind, config.size),
            hard_vocab_limit=config.kind in ("unigram", "bpe"),
            user_defined_symbols=symbols,
            character_coverage=config.character_coverage,
            required_chars=parts,
            byte_fallback=config.byte_fallback,
            normalization_rule_name=config.normalization,
            remove_extra_whitespaces=False,
            max_sentence_length=_LONGEST_TRAINING_LINE_BYTES,
            num_threads=_THREADS,
            **_special_tokens(),
            minloglevel=3,
        )
        if config.unicode_form == "given":
            return Vocabulary(model.getvalue())
        return Vocabulary(_in_form(_proto().ModelProto.FromString(model.getvalue()), config).SerializeToString())
    except (RuntimeError, OSError) as error:
        raise _explain(error, config, seen) from None


def _find_clusters(lines: Iterable[str], config: VocabConfig) -> list[str]:
    """Extended grapheme clusters of more than one code point (Unicode Standard Annex 29) that are text without white space.

    As of code points the most frequent ones, so many as make up `vocab.character_coverage` of the text.
    """
    counts = Counter(one for line in lines for one in regex.findall(r"\X", in_form(line, config.unicode_form)))
    left, found = counts.total() * (1 - config.character_coverage), set[str]()
    for one, count in sorted(counts.items(), key=lambda each: (each[1], each[0])):  # the rarest first
        left -= count
        if left < 0 and len(one) > 1:
            found.add(one)
    return sorted(one for one in found if not re.search("[\\s\0\u2581\u2585\ud800-\udfff]", one))


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
