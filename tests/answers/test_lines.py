import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_s2s.answers import lines, pairs
from flax_s2s.answers.layout import Layout
from flax_s2s.answers.lines import Asked, Raw, ask, raw_lines, read_side
from flax_s2s.answers.replies import Translated, find_flags, one_line, read_texts, write
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.translate import BLANK, Translation

FOUND = Translation("zwei\u2028Hunde\r", -1.5, -1.2, 3, True, False, 0, (7, 8, 2), ("7", "8", "2"), (-0.5, -0.5, -0.5), attention=np.eye(3))


LAYOUTS = {
    "text": Layout("text"),
    "tsv": Layout("tsv"),
    "csv": Layout("csv"),
    "jsonl": Layout("jsonl", output="jsonl"),
    "nbest": Layout("text", output="nbest"),
}


def answer(asked, translation=FOUND, form="text", **fields):
    return write(Translated(asked, translation, **fields), LAYOUTS[form], "[?]", 4)


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
    assert ask(Raw(raw), LAYOUTS["text"]) == Asked(Request(source), problems)


def test_the_first_line_loses_its_byte_order_mark_and_a_cut_one_is_counted():
    assert ask(Raw(b"\xef\xbb\xbfa", first=True), LAYOUTS["text"]) == Asked(Request("a"))
    assert ask(Raw(b"a", cut=True), LAYOUTS["text"]) == Asked(Request("a"), ("cut lines",))


def test_the_first_column_of_a_table_is_translated():
    tsv = LAYOUTS["tsv"]
    assert ask(Raw(b"a b\tc d\te"), tsv) == Asked(Request("a b"), reference="c d")
    assert ask(Raw(b"a b"), tsv) == Asked(Request("a b"))
    assert ask(Raw(b"\tc"), tsv).problems == ("blank lines",)


def test_columns_are_those_of_the_run():
    """Of all runs the first and the second were read, whatever they were trained with."""
    swapped, wide = Layout("tsv", 1, 0), Layout("tsv", 2, 4)
    assert ask(Raw(b"A\ta"), swapped) == Asked(Request("a"), reference="A")
    joined = Layout("tsv", 0, 1, more=(3,), features=(2, 4))
    assert ask(Raw(b"a\tA\tN\tb\tPL"), joined) == Asked(Request("a b", features="N PL"), reference="A")
    assert ask(Raw(b"a\tA\tN"), joined).error.startswith("there are 3 columns, and none has the number 3, from 0; --source-field")
    assert ask(Raw(b"a\tA\tN\tb"), joined).error.startswith("there are 4 columns, and none has the number 4, from 0, of the features")
    objects = Layout("jsonl", fields=("q+of.c", "text"), output="jsonl", features_field="b+d")
    assert ask(Raw(b'{"q": "a", "of": {"c": "b"}, "b": ["N", "m"], "d": "PL"}'), objects).request == Request("a b", features="N;m PL")
    assert ask(Raw(b'{"source": "x", "features": "N"}'), objects).request == Request("x", features="N")
    nested = Layout("jsonl", fields=("code.c++", "code.d+e"), output="jsonl")
    assert ask(Raw(b'{"code": {"c++": "x"}}'), nested).request == Request("x")
    assert read_side({"code": {"c++": "x", "d+e": "y"}}, nested, 1) == "y"
    assert "'q+of.c' or 'source'" in ask(Raw(b'{"q": "a", "b": "N", "d": "PL"}'), objects).error
    assert ask(Raw(b"0\t1\t2\t3\t4"), wide) == Asked(Request("2"), reference="4")
    assert pairs.ask(Raw(b"A\ta"), swapped)[:2] == ("a", (pairs.Target("A"),))
    short = ask(Raw(b"A"), swapped)
    assert (short.problems, short.error[:43]) == (("without source",), "there are 1 columns, and none has the numbe")
    assert pairs.ask(Raw(b"A\ta"), wide).problems == ("without source",)
    assert pairs.ask(Raw(b"0\t1\t2"), wide).problems == ("without target",)


def test_a_header_row_is_answered_by_a_name_and_asks_for_nothing():
    layout = Layout("tsv", 1, 0, header=("to", "of"))
    asked = ask(Raw(b"to\tof", first=True), layout)
    assert (asked.is_header, asked.request, asked.problems) == (True, Request(""), ("header lines",))
    for output, line in (("text", b"to\n"), ("nbest", b""), ("jsonl", b'{"header": ["to", "of"]}\n')):
        assert write(Translated(asked, BLANK), layout._replace(output=output), "") == line
    assert not ask(Raw(b"to\tof"), layout).is_header  # a later line of the same words is a sentence
    assert pairs.write(pairs.ask(Raw(b"to\tof", first=True), layout), [], layout) == b"logp\n"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b'"a,1",b', ("a,1", "b")),
        (b'"say ""a""",b', ('say "a"', "b")),
        (b"a\tb,c", ("a\tb", "c")),
        (b'"it goes', None),
        (b'on here",b', None),
        (b'"a"b,c', None),
        (b'a "b" c,d', ('a "b" c', "d")),
        (b'5" pipe,d', ('5" pipe', "d")),
        (b" , ,", ("", "")),
    ],
)
def test_a_record_of_csv_is_one_line(line, wanted):
    asked = ask(Raw(line), LAYOUTS["csv"])
    if wanted:
        assert (asked.request.source, asked.reference, asked.problems) == (*wanted, () if any(wanted) else ("blank lines",))
    else:
        assert asked.problems == ("no rows of CSV",) and "a record of CSV must be one line" in asked.error
        assert pairs.ask(Raw(line), LAYOUTS["csv"]).problems == ("no rows of CSV",)


@pytest.mark.parametrize("form", ["text", "tsv", "csv", "jsonl"])
@pytest.mark.parametrize("line", [b"", b"  \t "])
def test_a_blank_line_is_blank_in_every_form(form, line):
    asked, scored = ask(Raw(line), LAYOUTS[form]), pairs.ask(Raw(line, beside=Raw(b"")), LAYOUTS[form])
    assert (asked.request.source.strip(), asked.problems, asked.error) == ("", ("blank lines",), "")
    assert (scored.source.strip(), len(scored.targets), scored.problems, scored.error) == ("", 1, ("blank lines",), "")


def test_fields_are_those_of_the_run_and_else_source_and_target():
    layout = Layout("jsonl", fields=("translation.en", "text"), output="jsonl")
    own = b'{"translation": {"en": "a"}, "text": "A", "source": "b", "target": "B"}'
    assert ask(Raw(own), layout).request == Request("a")
    assert pairs.ask(Raw(own), layout)[:2] == ("a", (pairs.Target("A"),))
    for line in (b'{"source": "b", "target": "B"}', b'{"translation": "no object", "source": "b", "target": "B"}'):
        assert ask(Raw(line), layout).request == Request("b")
        assert pairs.ask(Raw(line), layout)[:2] == ("b", (pairs.Target("B"),))
    none = ask(Raw(b'{"en": "a"}'), layout)
    assert (none.error, none.problems) == ("there is no field 'translation.en' or 'source', only 'en'", ("without source",))
    # A field of the run may be called as one of those that decode answers with.
    answered = b'{"source": "b", "text": "B", "tokens": ["B"], "others": [{"text": "C"}]}'
    turned = layout._replace(fields=("text", "source"))
    for one in (layout, turned):
        assert pairs.ask(Raw(answered), one)[:2] == ("b", (pairs.Target("B", ("B",)), pairs.Target("C")))
        assert ask(Raw(answered), one).request == Request("b")


def test_an_n_best_list_is_as_moses_writes_it():
    found = FOUND._replace(text="a ||| b || c", others=(FOUND._replace(text="||||", logp=-2.0, score=-1.75),))
    asked = Asked(Request("two dogs"))
    made = answer(asked, found, "nbest")
    first = "4 ||| a &#124;&#124;&#124; b || c ||| logp= -1.500000 tokens= 3 ||| -1.200000\n"
    assert made.decode() == first + "4 ||| &#124;&#124;&#124;&#124; ||| logp= -2.000000 tokens= 3 ||| -1.750000\n"
    assert [len(line.split(" ||| ")) for line in made.decode().splitlines()] == [4, 4]
    blank = answer(Asked(Request("")), BLANK, "nbest").replace(b"4 ", b"5 ", 1)
    assert blank == b"5 |||  ||| logp= 0.000000 tokens= 0 ||| 0.000000\n"  # each line has a hypothesis
    assert list(read_texts(io.BytesIO(made + blank), LAYOUTS["nbest"])) == ["a ||| b || c", ""]


@pytest.mark.parametrize("output", ["text", "jsonl", "nbest"])
def test_the_translations_of_an_output_are_read_again(output):
    layout = Layout("tsv", header=("s", "t"), output=output)
    lines_in = [Raw(b"s\tt", first=True), Raw(b"two dogs\tzwei"), Raw(b"")]
    found = [BLANK, FOUND._replace(others=(FOUND,)), BLANK]
    asked = [ask(raw, layout) for raw in lines_in]
    made = [write(Translated(*each), layout, "", i - 1) for i, each in enumerate(zip(asked, found, strict=True))]
    assert list(read_texts(io.BytesIO(b"".join(made)), layout)) == ["zwei Hunde ", ""]


def test_an_object_may_ask_for_more():
    record = {"id": [1], "source": "a", "prefix": "b", "include": ["c"], "exclude": ["d", "e"], "seed": 3, "other": None}
    assert ask(Raw(json.dumps(record).encode()), LAYOUTS["jsonl"]) == Asked(Request("a", "b", ("c",), ("d", "e"), 3), (), [1])
    assert ask(Raw(b'{"source": "a\\ud800"}'), LAYOUTS["jsonl"]) == Asked(Request("a\ufffd"), ("invalid UTF-8",))


@pytest.mark.parametrize(
    ("raw", "message", "cause"),
    [
        (b"plain", "a line must be a JSON object: Expecting value at character 1", "no JSON objects"),
        (b"[1]", "a line must be a JSON object with a source, got list", "no JSON objects"),
        (b'{"source": "a", "id": NaN}', "NaN is no number of JSON", "no JSON objects"),
        (b'{"source": "a", "id": -1e999}', "-1e999 is no number of JSON", "no JSON objects"),
        (b"{}", "there is no field 'source', only none", "without source"),
        (b'{"id": 7, "src": "a"}', "there is no field 'source', only 'id', 'src'", "without source"),
        (b'{"source": null}', "source must be a string, got null", "with invalid fields"),
        (b'{"id": 7, "source": 5}', "source must be a string, got int", "with invalid fields"),
        (b'{"source": "a", "include": "b"}', "include must be a list of strings that are not empty", "with invalid fields"),
        (b'{"source": "a", "exclude": [""]}', "exclude must be a list of strings that are not empty", "with invalid fields"),
        (b'{"source": "a", "seed": -1}', "seed must be a whole number", "with invalid fields"),
        (b'{"source": "a", "seed": true}', "seed must be a whole number", "with invalid fields"),
        (b'{"source": "a", "id": ' + b"1" * 5000 + b"}", "has a number too long", "no JSON objects"),
        (b"[" * 100_000, "nested too deeply", "no JSON objects"),
    ],
)
def test_a_bad_object_is_answered_by_its_error_and_counted_by_its_cause(raw, message, cause):
    asked = ask(Raw(raw), LAYOUTS["jsonl"])
    assert message in asked.error
    assert asked.problems == (cause,)
    found = json.loads(answer(asked, BLANK, "jsonl"))
    assert found == ({"id": 7} if b'"id": 7' in raw else {}) | {"error": asked.error}


@given(raw=st.binary(max_size=60), form=st.sampled_from(["text", "tsv", "csv", "jsonl"]), text=st.text(max_size=20))
def test_whatever_comes_in_one_line_goes_out(raw, form, text):
    asked = ask(Raw(raw.replace(b"\n", b"")), LAYOUTS[form])
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
    assert find_flags(source, Translation(text, -1.0, -1.0, len(ids), True, False, ids=ids), len(source.split())) == flags


def test_no_line_break_of_any_kind_stays():
    assert one_line("a\r\nb\vc\x85d\u2028e") == "a b c d e"
