"""Words of CoNLL-U: which lines are words, what of their columns is a pair, and what is said of a line that is none."""

import gzip
import itertools

import pytest
from tiny import sides

from flax_s2s.config import DataConfig, UserError
from flax_s2s.data import conllu, files
from flax_s2s.data.corpus import Reader

# "Vámonos al mar ." with a multiword token, an empty node, a word that is an underscore, and one without a lemma.
TREE = """# sent_id = 1
# text = Vámonos al mar _
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\tMood=Imp|Number=Plur\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\tCase=Acc\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\tE\t_\t5\tcase\t_\t_
4\tel\tel\tDET\t_\tDefinite=Def\t5\tdet\t_\t_
4.1\tgran\tgrande\tADJ\t_\t_\t_\t_\t5:amod\t_
5\tmar\tmar\tNOUN\t_\tNumber=Sing\t1\tobl\t_\tSpaceAfter=No|Gloss=sea

6\t_\t_\tPUNCT\t_\t_\t1\tpunct\t_\t_
7\t10 000\t_\tNUM\t_\t_\t1\tdep\t_\t_
"""
PAIRS = [("Vamos", "ir"), ("nos", "nosotros"), ("a", "a"), ("el", "el"), ("mar", "mar"), ("_", "_")]


def data(folder, **fields):
    usual = {"format": "conllu", "folder": str(folder), "source": "FORM", "target": "LEMMA", "valid": "", "test": ""}
    return DataConfig(**usual | fields)


def message(folder, content, **fields):
    (folder / "train.conllu").write_text(content)
    with pytest.raises(UserError) as caught:
        list(Reader(data(folder, **fields), "train", 1))
    return str(caught.value).removeprefix(f"{folder}/train.conllu ")


def test_each_word_is_a_pair(tmp_path):
    (tmp_path / "train.conllu").write_text(TREE)
    reader = Reader(data(tmp_path, valid="x"), "train", 1)
    assert sides(reader) == PAIRS
    assert reader.counts.left_out == {"blank": 1}  # 10 000 has no lemma
    (tmp_path / "train.conllu").unlink()
    (tmp_path / "train.conllu.gz").write_bytes(gzip.compress(f"\ufeff{TREE}".replace("\n", "\r\n").encode()))
    assert sides(Reader(data(tmp_path, valid="x", source="form", target="Lemma"), "train", 1)) == PAIRS


def test_features_are_those_of_several_columns(tmp_path):
    (tmp_path / "train.conllu").write_text(TREE)
    pairs = list(Reader(data(tmp_path, valid="x", source="LEMMA", target="FORM", features="upos+feats"), "train", 1))
    assert [pair.features.split() for pair in pairs[:3]] == [["VERB", "Mood=Imp|Number=Plur"], ["PRON", "Case=Acc"], ["ADP"]]
    assert {pair.features for pair in Reader(data(tmp_path, valid="x", features="XPOS"), "train", 1)} == {"", "E"}


def test_a_file_may_name_its_own_columns(tmp_path):
    (tmp_path / "train.conllu").write_text("# global.columns = ID FORM LEMMA Phones\n1\tSee\tsee\tz e:\n")
    assert sides(Reader(data(tmp_path, valid="x", source="form", target="phones"), "train", 1)) == [("See", "z e:")]


def test_validation_is_held_out_of_words(tmp_path):
    (tmp_path / "train.conllu").write_text("".join(f"{i}\tw{i}\tl{i}\tX\t_\t_\t0\troot\t_\t_\n" for i in range(1, 41)))
    train, valid = (sides(Reader(data(tmp_path, held_out_pairs=3), split, 1)) for split in ("train", "valid"))
    assert len(valid) == 3 and sorted([*train, *valid]) == sorted((f"w{i}", f"l{i}") for i in range(1, 41))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "# x\n1\tVamos\tir\n",
            "line 2 has 3 columns; a word of CoNLL-U has 10, separated by tabs: ID, FORM, LEMMA, UPOS, XPOS, FEATS, HEAD, DEPREL, DEPS, MISC; "
            "correct the line",
        ),
        (TREE.replace("\t", "  "), "line 3 has 1 columns; a word of CoNLL-U has 10, separated by tabs: ID, FORM, LEMMA, UPOS, XPOS"),
        (TREE.replace("4.1", "4,1"), "line 9 has the ID '4,1'; it must be a number, or two such as 1-2 or 1.1; correct the line"),
        ("# nothing\n\n", "train of {} has no pairs; check data.train"),
    ],
)
def test_lines_that_are_no_words(tmp_path, content, said):
    assert message(tmp_path, content).startswith(said.format(tmp_path))


def test_a_column_that_is_not_there(tmp_path):
    told = message(tmp_path, TREE, target="lema")
    assert told.startswith("line 4 has no field 'LEMA', only 'ID', 'FORM', 'LEMMA', 'UPOS'") and told.endswith("; did you mean 'LEMMA'?")


def test_words_are_read_as_they_come(tmp_path):
    (tmp_path / "x").write_text("1\ta\tb\tX\t_\t_\t0\troot\t_\t_\n" * 3 + "1\tbroken\n")
    first = list(itertools.islice(conllu.words(files.File(tmp_path / "x")), 3))
    assert [word["FORM"] for _, word in first] == ["a"] * 3
