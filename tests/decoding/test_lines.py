import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_s2s.decoding import lines
from flax_s2s.decoding.lines import Asked, Raw, Translated, ask, find_flags, one_line, raw_lines, write
from flax_s2s.decoding.translate import BLANK, Request, Translation

FOUND = Translation("zwei\u2028Hunde\r", -1.5, -1.2, 3, True, False, (7, 8, 2), (-0.5, -0.5, -0.5), np.eye(3))


def pieces(ids):
    return [str(token) for token in ids]


def answer(asked, translation=FOUND, form="text", **fields):
    return write(Translated(asked, translation, **fields), form, "[?]", pieces)


@given(content=st.binary(max_size=200), limit=st.integers(1, 9))
def test_lines_end_with_a_line_feed_alone_and_are_cut_at_the_limit(content, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "LONGEST_BYTES", limit)
        found = list(raw_lines(io.BytesIO(content)))
    wanted = content.split(b"\n")[: -1 if content.endswith(b"\n") or not content else None]
    assert len(found) == len(wanted)
    for (raw, cut, first, _), line in zip(found, wanted, strict=True):
        assert first == (line is wanted[0])
        assert raw in (line[:limit], line[:limit].removesuffix(b"\r"))
        assert cut == (len(line) > limit)


@given(content=st.lists(st.binary(max_size=20), min_size=1), data=st.data())
def test_a_range_of_a_file_gives_its_own_lines(content, data):
    content = [line.replace(b"\n", b"").replace(b"\r", b"") for line in content]
    first = data.draw(st.integers(0, len(content)))
    last = data.draw(st.integers(first, len(content)))
    file = io.BytesIO(b"".join(line + b"\n" for line in content))
    starts = np.cumsum([0, *(len(line) + 1 for line in content)])
    file.seek(int(starts[first]))
    assert [raw.content for raw in raw_lines(file, int(starts[last]))] == content[first:last]


@pytest.mark.parametrize(
    ("raw", "source", "problems"),
    [
        (b"plain", "plain", ()),
        (b"", "", ("blank lines",)),
        (b" \t ", " \t ", ("blank lines",)),
        (b"\xff\xfea", "\ufffd\ufffda", ("invalid UTF-8",)),
        (b"a\x00b", "a\x00b", ()),
        ("a\u2028b\u0085c\rd".encode(), "a\u2028b\u0085c\rd", ()),
        (b"\xef\xbb\xbfa", "\ufeffa", ()),
    ],
)
def test_odd_lines_of_text(raw, source, problems):
    assert ask(Raw(raw), "text") == Asked(Request(source), problems)


def test_the_first_line_loses_its_byte_order_mark_and_a_cut_one_is_counted():
    assert ask(Raw(b"\xef\xbb\xbfa", first=True), "text") == Asked(Request("a"))
    assert ask(Raw(b"a", cut=True), "text") == Asked(Request("a"), ("cut lines",))


def test_the_first_column_of_a_table_is_translated():
    assert ask(Raw(b"a b\tc d\te"), "tsv") == Asked(Request("a b"), reference="c d")
    assert ask(Raw(b"a b"), "tsv") == Asked(Request("a b"))
    assert ask(Raw(b"\tc"), "tsv").problems == ("blank lines",)


def test_an_object_may_ask_for_more():
    record = {"id": [1], "source": "a", "prefix": "b", "include": ["c"], "exclude": ["d", "e"], "seed": 3, "other": None}
    assert ask(Raw(json.dumps(record).encode()), "jsonl") == Asked(Request("a", "b", ("c",), ("d", "e"), 3), (), [1])
    assert ask(Raw(b'{"source": "a\\ud800"}'), "jsonl") == Asked(Request("a\ufffd"), ("invalid UTF-8",))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"plain", "Expecting value"),
        (b"", "Expecting value"),
        (b"[1]", "a line must be an object with a source, got list"),
        (b'{"source": "a", "id": NaN}', "NaN is no number of JSON"),
        (b'{"source": "a", "id": -1e999}', "-1e999 is no number of JSON"),
        (b"{}", "source must be a string, got nothing"),
        (b'{"id": 7, "source": 5}', "source must be a string, got int"),
        (b'{"source": "a", "include": "b"}', "include must be a list of strings that are not empty"),
        (b'{"source": "a", "exclude": [""]}', "exclude must be a list of strings that are not empty"),
        (b'{"source": "a", "seed": -1}', "seed must be a whole number"),
        (b'{"source": "a", "seed": true}', "seed must be a whole number"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_bad_object_is_answered_by_its_error(raw, message):
    asked = ask(Raw(raw), "jsonl")
    assert message in asked.error
    assert asked.problems == ("bad JSON",)
    found = json.loads(answer(asked, BLANK, "jsonl"))
    assert found == ({"id": 7} if b'"id": 7' in raw else {}) | {"error": asked.error}


@given(raw=st.binary(max_size=60), form=st.sampled_from(["text", "tsv", "jsonl"]), text=st.text(max_size=20))
def test_whatever_comes_in_one_line_goes_out(raw, form, text):
    asked = ask(Raw(raw.replace(b"\n", b"")), form)
    asked.request.source.encode()
    found = answer(asked, FOUND._replace(text=text.encode(errors="replace").decode()), form)
    assert found.count(b"\n") == 1
    assert len(found.decode().splitlines()) == 1
    if form == "jsonl":
        json.loads(found)


def test_an_answer_as_text_and_as_an_object():
    asked = Asked(Request("two dogs"), (), "x")
    assert answer(asked) == b"zwei Hunde \n"
    assert answer(asked, abstained=True) == b"[?]\n"
    one = {"score": -1.2, "logp": -1.5, "reason": "end", "tokens": ["7", "8", "2"], "token_logp": [-0.5] * 3, "alignment": [0, 1, 2]}
    wanted = {
        "id": "x",
        "source": "two dogs",
        "text": "zwei Hunde ",
        "abstained": False,
        "flags": ["length"],
        "confidence": 0.5,
        **one,
        "others": [],
    }
    assert json.loads(answer(asked, form="jsonl", flags=("length",), confidence=0.5)) == wanted
    other = FOUND._replace(text="2", others=())
    found = json.loads(answer(asked, FOUND._replace(others=(other,)), "jsonl"))
    assert found["others"] == [{"text": "2", **one}]


@pytest.mark.parametrize(
    ("source", "text", "ids", "flags"),
    [
        ("two dogs run", "zwei Hunde", (5, 6, 7, 2), ()),
        ("two dogs run", " ", (2,), ("empty",)),
        ("", "", (), ()),
        ("a b c d e f", "a  b c d e f", (5, 6, 7, 8, 9, 10, 2), ("copied",)),
        ("Tom", "Tom", (5, 2), ()),
        ("two dogs run", "x", (5, 5, 5, 5, 5, 5, 2), ("repetition",)),
        ("two dogs run", "x", (5, 5, 5, 5, 5, 2), ()),
        ("two dogs run", "x", (5, 6, 5, 6, 5, 6, 2), ("repetition",)),
        ("two dogs run", "x", (5, 6, 5, 6, 5, 7, 2), ()),
        ("two dogs run", "x", (4, 5, 6, 7, 5, 6, 7, 5, 6, 7, 2), ("repetition",)),
        ("two dogs run", "x", tuple(range(4, 22)), ("length",)),
        ("w " * 30, "x", (5, 6, 7, 2), ("length",)),
    ],
)
def test_what_looks_wrong_is_flagged(source, text, ids, flags):
    assert find_flags(source, Translation(text, -1.0, -1.0, len(ids), True, False, ids), len(source.split())) == flags


def test_no_line_break_of_any_kind_stays():
    assert one_line("a\r\nb\vc\x85d\u2028e") == "a b c d e"
