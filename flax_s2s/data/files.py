r"""The files of a split, and lines of files, plain or packed (gzip, bzip2, xz, zstd), a line at a time.

Enters: a `DataConfig` and a split, or the name of a file. Leaves: lines. In a file a line ends with `\n` and with nothing
else: `\r` and U+2028 stay inside it (a `\r` before the `\n` is dropped, and a byte order mark at the start of the file).
"""

import bz2
import codecs
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from etils import epath

from flax_s2s.config import FORMATS, DataConfig, UserError, nearest
from flax_s2s.data import rows

_BREAKS = re.compile(r"[\r\n]+")
_ENDINGS = [form for form, kind in FORMATS.items() if kind in ("table", "objects")]  # of one file with both sides
_READ_BYTES = 1 << 16
HEAD_BYTES = 512
"""Of a file, to tell by them what it is."""
_SHARD = re.compile(r"-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(-[0-9a-f]{16})?\.parquet")
_TO_JSONL = "convert it to JSONL, for example with {} and to_json(orient='records', lines=True)"
# How a file begins that holds no lines of UTF-8, what it is, and what to do with it.
_FIRST_BYTES = {
    rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18": ("compressed by lz4", "unpack it with lz4 -d, or compress it with gzip"),
    rb"\x5d\x00\x00": ("compressed by lzma", "unpack it with xz -d, or compress it with gzip"),
    rb"LZIP[\x00\x01]": ("compressed by lzip", "unpack it with lzip -d, or compress it with gzip"),
    rb"\x1f[\x9d\xa0]": ("compressed by compress (.Z)", "unpack it with gzip -d"),
    rb"\xff\x06\x00\x00sNaPpY": ("compressed by snappy", "unpack it, or compress it with gzip"),
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": ("a zip archive (or a spreadsheet)", "unpack it with unzip (or save the sheet as CSV)"),
    rb"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it with 7z x"),
    rb"Rar!\x1a\x07": ("a rar archive", "unpack it with unrar x"),
    rb"(?s:.{257})ustar[\x00 ]": ("a tar archive", "unpack it with tar -x"),
    rb"PAR1[\x00-\x1f]": ("a Parquet file", f"read a corpus by --data.format parquet, else {_TO_JSONL.format('pandas.read_parquet')}"),
    rb"(ARROW1|FEA1)\x00": ("an Arrow file", _TO_JSONL.format("pandas.read_feather")),
    rb"\xff\xff\xff\xff(?s:.{2})\x00\x00": ("an Arrow stream", _TO_JSONL.format("datasets.Dataset.from_file")),
    rb"SQLite format 3\x00": ("an SQLite database", "write its table as CSV with sqlite3 -csv"),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office document", "save it as CSV"),
    rb"\x89HDF\r\n": ("an HDF5 file", "write its text into a file of lines"),
    rb"\x93NUMPY": ("a NumPy array", "write its text into a file of lines"),
    rb"%PDF-[0-9]\.": ("a PDF document", "write its text into a file of lines"),
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": ("text in UTF-32", "convert it with iconv -f UTF-32 -t UTF-8"),
    rb"\xff\xfe|\xfe\xff": ("text in UTF-16", "convert it with iconv -f UTF-16 -t UTF-8"),
    rb"([^\x00]\x00){4}": ("text in UTF-16", "convert it with iconv -f UTF-16LE -t UTF-8"),
    rb"(\x00[^\x00]){4}": ("text in UTF-16", "convert it with iconv -f UTF-16BE -t UTF-8"),
}
_UNREADABLE = (OSError, ImportError, ValueError)  # ImportError: the bucket's library; ValueError: NUL in the path


class _Parts(io.RawIOBase):
    """What is in a file that is made of parts, each compressed by itself, as parallel packers write them.

    Python's own `bz2.open` and `lzma.open` take a part that is damaged from its beginning for the end of the file, and say nothing.
    """

    def __init__(self, file: Any, begin: Callable[[], Any], padding: bytes) -> None:
        self._file, self._begin, self._padding = file, begin, padding
        self._part, self._rest = begin(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._part.eof:
                self._rest = self._part.unused_data.lstrip(self._padding)
                while not self._rest and (read := self._file.read(_READ_BYTES)):
                    self._rest = read.lstrip(self._padding)
                if not self._rest:
                    return 0
                self._part = self._begin()
            elif self._part.needs_input and not self._rest and not (read := self._file.read(_READ_BYTES)):
                raise EOFError("it ends before the end of what is compressed in it")
            elif self._part.needs_input and not self._rest:
                self._rest = read
            given, self._rest = self._rest, b""
            if found := self._part.decompress(given, len(buffer)):
                buffer[: len(found)] = found
                return len(found)


def _in_parts(begin: Callable[[], Any], padding: bytes = b"") -> Callable[[Any], Any]:
    return lambda file: io.BufferedReader(_Parts(file, begin, padding), _READ_BYTES)


def _open_zstd(file: Any) -> Any:
    try:  # python-zstandard, which more people know, reads a file that is cut short as a shorter one and says nothing
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise UserError(
            "what is compressed by zstd needs a package that is not installed: pip install backports.zstd; or unpack it with zstd -d"
        ) from None
    return zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: 31})  # `zstd --long` asks for so much memory


class Packing(NamedTuple):
    """A way to compress a file."""

    name: str
    begins: bytes  # what a file does that is compressed so, as a pattern
    open: Callable[[Any], Any]  # an open file -> what is in it, of all its parts where several follow one another


PACKINGS = {
    ".gz": Packing("gzip", rb"\x1f\x8b", gzip.open),
    ".bz2": Packing("bzip2", rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", _in_parts(bz2.BZ2Decompressor)),
    ".xz": Packing("xz", rb"\xfd7zXZ\x00", _in_parts(partial(lzma.LZMADecompressor, lzma.FORMAT_XZ), b"\0")),
    ".zst": Packing("zstd", rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", _open_zstd),
}
"""By the ending of a file's name; what a file is goes by its first bytes."""


def find_packing(head: bytes) -> Packing | None:
    """How a file is compressed that begins so, whatever its name is; None: it is not."""
    return next((packing for packing in PACKINGS.values() if re.match(packing.begins, head)), None)


@contextlib.contextmanager
def _whole(name: str) -> Iterator[None]:
    """Says of a packed file that is damaged or cut short what it is.

    Raises:
        UserError: it is.
    """
    try:
        yield
    except Exception as error:
        damaged = isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError))
        damaged |= isinstance(error, OSError) and error.errno is None  # bz2 has no error of its own
        damaged |= type(error).__name__ == "ZstdError"  # of a package that need not be there
        if not damaged:
            raise
        raise UserError(f"{name} is not a whole packed file: {error}; copy or compress it again") from None


def refuse_compressed(head: bytes, name: str, own: str = "") -> None:
    """Refuses what is no text in UTF-8 by its first bytes: other compressions than those of `PACKINGS`, archives, tables, UTF-16.

    Args:
        head: the first `HEAD_BYTES` bytes, or all that there are.
        name: of the file, for the message.
        own: a part of what one of these is called that the reader knows how to read.

    Raises:
        UserError: it is one of these.
    """
    for beginning, (what, remedy) in _FIRST_BYTES.items():
        if re.match(beginning, head) and not (own and own in what):
            raise UserError(f"{name} is {what}; lines are read from text in UTF-8, plain or packed by gzip, bzip2, xz or zstd: {remedy}")


class File(NamedTuple):
    """A file of lines."""

    path: epath.Path

    @contextlib.contextmanager
    def open(self, own: str = "") -> Iterator[Any]:
        """What is in it, decompressed.

        Args:
            own: what is read though it is no text in UTF-8, see `refuse_compressed`.

        Raises:
            UserError: it cannot be read, or holds something else.
        """
        try:
            with self.path.open("rb") as file, _unpacked(file, self.path, own) as unpacked:
                yield unpacked
        except _UNREADABLE as error:
            raise _unreadable(self.path, error) from error

    def raw_lines(self) -> Iterator[bytes]:
        """The lines as they are, decompressed, their ends included."""
        with self.open() as lines:
            for number, line in enumerate(lines):
                yield line if number else line.removeprefix(codecs.BOM_UTF8)

    def count_lines(self) -> int:
        """How many lines there are."""
        return sum(1 for _ in self.raw_lines())

    def lines(self) -> Iterator[str]:
        """The lines as text."""
        for number, line in enumerate(self.raw_lines(), 1):
            try:
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.path} line {number} is not UTF-8: {error.reason} at byte {error.start + 1}; convert the file with iconv"
                ) from None
            yield text


@contextlib.contextmanager
def unpack(file: Any, packing: Packing, name: str, own: str = "") -> Iterator[Any]:
    """What is in an open file; `own` as in `refuse_compressed`.

    Raises:
        UserError: it is no text by its first bytes, packed once more, damaged, or cut short.
    """
    with _whole(name), packing.open(file) as unpacked:
        inner = unpacked.peek(HEAD_BYTES)[:HEAD_BYTES]
        refuse_compressed(inner, f"{name}, unpacked,", own)
        if twice := find_packing(inner):
            raise UserError(f"{name} is compressed twice, by {packing.name} and {twice.name}; unpack it once")
        yield unpacked


@contextlib.contextmanager
def _unpacked(file: Any, path: epath.Path, own: str) -> Iterator[Any]:
    """The file from its beginning, unpacked where it begins so, or is called so.

    Raises:
        UserError: it holds no text, see `refuse_compressed`.
    """
    head = file.read(HEAD_BYTES)
    if file.seekable():
        file.seek(0)
    else:  # a pipe can be read once
        file = io.BytesIO(head + file.read())
    refuse_compressed(head, str(path), own)
    packing = find_packing(head) or PACKINGS.get(path.suffix)
    if packing is None:
        yield file
        return
    with unpack(file, packing, str(path), own) as unpacked:
        yield unpacked


def _path(name: str, given: str = "") -> epath.Path:
    try:
        return epath.Path(name)
    except KeyError as error:
        raise UserError(f"{given}{name!r} has the unknown scheme {error}; use a path, gs:// or s3://") from None


def refuse_pipe(path: epath.Path) -> None:
    """Refuses what is there but no file or folder, and would be read several times.

    To be asked before it is opened, which takes lines from a pipe, or waits for ever.

    Raises:
        UserError: it is a pipe or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing is there, or in a bucket: opening it says so
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path} is a pipe or a device, and is read several times; write it into a file first")


def _unreadable(path: epath.Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no file {path}")
    return UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def _find(data: DataConfig, split: str, names: Sequence[str]) -> list[File]:
    """The first of the named files of `data.folder` that exists; of Parquet all shards, where none does."""
    folder = _path(data.folder, "data.folder=")
    given = f"data.{split}={getattr(data, split)!r}"
    if os.path.isfile(folder):
        raise UserError(f"data.folder={data.folder} is a file; give its folder, and its name as data.{split}")
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{given} must name a file inside data.folder={data.folder!r}, got {name!r}; set data.folder to its folder")
        refuse_pipe(folder / name)
        if _exists(folder / name):
            return [File(folder / name)]
    place, origin = (folder / names[0]).parent, f"; where the preset's data come from: {data.origin}" if data.origin else ""
    try:
        there = [file.name for file in place.iterdir()]
    except OSError as error:
        raise UserError(
            f"{given}: {place} cannot be read: {error.strerror}; set data.folder, relative to the working directory{origin}"
        ) from None
    stem = PurePosixPath(names[0]).name
    if data.format == "parquet" and (shards := _shards(stem, there, f"{given}: of {place}/{stem}")):
        return [File(place / shard) for shard in shards]
    near = _other_format(data, split, there) or nearest(stem, there)
    plain = [name for name in names if name == names[0] or PurePosixPath(name).suffix not in PACKINGS]
    or_else = f"in shards: {names[0]}-00000-of-00003.parquet" if data.format == "parquet" else f"packed: {', '.join(PACKINGS)}"
    raise UserError(f"{given}: there is no {' or '.join(plain)} (or {or_else}) in {folder}{near}{origin}")


def _shards(stem: str, names: Sequence[str], where: str) -> list[str]:
    """The names of all shards of a file in their order; none where there are none."""
    found = [(shard, name) for name in sorted(names) if name.startswith(stem) and (shard := _SHARD.fullmatch(name, len(stem)))]
    numbers, counts = [int(shard["number"]) for shard, _ in found], {int(shard["count"]) for shard, _ in found}
    if len(counts) > 1 or len({*numbers}) < len(numbers):
        raise UserError(f"{where} there are shards of several files: {', '.join(name for _, name in found)}; keep those of one")
    if counts and (lacking := sorted({*range(*counts)} - {*numbers})):
        first = f"{stem}-{lacking[0]:05}-of-{found[0][0]['count']}.parquet"
        raise UserError(f"{where} {len(numbers)} of {max(counts)} shards are there, and {first} is not; copy those that are missing")
    return [name for _, name in found]


def _other_format(data: DataConfig, split: str, names: Sequence[str]) -> str:
    """The remedy clause where a file of the split is there in another format than `data.format`."""
    stem = PurePosixPath(getattr(data, split)).name
    for form in _ENDINGS:
        for name in (f"{stem}.{form}", stem):
            if form != data.format and name.endswith(f".{form}") and {name, *(f"{name}{packed}" for packed in PACKINGS)} & {*names}:
                return f"; for {name} give --data.format {form}"
    shard = next((name for name in sorted(names) if name.startswith(stem) and _SHARD.fullmatch(name, len(stem))), "")
    return f"; for {shard} give --data.format parquet" if shard else ""


def _exists(path: epath.Path) -> bool:
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return False
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return True


def read_lines(name: str) -> list[str]:
    """The lines of one file (plain or packed) or pipe, blank ones included.

    Raises:
        UserError: missing, unreadable, or not UTF-8.
    """
    return list(File(_path(name)).lines())


def hash_file(name: str) -> bytes | None:
    """sha256 of a file's bytes; None where there is no such file."""
    try:
        with epath.Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        return None
    except _UNREADABLE as error:
        raise _unreadable(epath.Path(name), error) from error


def find(data: DataConfig, split: str) -> list[File]:
    """The files of a split: of aligned text one for each side, the source and the features of each part; of Parquet its shards; else one.

    Raises:
        UserError: one is missing or cannot be read, or lies outside of `data.folder`.
    """
    name: str = getattr(data, split)
    if FORMATS[data.format] == "aligned":
        pattern = name if "{side}" in name else f"{name}.{{side}}"
        named = [*rows.parts(data.source), data.target, *(rows.parts(data.features) if data.features else [])]
        sides = [pattern.replace("{side}", side) for side in named]
        return [file for side in sides for file in _find(data, split, [side, *(f"{side}{packed}" for packed in PACKINGS)])]
    table = f"{name}.{data.format}"
    packings = () if data.format == "parquet" else PACKINGS  # it is packed inside
    return _find(data, split, [name, table, *(f"{table}{packed}" for packed in packings)])


def one_line(value: object, where: str) -> str:
    """A string, or UTF-8 bytes, with each run of line breaks replaced by a space."""
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise UserError(f"{where} must be a string, got {type(text).__name__}")
        text.encode()  # JSON can spell half of a surrogate pair
    except UnicodeError as error:
        raise UserError(f"{where} is not Unicode text: {error}") from None
    return _BREAKS.sub(" ", text)
