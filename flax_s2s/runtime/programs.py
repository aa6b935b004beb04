"""Compiled programs: kept on disk from one start to the next, and compiled ahead for a closed set of shapes."""

import functools
import hashlib
import itertools
import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from flax_s2s.runtime import caches, lowered, processor
from flax_s2s.runtime.parallel import meet

_EVENTS = "/jax/core/compile/"  # of jax: tracing, lowering, and compiling or fetching what was compiled before
_AT_ONCE = 4  # programs compiled at the same time, at most: each takes two cores and some hundred megabytes
_numbers = itertools.count()
_WORTH_KEEPING_SECS = 0.1  # a program that compiles faster is not kept


def keep() -> None:
    """Points jax to the user's cache folder, so that the next start need not compile the same programs again.

    jax's own variables come first: JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false
    does without. What lies in the folder is run, so it must be the user's alone; where it cannot be, nothing is kept.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = caches.folder(f"programs/{_processor()}")
        if folder is None:
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        lowered.keep(_processor())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING_SECS)


def _processor() -> str:
    """Names the kind of processor: a program made for one with more instructions would crash another that shares the folder."""
    return f"{platform.machine()}-{hashlib.sha256(processor.features().encode()).hexdigest()[:12]}"


class _Clock:
    """Counts from the first use on, for as long as the process lives."""

    def __init__(self) -> None:
        self.secs = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(_EVENTS):
            self.secs += duration_secs


_clock = functools.cache(_Clock)


def compile_secs() -> float:
    """Seconds that this process has spent in making programs since this was first asked, whoever made them."""
    return _clock().secs


class Programs:
    """A function compiled for a closed set of shapes.

    The first call starts compiling all of them, in the background and in the order given, and waits for its own alone; a program
    is run for the first time when all processes have compiled it, since each waits for the others inside of it. A shape that is not of the set is a bug, and is named instead of compiled.
    """

    def __init__(
        self, compile_fn: Callable[..., Callable[..., Any]], arguments: Mapping[Any, Sequence[Any]], shape_of: Callable[..., Any]
    ) -> None:
        """Compiles nothing yet.

        Args:
            compile_fn: makes the program for abstract arguments; called in threads of its own.
            arguments: for each shape the abstract arguments that the function is compiled for.
            shape_of: the shape of real arguments.
        """
        self._compile_fn, self._arguments, self._shape_of = compile_fn, arguments, shape_of
        self._pool: ThreadPoolExecutor | None = None
        self._compiling: dict[Any, Future[Any]] = {}
        self._meeting: dict[Any, Future[None]] = {}
        self._met: set[Any] = set()
        self._number = next(_numbers)  # the same on every process

    def __call__(self, *arguments: Any) -> Any:
        """Calls the program of the arguments' shape."""
        shape = self._shape_of(*arguments)
        if ready := self.prepare(shape):
            ready.result()
        return self._compiling[shape].result()(*arguments)

    def prepare(self, shape: Any) -> "Future[None] | None":
        """What is done once all processes have compiled the program of a shape; None: it is already."""
        if shape not in self._arguments:
            raise RuntimeError(f"a batch of shape {shape} is not one of {', '.join(map(str, self._arguments))}")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(max(processor.cores() // 2, 1), _AT_ONCE), thread_name_prefix="compile")
            self._compiling = {shape: self._pool.submit(self._compile, shape) for shape in self._arguments}
        if shape in self._met:
            return None
        if shape not in self._meeting:
            self._meeting[shape] = Future()
            threading.Thread(target=self._meet, args=(shape,), name="meeting", daemon=True).start()
        return self._meeting[shape]

    def _meet(self, shape: Any) -> None:
        try:
            self._compiling[shape].result()
            meet(f"for program {self._number} of {shape}")
        except BaseException as error:
            self._meeting[shape].set_exception(error)
        else:
            self._met.add(shape)
            self._meeting[shape].set_result(None)

    def _compile(self, shape: Any) -> Any:
        program = self._compile_fn(*self._arguments[shape])
        processor.give_back_memory()
        return program

    def progress(self) -> tuple[int, int]:
        """How many shapes are compiled, and how many there are."""
        return sum(future.done() for future in self._compiling.values()), len(self._arguments)

    @property
    def idle(self) -> bool:
        """Whether none is being compiled, or about to be."""
        return all(future.done() for future in self._compiling.values())

    def close(self) -> None:
        """Compiles nothing more, and waits for nothing: what is being compiled may take minutes."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
