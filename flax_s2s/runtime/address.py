"""The address of process 0: what it listens at, and whether the others can reach it.

Enters: a `Place`. Leaves: nothing where all is well, or a `Failure` that says what is wrong with the address and what to do.
"""

import contextlib
import errno
import ipaddress
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping

from flax_s2s.config import Failure, UserError
from flax_s2s.runtime.places import ADDRESS, TPU_PORT, Place, join_address

BIND_ADDRESS, CONNECT_SECS = "JAX_COORDINATOR_BIND_ADDRESS", "FLAX_S2S_CONNECT_SECS"

_STALE_SECS = 60.0  # a name may still lead to a pod that is no more: CoreDNS keeps answers for 30 s
_BUSY_SECS = 20.0  # the service of a job that was killed a moment ago may still hold the port
_RETRY_SECS, _ANSWER_SECS = 0.5, 5.0
_SILENCE_SECS = 5.0  # after which it is said what is waited for


def bind_address(place: Place, environment: Mapping[str, str] = os.environ) -> str:
    """What the coordination service of process 0 listens at: only the address that the others connect to.

    The service asks nobody who he is, so it should not listen anywhere else. `JAX_COORDINATOR_BIND_ADDRESS` overrides. A machine
    whose own name leads to its loopback (Debian writes 127.0.1.1 into /etc/hosts) cannot know by which address the others
    know it: then all are listened at.

    Raises:
        UserError: the host has no address, or none of this machine.
    """
    if override := environment.get(BIND_ADDRESS, ""):
        host, port = split_address(override, BIND_ADDRESS)
        return join_address(host, port)
    host, port = split_address(place.coordinator, ADDRESS)
    own = _own_address(host, port)
    if is_loopback(own) and not is_loopback(host):
        return join_address("::" if ":" in own else "0.0.0.0", port)
    return join_address(own, port)


def make_sure_reachable(place: Place, environment: Mapping[str, str] = os.environ) -> None:
    """Makes sure, before jax connects, that the address of process 0 is good; jax would end without a reason that can be read.

    Process 0 makes sure that the address is one of its machine and that the port is free. The others try to connect until
    `place.connect_secs` have passed: processes may start minutes apart.

    Raises:
        Failure: what is wrong with the address, and what to do.
    """
    if place.count == 1:
        return
    if place.index:
        _retry(lambda: _try_to_connect(place), place.connect_secs)
    else:
        _retry(lambda: _try_to_listen(place, environment), place.connect_secs)


def is_reachable(place: Place) -> bool:
    """Whether something listens at the address of process 0, now."""
    try:
        _try_to_connect(place)
    except _Unreachable:
        return False
    return True


class _Unreachable(Exception):  # noqa: N818, not an error until it has lasted
    """What stands in the way, for how long that may pass by itself, and what else to do."""

    def __init__(self, reason: str, remedy: str, patience_secs: float = float("inf")) -> None:
        super().__init__(reason)
        self.remedy, self.patience_secs = remedy, patience_secs


def _retry(attempt: Callable[[], None], connect_secs: float) -> None:
    """Tries until it works, or nothing better can be hoped for."""
    start, told = time.monotonic(), False
    while True:
        try:
            return attempt()
        except _Unreachable as problem:
            waited = time.monotonic() - start
            if waited + _RETRY_SECS > min(connect_secs, problem.patience_secs):
                tried = f" (tried for {waited:.0f} s)" if waited >= 1 else ""
                raise Failure(f"{problem}{tried}; {problem.remedy}") from None
            if waited > _SILENCE_SECS and not told:
                print(f"{problem}; tried again for {connect_secs:.0f} s", file=sys.stderr, flush=True)
                told = True
        time.sleep(_RETRY_SECS)


def _try_to_connect(place: Place) -> None:
    """Connects to process 0 and hangs up."""
    host, port = split_address(place.coordinator, ADDRESS)
    who = f"process {place.index} on {socket.gethostname()} cannot reach process 0 at {place.coordinator}"
    remedy = f"is process 0 running there, and is the port open between the machines? {CONNECT_SECS} changes how long is waited"
    try:
        socket.create_connection((host, port), timeout=min(_ANSWER_SECS, max(place.connect_secs, 0.1))).close()
    except socket.gaierror as error:
        raise _no_name(f"{who}: {host}", error) from None
    except ConnectionRefusedError:
        raise _Unreachable(f"{who}: the connection was refused, so nothing listens there", remedy) from None
    except TimeoutError:
        raise _Unreachable(f"{who}: no answer, as behind a firewall", remedy) from None
    except OSError as error:
        raise _Unreachable(f"{who}: {error.strerror or error}", remedy) from None


def _try_to_listen(place: Place, environment: Mapping[str, str]) -> None:
    """Takes the port and lets it go: jax shares a port that is taken, and would talk to two jobs at once."""
    host, port = split_address(bind_address(place, environment), BIND_ADDRESS)
    try:
        _bind(host, port)
    except OSError as error:
        what = f"process 0 cannot listen at {join_address(host, port)}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise _Unreachable(what, f"end the program that does, or give another port in {ADDRESS}", _BUSY_SECS) from None
        raise _Unreachable(what, f"give an address of this machine, {socket.gethostname()}, and a port that may be used", 0.0) from None


def _own_address(host: str, port: int) -> str:
    """The first address of a host that is of this machine, those before that are not loopback."""
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        raise _no_name(f"process 0 cannot listen at {join_address(host, port)}: {host}", error) from None
    for address in sorted(dict.fromkeys(addresses), key=is_loopback):
        with contextlib.suppress(OSError):
            _bind(address, 0)
            return address
    raise _Unreachable(
        f"process 0 cannot listen at {join_address(host, port)}: that is {', '.join(addresses)}, no address of this machine, {socket.gethostname()}",
        f"{ADDRESS} must be an address of the machine of process 0; give that one, or start process 0 there",
        0.0 if _is_literal(host) else _STALE_SECS,
    )


def _no_name(what: str, error: socket.gaierror) -> _Unreachable:
    return _Unreachable(
        f"{what} does not resolve to an address ({error.strerror or error})",
        f"give a name that this machine, {socket.gethostname()}, knows, or the address itself, in {ADDRESS}",
    )


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a job that has ended are not in the way
        probe.bind((host, port))
        if port:
            probe.listen()  # where another one listens with SO_REUSEADDR too, only this fails


def split_address(address: str, source: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [IPv6]:PORT."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\s\[\]:/]+)):(\d+)", address.strip())
    if not match:
        raise UserError(f"{source}={address} must be HOST:PORT, for example node1:8476 or [fd00::1]:8476")
    if not 0 < int(match[3]) < 65536:
        raise UserError(f"{source}={address} must have a port from 1 to 65535, for example {TPU_PORT}")
    return match[1] or match[2], int(match[3])


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host is by its own words this machine alone."""
    return ipaddress.ip_address(host).is_loopback if _is_literal(host) else host == "localhost"
