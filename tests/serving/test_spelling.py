"""Which characters each token wrote."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from flax_s2s.config import VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.serving.spelling import source_spans, spans


def test_words_take_the_space_before_them() -> None:
    pieces = ["", "", "</s>", "", "Zwei", " Männer"]
    assert spans(lambda many: ["".join(pieces[i] for i in ids if i > 2) for ids in many], [4, 5, 2]) == [[0, 4], [4, 11], [11, 11]]
    assert spans(lambda many: [], []) == []


@given(st.text(alphabet="ab 猫é\U0001f600", max_size=12))
def test_the_spans_of_a_text_make_the_text(text: str) -> None:
    """Of a vocabulary that spells in bytes what it does not know: what is no whole character yet shows as something else."""
    found = VOCABULARY.encode([text])[0]
    (whole,) = VOCABULARY.decode([found])
    places = spans(VOCABULARY.decode, found)
    assert len(places) == len(found)
    assert "".join(whole[begin:end] for begin, end in places) == whole
    assert all(begin <= end for begin, end in places)


PAIRS = [Pair("ab ab", "ba ab"), Pair("a b", "b a")] * 20
VOCABULARY = vocab_training.train(PAIRS, VocabConfig(kind="unigram", size=264, byte_fallback=True)).target


@given(st.text(alphabet="ab 猫é\U0001f600", max_size=12), st.booleans())
def test_the_tokens_of_a_source_stand_for_its_characters(text: str, bytes_too: bool) -> None:
    """Unknown characters, bytes, spaces: tokens follow each other, and together they are the text."""
    vocabulary = VOCABULARY if bytes_too else PLAIN
    pieces, ids = vocabulary.split([text])[0], vocabulary.encode([text])[0]
    places = source_spans(text, pieces, lambda piece: not vocabulary.lacks([piece]), join=True)
    assert len(places) == len(ids)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(places))
    if " ".join(text.split(" ")) == text.strip(" ") and "  " not in text:
        assert "".join(text[begin:end] for begin, end in places) == text


def test_an_unknown_character_shifts_nothing() -> None:
    known = {"\u2581", "\u2581March", "2", "0", "1"}
    pieces = ["\u2581", "\U0001f600", "\u2581", "2", "0", "2", "1", "\u2581March"]
    text = "\U0001f600 2021 March"
    places = source_spans(text, pieces, known.__contains__, join=True)
    assert [text[begin:end] for begin, end in places] == ["", "\U0001f600", " ", "2", "0", "2", "1", " March"]


PLAIN = vocab_training.train(PAIRS, VocabConfig(kind="char", size=0)).target
