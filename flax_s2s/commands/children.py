"""A configuration as a preset of its own, for verbs that train in processes of their own."""

import sys
from typing import Any

from flax_s2s.config import Config
from flax_s2s.runs import rundir

_PRESET = """\
from pathlib import Path

from flax_s2s.config import from_json


def config():
    return from_json(Path(__file__).with_name("config.json").read_text("utf-8"))
"""


def write(folder: Any, config: Config) -> None:
    """Writes `preset.py`, and then the `config.json` that it reads: where that is there, both are whole."""
    (folder / rundir.PRESET).write_text(_PRESET, "utf-8")
    rundir.write_config(folder, config)


def make_command(folder: Any, run_dir: Any, *options: str) -> list[str]:
    """The command line that trains what `write` wrote."""
    return [sys.executable, "-m", "flax_s2s", "train", str(folder / rundir.PRESET), "--run-dir", str(run_dir), *options]
