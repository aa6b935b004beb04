r"""Pairs of strings, from aligned text files, TSV, JSONL, TFDS or the embedded phrases.

Enters: a `DataConfig`, a split and the seed. Leaves: a `Corpus`; of `train.en` and `train.de`, for example,

    "A dog.\n\n"  and  "Ein Hund.\nLeer.\n"  ->  pairs=[Pair("A dog.", "Ein Hund.")], blank=1

A sentence is one line whatever it came from, because decoding reads and writes lines. So in files a line ends with `\n`
and with nothing else: `\r` and U+2028 stay inside it (a `\r` before the `\n` is dropped, and a byte order mark at the
start of the file). In JSONL and TFDS a string may hold line breaks; each run of them becomes one space.

A pair with a blank side is left out, in every split: there is nothing to learn from it and nothing to score.
"""

import codecs
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from etils import epath

from flax_s2s.config import DataConfig, UserError, nearest
from flax_s2s.data import phrases

Split: TypeAlias = Literal["train", "valid", "test"]

PHRASES_HELD_OUT = 1_000  # phrases of valid and of test
_TFDS_READ = 1_000  # examples read at once: 29 us each, one by one 96 us
_BREAKS = re.compile(r"[\r\n]+")


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The pairs of one split, in the order of their origin."""

    name: str
    """For messages, such as `train of ../shared/data/multi30k`."""
    pairs: list[Pair]
    families: tuple[str, ...]
    """Family of each pair of phrases; empty for other formats."""
    blank: int
    """Pairs left out because a side is blank."""

    @functools.cached_property
    def sha256(self) -> str:
        """Hex digest of the pairs in their order; the lengths keep `("a", "bc")` and `("ab", "c")` apart."""
        digest = hashlib.sha256()
        for source, target in self.pairs:
            digest.update(f"{len(source)} {len(target)} {source}{target}".encode())
        return digest.hexdigest()


def load(data: DataConfig, split: Split, seed: int) -> Corpus:
    """Reads one split.

    Where `data.valid` is empty, valid is drawn from the `data.max_train_pairs` first pairs of train, and train loses every
    pair that shares a source or a target with it; both depend on nothing but the data and the seed.

    Raises:
        UserError: the split is not named or not found, cannot be read, is malformed, or has no pairs.
    """
    origin: Split = "train" if split == "valid" and not data.valid else split
    if not getattr(data, origin):
        raise UserError(f"there is no {origin} split, because data.{origin} is empty; name it there")
    corpus = _read(data, origin, seed)
    if data.valid or split == "test":
        return corpus
    train, valid = _hold_out(corpus, data, seed)
    return train if split == "train" else valid


def _read(data: DataConfig, split: Split, seed: int) -> Corpus:
    limit = data.max_train_pairs if split == "train" else 0
    families: tuple[str, ...] = ()
    if data.format == "phrases":
        made = phrases.generate(data.source, data.target, limit if split == "train" else PHRASES_HELD_OUT, seed, split)
        pairs, blank = [Pair(phrase.source, phrase.target) for phrase in made], 0
        families = tuple(phrase.family for phrase in made)
    else:
        pairs, blank = _without_blank(_pairs(data, split), limit)
    if not pairs:
        raise UserError(f"{_name(data, split)} has no pairs{f' but {blank} with a blank side' if blank else ''}; check data.{split}")
    return Corpus(_name(data, split), pairs, families, blank)


def _name(data: DataConfig, split: Split) -> str:
    origin = {"tfds": data.dataset, "phrases": f"phrases {data.source}-{data.target}"}
    return f"{split} of {origin.get(data.format, data.folder or '.')}"


def _pairs(data: DataConfig, split: Split) -> Iterator[Pair]:
    if data.format == "text":
        return _text(data, split)
    if data.format == "tsv":
        return _tsv(data, split)
    return _jsonl(data, split) if data.format == "jsonl" else _tfds(data, split)


def _without_blank(pairs: Iterable[Pair], limit: int) -> tuple[list[Pair], int]:
    """The first `limit` (0: all) pairs without a blank side, and how many were left out among them."""
    kept: list[Pair] = []
    blank = 0
    for pair in pairs:
        if pair.source.strip() and pair.target.strip():
            kept.append(pair)
            if len(kept) == limit:
                break
        else:
            blank += 1
    return kept, blank


def _hold_out(corpus: Corpus, data: DataConfig, seed: int) -> tuple[Corpus, Corpus]:
    """Train and valid of a training corpus; no sentence of valid stays in train."""
    total, count = len(corpus.pairs), data.held_out_pairs
    if count * 10 > total:
        least = f"lower it to at most {total // 10}, or " if total >= 10 else ""
        raise UserError(
            f"data.held_out_pairs={count} must be at most a tenth of {corpus.name}, which has {total} pairs; "
            f"{least}name a validation split in data.valid"
        )
    held = np.sort(np.random.default_rng(seed).choice(total, count, replace=False)).tolist()
    sources, targets = ({corpus.pairs[i][side] for i in held} for side in (0, 1))
    kept = [i for i, (source, target) in enumerate(corpus.pairs) if source not in sources and target not in targets]
    if not kept:
        raise UserError(f"every pair of {corpus.name} shares a sentence with the {count} held out; name a validation split in data.valid")
    return _select(corpus, kept), dataclasses.replace(_select(corpus, held), name=_name(data, "valid"), blank=0)


def _select(corpus: Corpus, index: list[int]) -> Corpus:
    families = tuple(corpus.families[i] for i in index) if corpus.families else ()
    return dataclasses.replace(corpus, pairs=[corpus.pairs[i] for i in index], families=families)


class _File(NamedTuple):
    path: str
    content: bytes

    def count_lines(self) -> int:
        return sum(1 for _ in io.BytesIO(self.content))

    def lines(self) -> Iterator[str]:
        # BytesIO ends lines at \n only; text mode and str.splitlines() do so at other characters too.
        for number, line in enumerate(io.BytesIO(self.content), 1):
            try:
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.path} line {number} is not UTF-8: {error.reason} at byte {error.start + 1}; convert the file with iconv"
                ) from None
            yield text


def _open(data: DataConfig, split: Split, names: Sequence[str]) -> _File:
    """The first of the named files of `data.folder` that exists."""
    try:
        folder = epath.Path(data.folder)
    except KeyError as error:
        raise UserError(f"data.folder={data.folder!r} has the unknown scheme {error}; use a path, gs:// or s3://") from None
    given = f"data.{split}={getattr(data, split)!r}"
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{given} must name a file inside data.folder={data.folder!r}, got {name!r}; set data.folder to its folder")
        with contextlib.suppress(FileNotFoundError):
            return _File(str(folder / name), _content(folder / name))
    place = (folder / names[0]).parent
    try:
        near = nearest(PurePosixPath(names[0]).name, [file.name for file in place.iterdir()])
    except OSError as error:
        raise UserError(f"{given}: {place} cannot be read: {error.strerror}; set data.folder, relative to the working directory") from None
    raise UserError(f"{given}: there is no {' or '.join(names)} in {folder}{near}")


def read_lines(name: str) -> list[str]:
    """The lines of one file (plain or .gz), blank ones included.

    Raises:
        UserError: missing, unreadable, or not UTF-8.
    """
    try:
        return list(_File(name, _content(epath.Path(name))).lines())
    except FileNotFoundError:
        raise UserError(f"there is no file {name}") from None


def _content(path: epath.Path) -> bytes:
    try:
        content: bytes = path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ImportError, ValueError) as error:  # ImportError: the bucket's library; ValueError: NUL in the path
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a whole gzip file: {error}; copy or compress it again") from None
    return content.removeprefix(codecs.BOM_UTF8)


def _text(data: DataConfig, split: Split) -> Iterator[Pair]:
    name: str = getattr(data, split)
    pattern = name if "{side}" in name else f"{name}.{{side}}"
    names = [pattern.replace("{side}", side) for side in (data.source, data.target)]
    source, target = (_open(data, split, [name, f"{name}.gz"]) for name in names)
    if source.count_lines() != target.count_lines():
        raise UserError(
            f"{source.path} has {source.count_lines()} lines and {target.path} {target.count_lines()}; "
            f"aligned files must have equally many{_slip(source, target)}"
        )
    return map(Pair, source.lines(), target.lines())


def _slip(source: _File, target: _File) -> str:
    for number, (left, right) in enumerate(zip(source.lines(), target.lines(), strict=False), 1):
        if bool(left.strip()) != bool(right.strip()):
            return f"; the first line where only one is blank is {number}"
    return ""


def _tsv(data: DataConfig, split: Split) -> Iterator[Pair]:
    """Columns of a tab-separated file; a quotation mark is a character like any other, and no line is a header."""
    name: str = getattr(data, split)
    file = _open(data, split, [name, f"{name}.tsv", f"{name}.tsv.gz"])
    source, target = _column("source", data.source), _column("target", data.target)
    for number, line in enumerate(file.lines(), 1):
        cells = line.split("\t")
        if len(cells) <= max(source, target):
            raise UserError(
                f"{file.path} line {number} has {len(cells)} columns; data.source={source} and data.target={target} "
                f"count from 0 and need at least {max(source, target) + 1}"
            )
        yield Pair(cells[source], cells[target])


def _column(side: str, number: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", number):
        raise UserError(f"data.{side}={number!r} must be a column number for data.format=tsv; the first column is 0")
    return int(number)


def _jsonl(data: DataConfig, split: Split) -> Iterator[Pair]:
    """Fields of one JSON object a line."""
    name: str = getattr(data, split)
    file = _open(data, split, [name, f"{name}.jsonl", f"{name}.jsonl.gz"])
    for number, line in enumerate(file.lines(), 1):
        where = f"{file.path} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON: {error}; each line must be one object") from None
        yield Pair(_field(record, data.source, where), _field(record, data.target, where))


def _field(record: object, name: str, where: str) -> str:
    if not isinstance(record, dict):
        raise UserError(f"{where} must be an object such as {{{name!r}: ...}}, got {type(record).__name__}")
    if name not in record:
        raise UserError(f"{where} has no field {name!r}, only {', '.join(map(repr, record)) or 'none'}{nearest(name, record)}")
    return _one_line(record[name], f"{where}, field {name!r},")


def _one_line(value: object, where: str) -> str:
    """A string, or UTF-8 bytes, with each run of line breaks replaced by a space."""
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise UserError(f"{where} must be a string, got {type(text).__name__}")
        text.encode()  # JSON can spell half of a surrogate pair
    except UnicodeError as error:
        raise UserError(f"{where} is not Unicode text: {error}") from None
    return _BREAKS.sub(" ", text)


# A `try` below that catches every Exception holds one call of TFDS and nothing of ours: what TFDS raises about the user's
# names and files comes in many types (ValueError, AssertionError, TypeError, RuntimeError, KeyError, protobuf's ParseError).


def _tfds(data: DataConfig, split: Split) -> Iterator[Pair]:
    """Two text features of a prepared dataset, a nested one written `outer/inner`; nothing is downloaded."""
    with _quiet():
        builder = _builder(data)
        try:
            source = builder.as_data_source(split=getattr(data, split))
        except Exception as error:
            raise _unreadable(builder, data, split, error) from error
    name = builder.info.full_name
    for number, example in enumerate(_examples(source, name)):
        found = _strings(example)
        for feature in (data.source, data.target):
            if feature not in found:
                raise UserError(f"{name} has no text feature {feature!r}, only {', '.join(found) or 'none'}{nearest(feature, found)}")
        yield Pair(*(_one_line(found[feature], f"{name} example {number}, {feature},") for feature in (data.source, data.target)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the warnings TFDS logs about what it then raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _builder(data: DataConfig) -> Any:
    import tensorflow_datasets as tfds
    import tensorflow_datasets.translate  # registers wmt14_translate and its like

    given = f"data.dataset={data.dataset!r}"
    dataset, _, config = data.dataset.partition(":")[0].partition("/")
    try:
        return tfds.builder(data.dataset, data_dir=data.folder or None)
    except tfds.core.DatasetNotFoundError:
        near = nearest(dataset, tfds.list_builders(with_community_datasets=False))
        raise UserError(f"{given} is not known to TFDS, nor prepared in {data.folder or 'its data_dir'}{near}") from None
    except Exception as error:
        if "BuilderConfig" not in str(error):
            raise UserError(f"{given} cannot be opened by TFDS: {_message(error)}") from error
        configs = list(tfds.builder_cls(dataset).builder_configs)
        has = f"it has {', '.join(configs) or 'none'}{nearest(config, configs)}"
        raise UserError(f"{given}: {dataset} has no configuration {config!r}; {has}") from None


def _unreadable(builder: Any, data: DataConfig, split: Split, error: Exception) -> UserError:
    name = builder.info.full_name
    if not builder.info.splits:
        prepare = f'tfds.builder("{data.dataset}", data_dir="{builder.data_dir_root}", file_format="array_record").download_and_prepare()'
        return UserError(
            f"{name} is not prepared in {builder.data_dir_root}; do it once: pip install importlib_resources; "
            f"python -c 'import tensorflow_datasets.translate, tensorflow_datasets as tfds; {prepare}' "
            "(where that asks for tensorflow: pip install tensorflow)"
        )
    if isinstance(error, NotImplementedError):
        return UserError(
            f"{name} is stored in {builder.data_dir} as {builder.info.file_format.value}, which only tensorflow reads; convert it once: "
            f"pip install tensorflow; tfds convert_format --dataset_version_dir={builder.data_dir} --out_file_format=array_record"
        )
    wanted = getattr(data, split)
    return UserError(f"data.{split}={wanted!r} cannot be read from {name}: {_message(error)}{nearest(wanted, builder.info.splits)}")


def _examples(source: Any, name: str) -> Iterator[dict[str, Any]]:
    for start in range(0, len(source), _TFDS_READ):
        index = range(start, min(start + _TFDS_READ, len(source)))
        try:
            examples = _batch(source, index)
        except Exception as error:
            raise UserError(f"{name} cannot be read by TFDS: {_message(error)}; prepare it again") from error
        yield from examples


def _batch(source: Any, index: Sequence[int]) -> list[dict[str, Any]]:
    try:
        return list(source.__getitems__(index))
    except (AttributeError, TypeError):  # a source without batches: a list, or what tfds.testing.mock_data makes
        return [source[i] for i in index]


def _strings(example: dict[str, Any], prefix: str = "") -> dict[str, str | bytes]:
    """The strings of an example, `{"a": b"x", "b": {"c": b"y", "d": 1}}` -> `{"a": b"x", "b/c": b"y"}`."""
    found: dict[str, str | bytes] = {}
    for name, value in example.items():
        if isinstance(value, dict):
            found |= _strings(value, f"{prefix}{name}/")
        elif isinstance(value, (str, bytes)):
            found[prefix + name] = value
    return found


def _message(error: Exception) -> str:
    """Type and text of an error on one line, with the package to install where it misses one."""
    install = f"; pip install {error.name}" if isinstance(error, ImportError) and error.name else ""
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}{install}"
