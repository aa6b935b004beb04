"""A run directory: its layout and its configuration.

config.json  vocab/  checkpoints/  metrics.jsonl  tensorboard/  logs/  reports/ (on bad updates)  lease.json
summary.json (what was trained on what)  report.html (made by `report`)
shortlist.npz (made by `shortlist`)  calibration.json (by `evaluate --calibration`)
"""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from etils import epath

from flax_s2s.config import Config, UserError, from_json, nearest, to_json

CONFIG, VOCAB, CHECKPOINTS, REPORTS, SHORTLIST = "config.json", "vocab", "checkpoints", "reports", "shortlist.npz"
SUMMARY, METRICS, REPORT, CALIBRATION = "summary.json", "metrics.jsonl", "report.html", "calibration.json"
PRESET = "preset.py"  # marks the folder of a sweep, or of verify-resume: it holds runs, and is none


def make_path(name: str) -> epath.Path:
    """A path on this machine or in a bucket.

    Raises:
        UserError: its scheme is unknown, or the library for it is not installed.
    """
    try:
        path = epath.Path(name)
        path.exists()
    except (KeyError, ImportError) as error:
        raise UserError(f"{name!r} cannot be opened: {type(error).__name__}: {error}; use a path, gs:// or s3://") from None
    return path


def make_folder(folder: epath.Path) -> None:
    """Makes the folder of a run where it is not there.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the run directory {folder} cannot be made: {error.strerror or error}; give another --run-dir") from None


def is_stream(name: str) -> bool:
    """Whether a name is that of a pipe, of a device or of a file that is open: what is read or written once, as it comes."""
    if "://" in name:
        return False
    return _descriptor(name) is not None or (os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name)))


def open_stream(name: str, mode: Literal["rb", "wb"]) -> Any:
    """Opens what `is_stream` says is one; a named pipe waits for its other end.

    Raises:
        UserError: it cannot be opened.
    """
    number = _descriptor(name)
    try:
        return open(name, mode) if number is None else os.fdopen(os.dup(number), mode)
    except OSError as error:
        raise UserError(f"{name} cannot be {'read' if mode == 'rb' else 'written'}: {error.strerror or error}") from None


def _descriptor(name: str) -> int | None:
    """The number of an open file, of which the shell makes names; opened by its name, a file would be read and written from its start."""
    if name in ("/dev/stdin", "/dev/stdout", "/dev/stderr"):
        return ("/dev/stdin", "/dev/stdout", "/dev/stderr").index(name)
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d{1,9})", name, re.ASCII)
    return int(found[1]) if found else None


@contextlib.contextmanager
def writing(name: str) -> Iterator[Any]:
    """A file for a result, open for bytes, that appears whole or not at all; a pipe or device is written to directly.

    Raises:
        UserError: it cannot be written; said before any work is done.
    """
    if is_stream(name):
        with open_stream(name, "wb") as file:
            yield file
        return
    path = make_path(name if "://" in name else os.path.realpath(name))  # a link is written through
    partial = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        file = partial.open("wb")
    except OSError as error:
        raise UserError(f"{name} cannot be written: {error.strerror or error}") from None
    try:
        with file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_summary(folder: epath.Path, facts: Mapping[str, str]) -> None:
    """Writes `summary.json`, whole or not at all: what is trained on what, by name."""
    partial = folder / f"{SUMMARY}.partial"
    partial.write_bytes((json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode(errors="replace"))
    partial.replace(folder / SUMMARY)


def read_summary(folder: epath.Path) -> dict[str, str]:
    """What `write_summary` wrote; nothing where it is not there, or is no longer what was written."""
    try:
        found = json.loads((folder / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def write_config(folder: epath.Path, config: Config) -> None:
    """Writes `config.json`, whole or not at all."""
    partial = folder / f"{CONFIG}.partial"
    partial.write_text(to_json(config))
    partial.replace(folder / CONFIG)


def refuse_several(folder: epath.Path) -> None:
    """Makes sure that a folder is not one of several runs.

    Raises:
        UserError: it is; the runs are named.
    """
    if (folder / PRESET).exists():
        runs = sorted(str(one.parent) for one in folder.glob(f"*/{CONFIG}"))
        raise UserError(
            f"{folder} is the folder of a sweep or of verify-resume, not a run directory; its runs: {', '.join(runs) or 'none yet'}"
        )


def read_config(folder: epath.Path) -> Config:
    """The configuration that a run directory was trained with.

    Raises:
        UserError: not a run directory, or its configuration is not one of this version's.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run directory {folder}{_near(folder)}; `train CONFIG --run-dir {folder}` makes one")
    refuse_several(folder)
    return read_config_file(folder)


def _near(folder: epath.Path) -> str:
    """The remedy clause for a misspelt folder, or one that lies in `runs`, where `train` makes them."""
    if "://" in os.fspath(folder):
        return ""
    if (in_runs := make_path("runs") / folder.name / CONFIG).exists():
        return f"; did you mean {os.fspath(in_runs.parent)!r}?"
    return nearest(os.fspath(folder), (os.fspath(one.parent) for one in folder.parent.glob(f"*/{CONFIG}")))


def _around(folder: epath.Path) -> str:
    """The remedy clause for what lies in a run directory, or holds some."""
    for outer in (folder.parent, folder.parent.parent):
        if (outer / CONFIG).exists():
            chosen = f", and --checkpoint {folder.name} chooses that one of it" if folder.parent.name == CHECKPOINTS else ""
            return f"; the run directory is {outer}{chosen}"
    inside = sorted(os.fspath(one.parent) for one in folder.glob(f"*/{CONFIG}"))
    return f"; run directories in it: {', '.join(inside)}" if inside else ""


def read_config_file(folder: epath.Path) -> Config:
    """The configuration of a run, or of several.

    Raises:
        UserError: there is none, or it is not one of this version's.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} is not a run directory: it has no {CONFIG}{_around(folder)}; `train CONFIG --run-dir DIR` makes one")
    try:
        return from_json((folder / CONFIG).read_bytes().decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{folder / CONFIG} is not UTF-8 at byte {error.start + 1}; restore it from a copy") from None
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from None
