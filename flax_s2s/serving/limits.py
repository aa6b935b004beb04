"""What surrounds every request: how large and slow it may be, who may ask, how it is counted, and that no error shows more than a sentence.

Enters: requests, as ASGI has them. Leaves: the same, with their bodies read; or an answer with an `error`.
"""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_OPEN = ("/", "/health")  # to everyone: they tell nothing and cost nothing
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store"))
_log = logging.getLogger(__name__)

Asgi = Callable[[Any, Any, Any], Any]


class Limits(NamedTuple):
    """What a request may be."""

    body_bytes: int
    sentences: int  # of one request
    waiting: int  # sentences of all requests
    timeout_secs: float  # for the answer, and for the body to arrive


class Meters:
    """What is counted, as Prometheus reads it."""

    def __init__(self, routes: Sequence[str], waiting: Callable[[], int]) -> None:
        """`routes` are those that are counted by name; `waiting` says how many sentences wait."""
        self.registry, self._routes = CollectorRegistry(), frozenset(routes)
        self.requests = Counter("flax_s2s_requests", "Requests that were answered", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("flax_s2s_request_seconds", "Seconds from request to answer", ["route"], registry=self.registry)
        self.sentences = Counter("flax_s2s_sentences", "Sentences that were translated", ["run"], registry=self.registry)
        self.tokens = Counter("flax_s2s_tokens", "Tokens of translations", ["run"], registry=self.registry)
        self.queue = Gauge("flax_s2s_sentences_waiting", "Sentences whose translation is not there yet", registry=self.registry)
        self.queue.set_function(waiting)

    def count(self, path: str, status: int, secs: float) -> None:
        """Counts a request."""
        route = path if path in self._routes else "other"
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(secs)


class Door:
    """Every request goes through it."""

    def __init__(self, app: Asgi, limits: Limits, key: str, meters: Meters) -> None:
        """`key` must be shown by who asks; empty: anyone may."""
        self._app, self._limits, self._key, self._meters = app, limits, key.strip().encode(), meters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), [499]  # as nginx counts those who left

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            refused, body = await self._read(scope, receive)
            if refused:
                await _answer(answer, *refused)
            else:
                await self._app(scope, _replay(body, receive), answer)
        except ConnectionResetError:
            pass
        except Exception:
            _log.exception("a request failed")
            await _answer(answer, 500, "something failed; the server's log says what")
        finally:
            self._meters.count(scope["path"], status[0], time.perf_counter() - begin)

    async def _read(self, scope: Any, receive: Any) -> tuple[tuple[int, str] | None, bytes]:
        """Why a request is refused, or its body."""
        headers, most = dict(scope["headers"]), self._limits.body_bytes
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            return (413, f"the body has more than {most:,} bytes; send less at once"), b""
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.timeout_secs):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    body += message.get("body", b"")
                    if len(body) > most:
                        return (413, f"the body has more than {most:,} bytes; send less at once"), b""
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            return (408, f"the body did not arrive within {self._limits.timeout_secs:g} s"), b""
        if self._key and scope["path"] not in _OPEN and scope["method"] != "OPTIONS" and not self._knows_key(scope["path"], headers, body):
            return (401, "the API key is missing or wrong; send it as the header Authorization: Bearer KEY, or as the field api_key"), b""
        return None, bytes(body)

    def _knows_key(self, path: str, headers: Mapping[bytes, bytes], body: bytearray) -> bool:
        """Compared in a time that says nothing of the key."""
        scheme, _, shown = headers.get(b"authorization", b"").strip().partition(b" ")
        shown = shown.strip() if scheme.lower() == b"bearer" else b""
        if not shown and not path.startswith("/v1/"):  # LibreTranslate's way
            field = read_fields(bytes(body), headers).get("api_key", "")
            shown = field.encode(errors="replace") if isinstance(field, str) else b""
        return hmac.compare_digest(shown, self._key)


def read_fields(body: bytes, headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The fields of a body that is a form or an object of JSON; none where it is neither."""
    from urllib.parse import parse_qsl

    try:
        if headers.get(b"content-type", b"").lower().startswith(b"application/x-www-form-urlencoded"):
            return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100))
        found = json.loads(body.decode())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _replay(body: bytes, receive: Any) -> Any:
    """The body that was read, and then what else comes: that who asked has left."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Any:
        for message in messages:
            return message
        return await receive()

    return again


async def _answer(send: Any, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):  # what is left of the body is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
