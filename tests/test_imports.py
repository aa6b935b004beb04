"""Imports point down the walk and never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flax_s2s"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("**/*.py"))

# The house from the ground up: what each room may import of the package, besides config. A room stands on those above it in this
# list and on no other, so nothing turns back.
ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "presets": set(),
    "errors": set(),
    "languages": set(),
    "rules": {"languages"},
    "data": set(),
    "runtime": {"errors"},
    "model": {"runtime"},
    "training": {"model", "runtime"},
    "decoding": {"model", "data", "runtime"},
    "runs": {"training", "runtime"},
    "evaluation": {"decoding", "model", "data", "runtime", "languages"},
    "export": {"model", "data"},
    "serving": set(),
    "answers": {"decoding", "data", "runs", "runtime", "languages"},
    "commands": {
        *("data", "model", "training", "decoding", "runs", "evaluation", "answers", "export", "serving"),
        *("runtime", "rules", "languages", "errors"),
    },
    "cli": {"commands", "answers", "runs", "runtime", "presets", "errors"},
    "__main__": {"cli", "runtime"},
    "api": {"commands", "answers", "runs", "evaluation", "training", "decoding", "data", "runtime", "errors"},
    "__init__": {"api", "presets"},
}
# The order of the large rooms, and those that stand side by side.
FLOORS = ["data", "model", "training", "decoding", "runs", "evaluation", "answers", "commands"]
APART = [("data", "model"), ("data", "training"), ("data", "runtime"), ("training", "decoding")]  # neither stands on the other
# Who alone may import a library.
ONLY = {
    "orbax": {"runs"},
    "tensorstore": {"runs"},
    "tyro": {"cli"},
    "tensorflow_datasets": {"data"},
    "pyarrow": {"data"},
    "sentencepiece": {"data", "export"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "torch": {"export"},
    "sacrebleu": {"evaluation"},
    "rouge_score": {"evaluation"},
    "langcodes": {"languages"},
    "matplotlib": {"answers", "evaluation"},
}
MODULES_AT_THE_ROOT = 8


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


def reached(start: str) -> set[str]:
    """Every room that a room stands on, whether it imports it or one that does."""
    found: set[str] = set()
    while new := {below for name in {start, *found} for below in ALLOWED[name]} - found:
        found |= new
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    assert "flax_s2s" not in imported(module)  # through its front door everything is reached
    rooms = {name.split(".")[1] for name in imported(module) if name.startswith("flax_s2s.")}
    assert rooms <= ALLOWED[room(module)] | {"config", "__version__", room(module)}


def test_every_arrow_of_the_picture_is_used() -> None:
    used = {(room(module), name.split(".")[1]) for module in MODULES for name in imported(module) if name.startswith("flax_s2s.")}
    assert {(name, below) for name, rooms in ALLOWED.items() for below in rooms} <= used


def test_no_room_stands_on_one_above_it() -> None:
    names = list(ALLOWED)
    assert all(names.index(below) < names.index(name) for name, rooms in ALLOWED.items() for below in rooms)
    order = [name for name in names if name in FLOORS]
    assert order == FLOORS
    for one, other in APART:
        assert other not in reached(one)
        assert one not in reached(other)


def test_every_room_is_in_the_picture_and_says_what_enters_and_leaves() -> None:
    assert {room(module) for module in MODULES} == set(ALLOWED)
    for folder in (path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"):
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        assert "enter" in said, folder.name
        assert "leave" in said, folder.name


def test_few_modules_lie_loose_at_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MODULES_AT_THE_ROOT


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_imported_only_where_it_belongs(module: str) -> None:
    libraries = {name.split(".")[0] for name in imported(module)}
    for library, rooms in ONLY.items():
        assert library not in libraries or room(module) in rooms


def test_data_never_imports_jax() -> None:
    for module in MODULES:
        if room(module) in ("data", "config", "__init__"):
            assert "jax" not in {name.split(".")[0] for name in imported(module)}


@pytest.mark.parametrize("module", ["flax_s2s", "flax_s2s.config", "flax_s2s.runtime.cluster", "flax_s2s.presets", "flax_s2s.cli.verbs"])
def test_the_front_door_is_light(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('jax', 'tensorflow', 'tensorflow_datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_who_only_translates_imports_nothing_that_scores_or_trains() -> None:
    """Each import is waited for before the first line is translated."""
    needless = (
        "orbax",
        "sacrebleu",
        "rapidfuzz",
        "langcodes",
        "rouge_score",
        "tensorflow_datasets",
        "matplotlib",
        "flax_s2s.training.loop",
    )
    code = f"import sys, flax_s2s.commands.decode; print([name for name in {needless} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split("\n")[-2] == "[]"
