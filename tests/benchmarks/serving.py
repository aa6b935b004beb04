"""A server under load: many clients at once, some of them hostile; none lost, none wrong, how fast, how much memory.

    python tests/benchmarks/serving.py RUN_DIR LINES [--clients 64 --requests 50] [--option=--beam-size=5]

Lines are translated by `decode` first: its texts are what the server must answer, and its rate (of all lines less a quarter of them, so that
the start does not count) is what the server's is compared with. Then two rounds against one server, on the loopback interface: every client
sends its requests one after the other, each a line, with a connection of its own; in the second round each fifth client sends what no client should.
The clients are threads of another process on the same machine, whose processor time the server does not have.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOSTILE = ("large", "broken", "bytes", "long", "cut", "deep")
EXPECTED = {"large": 413, "broken": 400, "bytes": 400, "long": 413, "deep": 400}


def decoded(run: str, lines: Sequence[str], options: Sequence[str]) -> tuple[list[str], float]:
    """The texts, and seconds of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in", Path(folder) / "out"
        source.write_text("".join(f"{line}\n" for line in lines))
        command = [sys.executable, "-m", "flax_s2s", "decode", run, "--input", str(source), "--output", str(target), *options]
        begin = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return target.read_text().splitlines(), time.perf_counter() - begin


class Server:
    """`serve` in a process of its own."""

    def __init__(self, run: str, options: Sequence[str]) -> None:
        begin = time.perf_counter()
        command = [sys.executable, "-m", "flax_s2s", "serve", run, "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said = line
            if "ready after" in line:
                break
        self.port = int(said.rsplit(":", 1)[1])
        self.ready_secs = time.perf_counter() - begin

    def megabytes(self, name: str) -> float:
        """Resident memory now (`VmRSS`) or at most (`VmHWM`)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(float(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(name))

    def stop(self) -> float:
        """Seconds that it takes to end."""
        begin = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(30):
            raise SystemExit(f"the server ended with {self.process.returncode}")
        return time.perf_counter() - begin


def post(connection: http.client.HTTPConnection, body: bytes, path: str = "/v1/translate") -> tuple[int, Any]:
    connection.request("POST", path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def attack(port: int, kind: str) -> int:
    """The status that something hostile is answered with; 0 for who does not wait for one."""
    if kind == "cut":
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /v1/translate HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{")
        return 0
    body = {
        "large": b'{"source": "' + b"x" * 10_000_000 + b'"}',
        "broken": b'{"source": ',
        "bytes": b'{"source": "\xff\xfe"}',
        "long": json.dumps({"source": "word " * 100_000}).encode(),
        "deep": b"[" * 100_000,
    }[kind]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        return post(connection, body)[0]
    except (BrokenPipeError, ConnectionResetError):  # it answers a body that is too large before that is sent
        return EXPECTED[kind] if kind in ("large", "long") else -1
    finally:
        connection.close()


def load(port: int, clients: int, requests: int, lines: Sequence[str], wanted: dict[str, str], hostile: bool) -> dict[str, Any]:
    """A round: what came back."""
    seconds, wrong, counts = list[float](), list[str](), Counter[str]()
    lock = threading.Lock()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for turn in range(requests):
            if hostile and number % 5 == 0:
                kind = HOSTILE[turn % len(HOSTILE)]
                status = attack(port, kind)
                with lock:
                    counts["hostile"] += 1
                    if status != EXPECTED.get(kind, 0):
                        wrong.append(f"{kind}: {status}")
                continue
            line = lines[(number * requests + turn) % len(lines)]
            begin = time.perf_counter()
            try:
                status, answer = post(connection, json.dumps({"source": line}).encode())
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    counts["lost"] += 1
                    wrong.append(repr(error))
                connection.close()
                continue
            took = time.perf_counter() - begin
            with lock:
                seconds.append(took)
                counts["answered"] += 1
                if status != 200 or answer["translations"][0]["text"] != wanted[line]:
                    wrong.append(f"{status}: {line!r} -> {answer}")
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    begin = time.perf_counter()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    took = time.perf_counter() - begin
    seconds.sort()
    return {
        "requests": clients * requests,
        **counts,
        "wrong": len(wrong),
        "first wrong": wrong[:2],
        "p50 ms": round(1000 * statistics.median(seconds)),
        "p95 ms": round(1000 * seconds[int(0.95 * len(seconds))]),
        "sentences/s": round(counts["answered"] / took, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("lines", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--option", action="append", default=[], dest="options", help="of decode and of serve, as --option=--beam-size=5")
    parser.add_argument("--rows", help="of serve; decode has those of its own, by default 64")
    given = parser.parse_args()
    lines = [line for line in dict.fromkeys(given.lines.read_text().splitlines()) if line.strip()]
    texts, _ = decoded(given.run, lines, given.options)
    quarter = lines[: len(lines) // 4]
    rates = []
    for _ in range(3):
        short, whole = (decoded(given.run, some, given.options)[1] for some in (quarter, lines))
        rates.append((len(lines) - len(quarter)) / (whole - short))
    rate = statistics.median(rates)
    print(f"decode: {rate:.1f} sentences/s of {os.cpu_count()} cores, {len(lines) / whole:.1f} with its start", flush=True)
    server = Server(given.run, [*given.options, *(["--rows", given.rows] if given.rows else [])])
    print(f"ready after {server.ready_secs:.1f} s, {server.megabytes('VmRSS'):,.0f} MB", flush=True)
    wanted = dict(zip(lines, texts, strict=True))
    alone = http.client.HTTPConnection("127.0.0.1", server.port)
    one_by_one = []
    for line in lines[:50]:
        begin = time.perf_counter()
        post(alone, json.dumps({"source": line}).encode())
        one_by_one.append(time.perf_counter() - begin)
    print(f"one client: p50 {1000 * statistics.median(one_by_one):.0f} ms", flush=True)
    for hostile in (False, True):
        found = load(server.port, given.clients, given.requests, lines, wanted, hostile)
        found |= {"of decode's rate": round(found["sentences/s"] / rate, 2), "peak MB": round(server.megabytes("VmHWM"))}
        print(f"{'some hostile' if hostile else 'all well-meaning'}: {json.dumps(found)}", flush=True)
    print(f"SIGTERM: ended after {server.stop():.1f} s", flush=True)


if __name__ == "__main__":
    main()
