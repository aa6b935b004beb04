"""The folders of the user's where work is kept that can be done again: compiled programs, tokenized corpora."""

import os
import stat
from pathlib import Path


def folder(name: str) -> Path | None:
    """A folder of the user's alone, made if missing, under XDG_CACHE_HOME or ~/.cache; None where there can be none."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        path = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in ("flax_s2s", *name.split("/")):
            path /= part
            path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    except (OSError, RuntimeError):  # the latter without a home
        return None
    private = found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077
    return path if private and os.access(path, os.W_OK) else None
