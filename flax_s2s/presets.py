"""The loading of presets: enters a name or a file of `configs/`; leaves the `Config` that it makes."""

import dataclasses
import importlib.util
import os
import re
import sys
from pathlib import Path

from flax_s2s import config
from flax_s2s.config import Config, UserError, from_python, nearest

_INSTALLED = Path(__file__).with_name("configs")
FOLDERS = (Path("configs"), _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "configs")
"""Where a preset is looked for by its name: in the working directory's folder, then in that of this package, which is inside of it
where it was installed, and beside it in a checkout."""


def load_preset(name: str | os.PathLike[str]) -> Config:
    """Runs a preset, `quickstart` or `configs/quickstart.py`, and returns what its `config()` returns, strictly read.

    Raises:
        UserError: no such preset, an error in it, or no `config()` that returns a `Config` whose fields have their types.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise UserError(f"a preset is given by its name or its file, got {type(name).__name__}")
    name = os.fspath(name)
    file = _find_preset(name)
    spec = importlib.util.spec_from_file_location(f"flax_s2s_preset_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"preset {name!r} must be a Python file, NAME.py; of a run give the folder")
    module = importlib.util.module_from_spec(spec)
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
        return from_python(module.config())
    except UserError as error:
        raise UserError(f"preset {name!r}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"preset {name!r} {_explain(error)}") from error
    finally:
        sys.dont_write_bytecode = bytecode


def is_preset(name: str) -> bool:
    """Whether it is a Python file, or the name of a preset."""
    return (name.endswith(".py") and Path(name).is_file()) or _by_name(name) is not None


def _by_name(name: str) -> Path | None:
    found = (folder / f"{name}.py" for folder in FOLDERS) if re.fullmatch(r"\w+", name) else ()
    return next((file for file in found if file.is_file()), None)


def _find_preset(name: str) -> Path:
    file = _by_name(name) or Path(name)
    if file.is_file():
        return file
    beside = [] if file.parent == Path() else list(file.parent.glob("*.py"))
    names = sorted({other.stem for other in beside or (other for folder in FOLDERS for other in folder.glob("*.py"))})
    known = f"; presets: {', '.join(names)}" if names else ""
    what = "preset" if file.suffix == ".py" or file.parent == Path() else "preset and no run directory"
    raise UserError(f"there is no {what} {name!r}{nearest(file.stem, names)}{known}")


def _explain(error: BaseException) -> str:
    """What went wrong in a preset; a field that there is not is named like one of a file."""
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    room = unknown and vars(config).get(unknown[1])
    if unknown and isinstance(room, type) and dataclasses.is_dataclass(room):
        return f"gives {room.__name__} an unknown field {unknown[2]!r}{nearest(unknown[2], (field.name for field in dataclasses.fields(room)))}"
    return f"does not run: {type(error).__name__}: {error}"
