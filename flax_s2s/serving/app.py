"""The HTTP interface: LibreTranslate's for its clients, our own with all that `decode` knows, the page, health and meters.

Enters: engines, limits. Leaves: an ASGI application, described by its /openapi.json.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

from flax_s2s import __version__
from flax_s2s.answers.lines import read_string
from flax_s2s.data import features
from flax_s2s.decoding.requests import Request as Asked
from flax_s2s.serving.desk import Desk
from flax_s2s.serving.limits import Door, Limits, Meters, read_fields
from flax_s2s.serving.schemas import LibreAnswer, LibreRequest, Problem, TranslateRequest, Translations
from flax_s2s.serving.webpage import load_page
from flax_s2s.serving.wishes import About, Engine, Wish, WishError

_CHARACTERS = 64  # of a token, at most
_MOST_PHRASES = 64  # that are looked at
_LOOK_SECS = 0.25  # between two looks whether who asks is still there
_PROBLEMS: Any = {
    status: {"model": Problem, "description": why}
    for status, why in (
        (400, "a field is wrong, or the model cannot do what is asked"),
        (401, "the API key is missing or wrong"),
        (413, "too much at once"),
        (429, "too many wait; the header Retry-After says when to ask again"),
        (503, "the model is not ready yet"),
        (504, "it took too long"),
    )
}


class Json(JSONResponse):
    """Numbers and texts as `decode` writes them."""

    def render(self, content: Any) -> bytes:
        """UTF-8 without escapes."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode(errors="replace")


class Settings(NamedTuple):
    """How it is served."""

    limits: Limits
    key: str = ""  # that a client must show; empty: none
    origins: Sequence[str] = ()  # web pages of other origins that may ask


def make_app(engines: Mapping[str, Engine], settings: Settings) -> FastAPI:
    """The application; its engines are warmed up when it starts, and it answers 503 until they are ready."""
    desk, page = Desk(engines, settings.limits.waiting), load_page()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.start()
        yield
        desk.stop()

    app = FastAPI(
        title="flax_s2s",
        version=__version__,
        description="Translations by LSTM encoder-decoders.",
        lifespan=lifespan,
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
    )
    routes = ("/", "/health", "/translate", "/v1/translate", "/v1/info", "/languages", "/detect", "/metrics", "/openapi.json")
    meters = Meters(routes, lambda: desk.waiting)
    app.state.desk = desk
    _add_own(app, desk, meters, settings.limits)
    _add_libre(app, desk, meters, settings.limits)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return HTMLResponse(page.html, headers={"content-security-policy": page.policy})

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses={503: {"description": "not ready yet"}})
    async def health() -> Response:
        """Whether translations are answered."""
        if desk.failure:
            return Json({"status": "failed"}, 503)
        return Json({"status": "ready"}) if desk.ready.is_set() else Json({"status": "starting"}, 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Requests, latencies, sentences that wait, tokens: the text format of Prometheus."""
        return Response(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)

    _add_problems(app)
    app.add_middleware(Door, limits=settings.limits, key=settings.key, meters=meters)
    if settings.origins:  # around the door, so that such a page can read why it was refused
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    return app


def _add_own(app: FastAPI, desk: Desk, meters: Meters, limits: Limits) -> None:
    """Our own interface."""

    @app.get("/v1/info")
    async def info() -> Response:
        """Which models are served, and what may be asked of each."""
        return Json({"name": f"flax_s2s {__version__}", "runs": [_describe(engine.about) for engine in desk.engines.values()]})

    @app.post("/v1/translate", response_model=Translations, responses=_PROBLEMS)
    async def translate(asked: TranslateRequest, request: Request) -> Response:
        """Translates a sentence or several, with all that `flax-s2s decode --form jsonl` says of them, and more."""
        name = asked.run or next(iter(desk.engines))
        if name not in desk.engines:
            raise WishError(404, f"there is no model {name!r}; there are {', '.join(desk.engines)}")
        about, texts = desk.engines[name].about, [asked.source] if isinstance(asked.source, str) else asked.source
        _check(asked, about, texts, limits)
        bundle = _whole(features.join(asked.features))
        include, exclude = (tuple(map(_whole, phrases)) for phrases in (asked.include, asked.exclude))
        wish = Wish(Asked(""), asked.id, asked.n_best, asked.attention, asked.alternatives, asked.beam)
        wishes = [wish._replace(request=Asked(_whole(text), _whole(asked.prefix), include, exclude, asked.seed, bundle)) for text in texts]
        answers = await _answer(desk, name, wishes, limits, request)
        _count(meters, name, answers)
        return Json({"translations": answers})


def _check(asked: TranslateRequest, about: About, texts: Sequence[str], limits: Limits) -> None:
    """Refuses what no model of its kind can do."""
    _refuse_long([*texts, asked.prefix, *asked.include, "".join(asked.exclude), *asked.features], about)
    for name, phrases in (("include", asked.include), ("exclude", asked.exclude)):
        if len(phrases) > _MOST_PHRASES:
            raise WishError(413, f"{name} has {len(phrases)} phrases, and {_MOST_PHRASES} are the most; leave some out")
    if len(texts) > limits.sentences:
        raise WishError(413, f"{len(texts)} sentences are more than the {limits.sentences} of one request; send fewer at once")
    if asked.n_best > about.n_best:
        raise WishError(400, f"n_best={asked.n_best} is more than the {about.n_best} that are searched for; `serve --n-best` sets how many")
    if asked.attention and "attention" not in about.holds:
        raise WishError(400, f"{about.name} has no attention; leave it out")
    if asked.features and not about.features:
        raise WishError(400, f"{about.name} was trained without features; leave them out")
    if about.features and "features" not in asked.model_fields_set:
        raise WishError(400, f'{about.name} was trained with features; give a bundle, a list, or "" for none')
    if asked.beam and len(texts) > 1:
        raise WishError(400, "beam is for one sentence at a time")


def _add_libre(app: FastAPI, desk: Desk, meters: Meters, limits: Limits) -> None:
    """LibreTranslate's interface."""

    def find(source: str, target: str) -> tuple[str, About]:
        """The first model of these languages."""
        for name, engine in desk.engines.items():
            if source in ("auto", engine.about.languages[0]) and target in ("", engine.about.languages[1]):
                return name, engine.about
        pairs = ", ".join(" to ".join(engine.about.languages) for engine in desk.engines.values())
        raise WishError(400, f"{source} to {target or 'any'} is not served; there is {pairs}")

    schema = {"schema": LibreRequest.model_json_schema()}
    body = {"content": {"application/json": schema, "application/x-www-form-urlencoded": schema}, "required": True}

    @app.post("/translate", response_model=LibreAnswer, responses=_PROBLEMS, openapi_extra={"requestBody": body})
    async def translate(request: Request) -> Response:
        """Translates as LibreTranslate does; a text of several lines is translated line by line."""
        fields = read_fields(await request.body(), dict(request.scope["headers"]))
        try:
            asked = LibreRequest.model_validate(fields)
        except ValidationError as error:
            raise WishError(400, _explain(error.errors()) if fields else "the body must be a JSON object or a form, in UTF-8") from None
        if asked.format != "text":
            raise WishError(400, f"format={asked.format} is not translated; send plain text")
        name, about = find(asked.source, asked.target)
        if about.features:
            raise WishError(400, f"{about.name} was trained with features, which /translate has no field for; ask /v1/translate")
        most = about.n_best - 1
        if asked.alternatives > most:
            raise WishError(
                400, f"alternatives={asked.alternatives} are more than the {most} that are searched for; `serve --n-best` sets how many"
            )
        texts = [asked.q] if isinstance(asked.q, str) else asked.q
        lines = [text.replace("\r\n", "\n").split("\n") for text in texts]
        flat = [line for own in lines for line in own]
        if len(flat) > limits.sentences:
            raise WishError(413, f"{len(flat)} lines are more than the {limits.sentences} of one request; send fewer at once")
        _refuse_long(flat, about)
        answers = await _answer(desk, name, [Wish(Asked(_whole(line)), n_best=1 + asked.alternatives) for line in flat], limits, request)
        _count(meters, name, answers)
        return Json(_libre_answer(asked, lines, answers))

    @app.get("/languages")
    async def languages() -> Response:
        """Which languages are translated to which."""
        targets: dict[str, list[str]] = {}
        for engine in desk.engines.values():
            targets.setdefault(engine.about.languages[0], []).append(engine.about.languages[1])
        return Json([{"code": code, "name": code, "targets": found} for code, found in targets.items()])

    @app.post("/detect", include_in_schema=False)
    async def detect() -> Response:
        return Json([{"confidence": 100.0, "language": next(iter(desk.engines.values())).about.languages[0]}])


def _libre_answer(asked: LibreRequest, lines: Sequence[Sequence[str]], answers: Sequence[Any]) -> dict[str, Any]:
    """The lines of each text put together again; of further translations those of the text, line by line the n-th best or the last there is."""
    left = iter(answers)
    found = [[next(left) for _ in own] for own in lines]
    texts = ["\n".join(one["text"] for one in own) for own in found]
    answer: dict[str, Any] = {"translatedText": texts[0] if isinstance(asked.q, str) else texts}
    if asked.alternatives:
        more = []
        for own in found:
            ways = [[one["text"], *(other["text"] for other in one["others"])] for one in own]
            count = min(asked.alternatives, max(map(len, ways)) - 1)
            more.append(["\n".join(way[min(number, len(way) - 1)] for way in ways) for number in range(1, count + 1)])
        answer["alternatives"] = more[0] if isinstance(asked.q, str) else more
    return answer


async def _answer(desk: Desk, name: str, wishes: Sequence[Wish], limits: Limits, request: Request) -> list[dict[str, Any]]:
    """Waits for the answers, as long as who asks is there."""

    async def leaves() -> None:
        await asyncio.sleep(_LOOK_SECS)
        while not await request.is_disconnected():
            await asyncio.sleep(_LOOK_SECS)

    answers, left = asyncio.ensure_future(desk.answer(name, wishes, limits.timeout_secs)), asyncio.ensure_future(leaves())
    try:
        await asyncio.wait((answers, left), return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            answers.cancel()
            raise ConnectionResetError
        return await answers
    finally:
        left.cancel()


def _count(meters: Meters, name: str, answers: Sequence[Any]) -> None:
    meters.sentences.labels(name).inc(len(answers))
    meters.tokens.labels(name).inc(sum(len(one["tokens"]) for one in answers))


def _refuse_long(texts: Sequence[str], about: About) -> None:
    """Refuses what has too many tokens whatever they are, before it is taken apart, which takes as long as translating it."""
    most = _CHARACTERS * about.source_tokens
    if (longest := max(map(len, texts), default=0)) > most:
        raise WishError(
            413, f"a text has {longest:,} characters, and {about.source_tokens - 1} tokens are the most; split it into sentences"
        )


def _describe(about: About) -> dict[str, Any]:
    return {
        "name": about.name,
        "step": about.step,
        "source": about.languages[0],
        "target": about.languages[1],
        "attention": "attention" in about.holds,
        "features": about.features,
        "calibrated": about.calibrated,
        "holds": list(about.holds),
        "limits": {"source_tokens": about.source_tokens, "n_best": about.n_best},
    }


def _whole(text: str) -> str:
    """A text as `decode` reads it: half a surrogate pair, which JSON can hold, is replaced."""
    return read_string(text, "text")


def _add_problems(app: FastAPI) -> None:
    """Every error is a sentence."""

    @app.exception_handler(WishError)
    async def refused(_: Request, error: WishError) -> Response:
        return Json({"error": str(error)}, error.status, {"retry-after": str(error.retry_after)} if error.retry_after else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return Json({"error": _explain(error.errors())}, 400)

    @app.exception_handler(StarletteHTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        said = {404: "there is no such address; /openapi.json says which there are", 405: "this address takes another method"}
        return Json({"error": said.get(error.status_code, str(error.detail))}, error.status_code)


def _explain(errors: Sequence[Any]) -> str:
    """The first thing that is wrong with a request, in a sentence."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
    where = ".".join(str(part) for part in first["loc"] if part != "body" and not str(part).startswith("list["))
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{where or 'the body'}: {message}"
