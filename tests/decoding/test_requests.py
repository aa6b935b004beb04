"""What a text does not meet of what was asked for; the rest of requests is tested where they are translated."""

import pytest

from flax_s2s.config import DecodingConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.requests import Request, Requests


@pytest.fixture(scope="module")
def requests() -> Requests:
    pairs = [Pair("the old dog", "der alte Hund"), Pair("two cats", "zwei Katzen"), Pair("not now", "nicht jetzt")]
    return Requests(vocab_training.train(pairs, VocabConfig(kind="char", joint=False)), DecodingConfig(), (), None)


@pytest.mark.parametrize(
    ("phrase", "met", "unmet"),
    [
        # A space at an edge is a space of the text, or its edge.
        ("alt ", ["ein alt Hund", "ist alt", "alt"], ["alter", "ein alter Hund"]),
        (" alt", ["ein alter Hund", "alter", "ist alt"], ["kalt", "eiskalt ist er"]),
        (" alt ", ["ein alt Hund", "alt Hund", "ist alt", "alt"], ["kalt Hund", "alter", "ist alter", "kalt"]),
        # Without one, words go on.
        ("alt", ["kalter", "alt", "ist alt"], ["al t", "Alt"]),
        ("der alt", ["wieder alte"], ["der  alt", "deralt"]),
    ],
)
def test_the_edges_of_a_phrase_to_include(requests: Requests, phrase: str, met: list[str], unmet: list[str]) -> None:
    request = Request("x", include=(phrase,))
    assert {text: requests.unmet(request, text) for text in (*met, *unmet)} == {
        **dict.fromkeys(met, ()),
        **dict.fromkeys(unmet, (phrase,)),
    }


def test_nothing_is_unmet_where_nothing_is_asked_for(requests: Requests) -> None:
    assert requests.unmet(Request("x", seed=3), "Hund") == ()
    assert requests.unmet(Request("x", prefix="Hu", exclude=("katze",)), "Hund") == ()


def test_what_is_blocked_is_unmet_in_every_text_that_holds_it(requests: Requests) -> None:
    blocking = Requests(requests.vocabularies, DecodingConfig(), ("HUND",), None)
    assert [blocking.unmet(Request("x"), text) for text in ("alte hunde", "Katzen")] == [("HUND",), ()]
