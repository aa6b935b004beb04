"""The coordination service of a job with several processes, in a process of its own: `python coordinator.py ADDRESS COUNT HEARTBEAT`.

Process 0 starts it and holds its stdin. It outlives process 0 for a moment, so that the others can still read there why, or
see that it gave no more signs of life; inside process 0, as jax has it, its end would abort them without a word of ours.
"""

import os
import signal
import sys
import time

SILENT_SECS, LEFT_SECS = 12.0, 3.0  # longer than peers need to notice that process 0 is silent, or to read why it left


def main(address: str, count: int, heartbeat_secs: int) -> None:
    """Serves until stdin ends, and a moment longer, unless process 0 said that all is `done`; shorter if it said that it `left`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # process 0 decides
    from jaxlib import _jax

    service = _jax.get_distributed_runtime_service(address, count, heartbeat_timeout=heartbeat_secs, shutdown_timeout=heartbeat_secs)
    time.sleep({"done": 0.0, "left": LEFT_SECS}.get(sys.stdin.read(), SILENT_SECS))
    del service
    os._exit(0)  # nothing is left to wait for


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
