"""Translation memories: what of a unit is its text, how languages are found, and what is said of a file that is no memory."""

import gzip
import itertools
import tracemalloc

import pytest
from tiny import sides

from flax_s2s.config import Config, DataConfig, UserError
from flax_s2s.data import files, tmx
from flax_s2s.data.corpus import Reader
from flax_s2s.rules import check

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4">\n<header srclang="en"/>\n<body>\n'
TAIL = "</body></tmx>\n"


def unit(**texts):
    variants = "".join(f'<tuv xml:lang="{language.replace("_", "-")}"><seg>{text}</seg></tuv>' for language, text in texts.items())
    return f'<tu tuid="x"><note>no text</note><prop type="x-domain">none</prop>{variants}</tu>\n'


def data(folder, **fields):
    return DataConfig(**{"format": "tmx", "folder": str(folder), "source": "en", "target": "de", "valid": "x", "test": ""} | fields)


def read(folder, content, name="train.tmx", **fields):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Reader(data(folder, **fields), "train", 1)


def message(folder, content, **fields):
    with pytest.raises(UserError) as caught:
        list(read(folder, content, **fields))
    return str(caught.value).removeprefix(f"{folder}/train.tmx ")


MEMORY = HEAD + unit(en="A dog.", de="Ein Hund.") + unit(EN_US="A cat.", DE="Eine &amp; Katze.", fr="Un chat.") + unit(en="Alone.") + TAIL
PAIRS = [("A dog.", "Ein Hund."), ("A cat.", "Eine & Katze.")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.tmx", MEMORY.encode()),
        ("train.tmx.gz", gzip.compress(MEMORY.encode())),
        ("train.tmx", MEMORY.replace("UTF-8", "UTF-16").encode("utf-16")),
        ("train.tmx.gz", gzip.compress(MEMORY.replace("UTF-8", "UTF-16").encode("utf-16"))),
        ("train.tmx", MEMORY.replace("UTF-8", "windows-1252").encode("cp1252")),
        ("train.tmx", MEMORY.replace("xml:lang", "lang").encode("utf-8-sig")),
    ],
)
def test_each_unit_is_a_pair(tmp_path, name, content):
    reader = read(tmp_path, content, name)
    assert sides(reader) == PAIRS
    assert reader.counts.left_out == {"blank": 1}


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        ('Click <bpt i="1">&lt;b&gt;</bpt>here<ept i="1">&lt;/b&gt;</ept><ph>{1}</ph>.', "Click here."),
        ("a<it pos='begin'>x</it><ut>y</ut>b", "ab"),
        ("one <hi>two <hi>three</hi></hi> four", "one two three four"),
        ('Trees<ph>\\footnote{<sub>They are <bpt i="1">\\b</bpt>tall<ept i="1">}</ept></sub>}</ph> grow', "Trees They are tall grow"),
        (" one\n\t two\r\nthree ", "one two three"),
        ("a\u00a0b &lt;i&gt; &#233; <![CDATA[<x> & y]]>", "a\u00a0b <i> é <x> & y"),
        ("<!-- said -->one<?do it?>", "one"),
    ],
)
def test_codes_are_left_out_and_texts_in_them_are_kept(tmp_path, segment, text):
    assert sides(read(tmp_path, HEAD + unit(en=segment, de="x") + TAIL)) == [(text, "x")]


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("en", {"EN_GB": "a", "en": "b"}, "b"),
        ("en", {"EN_GB": "a", "en_US": "b"}, "a"),
        ("en-us", {"EN_GB": "a", "EN_US": "b"}, "b"),
        ("en_US", {"en": "a", "en_us": "b"}, "b"),
        ("en", {"en": "a"} | {"EN": "b"}, "a"),
    ],
)
def test_a_language_is_met_by_its_name_or_by_its_first_part(tmp_path, asked, there, found):
    assert sides(read(tmp_path, HEAD + unit(de="x", **there) + TAIL, source=asked)) == [(found, "x")]


def test_a_variety_that_is_the_other_side_is_not_taken(tmp_path):
    content = HEAD + unit(en_GB="colour", en_US="color") + TAIL
    assert sides(read(tmp_path, content, source="en", target="en-GB")) == [("color", "colour")]


def test_a_source_may_be_joined_of_languages(tmp_path):
    assert sides(read(tmp_path, MEMORY, source="en+fr")) == [("A dog. ", "Ein Hund."), ("A cat. Un chat.", "Eine & Katze.")]


def test_a_language_that_no_unit_has(tmp_path):
    told = message(tmp_path, MEMORY, target="den")
    assert told == "has nothing in 'den', only in 'en', 'de', 'EN-US', 'fr'; did you mean 'en'?"
    assert message(tmp_path, MEMORY, source="de-AT").startswith("has nothing in 'de-AT', only in 'en'")
    assert message(tmp_path, HEAD + TAIL) == f"train of {tmp_path} has no pairs; check data.train"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            MEMORY.replace("</tuv></tu>\n</body>", "</tu>\n</body>"),
            "line 8 is not well-formed XML: mismatched tag, at column 105; correct it there, or write what can be read: xmllint --recover FILE > NEW",
        ),
        (MEMORY[:-30], "line 8 is not well-formed XML: "),
        (
            MEMORY.replace("A dog.", "A & dog."),
            "line 6 is not well-formed XML: not well-formed (invalid token), at column 94; correct it there",
        ),
        (MEMORY.replace("A dog.", "A &#31;."), "line 6 is not well-formed XML: reference to invalid character number"),
        (MEMORY.replace("A cat.", "A\x00cat."), "line 7 is not well-formed XML: not well-formed (invalid token)"),
        (MEMORY.encode().replace(b"A cat.", b"A \xff"), "line 7 is not well-formed XML: not well-formed (invalid token)"),
        (MEMORY.replace("UTF-8", "klingon"), "line 1 is not well-formed XML: unknown encoding"),
        ("a\tb\n", "line 1 is not well-formed XML: syntax error"),
        ("", "line 1 is not well-formed XML: no element found"),
        ("<xliff/>", "is XML that begins with <xliff>; TMX begins with <tmx>: give a file of that, or another --data.format"),
        (b"PK\x03\x04zip", "is a zip archive (or a spreadsheet); "),
    ],
)
def test_what_is_no_memory(tmp_path, content, said):
    assert message(tmp_path, content).startswith(said)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (
            '"tmx14.dtd"',
            "line 6: the entity 'nbsp' is not defined; only XML's own, such as &amp;, are read: write the characters that it stands for",
        ),
        ('"tmx14.dtd" [\n<!ENTITY nbsp "&#160;">]', "line 3: the entity 'nbsp' is declared; only XML's own"),
        ('"tmx14.dtd" [<!ENTITY nbsp SYSTEM "other.txt">]', "line 2: the entity 'nbsp' is declared; only XML's own"),
    ],
)
def test_entities_are_refused(tmp_path, declared, said):
    content = (HEAD + unit(en="A&nbsp;dog.", de="x") + TAIL).replace('"tmx14.dtd"', declared)
    assert message(tmp_path, content).replace(f"{tmp_path}/train.tmx ", "").startswith(said)


def test_units_are_read_as_they_come(tmp_path):
    """What is kept is not more of a file that is ten times as long."""
    (tmp_path / "x").write_text(HEAD + unit(en="A dog.", de="Ein Hund.") * 20_000 + "<broken")
    found = tmx.units(files.File(tmp_path / "x"), ["en", "de"])
    peaks = []
    for count in (1_000, 10_000):
        tracemalloc.start()
        assert len([None for _ in itertools.islice(found, count)]) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] < 4_000_000


def test_a_memory_has_no_features():
    config = Config(data=DataConfig(format="tmx", target="de", features="fr"))
    with pytest.raises(UserError, match=r"^data\.format=tmx has no features, got data\.features=fr; leave it out$"):
        check(config)
