"""Settings of the test run, made before jax starts: eight CPU devices, no silent rank promotion, shapes checked."""

import gc
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of what the tests do. With neither the compiler's optimizations nor its newer emitters, which a training would need
# for its speed, it takes a sixth of the time; with programs that are not split for other cores, which have a worker of their own, a sixth
# less. The processes that they start compute so too: to the bit as this one does.
_FAST_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FAST_TO_COMPILE}".strip()
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # where in the source an operation stands: a twentieth of the time
gc.set_threshold(100_000, 50, 100)  # traces are many objects that live: looking for garbage among them takes a tenth of the time
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "true"  # no TPU is used, so no other process is in the way

# The program's caches, empty at the start: shared by the tests of a run and the processes that they start. Not by pytest's two
# processes: jax does not write what it compiled in one go, and warns of half a file.
_caches = tempfile.TemporaryDirectory(prefix="flax_s2s_tests_")
os.environ |= {"XDG_CACHE_HOME": _caches.name, "JAX_COMPILATION_CACHE_DIR": f"{_caches.name}/programs"}

from jaxtyping import install_import_hook  # noqa: E402

# Every annotated shape is checked. Not what has none: generating phrases, a million calls, would take twice the time.
_sources = {path: path.read_text() for path in Path(__file__).parents[1].glob("flax_s2s/*/*.py")}
install_import_hook(
    [f"flax_s2s.{path.parent.name}.{path.stem}" for path, text in _sources.items() if "from jaxtyping import" in text],
    "beartype.beartype",
)

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

import pytest  # noqa: E402

from flax_s2s.runtime import processor  # noqa: E402

processor.features = lambda: ""  # what is exact is tested in float32, whatever this processor is fast in
from tiny import DEBUG, TINY  # noqa: E402

_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _few_programs() -> Iterator[None]:
    """Forgets the compiled programs now and then: each is some mapped memory, of which Linux allows a process 65,530 pieces.

    A test makes up to 2,000 of them, and counting them takes longer than most tests: so only now and then.
    """
    yield
    maps = Path("/proc/self/maps")
    if next(_tests) % 10 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the debug preset, trained for four steps."""
    from flax_s2s.cli.verbs import main

    folder = tmp_path_factory.mktemp("runs") / "debug"
    assert main(["train", DEBUG, "--run-dir", str(folder), *TINY]) == 0
    return folder
