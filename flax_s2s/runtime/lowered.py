"""What tracing and lowering make of a function, kept on disk from one start to the next.

jax finds a program that it compiled before by what the function is lowered to, so it traces and lowers it first: Python for a fifth of
a second a program, most of the time that a short command takes. Here the code of this package, a function's settings and the shapes of
its arguments name the file that has it lowered. Where it is found nothing is traced; where it is not, it is made and run from there
too, so that both are the same program.
"""

import contextlib
import hashlib
import operator
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import jax
from jax import export

from flax_s2s.runtime import caches, processor

_SAY_NOTHING = ("jax_compilation_cache", "jax_persistent_cache", "jax_log", "jax_debug_log")
"""Of jax's settings those that change no program, by their beginnings."""
_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDER = _PACKAGE.stat().st_ino  # of another that has taken its place, another
_BEGIN, _SETTLED_SECS = time.time(), 10.0  # the first modules are imported a second before this one
_registered: set[type] = set()
_lock = threading.Lock()  # programs are made by several threads


class _Kept:
    folder: Path | None = None  # None: nothing is kept
    code = ""  # a hash of the package's


def keep(kind: str) -> None:
    """Keeps functions from now on, in the user's cache folder.

    Nothing is kept where there can be no folder, in a program that is not our own command, since it may have changed what a function does,
    and where the code has just changed, so that what lies on disk may not be what runs.

    Args:
        kind: of processor, which decides what some functions do.
    """
    _Kept.folder, wanted = None, jax.config.values["jax_enable_compilation_cache"] and processor.is_the_command()
    with contextlib.suppress(OSError):  # a link to nothing, a file that has just gone
        if wanted:
            _Kept.code = _code(_PACKAGE)
            _Kept.folder = caches.folder(f"lowered/{kind}") if _settled() else None


def jit(function: Callable[..., Any], about: Any, **how: Any) -> Any:
    """`jax.jit` of a function that one CPU device traces and lowers once for all starts; other devices do it at each start.

    Args:
        function: what it does is said by its arguments' shapes, by `about` and by this package's code, and by nothing else.
        about: settings whose `repr` is the same for the same settings, and for no others.
        how: arguments of `jax.jit`.
    """

    @wraps(function)
    def found_or_made(*arguments: Any) -> Any:
        if _Kept.folder is None or jax.device_count() > 1 or jax.default_backend() != "cpu":
            return function(*arguments)
        found = _find_or_make(function, about, arguments, _Kept.folder)
        return function(*arguments) if found is None else found.call(*arguments)

    return jax.jit(found_or_made, **how)


def _find_or_make(function: Callable[..., Any], about: Any, arguments: Any, folder: Path) -> export.Exported | None:
    """The function; None where jax cannot write it."""
    described = jax.tree.map(_describe, arguments)
    tree = jax.tree.structure(described)
    asked = (function.__module__, function.__qualname__, about, str(tree), [repr(leaf) for leaf in jax.tree.leaves(described)])
    file = folder / hashlib.sha256(f"{_Kept.code}\n{_origin()}\n{asked}".encode()).hexdigest()
    _register(_kinds(tree))
    found = _read(file)
    if found is None:
        try:
            made = export.export(jax.jit(function))(*described)
            kinds = _kinds(made.out_tree)
            _register(kinds)
            content = bytes(made.serialize())
        except (NotImplementedError, ValueError):
            return None
        if _settled():
            _write(file, kinds, content)
        found = _read(file) or made
    return found


def _describe(leaf: Any) -> jax.ShapeDtypeStruct:
    kind = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type)


@cache
def _origin() -> str:
    """Names everything outside of the package that a lowered form depends on."""
    settings = {name: value for name, value in jax.config.values.items() if not name.startswith(_SAY_NOTHING)}
    versions = [sys.modules[name].__version__ for name in ("jax", "jaxlib", "flax", "optax") if name in sys.modules]
    return repr((versions, platform.python_version(), sorted(settings.items(), key=str)))


def _settled() -> bool:
    """Whether the code on disk is what this process imported."""
    try:
        same = _PACKAGE.stat().st_ino == _FOLDER
        return same and max(path.stat().st_ctime for path in _PACKAGE.rglob("*.py")) < _BEGIN - _SETTLED_SECS
    except (OSError, ValueError):  # the latter where there is no file
        return False


def _code(package: Path) -> str:
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return code.hexdigest()


# Containers: jax writes the name of one that it is told about, and only of those.


def _kinds(tree: Any) -> set[type]:
    """The named tuples of a tree of containers."""
    data = tree.node_data()
    own = {data[0]} if data and hasattr(data[0], "_fields") else set()
    return own.union(*map(_kinds, tree.children()))


def _register(kinds: set[type]) -> None:
    with _lock:
        for kind in kinds - _registered:
            export.register_namedtuple_serialization(kind, serialized_name=_name(kind))
            _registered.add(kind)


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _find(name: str) -> type:
    """What is called so in a module that is imported already."""
    module, _, within = name.partition(":")
    found: type = operator.attrgetter(within)(sys.modules[module])
    return found


# Files: a hash of their name and the rest, the names of the containers that come out, a blank line, the function.


def _read(file: Path) -> export.Exported | None:
    """The function; None where there is none, or a damaged one."""
    try:
        expected, _, content = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if _hash(file, content) != expected:
        return None
    names, _, function = content.partition(b"\n\n")
    try:
        _register({_find(name) for name in names.decode().split()})
    except (KeyError, AttributeError):  # one that is made inside of a function has no name to find it by
        return None
    return export.deserialize(bytearray(function))


def _write(file: Path, kinds: set[type], function: bytes) -> None:
    """In one go, so that who reads at the same time finds nothing or all; where the disk is full nothing is kept."""
    content = " ".join(map(_name, kinds)).encode() + b"\n\n" + function
    with contextlib.suppress(OSError):
        handle, partial = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(_hash(file, content) + b"\n" + content)
            os.replace(partial, file)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


def _hash(file: Path, content: bytes) -> bytes:
    return hashlib.sha256(file.name.encode() + content).hexdigest().encode()
