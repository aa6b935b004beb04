"""Who trains in a run directory: a lease with a heartbeat and a fencing number.

Enters: a run directory, here, on a shared folder or in a bucket. Leaves: a `Lease` that is renewed until it is let go.

The file `lease.json` names the holder, a number that grows with every new holder (the fence) and a beat that grows while the
holder lives. There are no locks of a file system in it, since a bucket has none:

* A lease is free when it was let go, when its beat does not change for `LAPSE_SECS`, or at once when its holder was a
  process of this machine that is no more.
* Who takes it writes the next fence, waits a moment and reads: of several who wrote at once the last one holds it.
* A holder that reads a higher fence, or another holder of its own, has lost the lease, and must not write any longer.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from flax_s2s.config import Failure, UserError

FILE = "lease.json"
BEAT_SECS, LAPSE_SECS = 2.0, 10.0
_SETTLE_SECS, _SETTLE_SECS_OF_A_BUCKET = 0.1, 2.0


class Claim(NamedTuple):
    """What the file says."""

    fence: int
    id: str  # of the holding, not of the process; empty when it was let go
    holder: str  # for people
    machine: str  # where process ids are those of the holder
    process: int
    born: str  # when the process started, in the system's own units
    beat: int


class Lease:
    """A lease that is held."""

    def __init__(self, folder: epath.Path, claim: Claim) -> None:
        """A thread renews it from now on."""
        self.folder, self._claim = folder, claim
        self.lost: UserError | Failure | None = None  # why it is held no longer
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def fence(self) -> int:
        """Grows with every holder of the run directory."""
        return self._claim.fence

    @property
    def id(self) -> str:
        """Of this holding: 32 hexadecimal digits."""
        return self._claim.id

    def check(self) -> None:
        """Makes sure that it was still held at the last beat.

        Raises:
            UserError: another process holds the run directory by now.
            Failure: the file is gone, or cannot be renewed.
        """
        if self.lost:
            raise self.lost

    def confirm(self) -> int:
        """The fence, after a look into the file: it is still held now.

        Raises:
            UserError, Failure: as `check`.
        """
        self._look()
        self.check()
        return self.fence

    def _look(self) -> None:
        found = _read(self.folder)
        if found is None and not (self.folder / FILE).exists():
            self._lose(Failure, "it was deleted, or its file system was unmounted")
        elif found and (found.fence > self.fence or (found.fence == self.fence and found.id != self._claim.id)):
            taker = found.holder or "a process that has ended since"
            self._lose(UserError, f"{taker} has taken it (fence {found.fence}, ours {self.fence})")

    def _lose(self, kind: type[UserError] | type[Failure], why: str) -> None:
        self.lost = kind(f"{self.folder} is no longer held: {why}; nothing of this process is saved any more")

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(BEAT_SECS):
            try:
                self._look()
                if self.lost:
                    return
                self._claim = self._claim._replace(beat=self._claim.beat + 1)
                _write(self.folder, self._claim)
                renewed = time.monotonic()
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    continue  # no other can write a claim either; and if there is room again, `confirm` sees who did
                if time.monotonic() - renewed > LAPSE_SECS:
                    why = f"{FILE} could not be renewed for {LAPSE_SECS:.0f} s ({error.strerror or error}), so others may take it"
                    self._lose(Failure, why)
                    return

    def let_go(self) -> None:
        """Ends the heartbeat and says so in the file, for whoever comes next."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # it lapses all the same
            self._look()
            if not self.lost:
                _write(self.folder, self._claim._replace(id="", holder=""))


@contextlib.contextmanager
def hold(folder: epath.Path, say: Callable[[str], None]) -> Iterator[Lease]:
    """Holds a run directory for training, so that no other process trains in it.

    Args:
        folder: the run directory.
        say: told when a holder that may be dead is waited for.

    Raises:
        UserError: another process holds it, or has just taken it; it is named.
    """
    before = _wait_until_free(folder, say)
    claim = Claim((before.fence if before else 0) + 1, uuid.uuid4().hex, f"process {os.getpid()} on {socket.gethostname()}", *_myself(), 0)
    _write(folder, claim)
    time.sleep(_SETTLE_SECS_OF_A_BUCKET if "://" in os.fspath(folder) else _SETTLE_SECS)
    found = _read(folder)
    if found is None or found.id != claim.id:
        raise _refusal(folder, found.holder if found else "another process")
    lease = Lease(folder, claim)
    try:
        yield lease
    finally:
        lease.let_go()


def shows(folder: epath.Path, token: str) -> bool:
    """Whether a run directory, seen from here, is held under this id; a shared folder may need a moment to show it."""
    deadline = time.monotonic() + LAPSE_SECS / 2
    while (found := _read(folder)) is None or found.id != token:
        if time.monotonic() > deadline:
            return False
        time.sleep(BEAT_SECS / 4)
    return True


def _wait_until_free(folder: epath.Path, say: Callable[[str], None]) -> Claim | None:
    """The last claim, once nobody lives that holds it."""
    first = _read(folder)
    if first is None or not first.id or _has_ended(first):
        return first
    if first.machine == _myself()[0]:
        raise _refusal(folder, first.holder)
    say(f"{folder} is held by {first.holder}; waiting up to {LAPSE_SECS:.0f} s for a sign of life")
    deadline = time.monotonic() + LAPSE_SECS
    while time.monotonic() < deadline:
        time.sleep(BEAT_SECS / 4)
        now = _read(folder)
        if now is None:
            continue  # being written, it may be, on a disk where that takes a moment
        if not now.id:
            return now
        if (now.id, now.beat) != (first.id, first.beat):
            raise _refusal(folder, now.holder)
    return first


def _refusal(folder: epath.Path, holder: str) -> UserError:
    return UserError(f"{folder} is in use by {holder}; wait until it has ended, or use another --run-dir")


def _read(folder: epath.Path) -> Claim | None:
    """What the file says; None where there is none, or nothing that can be read."""
    try:
        tree: dict[str, Any] = json.loads((folder / FILE).read_text())
        return Claim(**tree)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(folder: epath.Path, claim: Claim) -> None:
    partial = folder / f".{FILE}.{uuid.uuid4().hex}.partial"
    try:
        partial.write_text(json.dumps(claim._asdict()))
        partial.replace(folder / FILE)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _myself() -> tuple[str, int, str]:
    """Machine, process and its birth."""
    return _machine(), os.getpid(), _born(os.getpid())


def _machine() -> str:
    """One and the same for processes that can see each other's ids, also among containers of one machine."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _born(process: int) -> str:
    """When a process of this machine started; empty when there is none, or it has ended and nobody has asked for its status yet."""
    try:
        name, _, rest = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(") ")
    except OSError:
        return "" if os.path.isdir("/proc/self") or not _answers(process) else "unknown"
    fields = rest.split()
    return "" if fields[0] in "ZX" or not name else fields[19]


def _answers(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _has_ended(claim: Claim) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    return claim.machine == _machine() and _born(claim.process) != claim.born
