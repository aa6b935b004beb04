"""Features: bundles taken apart, and tokens of the source's vocabulary."""

import dataclasses
import json

import hypothesis
import pytest
from hypothesis import strategies as st
from tiny import REPOSITORY

from flax_s2s.config import EOS, UNK, DataConfig, UserError, VocabConfig
from flax_s2s.data import features, vocab, vocab_training
from flax_s2s.data.corpus import Pair, Reader, load
from flax_s2s.data.tokens import Draw, open_tokens, tokenize

INFLECTION = REPOSITORY / ".." / "shared" / "data" / "inflection"
PAIRS = [Pair("gehen", "ging", "V;PST;3"), Pair("gehen", "geht", "V;3;PRS"), Pair("Hund", "Hunde", "N;PL"), Pair("so", "so", "")] * 3

# Taken apart -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bundle", "wanted"),
    [
        ("N;TRANS;PL", ["N", "TRANS", "PL"]),
        ("V;IMP;ACC(2,SG)", ["V", "IMP", "ACC(2)", "ACC(SG)"]),
        ("ARG(A(1,PL),SG);X", ["ARG(A(1))", "ARG(A(PL))", "ARG(SG)", "X"]),
        ("Case=Nom|Number=Sing", ["Case=Nom", "Number=Sing"]),
        (" past  third\tperson ", ["past", "third", "person"]),
        ("<2de>", ["<2de>"]),
        ("N;IN+ALL;{PRS/FUT}", ["N", "IN+ALL", "{PRS/FUT}"]),
        ("", []),
        (" ;| ", []),
        ("X()", ["X()"]),
        *((odd, [odd]) for odd in ("ACC(", "a)b", ")", "ACC(2,SG)+X", "A(B)(C)", "A(1),B(2)", "a,b", "A(" + "1," * 200 + "2)")),
    ],
)
def test_bundles_are_taken_apart(bundle, wanted):
    assert features.split(bundle) == wanted


NAMES = st.text("ABC123+=./{}", min_size=1, max_size=4)
TREES = st.recursive(NAMES, lambda inner: st.tuples(NAMES, st.lists(inner, min_size=1, max_size=3)), max_leaves=6)


def spell(tree):
    return tree if isinstance(tree, str) else f"{tree[0]}({','.join(map(spell, tree[1]))})"


def paths(tree):
    """What each leaf is, with the names around it."""
    return [tree] if isinstance(tree, str) else [f"{tree[0]}({path})" for inner in tree[1] for path in paths(inner)]


@hypothesis.given(st.lists(TREES, max_size=4), st.sampled_from([";", "|", " ", " ; "]))
def test_each_leaf_is_a_feature_with_the_names_around_it(trees, between):
    assert features.split(between.join(map(spell, trees))) == [path for tree in trees for path in paths(tree)]


@hypothesis.given(st.text("AB(),;| ", max_size=30))
def test_nothing_of_a_bundle_is_lost_and_no_feature_is_blank(bundle):
    found = features.split(bundle)
    assert all(one and not set(one) & set(";| ") for one in found)
    assert {*"".join(found)} == {*bundle} - set(";| ") - ({","} if all("," not in one for one in found) else set())


@pytest.mark.skipif(not INFLECTION.is_dir(), reason=f"the corpora of {INFLECTION} are not here")
def test_the_bundles_of_five_languages_are_few_features():
    """What stands between the semicolons: none of them has brackets."""
    for language in ("izh", "kaz", "lug", "mlt", "tgl"):
        bundles = [line.split("\t")[2] for line in (INFLECTION / f"{language}.train.tsv").read_text().split("\n") if line]
        assert [features.split(bundle) for bundle in bundles] == [bundle.split(";") for bundle in bundles]


# Tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [True, False])
def test_features_are_tokens_of_their_own_before_the_text(joint):
    made = vocab_training.train(PAIRS, VocabConfig(kind="char", joint=joint), bundles=True)
    assert made.features == ("3", "N", "PL", "PRS", "PST", "V")
    size = len(made.source)
    assert made.sizes == (size + 6, len(made.target))
    plain = made.source.encode(["gehen"])[0]
    (ids, none, unknown) = made.encode_sources(["gehen"] * 3, ["V;PST;3", "", "V;FUT"])
    assert (ids, none, unknown) == ([size + 5, size + 4, size, *plain], plain, [size + 5, UNK, *plain])
    assert made.source_pieces([*ids, EOS])[:3] == ["V", "PST", "3"]
    assert made.source_pieces([*ids, EOS])[3:] == made.source.pieces([*plain, EOS])
    tokens = tokenize(PAIRS[:2], made)
    assert tokens.source.sequence(0).tolist() == [*ids, EOS]


def test_a_letter_and_a_feature_of_the_same_name_are_two_tokens():
    made = vocab_training.train([Pair("N", "n", "N"), Pair("M", "m", "M")], VocabConfig(kind="char"), bundles=True)
    (first, *text) = made.encode_sources(["N"], ["N"])[0]
    assert first >= len(made.source) > max(text)


def test_without_features_everything_is_as_before(tmp_path):
    made = vocab_training.train(PAIRS, VocabConfig(kind="char"))
    assert (made.features, made.sizes) == ((), (len(made.source), len(made.target)))
    vocab.save(made, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["joint.model"]
    assert made.encode_sources(["gehen"], ["V;PST"]) == made.source.encode(["gehen"])


@pytest.mark.parametrize("joint", [True, False])
def test_load_gives_back_what_save_wrote(tmp_path, joint):
    made = vocab_training.train(PAIRS, VocabConfig(kind="char", joint=joint), bundles=True)
    plain = vocab_training.train(PAIRS, VocabConfig(kind="char", joint=joint))
    vocab.save(made, tmp_path)
    again = vocab.load(tmp_path, joint)
    assert (again.features, again.sha256, again.sizes) == (made.features, made.sha256, made.sizes)
    assert made.sha256 != plain.sha256 and made.source.sha256 == plain.source.sha256


@pytest.mark.parametrize("content", ["[", '{"a": 1}', "[1, 2]"])
def test_damaged_features_are_the_users_error(tmp_path, content):
    vocab.save(vocab_training.train(PAIRS, VocabConfig(kind="char"), bundles=True), tmp_path)
    (tmp_path / "features.json").write_text(content)
    with pytest.raises(UserError, match="holds a damaged vocabulary; restore it from a copy of the run directory"):
        vocab.load(tmp_path, joint=True)


def test_features_that_nobody_has_are_the_users_error():
    with pytest.raises(UserError, match=r"no training pair has a feature: data.features names a side that is blank throughout"):
        vocab_training.train([Pair("a", "b", " ; ")], VocabConfig(kind="char"), bundles=True)


def test_sampled_sources_keep_their_features(tmp_path):
    texts = [f"the {word} runs and runs" for word in ("dog", "cat", "man", "old man")] * 10
    lines = [Pair(text, text, "V;PST") for text in texts]
    made = vocab_training.train(lines, VocabConfig(kind="bpe", size=40), bundles=True)
    (ids,) = made.encode_sources(["the old cat runs"], ["PST;V"], (0.5, 3))
    assert made.source_pieces(ids[:2]) == ["PST", "V"]
    assert ids[2:] == made.source.sample(["the old cat runs"], 0.5, 3)[0] != made.source.encode(["the old cat runs"])[0]
    (tmp_path / "train.tsv").write_text("".join("\t".join(pair) + "\n" for pair in lines))
    data = DataConfig(format="tsv", folder=str(tmp_path), valid="train", source="0", target="1", features="2")
    drawn = open_tokens(Reader(data, "train", 1), made, data, None, Draw(0.5, 1, 0, (100, 100)))
    assert all(made.source_pieces(drawn.pairs.source.sequence(i)[:2]) == ["V", "PST"] for i in range(len(lines)))


# Corpora -----------------------------------------------------------------------------------------------------------

ROWS = [("gehen", "ging", "V;PST"), ("gehen", "geht", "V;PRS"), ("Hund", "Hunde", "N;PL")]


def write(folder, form):
    fields = {"source": "0", "target": "1", "features": "2"}
    if form == "text":
        for side in range(3):
            (folder / f"train.{side}").write_text("".join(f"{row[side]}\n" for row in ROWS))
    elif form in ("tsv", "csv"):
        (folder / f"train.{form}").write_text("".join("\t,"[form == "csv"].join(row) + "\n" for row in ROWS))
    else:
        fields = {"source": "lemma", "target": "form", "features": "tag.bundle"}
        records = [{"lemma": a, "form": b, "tag": {"bundle": c.split(";") if c == "V;PRS" else c}} for a, b, c in ROWS]
        text = json.dumps(records) if form == "json" else "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"train.{form}").write_text(text)
    return DataConfig(format=form, folder=str(folder), valid="train", test="", **fields)


@pytest.mark.parametrize("form", ["text", "tsv", "csv", "jsonl", "json"])
def test_every_format_has_a_place_for_them(tmp_path, form):
    data = write(tmp_path, form)
    assert load(data, "train", 1).pairs == ROWS


@pytest.mark.parametrize(
    ("form", "change", "said"),
    [
        (
            "tsv",
            {"features": "7"},
            "line 1 has 3 columns; data.source=0 and data.target=1, data.features=7 count from 0 and need at least 8",
        ),
        (
            "tsv",
            {"features": "1", "target": "2", "source": "1"},
            "data.source='1' and data.features='1' are both column 1; they must name two",
        ),
        ("jsonl", {"features": "tag"}, "line 1, field 'tag', must be a string, got an object; name a field in it: 'tag.bundle'"),
        ("jsonl", {"features": "tags"}, "line 1 has no field 'tags', only 'lemma', 'form', 'tag.bundle'"),
        ("text", {"features": "3"}, "there is no train.3 (or packed: .gz, .bz2, .xz, .zst)"),
    ],
)
def test_where_they_are_not_there_it_is_said(tmp_path, form, change, said):
    data = dataclasses.replace(write(tmp_path, form), **change)
    with pytest.raises(UserError) as caught:
        list(Reader(data, "train", 1))
    assert said in str(caught.value)


@pytest.mark.parametrize("form", ["text", "tsv", "csv", "jsonl", "json"])
def test_a_source_may_be_joined_of_several_places_and_features_too(tmp_path, form):
    rows = [("Hund", "Hunde", "N", "m", "PL"), ("Katze", "Katze", "N", "f", "SG"), ("so", "so", "", "-", "ADV")]
    data = {"source": "a+c", "target": "form", "features": "b+d"}
    if form == "text":
        for side, name in enumerate(("a", "form", "b", "c", "d")):
            (tmp_path / f"train.{name}").write_text("".join(f"{row[side]}\n" for row in rows))
    elif form in ("tsv", "csv"):
        data = {"source": "0+3", "target": "1", "features": "2+4"}
        (tmp_path / f"train.{form}").write_text("".join("\t,"[form == "csv"].join(row) + "\n" for row in rows))
    else:
        data["source"] = "a+of.c"
        records = [{"a": row[0], "form": row[1], "b": [row[2]] * bool(row[2]), "of": {"c": row[3]}, "d": row[4]} for row in rows]
        text = json.dumps(records) if form == "json" else "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"train.{form}").write_text(text)
    found = load(DataConfig(format=form, folder=str(tmp_path), valid="train", test="", **data), "train", 1).pairs
    assert found == [(f"{row[0]} {row[3]}", row[1], f"{row[2]} {row[4]}") for row in rows]
    assert [features.split(pair.features) for pair in found] == [["N", "PL"], ["N", "SG"], ["ADV"]]


def test_a_name_with_a_plus_is_one(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"a+b": "x", "c": "y"}\n')
    (tmp_path / "named.tsv").write_text("a+b\tc\nx\ty\n")
    data = DataConfig(format="jsonl", folder=str(tmp_path), source="a+b", target="c", valid="x", test="")
    assert load(data, "train", 1).pairs == [Pair("x", "y")]
    assert load(dataclasses.replace(data, format="tsv", train="named", header=True), "train", 1).pairs == [Pair("x", "y")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "0+9"}, "data.source=0+9 and data.target=1, data.features=2 count from 0 and need at least 10"),
        ({"source": "0+1"}, "data.source='0+1' and data.target='1' are both column 1; they must name two"),
        ({"source": "0+x"}, "data.source='0+x' must be a column number, from 0"),
        ({"source": "0+"}, "data.source='0+' must be a column number, from 0"),
    ],
)
def test_what_is_joined_must_be_there(tmp_path, change, said):
    data = dataclasses.replace(write(tmp_path, "tsv"), **change)
    with pytest.raises(UserError) as caught:
        list(Reader(data, "train", 1))
    assert said in str(caught.value)


def test_aligned_files_of_features_have_equally_many_lines(tmp_path):
    data = write(tmp_path, "text")
    (tmp_path / "train.2").write_text("V\n")
    with pytest.raises(UserError, match=r"train.0 has 3 lines and .*train.2 1; aligned files must have equally many"):
        list(Reader(data, "train", 1))


def test_a_held_out_lemma_takes_all_its_forms_along(tmp_path):
    rows = [(f"w{number // 5}", f"w{number}", f"F{number % 5}") for number in range(100)]
    (tmp_path / "train.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    data = DataConfig(format="tsv", folder=str(tmp_path), source="0", target="1", features="2", valid="", test="", held_out_pairs=10)
    train, valid = (load(data, split, 3).pairs for split in ("train", "valid"))
    assert len(valid) == 10 and len({pair.source for pair in valid}) == 2
    assert not {pair.source for pair in train} & {pair.source for pair in valid}


def test_a_tokenized_corpus_knows_its_features(tmp_path):
    """Kept on disk by a hash of all that is in it: other features are another corpus."""
    data = write(tmp_path, "tsv")
    kept = tmp_path / "kept"
    kept.mkdir()
    reader = Reader(data, "train", 1)
    made = vocab_training.train(reader, VocabConfig(kind="char"), bundles=True)
    first = open_tokens(reader, made, data, kept)
    assert first.pairs.source.sequence(0).tolist() == [*made.encode_sources(["gehen"], ["V;PST"])[0], EOS]
    (tmp_path / "train.tsv").write_text((tmp_path / "train.tsv").read_text().replace("PST", "PRS"))
    assert open_tokens(reader, made, data, kept).sha256 != first.sha256
