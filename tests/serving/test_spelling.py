"""Which characters each token wrote."""

from hypothesis import given
from hypothesis import strategies as st

from flax_s2s.config import VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.serving.spelling import spans


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
