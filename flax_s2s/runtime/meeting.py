"""How the processes of a job meet: process 0 starts the coordination service, and all connect to it.

Enters: a `Place`. Leaves: jax, which knows the devices of all processes; or a reason why they have not met.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flax_s2s.runtime import address
from flax_s2s.runtime.places import Place

_SILENCE_SECS = 5.0  # after which it is said what is waited for
_LOOK_SECS = 1.0
_HEARTBEAT_SECS = 30  # jax's own watch, which aborts without a line of ours: only where that of `job` fails


def start_service(place: Place) -> "subprocess.Popen[str]":
    """Starts the coordination service, a process beside process 0."""
    # -P: its folder, full of names like `config`, is none to import from. It leads a session of its own: a terminal's Ctrl-C is not for it.
    program = [sys.executable, "-P", str(Path(__file__).with_name("coordinator.py"))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    arguments = [address.bind_address(place), str(place.count), str(_HEARTBEAT_SECS)]
    return subprocess.Popen([*program, *arguments], stdin=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def meet(place: Place, leave_fn: Callable[[str], None]) -> None:
    """Connects jax to the service; returns when all processes have.

    Args:
        place: where this process stands.
        leave_fn: ends this process, given the reason.
    """
    import jax
    from jaxlib import _jax

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    original = _jax.get_distributed_runtime_service
    _jax.get_distributed_runtime_service = lambda *_, **__: None  # process 0 would start one inside itself
    met = threading.Event()
    threading.Thread(target=_watch, args=(place, met, leave_fn), name="meeting", daemon=True).start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            cluster_detection_method="deactivate",  # it would give each task of Slurm and Open MPI a single device
            initialization_timeout=round(place.connect_secs) + 60,  # at its own deadline jax aborts, without a word of ours
            heartbeat_timeout_seconds=_HEARTBEAT_SECS,
        )
    finally:
        met.set()
        _jax.get_distributed_runtime_service = original


def _watch(place: Place, met: threading.Event, leave_fn: Callable[[str], None]) -> None:
    """Ends this process when the others do not come in time, or process 0 has gone again: jax waits without a word."""
    begin, missed, told = time.monotonic(), 0, False
    while not met.wait(_LOOK_SECS):
        if time.monotonic() - begin > _SILENCE_SECS and not told:
            within = f"{place.connect_secs:.0f} s"
            print(f"{place.label()}: waiting up to {within} for all to meet at {place.coordinator}", file=sys.stderr, flush=True)
            told = True
        if time.monotonic() - begin > place.connect_secs:
            within = f"{place.coordinator} within {place.connect_secs:.0f} s"
            leave_fn(f"not all {place.count} processes met at {within}; see that each is started, once")
        missed = 0 if place.index == 0 or address.is_reachable(place) else missed + 1
        if missed > 1:
            leave_fn(f"process 0 was at {place.coordinator} and has gone again, before all had met; its own words say why")
