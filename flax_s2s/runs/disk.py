"""What a full or a read-only disk says: messages instead of errors from the midst of a library.

Enters: a folder of checkpoints, how much is to be written there. Leaves: nothing, or a `UserError`.
"""

import errno
import os
import pathlib
import shutil
from typing import Any

from etils import epath

from flax_s2s.config import UserError

_SMALL_FILES_BYTES = 2**17  # what a checkpoint's small files take on a disk beyond their length


def make_sure_of_space(folder: epath.Path, array_bytes: int, newest: int | None) -> None:
    """Asked before orbax begins: a save that fails in the middle leaves its threads behind, each with an error of its own.

    Args:
        folder: of checkpoints; a bucket has no end.
        array_bytes: what is to be saved.
        newest: the last step that was saved, since a checkpoint may take more than its arrays; None: there is none.

    Raises:
        UserError: there is not enough.
    """
    if "://" in os.fspath(folder):
        return
    folder.mkdir(exist_ok=True)
    before = 0 if newest is None else sum(path.stat().st_size for path in (pathlib.Path(folder) / str(newest)).rglob("*"))
    size = max(array_bytes, before)
    needed, (_, _, free) = size + size // 10 + _SMALL_FILES_BYTES, shutil.disk_usage(folder)
    if free < needed:
        raise UserError(
            f"no space left for a checkpoint in {folder}: it needs {needed / 2**20:,.1f} MiB, {free / 2**20:,.1f} MiB are free; "
            "earlier checkpoints are intact: make room, then run the same command again"
        )


class errors_said:  # noqa: N801  # used like a function
    """Turns a full or read-only disk into a message; anything else passes."""

    def __init__(self, folder: epath.Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        text = str(error)
        if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (error and "No space left" in text):
            raise UserError(
                f"no space left for a checkpoint in {self.folder}; earlier checkpoints are intact: make room, then run the same command again"
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES):
            raise UserError(f"{self.folder} cannot be written: {text}; earlier checkpoints are intact") from error
