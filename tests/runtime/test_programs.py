import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from flax_s2s.runtime import programs
from flax_s2s.runtime.programs import Programs


class Recorded:
    """A jitted function that notes what it is compiled for, and waits where it is told to."""

    def __init__(self) -> None:
        self.lowered: list[tuple[int, ...]] = []
        self.gates: dict[tuple[int, ...], threading.Event] = {}

    def compile(self, argument):
        self.lowered.append(argument.shape)
        if argument.shape in self.gates:
            assert self.gates[argument.shape].wait(60)
        return jax.jit(lambda array: array.sum()).lower(argument).compile()


def made(function, *shapes):
    arguments = {shape: (jax.ShapeDtypeStruct(shape, jnp.float32),) for shape in shapes}
    return Programs(function.compile, arguments, lambda array: array.shape)


def test_nothing_is_compiled_before_the_first_call_and_each_shape_once():
    function = Recorded()
    program = made(function, (2,), (3,), (4,))
    assert function.lowered == []
    for size in (3, 2, 3, 4, 4):
        assert program(jnp.ones(size)) == size
    assert sorted(function.lowered) == [(2,), (3,), (4,)]
    program.close()


def test_a_call_waits_for_its_own_shape_alone():
    function = Recorded()
    function.gates[(3,)] = threading.Event()
    program = made(function, (2,), (3,))
    assert program(jnp.ones(2)) == 2
    function.gates[(3,)].set()
    assert program(jnp.ones(3)) == 3
    program.close()


def test_a_shape_outside_the_set_is_named():
    program = made(Recorded(), (2,), (3,))
    with pytest.raises(RuntimeError, match=r"^a batch of shape \(5,\) is not one of \(2,\), \(3,\)$"):
        program(jnp.ones(5))


def test_closing_compiles_nothing_more_and_waits_for_nothing():
    function = Recorded()
    shapes = [(size,) for size in range(2, 40)]
    function.gates = {shape: threading.Event() for shape in shapes[1:]}
    program = made(function, *shapes)
    program(jnp.ones(2))
    program.close()  # while the gates are shut
    for gate in function.gates.values():
        gate.set()
    assert len(function.lowered) < len(shapes)


def test_what_is_not_yet_compiled_can_be_waited_for_with_other_things():
    function = Recorded()
    function.gates = {(3,): threading.Event()}
    program = made(function, (2,), (3,))
    ready = program.prepare((3,))
    assert ready is not None and program.prepare((3,)) is ready
    assert not ready.done()
    function.gates[(3,)].set()
    ready.result(60)
    assert program.prepare((3,)) is None
    assert program(jnp.ones(3)) == 3
    assert program(jnp.ones(2)) == 2 and program.prepare((2,)) is None
    program.close()


def test_it_says_how_far_the_compiler_is():
    function = Recorded()
    function.gates = {(3,): threading.Event()}
    program = made(function, (2,), (3,))
    assert program.progress() == (0, 2) and program.idle  # nothing was asked for
    before = programs.compile_secs()
    program(jnp.ones(2))
    assert program.progress() == (1, 2) and not program.idle
    function.gates[(3,)].set()
    program(jnp.ones(3))
    assert program.progress() == (2, 2) and program.idle
    assert 0 < programs.compile_secs() - before < 60
    program.close()


def test_an_error_of_the_compiler_is_the_callers():
    class Broken:
        def compile(self, argument):
            raise ValueError("no such instruction")

    program = made(Broken(), (2,))
    with pytest.raises(ValueError, match="no such instruction"):
        program(jnp.ones(2))
    program.close()


# The folder ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return tmp_path


def kept_in(monkeypatch):
    """Where `keep` points jax to."""
    said = {}
    monkeypatch.setattr(programs.jax.config, "update", said.__setitem__)
    programs.keep()
    return said.get("jax_compilation_cache_dir")


def test_programs_are_kept_in_a_folder_of_the_users_alone(caches, monkeypatch):
    folder = Path(kept_in(monkeypatch))
    assert folder.is_relative_to(caches / "flax_s2s" / "programs")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kept_in(monkeypatch) == str(folder)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_to_is_not_used(caches, monkeypatch, mode):
    Path(kept_in(monkeypatch)).chmod(mode)
    assert kept_in(monkeypatch) is None


def test_without_a_place_to_write_nothing_is_kept(caches, monkeypatch):
    (caches / "flax_s2s").write_text("a file where the folder should be")
    assert kept_in(monkeypatch) is None


def test_without_a_home_nothing_is_kept(caches, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", raise_no_home)
    assert kept_in(monkeypatch) is None


def raise_no_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_relative_folder_is_not_taken(caches, monkeypatch):
    """The XDG specification: such a path is invalid and to be ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: caches)
    assert Path(kept_in(monkeypatch)).is_relative_to(caches / ".cache" / "flax_s2s")


def test_the_folders_above_are_private_too(caches, monkeypatch):
    before = os.umask(0o002)
    try:
        folder = Path(kept_in(monkeypatch))
    finally:
        os.umask(before)
    while folder != caches:
        assert folder.stat().st_mode & 0o777 == 0o700
        folder = folder.parent


def test_jaxs_own_variable_comes_first(caches, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(caches / "elsewhere"))
    assert kept_in(monkeypatch) is None
    assert not (caches / "flax_s2s").exists()


def test_another_processor_has_another_folder(caches, monkeypatch):
    folders = {kept_in(monkeypatch)}
    monkeypatch.setattr(programs.platform, "machine", lambda: "riscv64")
    folders.add(kept_in(monkeypatch))
    assert len(folders) == 2
