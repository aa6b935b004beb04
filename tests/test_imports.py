"""Imports point down the walk and never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flax_s2s"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("**/*.py"))

# What each room may import of the package, besides config.
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    "cli": {"cluster", "commands", "errors", "files", "job", "processor", "rundir"},
    "errors": set(),
    "places": set(),
    "cluster": {"places"},
    "job": {"cluster", "errors", "parallel"},
    "coordinator": set(),
    "config": set(),
    "languages": set(),
    "rules": {"languages"},
    "parallel": set(),
    "caches": set(),
    "processor": set(),
    "programs": {"caches", "parallel", "processor"},
    "rundir": set(),
    "files": {"cluster", "rundir"},
    "lease": set(),
    "runlog": set(),
    "manifests": {"processor"},
    "checkpoint": {"manifests", "parallel", "training"},
    "data": {"data"},
    "model": {"model", "processor"},
    "training": {"training", "model", "parallel", "runlog"},
    "decoding": {"decoding", "model", "data", "files", "languages", "parallel", "rundir", "runlog"},
    "commands": {
        *("commands", "data", "model", "training", "decoding"),
        *(
            "parallel",
            "processor",
            "programs",
            "caches",
            "checkpoint",
            "manifests",
            "rundir",
            "lease",
            "runlog",
            "rules",
            "job",
            "cluster",
            "languages",
            "errors",
            "files",
        ),
    },
}
# Who alone may import a library.
ONLY = {
    "orbax": {"checkpoint"},
    "tyro": {"cli"},
    "tensorflow_datasets": {"data"},
    "sentencepiece": {"data"},
    "sacrebleu": {"decoding"},
    "langcodes": {"languages"},
    "matplotlib": {"decoding"},
}


def room(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


def imported(module: str) -> set[str]:
    """Full names of everything a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    rooms = {name.split(".")[1] for name in imported(module) if name.startswith("flax_s2s.")}
    assert rooms <= ALLOWED[room(module)] | {"config", "__version__"}


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_imported_only_where_it_belongs(module: str) -> None:
    libraries = {name.split(".")[0] for name in imported(module)}
    for library, rooms in ONLY.items():
        assert library not in libraries or room(module) in rooms


def test_data_never_imports_jax() -> None:
    for module in MODULES:
        if room(module) in ("data", "config", "__init__"):
            assert "jax" not in {name.split(".")[0] for name in imported(module)}


@pytest.mark.parametrize("module", ["flax_s2s", "flax_s2s.config", "flax_s2s.cluster", "flax_s2s.cli"])
def test_the_front_door_is_light(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('jax', 'tensorflow', 'tensorflow_datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
