"""What the calls of Python share: names of runs, settings of decoding, and errors that are the command line's messages.

Enters: what a caller gave. Leaves: what the commands take, or a `UserError`.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from flax_s2s.config import DecodingConfig, Failure, UserError, change
from flax_s2s.errors import USER_ERROR
from flax_s2s.runs.rundir import make_path, read_config
from flax_s2s.runtime import job

Path: TypeAlias = str | os.PathLike[str]


class Settings(TypedDict, total=False):
    """How to decode: the fields of `DecodingConfig`, which explains them."""

    beam_size: int
    n_best: int
    length_penalty: float
    coverage_penalty: float
    min_tokens: int
    max_length_ratio: float
    max_length_extra: int
    end_threshold: float
    no_repeat_ngram: int
    repetition_penalty: float
    groups: int
    diversity: float
    temperature: float
    top_k: int
    top_p: float
    seed: int
    ensemble: Literal["probabilities", "log-probabilities"]
    shortlist: int
    compute: Literal["auto", "float32", "bfloat16", "int8"]
    rows: int
    max_source_tokens: int


@contextlib.contextmanager
def as_messages() -> Iterator[None]:
    """Whatever a user is told of in one message comes out of it as a `UserError` or a `Failure`."""
    try:
        yield
    except (UserError, Failure):
        raise
    except Exception as error:
        code, text = job.explain(error)
        if not text:
            raise
        raise (UserError if code == USER_ERROR else Failure)(text) from error


def find_name(path: Any, what: str = "a run directory") -> str:
    """The name of a folder that must have one.

    Raises:
        UserError: it is no path, or empty, which would be the working directory.
    """
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise UserError(f"{what} must be given as a path, got {type(path).__name__}")
    if not name:
        raise UserError(f"the name of {what} is empty; name a folder, '.' for this one")
    return name


def find_names(run_dir: Path | Sequence[Path]) -> list[str]:
    """The run directories that are given: one, or several."""
    names = [find_name(one) for one in run_dir] if isinstance(run_dir, (list, tuple)) else [find_name(run_dir)]
    if not names:
        raise UserError("no run directory is given; give one, or several")
    return names


def settle(run_dirs: Sequence[str], settings: Any) -> DecodingConfig:
    """How to decode: as the first run is configured, but for these settings."""
    return change(read_config(make_path(run_dirs[0])).decoding, settings, "decoding")
