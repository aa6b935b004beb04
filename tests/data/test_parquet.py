"""Parquet: columns by name and path, files in shards, and what is said of a file that is damaged, or is not there."""

import itertools
import json
import sys

import pyarrow
import pytest
from pyarrow import parquet as pq
from tiny import sides

from flax_s2s.config import DataConfig, UserError
from flax_s2s.data import files, parquet
from flax_s2s.data.corpus import Reader

PAIRS = [("a dog", "ein Hund"), ("a cat", "eine Katze")]
RECORDS = [{"id": n, "translation": {"en": en, "de": de}} for n, (en, de) in enumerate(PAIRS)]


def write(path, records, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow.Table.from_pylist(records), path, **options)


def data(folder, **fields):
    usual = {"format": "parquet", "folder": str(folder), "source": "translation.en", "target": "translation.de", "valid": "x", "test": ""}
    return DataConfig(**usual | fields)


def read(folder, **fields):
    return sides(Reader(data(folder, **fields), "train", 1))


def message(folder, **fields):
    with pytest.raises(UserError) as caught:
        read(folder, **fields)
    return str(caught.value)


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli"])
def test_rows_are_pairs(tmp_path, compression):
    write(tmp_path / "train.parquet", RECORDS, compression=compression)
    assert read(tmp_path) == read(tmp_path, train="train.parquet") == PAIRS
    assert Reader(data(tmp_path), "train", 1).fingerprint()


@pytest.mark.parametrize(
    ("columns", "source"),
    [
        ({"t": ["a\nb", "c"]}, "t"),
        ({"a.b": ["a\nb", "c"]}, "a.b"),
        ({"a+b": ["a\nb", "c"], "a": ["x", "x"]}, "a+b"),
        ({"t": [{"u": {"v": "a\nb"}}, {"u": {"v": "c"}}]}, "t.u.v"),
        ({"t": pyarrow.array(["a\nb", "c"]).dictionary_encode()}, "t"),
        ({"t": pyarrow.array(["a\nb", "c"], pyarrow.large_string())}, "t"),
        ({"t": [b"a\nb", b"c"]}, "t"),
    ],
)
def test_columns_of_many_kinds(tmp_path, columns, source):
    pq.write_table(pyarrow.table(columns | {"de": ["x", "y"], "list": [[1], [2]]}), tmp_path / "train.parquet")
    assert read(tmp_path, source=source, target="de") == [("a b", "x"), ("c", "y")]


def test_what_is_null_is_blank(tmp_path):
    write(tmp_path / "train.parquet", [*RECORDS, {"translation": {"en": "x", "de": None}}, {"translation": None}])
    reader = Reader(data(tmp_path), "train", 1)
    assert sides(reader) == PAIRS and reader.counts.left_out == {"blank": 2}


def test_features_are_a_string_or_a_list(tmp_path):
    rows = [{"lemma": "Hund", "form": "Hunde", "tags": ["N", "PL"], "pos": "NOUN"}, {"lemma": "a", "form": "b", "tags": None, "pos": "X"}]
    write(tmp_path / "train.parquet", rows)
    asked = {"source": "lemma", "target": "form", "features": "pos+tags"}
    assert [pair.features for pair in Reader(data(tmp_path, **asked), "train", 1)] == ["NOUN N;PL", "X "]
    assert read(tmp_path, source="lemma+pos", target="form") == [("Hund NOUN", "Hunde"), ("a X", "b")]


def test_columns_that_are_not_there(tmp_path):
    write(tmp_path / "train.parquet", RECORDS)
    has = f"{tmp_path}/train.parquet has no column {{}}, only 'id', 'translation.en', 'translation.de'"
    assert message(tmp_path, source="en") == has.format("'en'")
    assert message(tmp_path, source="translation") == has.format("'translation'") + "; did you mean 'translation.en'?"
    assert message(tmp_path, source="translations.en").endswith("; did you mean 'translation.en'?")
    assert message(tmp_path, source="id") == f"{tmp_path}/train.parquet row 1, field 'id', must be a string, got int"


# Shards


def shard(number, count, stem="train", mark=""):
    return f"{stem}-{number:05}-of-{count:05}{mark}.parquet"


@pytest.mark.parametrize("mark", ["", "-0123456789abcdef"])
def test_shards_are_read_in_their_order(tmp_path, mark):
    for number in (2, 0, 1):
        write(tmp_path / "data" / shard(number, 3, mark=mark), [{"en": f"a{number}", "de": f"b{number}"}])
    write(tmp_path / "data" / shard(0, 1, "train_more"), [{"en": "x", "de": "y"}])
    asked = {"source": "en", "target": "de"}
    pairs = [("a0", "b0"), ("a1", "b1"), ("a2", "b2")]
    assert read(tmp_path, train="data/train", **asked) == read(tmp_path / "data", **asked) == pairs
    assert read(tmp_path / "data", train=shard(1, 3, mark=mark).removesuffix(".parquet"), **asked) == pairs[1:2]
    before = Reader(data(tmp_path / "data", **asked), "train", 1).fingerprint()
    write(tmp_path / "data" / shard(2, 3, mark=mark), [{"en": "a2", "de": "other"}])
    assert Reader(data(tmp_path / "data", **asked), "train", 1).fingerprint() != before
    (tmp_path / "data" / shard(1, 3, mark=mark)).unlink()
    of = f"data.train='train': of {tmp_path}/data/train"
    assert message(tmp_path / "data", **asked) == f"{of} 2 of 3 shards are there, and {shard(1, 3)} is not; copy those that are missing"
    write(tmp_path / "data" / shard(1, 2), [{"en": "x", "de": "y"}])
    assert message(tmp_path / "data", **asked).startswith(f"{of} there are shards of several files: {shard(0, 3, mark=mark)}, ")


def test_validation_is_held_out_of_shards(tmp_path):
    for number in range(2):
        write(tmp_path / shard(number, 2), [{"en": f"a{number}{n}", "de": f"b{n}"} for n in range(20)], row_group_size=7)
    asked = {"source": "en", "target": "de", "valid": "", "held_out_pairs": 3}
    train, valid = (sides(Reader(data(tmp_path, **asked), split, 1)) for split in ("train", "valid"))
    assert len(valid) == 3 and sorted([*train, *valid]) == sorted((f"a{m}{n}", f"b{n}") for m in range(2) for n in range(20))


def test_a_file_that_is_not_there(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(RECORDS[0]))
    given = f"data.train='train': there is no train or train.parquet (or in shards: train-00000-of-00003.parquet) in {tmp_path}"
    assert message(tmp_path) == f"{given}; for train.jsonl give --data.format jsonl"
    write(tmp_path / "data" / shard(0, 1), RECORDS)
    assert message(tmp_path / "data", format="jsonl").endswith(f"; for {shard(0, 1)} give --data.format parquet")
    told = message(tmp_path / "data", format="jsonl", train=shard(0, 1))
    assert "is a Parquet file; lines are read from text" in told and "read a corpus by --data.format parquet, else convert it" in told


# What is damaged


def test_damaged_files(tmp_path):
    name = tmp_path / "train.parquet"
    write(name, [{"en": f"a{n}", "de": "b"} for n in range(5_000)], row_group_size=1_000, compression="snappy", use_dictionary=False)
    whole = name.read_bytes()
    asked = {"source": "en", "target": "de"}
    start = f"{name} is no whole Parquet file, beyond row 0: "
    for content in (whole[:-50], whole[:1000], b"PAR1", b"", b"a\tb\n" * 9):
        name.write_bytes(content)
        told = message(tmp_path, **asked)
        assert told.startswith(start) and told.endswith("; copy or write it again")
    middle = len(whole) // 2
    name.write_bytes(whole[:middle] + bytes(2_000) + whole[middle + 2_000 :])
    assert f"{name} is no whole Parquet file, beyond row " in message(tmp_path, **asked)
    name.write_bytes(b"PK\x03\x04")
    assert "train.parquet is a zip archive (or a spreadsheet)" in message(tmp_path, **asked)


def test_rows_are_read_as_they_come(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", [{"en": f"a{n}", "de": "b"} for n in range(10_000)], row_group_size=500)
    batches = []
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spied(pq.ParquetFile.iter_batches, batches))
    rows = parquet.read(files.File(tmp_path / "train.parquet"), ["en", "de"])
    assert [row["en"] for _, row in itertools.islice(rows, 1_200)][-1] == "a1199" and len(batches) <= 3


def spied(read_batches, seen):
    def iter_batches(*arguments, **options):
        for batch in read_batches(*arguments, **options):
            seen.append(batch)
            yield batch

    return iter_batches


def test_without_its_package_parquet_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", RECORDS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert message(tmp_path) == "data.format=parquet needs a package that is not installed: pip install pyarrow"
