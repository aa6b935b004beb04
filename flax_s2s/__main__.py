"""`python -m flax_s2s VERB`, and the program `flax-s2s`."""

import contextlib
import gc
import os
import sys
import traceback

from flax_s2s.runtime import processor


def main() -> None:
    """Runs the verb and ends the process; after a failure at once, since the threads of a save that failed would keep it for minutes."""
    if processor.is_the_command():
        processor.use_huge_pages()
    gc.set_threshold(100_000, 20, 10)  # a program is traced as many objects that live: to look for garbage among them takes a tenth of it
    from flax_s2s.cli import verbs  # not twice

    try:
        code = verbs.main()
    except Exception:
        traceback.print_exc()
        code = 1
    if not code:
        gc.freeze()  # else Python, as it ends, looks for garbage among all that was imported and traced, which takes a fifth of a short verb
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
