"""What a file is read as: by its name, its first lines, the command line, and how the run was trained."""

import dataclasses

import pytest

from flax_s2s.answers.files import Files
from flax_s2s.answers.layout import Layout, Sides, find, find_output_form, find_sides, warn_header
from flax_s2s.config import DataConfig, UserError

TSV = DataConfig(format="tsv", source="1", target="0")
NAMED = DataConfig(format="csv", source="word", target="ipa", header=True)
OBJECTS = DataConfig(format="jsonl", source="translation.en", target="translation.de")
TREEBANK = DataConfig(format="conllu", source="LEMMA", target="FORM", features="UPOS+FEATS")
MEMORY = DataConfig(format="tmx", source="en", target="de")
TEXT = DataConfig(format="text", source="en", target="de")
FEATURES = DataConfig(format="tsv", source="0", target="1", features="2")
JOINED = DataConfig(format="text", source="a+c", target="b", features="d")


def layout(data=TEXT, name="x.txt", first=(), **options):
    verb = {key: options.pop(key) for key in ("pairs", "aligned", "asked", "output") if key in options}
    files = Files(**options)
    return find(files, find_sides(data, files), name, list(first), **verb)


@pytest.mark.parametrize(
    ("data", "options", "wanted"),
    [
        (TEXT, {}, Sides()),
        (dataclasses.replace(TEXT, format="tfds"), {}, Sides()),
        (dataclasses.replace(TEXT, format="phrases"), {}, Sides()),
        (TSV, {}, Sides(("1", "0"), table=True)),
        (NAMED, {}, Sides(("word", "ipa"), ("word", "ipa"), header=True, table=True)),
        (OBJECTS, {}, Sides(fields=("translation.en", "translation.de"))),
        (dataclasses.replace(OBJECTS, format="json"), {}, Sides(fields=("translation.en", "translation.de"))),
        (TSV, {"source_field": "3"}, Sides(("3", "0"), ("3", "target"), table=True, given=("--source-field 3",))),
        (NAMED, {"header": "no"}, Sides(("word", "ipa"), ("word", "ipa"), table=True, given=("--header no",))),
        (TEXT, {"header": "yes"}, Sides(header=True, given=("--header yes",))),
    ],
)
def test_a_run_says_where_its_sides_stand_and_the_command_line_says_otherwise(data, options, wanted):
    assert find_sides(data, Files(**options)) == wanted


@pytest.mark.parametrize(
    ("data", "name", "first", "options", "wanted"),
    [
        (TEXT, "a/x.txt", ["a"], {}, Layout("text")),
        (TEXT, "x.tsv", ["a\tb"], {}, Layout("tsv")),
        (TSV, "x.tsv", ["A\ta"], {}, Layout("tsv", 1, 0)),
        (TSV, "x.CSV.gz", ["A,a"], {}, Layout("csv", 1, 0)),
        (TSV, "", ["A\ta"], {"form": "tsv"}, Layout("tsv", 1, 0)),
        (TSV, "x.jsonl", ["{}"], {}, Layout("jsonl", output="jsonl")),
        (TSV, "x.tsv", ["a\tb\tc"], {"source_field": "0", "target_field": "2"}, Layout("tsv", 0, 2)),
        (NAMED, "x.csv", ['n,ipa,"word"', "1,b,a"], {}, Layout("csv", 2, 1, header=("n", "ipa", "word"))),
        (NAMED, "x.tsv", ["word"], {}, Layout("tsv", 0, None, header=("word",))),
        (NAMED, "x.csv", [], {}, Layout("csv")),
        (NAMED, "x.jsonl", ["{}"], {}, Layout("jsonl", fields=("word", "ipa"), output="jsonl")),
        (NAMED, "x.tsv", ["a\tb"], {"header": "no", "source_field": "0", "target_field": "1"}, Layout("tsv")),
        (TEXT, "x.csv", ["of,to"], {"header": "yes"}, Layout("csv", header=("of", "to"))),
        (TEXT, "x.csv", ["of,to"], {"header": "yes", "source_field": "to", "target_field": "of"}, Layout("csv", 1, 0, header=("of", "to"))),
        (OBJECTS, "x.json", ['{"a": 1}'], {}, Layout("jsonl", fields=("translation.en", "translation.de"), output="jsonl")),
        (OBJECTS, "x.tsv", ["a\tb"], {}, Layout("tsv")),
        (MEMORY, "x.jsonl", ["{}"], {}, Layout("jsonl", fields=("en", "de"), output="jsonl")),
        (MEMORY, "x.txt", ["a"], {}, Layout("text")),
        (TREEBANK, "x.jsonl", ["{}"], {}, Layout("jsonl", fields=("LEMMA", "FORM"), output="jsonl", features_field="UPOS+FEATS")),
        (TREEBANK, "x.tsv", ["a\tb\tX"], {}, Layout("tsv", features=(2,))),
        (TEXT, "x.html", ["<html>"], {"form": "text"}, Layout("text")),
        (TEXT, "x.tsv", ["a\tb"] * 9, {"form": "text"}, Layout("text")),
        (TEXT, "x.jsonl", ["{}"], {"form": "text"}, Layout("text")),
        (TEXT, "x.csv", ["id;en"], {"form": "csv"}, Layout("csv")),
        (TEXT, "x.csv", ["a; b,c"], {}, Layout("csv")),
        (TEXT, "x.tsv", ["a\tb"], {"source_field": "1"}, Layout("tsv", 1, None)),
        (TEXT, "x.tsv", ["id\ten"], {"source_field": "en", "header": "yes"}, Layout("tsv", 1, None, header=("id", "en"))),
        (TEXT, "x.tsv", ["en\tid\tx"], {"source_field": "en", "header": "yes"}, Layout("tsv", 0, None, header=("en", "id", "x"))),
        (TEXT, "x.tsv", ["de\ten"], {"source_field": "en", "header": "yes"}, Layout("tsv", 1, 0, header=("de", "en"))),
        (TSV, "x.tsv", ["a\ten"], {"source_field": "en", "header": "yes"}, Layout("tsv", 1, 0, header=("a", "en"))),
        (TEXT, "x.jsonlines", ["{}"], {}, Layout("jsonl", output="jsonl")),
        (TSV, "x.tsv", ["a\tb\tc"], {"source_field": "2+1"}, Layout("tsv", 2, 0, more=(1,))),
        (TEXT, "x.tsv", ["a\tb\tc"], {"source_field": "0+1"}, Layout("tsv", 0, None, more=(1,))),
        (JOINED, "x.tsv", ["a\tb\tc\td"], {}, Layout("tsv", 0, 2, features=(3,), more=(1,))),  # though trained on aligned files
        (JOINED, "x.jsonl", ["{}"], {}, Layout("jsonl", output="jsonl", features_field="features")),
        (FEATURES, "x.tsv", ["a\tb\tc"], {}, Layout("tsv", features=(2,))),
        (FEATURES, "x.tsv", ["a\tb\tc"], {"features_field": "2+3"}, Layout("tsv", features=(2, 3))),
        (FEATURES, "x.tsv", ["a\tb"], {"features_field": "1"}, Layout("tsv", 0, None, features=(1,))),
        (FEATURES, "x.jsonl", ["{}"], {}, Layout("jsonl", output="jsonl", features_field="features")),
        (FEATURES, "x.jsonl", ["{}"], {"features_field": "tag"}, Layout("jsonl", output="jsonl", features_field="tag")),
        (TEXT, "x.txt", ['{"a": 1}'], {"form": "text"}, Layout("text")),
        (TEXT, "x.txt", ['{"a": 1}', "a"], {}, Layout("text")),
        (TEXT, "x.txt", ["[1]", "{}", "1"], {}, Layout("text")),
        (TEXT, "x.txt", ["[Laughter] {", '"Yes."'], {}, Layout("text")),
        (TEXT, "test.pt", ["Um cachorro."], {}, Layout("text")),
        (TEXT, "x.txt", ["a\tb", "c", "d", "e\tf\tg"], {}, Layout("text")),
    ],
)
def test_the_layout_of_a_file(data, name, first, options, wanted):
    assert layout(data, name, first, **options) == wanted


@pytest.mark.parametrize(
    ("data", "name", "first", "options", "message"),
    [
        (NAMED, "x.csv", ["a,b"], {}, "--source-field word of x.csv: the header has no 'word', only 'a', 'b'"),
        (NAMED, "x.csv", ['"a,b'], {}, "the header of x.csv cannot be read"),
        (NAMED, "x.csv", ["word,x"], {"pairs": True}, "--target-field ipa of x.csv: the header has no 'ipa'"),
        (
            NAMED,
            "x.csv",
            ["a,b"],
            {"header": "no"},
            "must be a column's number, from 0; where the first row holds names, give --header yes",
        ),
        (TEXT, "x.csv", ["a,b"], {"source_field": "a"}, "give --header yes"),
        (TEXT, "x.csv", ["a,b"], {"source_field": "2", "header": "yes"}, "the header has 2 columns, counted from 0: 'a', 'b'"),
        (TEXT, "x.txt", ["a"], {"source_field": "1"}, "--source-field 1 is for columns and objects, and x.txt would hold lines of text"),
        (TEXT, "x.jsonl", ["{}"], {"header": "yes"}, "--header is for columns"),
        (TEXT, "x.txt", ["a"], {"pairs": True}, "x.txt would hold lines of text, not pairs"),
        (TEXT, "x.tsv", ["a"], {"pairs": True, "aligned": True}, "x.tsv holds TSV by its name, and aligned files are lines of text"),
        # tables that are called text
        (TEXT, "x.txt", ["a\tb", "c\td", "e\tf"], {}, "x.txt looks like a table: its lines have tabs; give --form tsv"),
        (TSV, "", ["A\ta"], {}, "stdin looks like a table"),
        (TEXT, "x", ["a\tb\tc"] * 9 + ["d"], {"pairs": True, "aligned": True}, "x looks like a table"),
        (TEXT, "x", ["a\tb"], {}, "x looks like a table"),
        (TEXT, "", ["a\tb", "", "c\td"], {}, "stdin looks like a table"),
        (TEXT, "x.csv", ["id;en", "1;May 5, 2023"], {}, "x.csv has columns that are separated by semicolons"),
        # a source that would be its own reference
        (TEXT, "x.tsv", ["a\tb"], {"source_field": "1", "pairs": True}, "--target-field 1 of x.tsv are one column; name two"),
        (TEXT, "x.tsv", ["a\tb"], {"source_field": "1", "target_field": "1"}, "are one column"),
        (
            TEXT,
            "x.tsv",
            ["id\ten"],
            {"source_field": "en", "header": "yes", "pairs": True},
            "--target-field de of x.tsv: the header has no",
        ),
        # JSON that is called text
        (TEXT, "", ['{"source": "a"}'], {}, "stdin holds JSON objects; give --form jsonl"),
        (TEXT, "x.txt", ['{"a": 1}', "", ' {"b": {}} '], {}, "x.txt holds JSON objects; give --form jsonl"),
        (OBJECTS, "x", ['{"a": 1}'], {"pairs": True, "aligned": True}, "or --form text to read whole lines"),
        (TEXT, "x.txt", ['[{"source": "a"},', '{"source": "b"}]'], {}, "x.txt is a JSON array; lines are read as one object each"),
        (TEXT, "", ["[", "  {", '    "a": 1}]'], {}, "stdin is a JSON array"),
        (TEXT, "x.jsonlines", ["[1]"], {}, "x.jsonlines is a JSON array"),
        # other files
        (TEXT, "x.json", ["[", '{"a": 1}'], {}, "x.json is a JSON array; lines are read as one object each: jq -c '.[]' x.json"),
        (TEXT, "x.jsonl", ['[{"source": "a"}]'], {}, "x.jsonl is a JSON array"),
        (TEXT, "x.json", ["", "{", '"a": 1}'], {}, "x.json is JSON over several lines; lines are read as one object each: jq -c . x.json"),
        (TEXT, "x.tmx", ["a"], {}, "x.tmx is a .tmx file, no lines of text"),
        (TREEBANK, "x.conllu", ["# a"], {}, "x.conllu is a .conllu file, no lines of text"),
        (TEXT, "x.HTML", ["a"], {}, "x.HTML is a .html file"),
        (TEXT, "x.en", ["", '<?xml version="1.0"?>'], {}, "x.en is a file of markup, no lines of text"),
        (TEXT, "newstest2014.en.sgm", ['<srcset setid="newstest2014">'], {}, "is a file of markup"),
    ],
)
def test_what_is_not_as_it_is_read_is_refused_before_anything_is_made_of_it(data, name, first, options, message):
    with pytest.raises(UserError) as error:
        layout(data, name, first, **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("data", "name", "first", "options", "remedy"),
    [
        (TEXT, "x.csv", ["en,de"], {}, "'en', 'de'; give --header yes, or"),
        (TEXT, "x.tsv", ["source\tGerman\tn"], {}, "'source', 'German', 'n'; give --header yes, or"),
        (TEXT, "x.tsv", ["id\tde\ten"], {}, "give --header yes --source-field en --target-field de, or"),
        (TEXT, "x.tsv", ["de\ten"], {}, "give --header yes --source-field en --target-field de, or"),
        (TSV, "x.tsv", ["target\tsource"], {}, "give --header yes, or"),
        (TEXT, "x.tsv", ["de\ten"], {"header": "no"}, ""),
        (TEXT, "x.tsv", ["en\tde"], {"header": "yes"}, ""),
        (NAMED, "x.tsv", ["word\tipa"], {}, ""),
        (TEXT, "x.tsv", ["A dog.\tEin Hund."], {}, ""),
        (TEXT, "x.tsv", ["text"], {}, ""),
        (TEXT, "x.csv", ['"en,de'], {}, ""),
        (TEXT, "x.csv", [], {}, ""),
        (TEXT, "x.txt", ["en de"], {}, ""),
    ],
)
def test_a_first_row_that_looks_like_names_is_warned_of(data, name, first, options, remedy):
    said = warn_header(layout(data, name, first, **options), Files(**options), data, name, first)
    assert (remedy in said and f"the first row of {name} looks like names" in said) if remedy else not said


def test_the_form_of_the_output_is_chosen_apart():
    assert layout(name="x.txt", asked="jsonl") == Layout("text", output="jsonl")
    assert layout(name="x.jsonl", asked="text") == Layout("jsonl", output="text")
    assert [find_output_form("auto", form, "out") for form in ("text", "tsv", "csv", "jsonl")] == ["text", "text", "text", "jsonl"]
    assert (find_output_form("auto", "text", "a/out.jsonl"), find_output_form("nbest", "text", "out.jsonl")) == ("jsonl", "nbest")


def test_what_decides_an_output_is_told_apart_and_jobs_of_earlier_versions_go_on():
    told = [
        Layout("text"),
        Layout("text", output="nbest"),
        Layout("text", output="jsonl"),
        Layout("tsv"),
        Layout("tsv", 1, 0),
        Layout("tsv", 0, None),
        Layout("tsv", header=("a", "b")),
        Layout("jsonl", output="jsonl"),
        Layout("jsonl", output="text"),
        Layout("jsonl", fields=("a", "b"), output="jsonl"),
    ]
    assert len({str(one.describe()) for one in told}) == len(told)
    assert [one.describe() for one in (told[0], told[3], told[7])] == [{"form": form} for form in ("text", "tsv", "jsonl")]
