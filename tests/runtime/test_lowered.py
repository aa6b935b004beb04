"""Functions that are traced and lowered once for all starts: found again, never mistaken for another, the same to the bit."""

import concurrent.futures
import errno
import json
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import PROGRAM, environment
from tiny import DEBUG, PLAIN, TINY

from flax_s2s.runtime import lowered


class Pair(NamedTuple):
    left: Any
    right: Any


class Other(NamedTuple):
    left: Any
    right: Any


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where functions are kept, as by a process with one CPU device."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lowered._Kept, "folder", None)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(lowered.processor, "is_the_command", lambda: True)
    monkeypatch.setattr(lowered, "_BEGIN", time.time() + 1000)
    lowered.keep("kind")
    assert lowered._Kept.folder == tmp_path / "flax_s2s/lowered/kind"
    return lowered._Kept.folder


class Start:
    """A start of a program whose function multiplies by what it was told about."""

    def __init__(self, about=3, **how):
        self.traced = 0

        def function(pair):
            self.traced += 1
            return Pair(pair.left * about, {"sum": pair.left + pair.right, "nothing": None})

        self.run = lowered.jit(function, about, **how)


def pair(kind=Pair, shape=(2, 3), dtype=jnp.float32):
    return kind(jnp.arange(np.prod(shape)).reshape(shape).astype(dtype), jnp.ones(shape, dtype))


def test_what_one_start_has_traced_another_does_not(folder):
    first, second = Start(), Start()
    made, found = first.run(pair()), second.run(pair())
    assert (first.traced, second.traced) == (1, 0)
    assert jax.tree.structure(found) == jax.tree.structure(made)
    assert isinstance(found, Pair)
    jax.tree.map(np.testing.assert_array_equal, found, Pair(pair().left * 3, {"sum": pair().left + 1, "nothing": None}))
    jax.tree.map(np.testing.assert_array_equal, found, made)
    assert [file.stat().st_mode & 0o777 for file in folder.iterdir()] == [0o600]


@pytest.mark.parametrize(
    ("about", "arguments"),
    [(4, pair()), (3, pair(shape=(3, 2))), (3, pair(dtype=jnp.int32)), (3, pair(Other)), (3, Pair(2.0, pair().right)), (3.0, pair())],
)
def test_nothing_is_mistaken_for_another(folder, about, arguments):
    Start().run(pair())
    other = Start(about)
    found = other.run(arguments)
    assert other.traced == 1
    np.testing.assert_array_equal(found.left, arguments.left * about)
    assert found.left.dtype == jnp.asarray(arguments.left * about).dtype
    assert len(list(folder.iterdir())) == 2


def test_a_change_of_the_code_is_another_function(tmp_path):
    (tmp_path / "inside").mkdir()
    for name in ("one.py", "inside/two.py"):
        (tmp_path / name).write_text("x = 1\n")
    seen = {lowered._code(tmp_path)}
    (tmp_path / "inside/two.py").write_text("x = 2\n")
    seen.add(lowered._code(tmp_path))
    (tmp_path / "inside/two.py").rename(tmp_path / "inside/three.py")
    seen.add(lowered._code(tmp_path))
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/one.pyc").write_text("compiled")
    assert len(seen) == 3
    assert lowered._code(tmp_path) in seen


def test_a_setting_of_jax_is_another_function_and_its_folder_is_not():
    def origin():
        lowered._origin.cache_clear()
        return lowered._origin()

    before, folder = origin(), jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", "elsewhere")
        assert origin() == before
        jax.config.update("jax_default_matmul_precision", "float32")
        assert origin() != before
    finally:
        jax.config.update("jax_default_matmul_precision", None)
        jax.config.update("jax_compilation_cache_dir", folder)
    assert origin() == before


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-7], lambda content: content[:90] + b"x" + content[91:]])
def test_a_damaged_file_is_made_again(folder, damage):
    Start().run(pair())
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again = Start()
    np.testing.assert_array_equal(again.run(pair()).left, pair().left * 3)
    assert again.traced == 1
    assert Start().run(pair()) is not None
    assert [file] == list(folder.iterdir())


def test_a_file_under_anothers_name_is_not_taken(folder):
    for about in (3, 4):
        Start(about).run(pair())
    one, other = folder.iterdir()
    other.write_bytes(one.read_bytes())
    for about in (3, 4):
        np.testing.assert_array_equal(Start(about).run(pair()).left, pair().left * about)


def test_a_function_that_cannot_be_written_is_traced_at_each_start(folder):
    for _ in range(2):
        called = lowered.jit(lambda x: jax.pure_callback(lambda a: np.asarray(a) * 3, x, x), None)
        assert float(called(jnp.float32(2))) == 6
    assert not list(folder.iterdir())


class Outer:
    class Inner(NamedTuple):
        inside: Any


def test_a_container_is_found_by_its_name_or_made_each_time(folder, monkeypatch):
    class Local(NamedTuple):
        inside: Any

    for kind in (Outer.Inner, Local):
        for _ in range(2):
            made = lowered.jit(lambda x, kind=kind: kind(x + 1), kind.__qualname__)(jnp.float32(2))
            assert isinstance(made, kind)
            assert float(made.inside) == 3


def test_a_full_disk_costs_the_time_and_nothing_else(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lowered.os, "replace", full)
    np.testing.assert_array_equal(Start().run(pair()).left, pair().left * 3)
    assert not list(folder.iterdir())


def test_several_devices_trace_at_each_start(folder, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    starts = [Start(), Start()]
    for start in starts:
        np.testing.assert_array_equal(start.run(pair()).left, pair().left * 3)
    assert [start.traced for start in starts] == [1, 1]
    assert not list(folder.iterdir())


def test_without_jaxs_cache_nothing_is_kept(folder, monkeypatch):
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        lowered.keep("kind")
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
    assert lowered._Kept.folder is None
    np.testing.assert_array_equal(Start().run(pair()).left, pair().left * 3)


def test_a_program_that_calls_us_may_have_changed_us_so_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setattr(lowered.processor, "is_the_command", lambda: False)
    lowered.keep("kind")
    assert lowered._Kept.folder is None


def test_code_that_has_just_changed_may_not_be_what_runs_so_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setattr(lowered, "_BEGIN", max(path.stat().st_ctime for path in lowered._PACKAGE.rglob("*.py")) + 5)
    Start().run(pair())
    assert not list(folder.iterdir())
    lowered.keep("kind")
    assert lowered._Kept.folder is None


def test_a_file_of_the_package_that_is_not_there_keeps_nothing(folder, tmp_path, monkeypatch):
    """Such as Emacs' lock of a file with unsaved changes, a link to nothing."""
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(lowered, "_PACKAGE", package)
    monkeypatch.setattr(lowered, "_FOLDER", package.stat().st_ino)
    lowered.keep("kind")
    assert lowered._Kept.folder is None  # without any file
    (package / "a.py").write_text("x = 1\n")
    lowered.keep("kind")
    assert lowered._Kept.folder == folder
    (package / ".#a.py").symlink_to("user@host.1")
    lowered.keep("kind")
    assert lowered._Kept.folder is None


def test_a_package_that_is_moved_or_another_while_a_command_runs_keeps_nothing_more(folder, tmp_path, monkeypatch):
    package, moved = tmp_path / "package", tmp_path / "moved"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(lowered, "_PACKAGE", package)
    monkeypatch.setattr(lowered, "_FOLDER", package.stat().st_ino)
    lowered.keep("kind")
    Start().run(pair())
    package.rename(moved)
    np.testing.assert_array_equal(Start(4).run(pair()).left, pair().left * 4)
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    np.testing.assert_array_equal(Start(5).run(pair()).left, pair().left * 5)
    assert len(list(folder.iterdir())) == 1


def test_who_calls_us_under_a_name_like_ours_is_no_command_of_ours(monkeypatch, tmp_path):
    for program, ours in (
        (lowered._PACKAGE / "__main__.py", True),
        ("/usr/bin/flax-s2s", True),
        (tmp_path / "__main__.py", False),
        ("-c", False),
    ):
        monkeypatch.setattr(lowered.processor.sys, "argv", [str(program)])
        assert lowered.processor.is_the_command() == ours


def test_another_kind_of_processor_has_functions_of_its_own(folder):
    lowered.keep("other")
    assert lowered._Kept.folder == folder.with_name("other")


def test_what_is_donated_is_given_up(folder):
    for _ in range(2):
        given = pair()
        Start(donate_argnums=0).run(given)
        assert given.left.is_deleted()


def test_threads_that_make_functions_tell_jax_of_a_container_once(folder, monkeypatch):
    told = []

    def tell(kind, *, serialized_name):
        time.sleep(0.05)  # another thread could come in between
        told.append(serialized_name)

    monkeypatch.setattr(lowered, "_registered", set())
    monkeypatch.setattr(lowered.export, "register_namedtuple_serialization", tell)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lowered._register, [{Pair}] * 8))
    assert told == [f"{__name__}:Pair"]


# A run --------------------------------------------------------------------------------------------------------------


def wait_until_the_code_has_settled() -> None:
    newest = max(path.stat().st_ctime for path in lowered._PACKAGE.rglob("*.py"))
    time.sleep(max(0.0, newest + lowered._SETTLED_SECS + 1 - time.time()))


def train_and_decode(run: Path, caches: Path, **settings: str) -> tuple[dict[str, str], str]:
    """The hashes of a run's states, and its answer."""
    env = environment(1, XDG_CACHE_HOME=str(caches), JAX_COMPILATION_CACHE_DIR="", **settings)

    def command(*arguments: str, text: str = "") -> str:
        done = subprocess.run([*PROGRAM, *arguments], env=env, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("train", DEBUG, "--run-dir", str(run), *TINY, *PLAIN)
    answer = command("decode", str(run), "--form", "jsonl", text='{"source": "May 14, 2023"}\n{"source": "12 km"}\n')
    manifests = {path.parent.name: json.loads(path.read_text()) for path in run.glob("checkpoints/*/manifest.json")}
    return {step: manifest["state_sha256"] for step, manifest in manifests.items()}, answer


def test_a_run_has_the_same_bits_whether_its_programs_are_made_found_or_not_kept(tmp_path):
    wait_until_the_code_has_settled()
    found, files = [], []
    for number in range(2):
        found.append(train_and_decode(tmp_path / f"run{number}", tmp_path / "caches"))
        files.append({path.name: path.stat().st_mtime_ns for path in (tmp_path / "caches/flax_s2s/lowered").glob("*/*")})
    found.append(train_and_decode(tmp_path / "apart", tmp_path / "others", JAX_ENABLE_COMPILATION_CACHE="false"))
    assert len(found[0][0]) == 2
    assert found[0] == found[1] == found[2]
    assert len(files[0]) >= 6  # gradient, update, loss; a run laid out, sentences admitted, searched for
    assert files[0] == files[1]  # all found
    assert not (tmp_path / "others/flax_s2s/lowered").exists()
