"""`serve RUN_DIR...`: a server that translates what it is sent, and a page that shows it."""

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax_s2s import errors, languages
from flax_s2s.commands import answering
from flax_s2s.commands.wiring import console, open_runs, read_calibration
from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, UserError
from flax_s2s.data.files import read_lines
from flax_s2s.decoding.requests import SOURCE_LENGTHS, padded_length
from flax_s2s.runs import rundir
from flax_s2s.runs.rundir import make_path

KEY = "FLAX_S2S_API_KEY"
"""The environment variable that holds the API key."""
_LONGEST_SOURCE = 192  # tokens, where nothing else is asked for: each length of a source is compiled before the first answer
_ROWS = 16  # of a lane, where no other number is asked for: with more there are more sentences a second, and each alone takes longer
_GRACE_SECS = 8  # after SIGTERM for the answers under way


class Options(NamedTuple):
    """How it is served."""

    host: str
    port: int
    checkpoint: str
    side_by_side: bool
    languages: tuple[str, ...]
    blocklist: str
    abstain_below: float
    placeholder: str
    cors_origin: tuple[str, ...]
    most_body_bytes: int
    most_lines: int
    most_waiting: int
    timeout_secs: float


def settings_of(config: Config) -> DecodingConfig:
    """What is decoded with where no option says: several translations to choose from, and sources about as long as those of training."""
    decoding = config.decoding
    n_best = decoding.n_best if decoding.n_best > 1 else min(5, decoding.beam_size)
    longest = min(decoding.max_source_tokens, _LONGEST_SOURCE, padded_length(config.data.max_source_tokens, SOURCE_LENGTHS))
    return dataclasses.replace(decoding, n_best=n_best, max_source_tokens=longest, rows=min(decoding.rows, _ROWS))


def is_exported(name: str) -> bool:
    """Whether a folder is one that `export` wrote."""
    return os.path.isfile(os.path.join(name, "model.json"))


def run(names: Sequence[str], decoding: DecodingConfig, options: Options) -> int:
    """Serves until it is stopped."""
    _check(options)
    try:
        import uvicorn

        from flax_s2s.serving.app import Settings, make_app
        from flax_s2s.serving.limits import Limits
    except ImportError as error:
        raise UserError(f"serve needs {error.name}, which is not installed: pip install 'flax_s2s[serve]'") from None
    out, begin, stopping = console(), time.perf_counter(), threading.Event()
    with _bind(options.host, options.port) as listener:
        address = _address(listener)
        with _signals(stopping):
            engines = _open(names, decoding, options, stopping.is_set)
        limits = Limits(options.most_body_bytes, options.most_lines, options.most_waiting, options.timeout_secs)
        app = make_app(engines, Settings(limits, os.environ.get(KEY, ""), options.cors_origin))
        for said in _describe(engines, options, listener):
            out.print(said)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECS,
            h11_max_incomplete_event_size=1 << 16,
            limit_concurrency=2048,
        )

        def say() -> None:
            desk = app.state.desk
            while not stopping.wait(0.05):
                if desk.failure:
                    server.should_exit = True
                    return
                if desk.ready.is_set():
                    out.print(f"ready after {time.perf_counter() - begin:.0f} s: {address}")
                    return

        class Server(uvicorn.Server):
            """Ends its own way, and says at once that it will."""

            def handle_exit(self, sig: int, frame: Any) -> None:
                stopping.set()
                super().handle_exit(sig, frame)

        server = Server(config)
        with _signals(stopping):
            threading.Thread(target=say, daemon=True).start()
            if not stopping.is_set():
                server.run(sockets=[listener])
            stopping.set()
    if app.state.desk.failure:
        raise UserError(app.state.desk.failure)
    out.print("stopped")
    if not app.state.desk.ready.is_set():  # a program that is being compiled cannot be broken off, and Python would wait for it
        sys.stderr.flush()
        os._exit(errors.DONE)
    return errors.DONE


def _check(options: Options) -> None:
    if not 0 <= options.port < 2**16:
        raise UserError(f"--port {options.port} is no port; give one from 1 to 65535, or 0 for any that is free")
    if not 0 <= options.abstain_below <= 1:
        raise UserError(f"--abstain-below {options.abstain_below} is a probability, from 0 to 1")
    if len(options.languages) not in (0, 2):
        raise UserError(f"--languages {' '.join(options.languages)} must be two: that of the source and that of the target")
    for name, value in (("--most-body-bytes", options.most_body_bytes), ("--most-lines", options.most_lines)):
        if value < 1:
            raise UserError(f"{name} {value} must be at least 1")
    if options.most_waiting < options.most_lines:
        raise UserError(
            f"--most-waiting {options.most_waiting} must be at least --most-lines {options.most_lines}, or no such request is answered"
        )
    if options.timeout_secs <= 0:
        raise UserError(f"--timeout-secs {options.timeout_secs} must be more than 0")
    if os.environ.get(KEY) is not None and not os.environ[KEY].strip():
        raise UserError(f"{KEY} is set and empty; give a key, or unset it, so that anyone who reaches the server may ask")


@contextlib.contextmanager
def _bind(host: str, port: int) -> Any:
    """A socket at an address, before a model is loaded for it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host} is no address of this machine: {error.strerror or error}") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise UserError(
                f"{host} port {port} cannot be served at: {error.strerror or error}; give another --port, or 0 for any"
            ) from None
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _open(names: Sequence[str], decoding: DecodingConfig, options: Options, stopping: Callable[[], bool]) -> dict[str, Any]:
    """The engines by their models' names: one of all runs, or one of each."""
    exported = [name for name in names if is_exported(name)]
    if exported and len(exported) < len(names):
        raise UserError(f"{exported[0]} is an exported folder, and others are run directories; serve them apart")
    if len(exported) > 1 and not options.side_by_side:
        raise UserError("exported folders are no ensemble; give one, or --side-by-side")
    groups = [[name] for name in names] if options.side_by_side else [list(names)]
    titles = [os.path.basename(os.path.abspath(group[0])) for group in groups]
    if len(set(titles)) < len(titles):
        titles = [group[0] for group in groups]
    return {
        title: _open_exported(title, group[0], options) if exported else _open_runs(title, group, decoding, options, stopping)
        for title, group in zip(titles, groups, strict=True)
    }


def _open_exported(title: str, name: str, options: Options) -> Any:
    from flax_s2s.export import runtime
    from flax_s2s.serving.exported import Exported

    if options.blocklist:
        raise UserError("--blocklist is for run directories: an exported folder searches without constraints")
    try:
        model = runtime.load(name)
    except runtime.FolderError as error:
        raise UserError(str(error)) from None
    return Exported(title, model, _languages(options), options.abstain_below, options.placeholder)


def _open_runs(title: str, run_dirs: Sequence[str], decoding: DecodingConfig, options: Options, stopping: Callable[[], bool]) -> Any:
    from flax_s2s.serving.searching import Searching, Served

    blocked = [line for line in read_lines(options.blocklist) if line.strip()] if options.blocklist else []
    opened = open_runs(run_dirs, options.checkpoint, decoding, join=False)
    config = rundir.read_config(make_path(run_dirs[0]))
    temperature = read_calibration(opened.folder, answering.identify(opened, run_dirs)["states_sha256"])
    return Searching(
        Served(
            title,
            opened.steps,
            _languages(options, config.data, config.evaluation),
            opened.models,
            opened.params,
            opened.vocabularies,
            opened.config.decoding,
            opened.devices,
            blocked,
            options.abstain_below,
            options.placeholder,
            temperature,
        ),
        stopping,
    )


def _languages(options: Options, data: DataConfig | None = None, evaluation: EvaluationConfig | None = None) -> tuple[str, str]:
    """What clients call the languages: as asked for, as the sides of the corpus are called, else source and target."""
    if options.languages:
        return options.languages[0], options.languages[1]
    if data is None or evaluation is None:
        return "source", "target"
    source, target = data.source, evaluation.language or data.target
    return source if languages.infer(source) else "source", target if languages.infer(target) else "target"


def _describe(engines: dict[str, Any], options: Options, listener: socket.socket) -> list[str]:
    """What is said before it is ready."""
    said = []
    for engine in engines.values():
        about = engine.about
        calibrated = "" if about.calibrated or "alternatives" not in about.holds else "; not calibrated: `evaluate --calibration` does it"
        said.append(
            f"{about.name}: {about.languages[0]} to {about.languages[1]}, sources of at most {about.source_tokens - 1} tokens{calibrated}"
        )
    local = listener.getsockname()[0] in ("127.0.0.1", "::1")
    if not local and not os.environ.get(KEY):
        said.append(f"anyone who reaches {options.host} may ask: there is no API key; set {KEY}")
    return [*said, "compiling (the first time for a minute; then it is kept)"]


@contextlib.contextmanager
def _signals(stopping: threading.Event) -> Any:
    """Lets the server end by itself: when it has, it raises the signals again that it was ended by."""

    def heard(number: int, _: Any) -> None:
        stopping.set()

    before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
