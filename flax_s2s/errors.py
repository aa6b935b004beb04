"""What a user is told of an error, and the exit code that goes with it.

Exit codes: 0 done; 1 something failed that may work when tried again; 2 only the user can put it right (one message, nothing lost);
75 stopped and saved (run it again to go on); 130 ended at once by Ctrl-C.
"""

import errno
import io
import os
import sys
from typing import Any

from flax_s2s.config import Failure, UserError

DONE, FAILURE, USER_ERROR, PREEMPTED, INTERRUPTED = 0, 1, 2, 75, 130


def prepare_streams() -> None:
    """Lets any console take any text: it shows the number of a character that it cannot show; one that is closed swallows all."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by `>&-`
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  # for as long as the process lives
            setattr(sys, name, stream)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_closed(stream: Any) -> bool:
    """Whether one of Python's streams was closed before the program began."""
    return getattr(stream, "name", "") == os.devnull


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the message; the message is empty where only a traceback will do."""
    if isinstance(error, UserError):
        return USER_ERROR, str(error)
    if isinstance(error, Failure):
        return FAILURE, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, MemoryError) or (type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)):
        first = (str(error) or "this machine's is used up").split("\n")[0]
        return USER_ERROR, (
            f"there is not enough memory ({first}); use a smaller data.batch_tokens, model.recompute or more devices for training, or fewer "
            "decoding.rows for decoding. `inspect` says how much each shape takes"
        )
    if isinstance(error, OSError):  # a disk that is full or gone; a file of the user's is checked where it is opened
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return USER_ERROR, f"no space left on the disk{where}; what was complete is intact: make room, then run the same command again"
        return USER_ERROR, f"{error.strerror or error}{where}; nothing that was complete is lost"
    return FAILURE, ""


def show(text: str) -> None:
    """One box on a terminal, plain text elsewhere."""
    if not sys.stderr.isatty():
        print(f"error: {text}", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Panel(Text(text), title="error", border_style="red", expand=False))
