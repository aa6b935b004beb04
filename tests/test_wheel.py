"""What is installed: the package with its presets, wherever one stands; and that every room is in it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from tiny import REPOSITORY, TINY

PRESETS = {path.name for path in (REPOSITORY / "configs").glob("*.py")}
PAGES = {f"flax_s2s/serving/{path.parent.name}/{path.name}" for path in (REPOSITORY / "flax_s2s/serving").glob("*/*") if path.is_file()}
ROOMS = {path.parent.name for path in (REPOSITORY / "flax_s2s").glob("*/__init__.py")}
SCRIPT = """
import sys
import flax_s2s
assert "jax" not in sys.modules
assert flax_s2s.__file__.startswith(sys.prefix), flax_s2s.__file__
print(flax_s2s.load("runs/debug").translate("3 hours").reason)
"""


def test_every_room_is_a_package_that_is_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]
    assert sorted(packages) == packages == sorted(["flax_s2s", "flax_s2s.configs", *(f"flax_s2s.{room}" for room in ROOMS)])


def run(*command: str | Path, folder: Path) -> str:
    """Runs a command in a folder, without anything of this checkout on its path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=folder, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, which is built from what git knows."""
    folder = tmp_path_factory.mktemp("built")
    for name in subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / "source" / name)
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})", folder=folder / "source")
    [source] = folder.glob("*.tar.gz")
    with tarfile.open(source) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {f"configs/{name}" for name in PRESETS} | {"flax_s2s/py.typed", "LICENSE", "pyproject.toml", "README.md"} <= names
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source, folder=folder)
    [found] = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_presets_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        about = {name.partition("/")[2] for name in file.namelist() if ".dist-info/" in name}
    package = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "flax_s2s").rglob("*.py")}
    assert names == package | PAGES | {"flax_s2s/py.typed"} | {f"flax_s2s/configs/{name}" for name in PRESETS}
    assert {"licenses/LICENSE", "METADATA", "entry_points.txt"} <= about


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_it_works_from_any_folder(wheel: Path, tmp_path: Path, kind: str) -> None:
    """In an environment that has the libraries of this one, and of this package only what is installed."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", folder=tmp_path)
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", tmp_path / "venv/bin/python", "install", "-q", "--no-deps", "--no-build-isolation"]
    if kind == "editable":  # built by the setuptools of this environment
        (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    what: list[str | Path] = [wheel] if kind == "wheel" else ["--editable", wheel.parent / "source"]
    run(*install, *what, folder=tmp_path)
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # a path alone: the .pth files there are not read
    program, folder = tmp_path / "venv/bin/flax-s2s", tmp_path / "empty"
    folder.mkdir()
    assert run(program, "--version", folder=folder).startswith("flax_s2s ")
    assert "decoder/layers/0/kernel_in" in run(program, "inspect", "debug", "--no-memory", *TINY, folder=folder)
    run(program, "train", "debug", *TINY, folder=folder)
    assert (folder / "runs/debug/checkpoints/4").is_dir()
    script = SCRIPT if kind == "wheel" else SCRIPT.replace("sys.prefix", repr(str(wheel.parent)))
    assert run(tmp_path / "venv/bin/python", "-c", script, folder=folder).strip() in ("end", "limit")
