"""What a file is by its first bytes, and pipes."""

import bz2
import gzip
import importlib
import io
import lzma
import os
import random
import sqlite3
import sys
import tarfile
import threading
import zipfile

import pytest
from tiny import sides

from flax_s2s.config import DataConfig, UserError
from flax_s2s.data import files
from flax_s2s.data.corpus import load

zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
TEXT = b"a\tb\nc\td\n"


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("train.tsv", TEXT)
    return out.getvalue()


def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("train.tsv")
        member.size = len(TEXT)
        archive.addfile(member, io.BytesIO(TEXT))
    return out.getvalue()


def database(tmp_path):
    with sqlite3.connect(tmp_path / "made.db") as connection:
        connection.execute("create table pairs (source, target)")
    return (tmp_path / "made.db").read_bytes()


# Where Python has no writer: the first bytes of what zstd 1.5.4, lz4 1.9.4 and pyarrow 25.0.0 write, and of the formats' descriptions.
KINDS = {
    "lz4": (b"\x04\x22\x4d\x18\x64\x40\xa7", "compressed by lz4"),
    "lz4 of old": (b"\x02\x21\x4c\x18\x05\x00\x00\x00", "compressed by lz4"),
    "lzma": (lzma.compress(TEXT, lzma.FORMAT_ALONE), "compressed by lzma"),
    "zip": (zipped(), "a zip archive"),
    "tar": (tarred(), "a tar archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x01\x00", "a rar archive"),
    "Parquet": (b"PAR1\x15\x04\x15\x18", "a Parquet file"),
    "Arrow": (b"ARROW1\x00\x00\xff\xff\xff\xff", "an Arrow file"),
    "Arrow as datasets keeps it": (b"\xff\xff\xff\xff\x78\x00\x00\x00\x10\x00", "an Arrow stream"),
    "UTF-16": ("a\tb\n".encode("utf-16"), "text in UTF-16"),
    "UTF-16 without its mark": (TEXT.decode().encode("utf-16-le"), "text in UTF-16"),
    "UTF-16, the other end first": (TEXT.decode().encode("utf-16-be"), "text in UTF-16"),
    "UTF-32": (TEXT.decode().encode("utf-32"), "text in UTF-32"),
}


@pytest.mark.parametrize(("content", "what"), KINDS.values(), ids=KINDS)
def test_what_is_no_text_is_told_by_its_first_bytes(tmp_path, content, what):
    name = tmp_path / "train.tsv"
    name.write_bytes(content)
    for read in (lambda: files.read_lines(str(name)), lambda: load(table(tmp_path), "train", 1)):
        with pytest.raises(
            UserError, match=f"^{name} is {what}.*; lines are read from text in UTF-8, plain or packed by gzip, bzip2, xz or zstd: "
        ):
            read()
    name.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=f"^{name}, unpacked, is {what}"):
        files.read_lines(str(name))


def test_a_database_is_told_by_its_first_bytes(tmp_path):
    with pytest.raises(UserError, match=r"x is an SQLite database; .* sqlite3 -csv"):
        files.refuse_compressed(database(tmp_path)[: files.HEAD_BYTES], "x")


@pytest.mark.parametrize(
    "text", ["", "a", "]\n", "PARIS\n", "BZhang\n", "LZIPs\n", "PKs\n", "7zip\n", "a\0b\0\n", "ARROW1\n", "Ru\u0161 \u4e2d\n", "\ufeffa\n"]
)
def test_text_is_text_however_it_begins(tmp_path, text):
    (tmp_path / "x").write_text(text)
    assert files.read_lines(str(tmp_path / "x")) == text.removeprefix("\ufeff").splitlines()


def pack_zstd(content):
    """With a checksum, as the program of this name adds one: without, changed bytes may be other text."""
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": pack_zstd}


@pytest.mark.parametrize(("ending", "pack"), PACKERS.items(), ids=PACKERS)
def test_packing_is_told_by_content_and_files_are_found_by_their_ending(tmp_path, ending, pack):
    wanted = [("a", "b"), ("c", "d")]
    (tmp_path / "train.tsv").write_bytes(pack(TEXT))  # whatever it is called
    assert sides(load(table(tmp_path), "train", 1).pairs) == wanted
    (tmp_path / "train.tsv").rename(tmp_path / f"train.tsv{ending}")
    assert sides(load(table(tmp_path), "train", 1).pairs) == wanted
    (tmp_path / f"train.tsv{ending}").write_bytes(pack(TEXT[:5]) + pack(TEXT[5:]))  # several parts, as parallel packers write them
    assert sides(load(table(tmp_path), "train", 1).pairs) == wanted
    (tmp_path / f"train.tsv{ending}").write_bytes(pack(b"\xef\xbb\xbf" + TEXT))
    assert sides(load(table(tmp_path), "train", 1).pairs) == wanted
    for side, lines in (("en", b"one\ntwo\n"), ("de", b"eins\nzwei\n")):
        (tmp_path / f"train.{side}{ending}").write_bytes(pack(lines))
    aligned = DataConfig(folder=str(tmp_path), target="de", test="")
    assert sides(load(aligned, "train", 1).pairs) == [("one", "eins"), ("two", "zwei")]


@pytest.mark.parametrize(("ending", "pack"), PACKERS.items(), ids=PACKERS)
def test_a_packed_file_is_whole_or_an_error(tmp_path, ending, pack):
    """Cut anywhere, and changed: never fewer lines, and never a traceback."""
    rng = random.Random(0)
    text = b"".join(b"%d %d\n" % (number, rng.randrange(10**9)) for number in range(20_000))
    packed, name = pack(text), tmp_path / f"x{ending}"
    for end in (len(packed) - 1, len(packed) - 9, len(packed) // 2, len(packed) // 7):
        name.write_bytes(packed[:end])
        with pytest.raises(UserError, match=rf"^{name} is not a whole packed file: .*; copy or compress it again$"):
            files.read_lines(str(name))
    middle = len(packed) // 2
    name.write_bytes(packed[:middle] + bytes(byte ^ 0x5A for byte in packed[middle : middle + 64]) + packed[middle + 64 :])
    with pytest.raises(UserError, match=f"^{name} "):
        files.read_lines(str(name))
    name.write_bytes(b"no such thing")
    with pytest.raises(UserError, match=f"^{name} is not a whole packed file"):
        files.read_lines(str(name))


@pytest.mark.parametrize(("ending", "pack"), PACKERS.items(), ids=PACKERS)
def test_every_part_is_read_or_an_error(tmp_path, ending, pack):
    """Python's readers of bzip2 and xz take a later part that is damaged for the end of the file."""
    rng, name = random.Random(1), tmp_path / f"x{ending}"
    parts = [b"".join(b"%d %d\n" % (part, rng.randrange(10**9)) for _ in range(3000)) for part in range(3)]
    packed = [pack(part) for part in parts]
    name.write_bytes(b"".join(packed))
    assert files.read_lines(str(name)) == b"".join(parts).decode().splitlines()
    for at in (0, 3, 10, len(packed[1]) // 2, len(packed[1]) - 3):
        changed = packed[1][:at] + bytes([packed[1][at] ^ 0xFF]) + packed[1][at + 1 :]
        name.write_bytes(packed[0] + changed + packed[2])
        with pytest.raises(UserError, match=f"^{name} is not a whole packed file"):
            files.read_lines(str(name))
    for end in (3, 10, len(packed[1]) // 2, len(packed[1]) - 3):
        name.write_bytes(packed[0] + packed[1][:end])
        with pytest.raises(UserError, match=f"^{name} is not a whole packed file"):
            files.read_lines(str(name))


def test_zeros_between_parts_of_xz_are_padding(tmp_path):
    (tmp_path / "x").write_bytes(lzma.compress(b"a\n") + bytes(4) + lzma.compress(b"b\n") + bytes(1 << 17) + lzma.compress(b"") + bytes(8))
    assert files.read_lines(str(tmp_path / "x")) == ["a", "b"]


@pytest.mark.parametrize(("outer", "inner"), [(".gz", ".gz"), (".xz", ".bz2"), (".zst", ".gz"), (".bz2", ".zst")])
def test_what_is_packed_twice_is_refused(tmp_path, outer, inner):
    (tmp_path / "train.tsv").write_bytes(PACKERS[outer](PACKERS[inner](TEXT)))
    names = (files.PACKINGS[outer].name, files.PACKINGS[inner].name)
    with pytest.raises(UserError, match=f"compressed twice, by {names[0]} and {names[1]}; unpack it once"):
        load(table(tmp_path), "train", 1)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python has it itself")
def test_without_its_package_zstd_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.delattr("backports.zstd", raising=False)
    (tmp_path / "x").write_bytes(zstd.compress(TEXT))
    with pytest.raises(UserError, match=r"needs a package that is not installed: pip install backports.zstd; or unpack it with zstd -d"):
        files.read_lines(str(tmp_path / "x"))


def table(folder, **fields):
    return DataConfig(**{"format": "tsv", "folder": str(folder), "source": "0", "target": "1", "test": "", **fields})


@pytest.fixture
def pipe(tmp_path):
    """A named pipe, and a thread that writes into it once someone reads."""
    os.mkfifo(tmp_path / "pipe")
    held = []

    def write(content):
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,), daemon=True)
        writer.start()
        held.append(writer)
        return tmp_path / "pipe"

    yield write
    for writer in held:
        writer.join(timeout=5)
        assert not writer.is_alive()


@pytest.mark.parametrize("content", [TEXT, *(pack(TEXT) for pack in PACKERS.values())], ids=["plain", *PACKERS])
def test_lines_are_read_from_a_pipe(pipe, content):
    assert files.read_lines(str(pipe(content))) == ["a\tb", "c\td"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_corpus_is_no_pipe_and_nothing_is_taken_from_it(tmp_path, pipe, linked):
    path = pipe(TEXT)
    name = tmp_path / ("train.tsv" if linked else "pipe")
    if linked:
        name.symlink_to(path)
    with pytest.raises(UserError, match=f"^{name} is a pipe or a device, and is read several times; write it into a file first$"):
        load(table(tmp_path, train=name.name), "train", 1)
    assert path.read_bytes() == TEXT


def test_a_corpus_is_no_open_descriptor_of_a_pipe():
    reading, writing = os.pipe()
    try:
        with pytest.raises(UserError, match=f"^/dev/fd/{reading} is a pipe or a device"):
            load(table("/dev/fd", train=str(reading)), "train", 1)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("name", "said"), [("none", "there is no file none"), ("http://x/y", "has the unknown scheme"), ("nul\0", "cannot be read")]
)
def test_what_cannot_be_read_is_named(name, said):
    with pytest.raises(UserError, match=said):
        files.read_lines(name)


# What is not there


def test_a_missing_file_says_where_the_data_come_from(tmp_path):
    from_here = {"origin": "Multi30k, task 1: train.0 and train.1"}
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"; where the preset's data come from: Multi30k, task 1: train\.0 and train\.1$"):
            load(table(folder, **from_here), "train", 1)
    (tmp_path / "train.tsv").write_bytes(TEXT)
    assert len(load(table(tmp_path, **from_here), "train", 1).pairs) == 2


def test_a_folder_that_is_a_file_is_told_from_one_that_is_not_there(tmp_path):
    (tmp_path / "mine.tsv").write_bytes(TEXT)
    with pytest.raises(UserError, match=r"mine\.tsv is a file; give its folder, and its name as data\.train$"):
        load(table(tmp_path / "mine.tsv"), "train", 1)


@pytest.mark.parametrize(
    ("form", "there"), [("text", "train.csv"), ("tsv", "train.jsonl.gz"), ("jsonl", "train.json"), ("csv", "train.tsv")]
)
def test_a_file_of_another_format_is_pointed_at(tmp_path, form, there):
    (tmp_path / there).write_bytes(TEXT)
    name = there.removesuffix(".gz")
    with pytest.raises(UserError, match=f"; for {name} give --data.format {name.split('.')[1]}$"):
        load(table(tmp_path, format=form), "train", 1)
