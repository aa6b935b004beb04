#!/usr/bin/env python3
"""Trains with several processes on this machine, and starts them again until they are done.

    python launch/local.py --processes 2 --devices 4 -- train configs/debug.py --run-dir runs/debug

What follows `--` are the arguments of `python -m flax_s2s`. Every process has so many devices of the CPU, or with `--gpus` so
many GPUs; the processes meet at a free port of the loopback. Each line of output has its process' number in front.

The first process that fails ends all; then it depends on the exit code:

* 2, the user's mistake: this ends too, with 2;
* 75, stopped and saved: all start again at once;
* anything else: all start again after 1, 2, 4 ... seconds; `--restarts` in a row without a new checkpoint are the end.

Ctrl-C and SIGTERM are passed on; the processes save, and this ends with 75. A second Ctrl-C ends them at once.
"""

import argparse
import contextlib
import ctypes
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

DONE, FAILURE, USER_ERROR, PREEMPTED = 0, 1, 2, 75
SAVE_SECS = 30.0  # for the others to end by themselves, once one has ended well or all were asked to
KILL_SECS = 3.0  # from SIGTERM to SIGKILL, which alone ends a process that is stopped or hangs
DRAIN_SECS = 0.5  # for the last lines of a process that has ended
LONGEST_PAUSE_SECS = 60.0
POLL_SECS = 0.1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


class Worker:
    """One process of the job."""

    def __init__(self, index: int, command: list[str], environment: dict[str, str], log: IO[bytes] | None) -> None:
        """Starts it, in a session of its own: Ctrl-C in the terminal is for the launcher, which passes it on once."""
        self.index, self.log = index, log
        self.started = time.monotonic()
        self.ended_secs = 0.0
        self.signaled = False  # whether the launcher ended it
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_make_mortal(),
        )

    def send(self, number: int) -> None:
        """Sends a signal; SIGKILL to all that it has started as well."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(self.process.pid, number)
                else:
                    self.process.send_signal(number)

    def has_ended(self) -> bool:
        """Whether it is no more."""
        if self.process.poll() is None:
            return False
        self.ended_secs = self.ended_secs or time.monotonic() - self.started
        return True

    @property
    def code(self) -> int:
        """Its exit code; minus the number of the signal that killed it."""
        return int(self.process.returncode)

    def epitaph(self) -> str:
        """What became of it, in a line."""
        if self.code < 0:
            how = f"killed by {signal.Signals(-self.code).name}"
        else:
            meaning = {DONE: "done", USER_ERROR: "a mistake to correct", PREEMPTED: "stopped and saved"}.get(self.code, "failed")
            how = f"exit code {self.code}, {meaning}"
        asked = ", after this launcher's signal" if self.signaled else ""
        return f"process {self.index} (pid {self.process.pid}): {how}{asked}, after {self.ended_secs:.1f} s"


def _make_mortal() -> Callable[[], None] | None:
    """What lets a child die with its parent, which may be killed without a chance to end it; only Linux can."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()  # before the fork, after which as little as possible is done

    def die_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died already
            os._exit(FAILURE)

    return die_with_parent


def adopt() -> None:
    """From now on, what the processes have started and leave behind becomes this launcher's child; only on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_orphans() -> None:
    """Ends what was left behind, as the coordination service, which outlives process 0 for a while."""
    with contextlib.suppress(OSError):  # no Linux
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(int(child), signal.SIGKILL)
                os.waitpid(int(child), 0)


class Output:
    """Hands on what the processes print, line by line, with the process' number in front."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._rest: dict[IO[bytes], bytes] = {}

    def add(self, worker: Worker) -> None:
        """Listens to a process from now on."""
        for source, target in ((worker.process.stdout, sys.stdout.buffer), (worker.process.stderr, sys.stderr.buffer)):
            assert source is not None
            self._selector.register(source, selectors.EVENT_READ, (worker, source, target))
            self._rest[source] = b""

    def relay(self, timeout_secs: float) -> bool:
        """Waits so long for output at most, and prints what there is; whether there was any."""
        if not self._rest:
            time.sleep(timeout_secs)
            return False
        ready = self._selector.select(timeout_secs)
        for key, _ in ready:
            worker, source, target = key.data
            received = os.read(source.fileno(), 1 << 16)
            *lines, self._rest[source] = (self._rest[source] + received).split(b"\n")
            if not received:
                self._close(source)
                continue
            self._print(worker, target, lines)
        return bool(ready)

    def finish(self) -> None:
        """Prints what is left. A process that one of ours has started may hold a pipe for longer: it is not waited for."""
        deadline = time.monotonic() + DRAIN_SECS
        while self._rest and time.monotonic() < deadline and self.relay(POLL_SECS):
            pass
        for source in list(self._rest):
            self._close(source)

    def _close(self, source: IO[bytes]) -> None:
        worker, _, target = self._selector.unregister(source).data
        rest = self._rest.pop(source)
        if rest:
            self._print(worker, target, [rest])
        source.close()

    def _print(self, worker: Worker, target: IO[bytes], lines: list[bytes]) -> None:
        with contextlib.suppress(OSError):  # nobody reads any longer: no reason to end a training
            target.write(b"".join(b"[%d] %s\n" % (worker.index, line) for line in lines))
            target.flush()
        if worker.log:
            with contextlib.suppress(OSError):
                worker.log.write(b"".join(line + b"\n" for line in lines))
                worker.log.flush()


class Signals:
    """The signals that the launcher has received; they are passed on by the loop that watches the processes."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._receive)

    def received(self) -> bool:
        """Whether there was any."""
        return self.count > 0

    def _receive(self, *_: object) -> None:
        self.count += 1  # nothing is printed here: the loop may be in the middle of a line


def say(line: str) -> None:
    """A line of the launcher's own."""
    with contextlib.suppress(OSError):
        print(f"[launch] {line}", file=sys.stderr, flush=True)


def watch(workers: list[Worker], output: Output, signals: Signals) -> None:
    """Until all have ended: hands on output and signals; the first that fails ends all."""
    asked = 0  # signals passed on so far
    deadline = float("inf")  # when those that still run are told to end
    kill_at = float("inf")
    while not all([worker.has_ended() for worker in workers]):
        output.relay(POLL_SECS)
        now, ended = time.monotonic(), [worker for worker in workers if worker.has_ended()]
        if signals.count > asked:
            asked = signals.count
            say("asked to end: " + ("ending all at once" if asked > 1 else "passed on; waiting until all have saved"))
            for worker in workers:
                worker.send(signal.SIGKILL if asked > 1 else signal.SIGTERM)
            deadline = min(deadline, now + SAVE_SECS)
        if any(worker.code not in (DONE, PREEMPTED) for worker in ended):
            deadline = now
        elif ended:
            deadline = min(deadline, now + SAVE_SECS)
        if now >= deadline and kill_at == float("inf"):
            kill_at = now + KILL_SECS
            _signal_the_rest(workers, signal.SIGTERM, "SIGTERM")
        if now >= kill_at:
            kill_at = now + KILL_SECS
            _signal_the_rest(workers, signal.SIGKILL, "SIGKILL")
    output.finish()


def _signal_the_rest(workers: list[Worker], number: int, name: str) -> None:
    rest = [worker for worker in workers if not worker.has_ended()]
    ended = [f"process {worker.index} ({worker.code})" for worker in workers if worker.has_ended()]
    if rest:
        running = ", ".join(f"process {worker.index}" for worker in rest)
        say(f"{', '.join(ended) or 'no process'} has ended; ending {running} by {name}")
    for worker in rest:
        worker.signaled = True
        worker.send(number)


def verdict(workers: list[Worker]) -> int:
    """What all together amount to: the user's mistake, whoever found it; a failure; stopped and saved; or done."""
    codes = [worker.code for worker in workers]
    if USER_ERROR in codes:
        return USER_ERROR
    if any(code not in (DONE, PREEMPTED) for code in codes):
        return FAILURE
    return PREEMPTED if PREEMPTED in codes else DONE


def run_once(given: argparse.Namespace, signals: Signals) -> int:
    """Starts all processes, waits for their end and says what became of each."""
    port = free_port()
    workers: list[Worker] = []
    output = Output()
    with contextlib.ExitStack() as logs:
        try:
            for index in range(given.processes):
                log = logs.enter_context(open(given.log_dir / f"process-{index}.log", "ab")) if given.log_dir else None
                workers.append(Worker(index, [sys.executable, "-m", "flax_s2s", *given.arguments], environment_of(given, index, port), log))
                output.add(workers[-1])
            watch(workers, output, signals)
        finally:
            for worker in workers:
                worker.send(signal.SIGKILL)
                worker.process.wait()
            end_orphans()
    for worker in workers:
        say(worker.epitaph())
    return verdict(workers)


def environment_of(given: argparse.Namespace, index: int, port: int) -> dict[str, str]:
    """The variables of a process: where the others are, and which devices are its own."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(given.processes),
        "JAX_PROCESS_ID": str(index),
    }
    if given.gpus:
        visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        mine = range(index * given.devices, (index + 1) * given.devices)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible[gpu] if visible else str(gpu) for gpu in mine)
    else:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(given.devices)}
        flags = environment.get("XLA_FLAGS", "").split()  # jax takes the number of devices from one of both only
        environment["XLA_FLAGS"] = " ".join(flag for flag in flags if "host_platform_device_count" not in flag)
    return environment


def free_port() -> int:
    """A port that nobody has, of those that no outgoing connection gets meanwhile (Linux: 32768 to 60999)."""
    while True:
        port = random.randrange(61000, 65000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def progress(arguments: list[str]) -> int:
    """The newest complete checkpoint of the run that the arguments name; -1: there is none, or it cannot be seen, as in a bucket."""
    folder = f"runs/{Path(arguments[1]).stem}" if len(arguments) > 1 else ""
    for position, argument in enumerate(arguments):
        if argument == "--run-dir" and position + 1 < len(arguments):
            folder = arguments[position + 1]
        elif argument.startswith("--run-dir="):
            folder = argument.partition("=")[2]
    manifests = Path(folder, "checkpoints").glob("*/manifest.json") if folder else []
    return max((int(path.parent.name) for path in manifests if path.parent.name.isdigit()), default=-1)


def supervise(given: argparse.Namespace, signals: Signals) -> int:
    """Starts the job, and again, until it is done, stopped, or gets no further."""
    in_vain, reached = 0, progress(given.arguments)
    while True:
        code = run_once(given, signals)
        if code in (DONE, USER_ERROR) or signals.received():
            return code
        now = progress(given.arguments)
        in_vain = 1 if now > reached else in_vain + 1
        reached = max(now, reached)
        if in_vain > given.restarts:
            say(f"giving up: {given.restarts} restarts without a new checkpoint")
            return code
        pause_secs = 0.0 if code == PREEMPTED else min(2.0 ** (in_vain - 1), LONGEST_PAUSE_SECS)
        say(
            f"starting again {f'in {pause_secs:.0f} s' if pause_secs else 'at once'} (restart {in_vain} of {given.restarts} without a new checkpoint)"
        )
        deadline = time.monotonic() + pause_secs
        while time.monotonic() < deadline and not signals.received():
            time.sleep(POLL_SECS)
        if signals.received():
            return code


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; a mistake ends with a message and exit code 2."""
    own, found, verb = _split(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] -- VERB ..."
    )
    parser.add_argument("--processes", type=int, default=2, help="processes, default 2")
    parser.add_argument("--devices", type=int, default=1, help="devices of each process, default 1")
    parser.add_argument("--gpus", action="store_true", help="the devices are this machine's GPUs, in turn; else parts of its CPU")
    parser.add_argument("--restarts", type=int, default=3, help="restarts without a new checkpoint before giving up, default 3")
    parser.add_argument("--log-dir", type=Path, help="folder that gets what each process prints, as process-0.log, process-1.log ...")
    given = parser.parse_args(own)
    if not found or not verb:
        parser.error("what to run is missing; give it after --, for example: -- train configs/debug.py --run-dir runs/debug")
    for name, least in (("processes", 1), ("devices", 1), ("restarts", 0)):
        if getattr(given, name) < least:
            parser.error(f"--{name} {getattr(given, name)} must be at least {least}")
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if given.gpus and visible and given.processes * given.devices > len(visible):
        parser.error(
            f"{given.processes} processes with {given.devices} GPUs each are more than the {len(visible)} of CUDA_VISIBLE_DEVICES={','.join(visible)}"
        )
    if given.log_dir:
        try:
            given.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--log-dir {given.log_dir} cannot be made: {error.strerror}")
    given.arguments = verb
    return given


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """What stands before --, whether it is there, and what stands behind."""
    if "--" not in arguments:
        return arguments, False, []
    place = arguments.index("--")
    return arguments[:place], True, arguments[place + 1 :]


def main() -> int:
    """The launcher; returns its exit code."""
    given = parse(sys.argv[1:])
    adopt()
    return supervise(given, Signals())


if __name__ == "__main__":
    sys.exit(main())
