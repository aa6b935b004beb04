"""Pairs of strings from a prepared TFDS dataset, read without tensorflow; nothing is downloaded.

Enters: a `DataConfig` with its dataset's name, a split in TFDS' spelling, two or three of its features. Leaves: source and target strings, and
those of `data.features`.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flax_s2s.config import DataConfig, UserError, nearest
from flax_s2s.data import rows
from flax_s2s.data.files import one_line

_READ = 1_000  # examples read at once: 29 us each, one by one 96 us

# A `try` below that catches every Exception holds one call of TFDS and nothing of ours: what TFDS raises about the user's
# names and files comes in many types (ValueError, AssertionError, TypeError, RuntimeError, KeyError, protobuf's ParseError).


def read(data: DataConfig, split: str, left_out: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """Two text features of a prepared dataset, a nested one written `outer/inner`.

    Of several different strings in the target's feature each is a pair, in other features the first is taken, and no string at all is a
    blank line. `question+context` are two features, joined by a space.

    Args:
        data: which dataset, and which features.
        split: train, valid or test.
        left_out: counts the strings of which no pair is made.
    """
    with _quiet():
        builder = _builder(data)
        _refuse_empty(builder, data, split)
        try:
            source = builder.as_data_source(split=getattr(data, split))
        except Exception as error:
            raise _unreadable(builder, data, split, error) from error
    name = builder.info.full_name
    for number, example in enumerate(_examples(source, name)):
        found = _strings(example)
        sources, targets = (_texts(rows.parts(side), found, name, number) for side in (data.source, data.target))
        named = rows.parts(data.features) if data.features else []
        bundle = " ".join(text for feature in named for text in _texts([feature], found, name, number))
        different = list(dict.fromkeys(targets))
        left_out["repeated target"] += len(targets) - len(different)
        left_out["further source"] += len(set(sources)) - 1
        yield from ((sources[0], target, bundle) for target in different)


def _texts(features: Sequence[str], found: dict[str, Sequence[str | bytes]], name: str, number: int) -> list[str]:
    """The strings of a feature, at least one; of several features the first ones, joined."""
    for feature in features:
        if feature not in found:
            raise UserError(f"{name} has no text feature {feature!r}, only {', '.join(found) or 'none'}{nearest(feature, found)}")
    texts = [[one_line(text, f"{name} example {number}, {feature},") for text in found[feature]] or [""] for feature in features]
    return texts[0] if len(features) == 1 else [" ".join(several[0] for several in texts)]


def _refuse_empty(builder: Any, data: DataConfig, split: str) -> None:
    """Refuses slices without an example, of which TFDS says nothing that helps, or reads other examples (`train[3:2]`)."""
    import tensorflow_datasets as tfds

    wanted, splits = getattr(data, split), builder.info.splits
    try:
        slices = tfds.core.ReadInstruction.from_spec(wanted).to_absolute(splits)
    except Exception:  # opening it says why
        return
    for one in slices:
        count = splits[one.splitname].num_examples
        found = range(count)[one.from_ : one.to]
        if not found:
            raise UserError(
                f"data.{split}={wanted!r}: the slice holds no example, it is {one.splitname}[{found.start}:{found.stop}]; "
                f"{one.splitname} of {builder.info.full_name} has {count:,} examples"
            )


def record_files(data: DataConfig, split: str) -> list[str]:
    """The files that the split is read from, of which it may be a part; none where there are none, or no such split."""
    with _quiet():
        splits = _builder(data).info.splits
        try:
            return [str(path) for path in splits[getattr(data, split)].filepaths]
        except Exception:  # `read` says why
            return []


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
    import tensorflow_datasets.question_answering
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


def _unreadable(builder: Any, data: DataConfig, split: str, error: Exception) -> UserError:
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
    for start in range(0, len(source), _READ):
        index = range(start, min(start + _READ, len(source)))
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


def _strings(example: dict[str, Any], prefix: str = "") -> dict[str, Sequence[str | bytes]]:
    """The strings of an example, `{"a": b"x", "b": {"c": [b"y", b"z"], "d": 1}}` -> `{"a": [b"x"], "b/c": [b"y", b"z"]}`."""
    found: dict[str, Sequence[str | bytes]] = {}
    for name, value in example.items():
        if isinstance(value, dict):
            found |= _strings(value, f"{prefix}{name}/")
        elif isinstance(value, (str, bytes)):
            found[prefix + name] = [value]
        elif isinstance(value, (list, np.ndarray)) and all(isinstance(text, (str, bytes)) for text in value):
            found[prefix + name] = list(value)
    return found


def _message(error: Exception) -> str:
    """Type and text of an error on one line, with the package to install where it misses one."""
    install = f"; pip install {error.name}" if isinstance(error, ImportError) and error.name else ""
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}{install}"
