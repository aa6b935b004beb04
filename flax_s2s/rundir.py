"""A run directory: its layout, its configuration, and who holds it.

config.json  vocab/  checkpoints/  metrics.jsonl  tensorboard/
"""

import contextlib
import os
import socket
from collections.abc import Iterator

from etils import epath

from flax_s2s.config import Config, UserError, from_json, to_json

CONFIG, VOCAB, CHECKPOINTS, LOCK = "config.json", "vocab", "checkpoints", "train.lock"


def write_config(folder: epath.Path, config: Config) -> None:
    """Writes `config.json`, whole or not at all."""
    partial = folder / f"{CONFIG}.partial"
    partial.write_text(to_json(config))
    partial.replace(folder / CONFIG)


def read_config(folder: epath.Path) -> Config:
    """The configuration that a run directory was trained with.

    Raises:
        UserError: not a run directory, or its configuration is not one of this version's.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run directory {folder}; `train CONFIG --run-dir {folder}` makes one")
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} is not a run directory: it has no {CONFIG}; `train CONFIG --run-dir DIR` makes one")
    try:
        return from_json((folder / CONFIG).read_text())
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from None


@contextlib.contextmanager
def hold(folder: epath.Path) -> Iterator[None]:
    """Holds a run directory for training, so that no other process trains in it.

    A process that died on this host does not hold it any longer; of another host nobody can tell, so the user decides.

    Raises:
        UserError: another process holds it; it is named.
    """
    lock, me = folder / LOCK, f"{socket.gethostname()} {os.getpid()}"
    while True:
        try:
            with open(os.fspath(lock), "x") as file:
                file.write(me)
            break
        except FileExistsError:
            _refuse_living(lock)
            lock.unlink(missing_ok=True)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _refuse_living(lock: epath.Path) -> None:
    """Raises unless the holder is known to be dead."""
    try:
        host, _, pid = lock.read_text().partition(" ")
    except FileNotFoundError:
        return
    if host == socket.gethostname() and pid.isdigit() and int(pid) != os.getpid():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        except PermissionError:
            pass
    raise UserError(
        f"{lock.parent} is in use by process {pid or '?'} on {host or '?'}; wait until it has ended, use another --run-dir, or, "
        f"if you are certain that it is dead, delete {lock}"
    )
