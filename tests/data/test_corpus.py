import dataclasses
import gzip
import json
import logging
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import strategies as st
from tiny import sides

from flax_s2s.config import DataConfig, UserError
from flax_s2s.data import corpus, datasets, files, phrases
from flax_s2s.data.corpus import Pair, Reader, load

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the corpora of {SHARED} are not here")


def text_config(folder, **fields):
    return DataConfig(**{"format": "text", "folder": str(folder), "source": "en", "target": "de", **fields})


def write(folder, **contents):
    """write(folder, train__en=b"...") writes the file train.en."""
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def write_pairs(folder, pairs, name="train"):
    return write(folder, **{f"{name}__{side}": "".join(f"{pair[i]}\n" for pair in pairs).encode() for i, side in enumerate(("en", "de"))})


def numbered(count):
    return [Pair(f"source {i}", f"target {i}") for i in range(count)]


def message(data, split="train"):
    with pytest.raises(UserError) as caught:
        load(data, split, 1)
    return str(caught.value)


# Lines


sentences = st.text(st.characters(codec="utf-8", exclude_characters="\n")).filter(lambda text: text.strip() and text[-1] != "\r")


@hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(pairs=st.lists(st.tuples(sentences, sentences), min_size=1), ends=st.tuples(*[st.sampled_from(["\n", "\r\n"])] * 2))
def test_any_text_comes_back_unchanged(tmp_path, pairs, ends):
    hypothesis.assume(not any(text.startswith("\ufeff") for text in pairs[0]))
    for i, side in enumerate(("en", "de")):
        (tmp_path / f"train.{side}").write_bytes("".join(pair[i] + ends[i] for pair in pairs).encode())
    assert sides(load(text_config(tmp_path), "train", 1).pairs) == pairs


def test_lines_end_with_newline_only(tmp_path):
    hostile = "a\rb\x0bc\x0cd\x1ce\x85f\u2028g\u2029h"
    write(tmp_path, train__en=f"{hostile}\nlast".encode(), train__de=b"eins\r\nzwei\r\n")
    assert sides(load(text_config(tmp_path), "train", 1).pairs) == [(hostile, "eins"), ("last", "zwei")]


def test_a_byte_order_mark_is_dropped_at_the_start_only(tmp_path):
    write(tmp_path, train__en=b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n", train__de=b"eins\nzwei\n")
    assert sides(load(text_config(tmp_path), "train", 1).pairs) == [("one", "eins"), ("\ufefftwo", "zwei")]


def test_a_pair_with_a_blank_side_is_left_out_and_counted(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path, **{f"{split}__en": b"one\n \t\nthree\n\n", f"{split}__de": "eins\nzwei\n\u3000\n\n".encode()})
        read = load(text_config(tmp_path), split, 1)
        assert (sides(read.pairs), read.blank, read.families) == ([("one", "eins")], 3, ())
        assert read.name == f"{split} of {tmp_path}"


def test_max_train_pairs_counts_pairs_that_are_kept_and_only_in_train(tmp_path):
    pairs = [("", "x"), *numbered(9)]
    write_pairs(write_pairs(tmp_path, pairs), pairs, "valid")
    config = text_config(tmp_path, max_train_pairs=4)
    assert load(config, "train", 1).pairs == numbered(4)
    assert load(config, "valid", 1).pairs == numbered(9)


def test_invalid_utf8_names_file_and_line(tmp_path):
    write(tmp_path, train__en=b"one\ntwo\n", train__de=b"eins\nzw\xffei\n")
    assert f"{tmp_path}/train.de line 2 is not UTF-8: invalid start byte at byte 3" in message(text_config(tmp_path))


def test_unequal_numbers_of_lines_name_where_the_files_slip(tmp_path):
    write(tmp_path, train__en=b"1\n2\n\n4\n5\n", train__de=b"1\n2\n3\n4")
    expected = "train.en has 5 lines and {0}/train.de 4; aligned files must have equally many; the first line where only one is blank is 3"
    assert message(text_config(tmp_path)).endswith(expected.format(tmp_path))
    write(tmp_path, train__en=b"1\n2\n3\n4\n5\n")
    assert message(text_config(tmp_path)).endswith("aligned files must have equally many")


def test_unequal_files_are_found_even_when_few_pairs_are_used(tmp_path):
    write(tmp_path, train__en=b"1\n2\n3\n", train__de=b"1\n2\n")
    assert "has 3 lines" in message(text_config(tmp_path, max_train_pairs=1))


@pytest.mark.parametrize(("content", "expected"), [(b"", "; check data.train"), (b"\n \n", " but 2 with a blank side; check data.train")])
def test_an_empty_corpus_is_an_error(tmp_path, content, expected):
    write(tmp_path, train__en=content, train__de=content)
    assert message(text_config(tmp_path)) == f"train of {tmp_path} has no pairs{expected}"


# Files


def test_each_side_may_be_gzipped_and_the_plain_file_comes_first(tmp_path):
    write(tmp_path, train__en__gz=gzip.compress(b"one\n"), train__de=b"eins\n", train__de__gz=gzip.compress(b"zwei\n"))
    assert sides(load(text_config(tmp_path), "train", 1).pairs) == [("one", "eins")]


def test_the_side_may_stand_inside_the_name(tmp_path):
    write(tmp_path / "en", a__txt=b"one\n")
    write(tmp_path / "de", a__txt__gz=gzip.compress(b"eins\n"))
    assert sides(load(text_config(tmp_path, train="{side}/a.txt"), "train", 1).pairs) == [("one", "eins")]


WHOLE = gzip.compress(b"one two three four\n" * 9, mtime=0)


DAMAGES = {"cut": WHOLE[:-9], "changed": WHOLE[:15] + b"\xff\xff" + WHOLE[17:], "no gzip": b"no gzip", "cut in its header": WHOLE[:5]}


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_gzip_file_is_named(tmp_path, damaged):
    write(tmp_path, train__en__gz=damaged, train__de=b"eins\n" * 9)
    assert f"{tmp_path}/train.en.gz is not a whole packed file: " in message(text_config(tmp_path))


def test_a_missing_file_names_the_nearest_one_and_a_missing_folder_itself(tmp_path):
    write_pairs(tmp_path, numbered(1))
    missing = message(text_config(tmp_path, train="trian"))
    assert missing == f"data.train='trian': there is no trian.en (or packed: .gz, .bz2, .xz, .zst) in {tmp_path}; did you mean 'train.en'?"
    assert f"{tmp_path}/nowhere cannot be read: No such file or directory; set data.folder" in message(text_config(tmp_path / "nowhere"))
    assert "there is no trian.en.gz (or packed" in message(text_config(tmp_path, train="trian.{side}.gz"))


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    write_pairs(tmp_path, numbered(1))
    (tmp_path / "valid.en").mkdir()
    assert message(text_config(tmp_path), "valid") == f"{tmp_path}/valid.en cannot be read: Is a directory"

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(files.epath.Path(tmp_path)), "open", refuse)
    assert message(text_config(tmp_path)) == f"{tmp_path}/train.en cannot be read: Permission denied"


@pytest.mark.parametrize("name", ["../secret/train", "a/../../secret/train", "/etc/train", "../secret/{side}"])
@pytest.mark.parametrize("format", ["text", "tsv", "jsonl"])
def test_a_split_stays_inside_its_folder(tmp_path, name, format):
    write_pairs(tmp_path / "secret", numbered(1))
    (tmp_path / "data").mkdir()
    data = text_config(tmp_path / "data", train=name, format=format)
    assert "must name a file inside data.folder=" in message(data)


def test_a_side_cannot_leave_the_folder_either(tmp_path):
    assert "must name a file inside" in message(text_config(tmp_path, source="/../../etc/passwd"))


def test_an_impossible_folder_is_an_error():
    assert "has the unknown scheme 'http://'; use a path" in message(text_config("http://nowhere"))
    assert "cannot be read: embedded null byte" in message(text_config("nul\0"))


def test_a_folder_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    write_pairs(tmp_path / "here", numbered(2))
    monkeypatch.chdir(tmp_path)
    assert load(text_config("here"), "train", 1).pairs == numbered(2)
    monkeypatch.chdir("here")
    assert load(text_config(""), "train", 1).name == "train of ."


# TSV


def tsv_config(folder, **fields):
    return text_config(folder, **{"format": "tsv", "source": "0", "target": "2", **fields})


@pytest.mark.parametrize("file", ["train", "train__tsv", "train__tsv__gz"])
def test_tsv_columns_and_its_three_names(tmp_path, file):
    content = b'"a\tskipped\tb"\tmore\nc\t\td\r\n'
    write(tmp_path, **{file: gzip.compress(content) if file.endswith("gz") else content})
    assert sides(load(tsv_config(tmp_path), "train", 1).pairs) == [('"a', 'b"'), ("c", "d")]
    assert sides(load(tsv_config(tmp_path, source="2", target="0"), "train", 1).pairs) == [('b"', '"a'), ("d", "c")]


def test_tsv_errors(tmp_path):
    write(tmp_path, train__tsv=b"a\tb\tc\nd\te\n")
    assert message(tsv_config(tmp_path)) == (
        f"{tmp_path}/train.tsv line 2 has 2 columns; data.source=0 and data.target=2 count from 0 and need at least 3"
    )
    for number in ("en", "-1", "1.0", "", "\u0663", "9" * 5000):
        assert message(tsv_config(tmp_path, source=number)).startswith(f"data.source={number!r} must be a column number")
    assert "there is no dev or dev.tsv (or packed: .gz, .bz2, .xz, .zst) in" in message(tsv_config(tmp_path, valid="dev"), "valid")


# JSONL


def write_jsonl(folder, *records):
    return write(folder, train__jsonl="".join(f"{json.dumps(record)}\n" for record in records).encode())


def jsonl_config(folder, **fields):
    return text_config(folder, format="jsonl", **fields)


def test_jsonl_fields_with_line_breaks_replaced(tmp_path):
    write_jsonl(tmp_path, {"en": "one\ntwo\r\n\r\nthree", "id": 3, "de": "eins\u2028zwei"}, {"de": "b", "en": "a"})
    pairs = [("one two three", "eins\u2028zwei"), ("a", "b")]
    assert sides(load(jsonl_config(tmp_path), "train", 1).pairs) == pairs
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress((tmp_path / "train.jsonl").read_bytes()))
    (tmp_path / "train.jsonl").unlink()
    assert sides(load(jsonl_config(tmp_path), "train", 1).pairs) == pairs


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"en": "a"', "line 2 is not JSON: Expecting ',' delimiter"),
        ("[" * 100_000, "line 2 is not JSON: maximum recursion depth exceeded"),
        ("1" * 5_000, "line 2 is not JSON: Exceeds the limit"),
        ('["a", "b"]', "line 2 must be an object such as {'en': ...}, got list"),
        ('{"eng": "a", "de": "b"}', "line 2 has no field 'en', only 'eng', 'de'; did you mean 'eng'?"),
        ("{}", "line 2 has no field 'en', only none"),
        ('{"en": "a", "de": 7}', "line 2, field 'de', must be a string, got int"),
        ('{"en": "a", "de": null}', "line 2, field 'de', must be a string, got NoneType"),
        ('{"en": "a\\ud800", "de": "b"}', "line 2, field 'en', is not Unicode text: 'utf-8' codec can't encode character '\\ud800'"),
    ],
)
def test_jsonl_errors(tmp_path, line, expected):
    write(tmp_path, train__jsonl=f'{{"en": "x", "de": "y"}}\n{line}\n'.encode())
    assert expected in message(jsonl_config(tmp_path))


# Held-out pairs


def drawn(count, total, seed):
    return sorted(np.random.default_rng(seed).choice(total, count, replace=False).tolist())


@pytest.mark.parametrize("seed", [2, 7])
def test_pairs_with_sources_of_their_own_are_held_out_as_ever(tmp_path, seed):
    """Whatever their targets: of 1,000 labeled items 50 are drawn, and 950 are trained on."""
    pairs = [Pair(f"item {i:04}", ("positive", "negative")[i % 2] if i % 200 != 7 else "neutral") for i in range(1_000)]
    write_pairs(tmp_path, pairs)
    data = text_config(tmp_path, valid="", held_out_pairs=50)
    train, valid = load(data, "train", seed).pairs, load(data, "valid", seed).pairs
    assert valid == [pairs[i] for i in drawn(50, 1_000, seed)]
    assert train == [pair for pair in pairs if pair not in set(valid)]
    assert len(train) == 950


def test_a_source_is_held_out_with_all_its_pairs(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [Pair(f"s{a}", f"t{b}") for a, b in rng.integers(0, 400, (600, 2))]
    write_pairs(tmp_path, [("", ""), *pairs])
    data = text_config(tmp_path, valid="", held_out_pairs=50)
    reader = Reader(data, "train", 7)
    train, valid = list(reader), load(data, "valid", 7)
    sources = {pair.source for pair in valid.pairs}
    assert train == [pair for pair in pairs if pair.source not in sources]
    assert valid.pairs == [pair for pair in pairs if pair.source in sources]
    assert (reader.counts.held_out, reader.counts.left_out) == (len(valid.pairs), {"blank": 1})
    assert (valid.blank, valid.name) == (0, f"valid of {tmp_path}")
    assert 50 <= len(valid.pairs) < 50 + max(Counter(pair.source for pair in pairs).values())
    assert sources <= {pairs[i].source for i in drawn(50, 600, 7)}
    assert load(data, "valid", 7).pairs == valid.pairs != load(data, "valid", 8).pairs


def test_no_more_sources_are_held_out_than_the_pairs_need(tmp_path):
    """A hundred pairs of a hundred sources with ten targets each: ten sources, not sixty-five."""
    pairs = [Pair(f"s{i // 10}", f"t{i}") for i in range(1_000)]
    write_pairs(tmp_path, pairs)
    data = text_config(tmp_path, valid="", held_out_pairs=100)
    assert (len(load(data, "valid", 1).pairs), len(load(data, "train", 1).pairs)) == (100, 900)


def test_held_out_pairs_come_from_the_pairs_that_are_used(tmp_path):
    write_pairs(tmp_path, numbered(300))
    data = text_config(tmp_path, valid="", held_out_pairs=10, max_train_pairs=100)
    held = load(data, "valid", 1).pairs + load(data, "train", 1).pairs
    assert sorted(held) == sorted(numbered(100))


def test_held_out_errors(tmp_path):
    write_pairs(tmp_path, numbered(99))
    data = text_config(tmp_path, valid="", held_out_pairs=10)
    assert [len(load(data, split, 1).pairs) for split in ("train", "valid")] == [90, 9]  # a tenth
    write_pairs(tmp_path, [("always", f"t{i}") for i in range(100)])
    assert message(data).endswith("has a source that is held out; name a validation split in data.valid")
    write_pairs(tmp_path, numbered(5))
    assert message(data).endswith("has 5 pairs, and validation pairs are at most a tenth of it; name a validation split in data.valid")


def test_an_empty_name_is_no_split(tmp_path):
    write_pairs(tmp_path, numbered(9))
    assert (
        message(text_config(tmp_path, test=""), "test")
        == "there is no test split, because data.test is empty; name it there, or use --split valid"
    )
    assert "there is no train split" in message(text_config(tmp_path, train="", valid=""), "valid")


# Readers


def test_a_reader_reads_anew_and_counts_anew(tmp_path):
    write_pairs(tmp_path, [("", "x"), *numbered(3), ("y", " ")])
    reader = Reader(text_config(tmp_path), "train", 1)
    for _ in range(2):
        assert list(reader) == numbered(3)
        assert reader.blank == 2
    write_pairs(tmp_path, numbered(2))
    assert (list(reader), reader.blank) == (numbered(2), 0)


def test_a_reader_holds_no_file_in_memory(tmp_path):
    """Of a file of many long lines only a few are read for the first pair."""
    line = b"word " * 2_000 + b"\n"
    write(tmp_path, train__en=line * 2_000, train__de=line * 2_000)  # 20 MB a side
    reader = Reader(text_config(tmp_path), "train", 1)
    tracemalloc.start()
    count = sum(1 for _ in reader)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2_000
    assert peak < 2e6


@pytest.mark.parametrize(
    "fields",
    [
        {"train": "other"},
        {"source": "de", "target": "en"},
        {"max_train_pairs": 2},
        {"max_source_tokens": 7},
        {"valid": "", "held_out_pairs": 1},
    ],
)
def test_the_fingerprint_tells_what_decides_the_pairs(tmp_path, fields):
    write_pairs(write_pairs(tmp_path, numbered(20)), numbered(21), "other")
    plain = Reader(text_config(tmp_path), "train", 1).fingerprint()
    assert Reader(text_config(tmp_path, **fields), "train", 1).fingerprint() != plain


def test_the_fingerprint_is_of_the_content(tmp_path):
    write_pairs(tmp_path / "a", numbered(20))
    write_pairs(tmp_path / "b", numbered(20))
    config = text_config(tmp_path / "a")
    plain = Reader(config, "train", 1).fingerprint()
    same = [text_config(tmp_path / "b"), dataclasses.replace(config, batch_tokens=4096, buckets=3)]
    assert {Reader(data, "train", 1).fingerprint() for data in same} == {plain}
    write_pairs(tmp_path / "a", [*numbered(19), Pair("source 19", "target 20")])
    assert Reader(config, "train", 1).fingerprint() != plain
    assert Reader(DataConfig(format="phrases", max_train_pairs=9), "train", 1).fingerprint() is None


# Phrases


def test_phrases_with_their_families():
    data = DataConfig(format="phrases", source="en", target="de", max_train_pairs=50)
    made = phrases.generate("en", "de", 50, 3, "train")
    train = load(data, "train", 3)
    assert sides(train.pairs) == [(phrase.source, phrase.target) for phrase in made]
    assert train.families == tuple(phrase.family for phrase in made)
    assert (train.name, train.blank) == ("train of phrases en-de", 0)


def test_phrases_of_valid_and_test_do_not_depend_on_max_train_pairs():
    data = DataConfig(format="phrases", source="en", target="de", max_train_pairs=20)
    for split in ("valid", "test"):
        made = phrases.generate("en", "de", corpus.PHRASES_HELD_OUT, 1, split)
        assert sides(load(data, split, 1).pairs) == [(phrase.source, phrase.target) for phrase in made]


def test_held_out_phrases_keep_their_families():
    data = DataConfig(format="phrases", source="en", target="de", max_train_pairs=200, valid="", held_out_pairs=20)
    families = {(p.source, p.target): p.family for p in phrases.generate("en", "de", 200, 1, "train")}
    for split in ("train", "valid"):
        read = load(data, split, 1)
        assert read.families == tuple(families[pair] for pair in sides(read.pairs))


# TFDS


class TinyTranslate(tfds.core.GeneratorBasedBuilder):
    """Twelve pairs, written and read without tensorflow."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, description=name) for name in ("de-en", "fr-en")]  # noqa: RUF012

    def _info(self):
        text = tfds.features.Text
        features = {"en": text(), "de": text(), "n": np.int64, "meta": {"title": text()}}
        return tfds.core.DatasetInfo(
            builder=self, description="test", features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(12), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"en": f"one\nline {i}", "de": f"größer {i}" if i else " ", "n": i, "meta": {"title": f"title {i}"}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.builder("tiny_translate/de-en", data_dir=folder, file_format="array_record").download_and_prepare()
    assert "tensorflow" not in sys.modules
    return folder


def tfds_config(folder, **fields):
    return text_config(folder, **{"format": "tfds", "dataset": "tiny_translate/de-en", **fields})


def test_tfds_reads_array_record_in_order(prepared):
    read = load(tfds_config(prepared), "train", 1)
    assert sides(read.pairs) == [(f"one line {i}", f"größer {i}") for i in range(1, 12)]
    assert (read.blank, read.name) == (1, "train of tiny_translate/de-en")
    assert "tensorflow" not in sys.modules


def test_tfds_slices_nested_features_and_limits(prepared, monkeypatch):
    monkeypatch.setattr(datasets, "_READ", 5)
    data = tfds_config(prepared, train="train[50%:]", target="meta/title", max_train_pairs=4)
    assert sides(load(data, "train", 1).pairs) == [(f"one line {i}", f"title {i}") for i in range(6, 10)]
    assert len(load(tfds_config(prepared, train="train+test"), "train", 1).pairs) == 13


def test_the_fingerprint_of_a_dataset_is_of_its_files(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    data = tfds_config(tmp_path)
    plain = Reader(tfds_config(prepared), "train", 1).fingerprint()
    assert plain is not None
    assert Reader(data, "train", 1).fingerprint() == plain
    assert Reader(dataclasses.replace(data, train="test"), "train", 1).fingerprint() != plain
    shard = next(tmp_path.glob("tiny_translate/de-en/1.0.0/*train*"))
    shard.write_bytes(shard.read_bytes() + b" ")
    assert Reader(data, "train", 1).fingerprint() != plain
    with tfds.testing.mock_data(num_examples=7):
        mocked = DataConfig(format="tfds", dataset="wmt16_translate/de-en", source="de", target="en")
        assert Reader(mocked, "train", 1).fingerprint() is None


def test_tfds_holds_out_of_train(prepared):
    data = tfds_config(prepared, valid="", held_out_pairs=1)
    assert len(load(data, "train", 1).pairs) == 10
    assert len(load(data, "valid", 1).pairs) == 1


def test_tfds_reads_what_has_no_code_here(prepared, tmp_path):
    shutil.copytree(prepared / "tiny_translate", tmp_path / "elsewhere_translate")
    version = tmp_path / "elsewhere_translate/de-en/1.0.0"
    for file in version.iterdir():
        if file.suffix == ".json":
            file.write_text(file.read_text().replace("tiny_translate", "elsewhere_translate"))
        file.rename(version / file.name.replace("tiny_translate", "elsewhere_translate"))
    data = tfds_config(tmp_path, dataset="elsewhere_translate/de-en")
    assert load(data, "train", 1).pairs == load(tfds_config(prepared), "train", 1).pairs


def test_tfds_presets_of_the_translate_package_are_known():
    with tfds.testing.mock_data(num_examples=7):
        pairs = load(DataConfig(format="tfds", dataset="wmt16_translate/de-en", source="de", target="en"), "train", 1).pairs
    assert len(pairs) == 7
    assert all(isinstance(text, str) and text.strip() for pair in sides(pairs) for text in pair)


def test_tfds_joins_features_and_makes_a_pair_of_each_of_several_targets():
    answers = {"text": np.array([b"in 1844", b"1844", b"in 1844"], object), "answer_start": np.array([3, 6, 3])}
    rows = [{"question": b"When?", "context": "It was\nin 1844.", "id": b"1", "answers": answers}]
    rows.append(rows[0] | {"answers": {"text": ["then"], "answer_start": [0]}})
    rows.append(rows[0] | {"answers": {"text": np.array([], object), "answer_start": np.array([], np.int32)}})
    data = DataConfig(format="tfds", dataset="squad/v1.1", source="question+context", target="answers/text")
    with tfds.testing.mock_data(as_data_source_fn=lambda builder, split: rows):
        read = load(data, "train", 1)
        assert read.pairs == [Pair("When? It was in 1844.", answer) for answer in ("in 1844", "1844", "then")]
        assert read.blank == 1  # the question without an answer
        reader = Reader(data, "train", 1)
        list(reader)
        assert reader.counts.left_out == {"blank": 1, "repeated target": 1}
        turned_data = dataclasses.replace(data, source="answers/text", target="question")
        turned = load(turned_data, "train", 1)
        assert turned.pairs == [Pair("in 1844", "When?"), Pair("then", "When?")]
        reader = Reader(turned_data, "train", 1)
        list(reader)
        assert reader.counts.left_out == {"blank": 1, "further source": 1}
        told = message(dataclasses.replace(data, source="question+contxt"))
    assert "has no text feature 'contxt'" in told and "did you mean 'context'?" in told


def test_a_tfds_source_may_be_a_list():
    rows = [{"de": b"eins", "en": b"one"}, {"de": b"zwei", "en": b"two"}]
    with tfds.testing.mock_data(as_data_source_fn=lambda builder, split: rows):
        read = load(DataConfig(format="tfds", dataset="wmt16_translate/de-en", source="de", target="en"), "train", 1)
    assert sides(read.pairs) == [("eins", "one"), ("zwei", "two")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dataset": "wmt99_translate/fr-en"}, "data.dataset='wmt99_translate/fr-en' is not known to TFDS, nor prepared in "),
        ({"dataset": "wmt99_translate/fr-en"}, "; did you mean 'wmt"),
        ({"dataset": "tiny_translate/de-fr"}, "tiny_translate has no configuration 'de-fr'; it has de-en, fr-en; did you mean 'de-en'?"),
        ({"dataset": "wmt14_translate/xx-en"}, "has no configuration 'xx-en'; it has cs-en, de-en, fr-en, hi-en, ru-en"),
        ({"dataset": "tiny_translate/de-en:2.0.0"}, "cannot be opened by TFDS: AssertionError: Failed to construct dataset"),
        ({"dataset": "no name!"}, "data.dataset='no name!' cannot be opened by TFDS: ValueError: Parsing builder name string"),
        ({"train": "training"}, "Unknown split 'training'. Should be one of ['train', 'test']; did you mean 'train'?"),
        ({"train": "train[90:]"}, "data.train='train[90:]' cannot be read from tiny_translate/de-en/1.0.0: ValueError: Requested slice"),
        ({"target": "ded"}, "tiny_translate/de-en/1.0.0 has no text feature 'ded', only de, en, meta/title; did you mean 'de'?"),
        ({"target": "n"}, "has no text feature 'n', only de, en, meta/title"),
        ({"dataset": "tiny_translate/fr-en"}, "tiny_translate/fr-en/1.0.0 is not prepared in "),
        ({"dataset": "tiny_translate/fr-en"}, 'file_format="array_record").download_and_prepare()'),
    ],
)
def test_tfds_errors(prepared, caplog, capfd, fields, expected):
    assert expected in message(tfds_config(prepared, **fields))
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:4%]", "it is train[0:0]; train of tiny_translate/de-en/1.0.0 has 12 examples"),  # "Paths sequence can not be of 0 length"
        ("train[12:]", "it is train[12:12]; train"),
        ("train[3:2]", "it is train[3:2]; train"),  # of which TFDS 4.9 gives two examples
        ("train[:4%]+test", "it is train[0:0]; train"),
        ("train+test[3:]", "it is test[3:3]; test of tiny_translate/de-en/1.0.0 has 3 examples"),
    ],
)
def test_an_empty_slice_is_said_to_be_one(prepared, split, expected):
    """tensorflow_datasets 4.9.10, core/splits.py: a slice without examples has no files to read, and one that ends before it begins is read."""
    told = message(tfds_config(prepared, train=split))
    assert told.startswith(f"data.train={split!r}: the slice holds no example, {expected}")


def test_the_command_that_prepares_a_dataset_works(tmp_path):
    told = message(tfds_config(tmp_path, dataset="tiny_translate/fr-en"))
    command = told.split("python -c '")[1].split("'")[0]
    exec(command, {})
    assert len(load(tfds_config(tmp_path, dataset="tiny_translate/fr-en"), "train", 1).pairs) == 11


def test_tfrecord_needs_tensorflow_and_the_error_says_so(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    info = tmp_path / "tiny_translate/de-en/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert message(tfds_config(tmp_path)) == (
        f"tiny_translate/de-en/1.0.0 is stored in {info.parent} as tfrecord, which only tensorflow reads; convert it once: "
        f"pip install tensorflow; tfds convert_format --dataset_version_dir={info.parent} --out_file_format=array_record"
    )


def test_damaged_tfds_files_are_named(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    version = tmp_path / "tiny_translate/de-en/1.0.0"
    shard = version / "tiny_translate-train.array_record-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:50])
    assert "tiny_translate/de-en/1.0.0 cannot be read by TFDS: RuntimeError: ArrayRecord" in message(tfds_config(tmp_path))
    shard.unlink()
    assert "No such file or directory" in message(tfds_config(tmp_path))
    (version / "dataset_info.json").write_text("{")
    assert "cannot be opened by TFDS: ParseError: " in message(tfds_config(tmp_path))


def test_the_log_level_of_others_is_restored(prepared):
    level = logging.getLogger("absl").level
    message(tfds_config(prepared, dataset="tiny_translate/fr-en"))
    assert logging.getLogger("absl").level == level


def test_the_import_loads_neither_jax_nor_tfds():
    code = "import sys, flax_s2s.data.corpus; print([name for name in ('jax', 'tensorflow_datasets', 'tensorflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Real corpora


@needs_shared
def test_multi30k():
    data = text_config(SHARED / "multi30k")
    assert [len(load(data, split, 1).pairs) for split in ("train", "valid", "test")] == [29_000, 1_014, 1_000]
    assert load(data, "test", 1).pairs[0].source.startswith("A man in an orange hat")


@needs_shared
def test_gzipped_training_files():
    data = text_config(SHARED / "debian-synopsis", source="text", target="summary")
    train, valid = load(data, "train", 1), load(data, "valid", 1)
    assert (len(train.pairs), train.blank, len(valid.pairs)) == (54_461, 0, 1_000)


@needs_shared
def test_a_corpus_without_validation_set():
    data = text_config(SHARED / "scan" / "simple", source="cmd", target="act", valid="", held_out_pairs=500)
    train, valid = load(data, "train", 1), load(data, "valid", 1)
    assert (len(train.pairs), len(valid.pairs)) == (16_728 - 500, 500)
    assert not {pair.source for pair in train.pairs} & {pair.source for pair in valid.pairs}


@needs_shared
def test_a_dictionary_loses_no_pronunciation(tmp_path):
    """All listed pronunciations of CMUdict's test words, several a word."""
    lines = (SHARED / "cmudict" / "test.alt.tsv").read_text().splitlines()
    both = [(SHARED / "cmudict" / f"test.{side}").read_text().splitlines() for side in ("word", "phones")]
    pairs = [*zip(*both, strict=True), *(tuple(line.split("\t")) for line in lines)]
    write(tmp_path, train__tsv="".join("\t".join(pair) + "\n" for pair in pairs).encode())
    data = tsv_config(tmp_path, target="1", valid="", held_out_pairs=1000)
    train, valid = load(data, "train", 1).pairs, load(data, "valid", 1).pairs
    assert sorted(sides(train + valid)) == sorted(pairs)
    assert not {pair.source for pair in train} & {pair.source for pair in valid}
    assert 1000 <= len(valid) < 1010
