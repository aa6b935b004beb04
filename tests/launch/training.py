"""The smallest training that several processes do, and what is left of it."""

import json
import os
import sys
from pathlib import Path

from tiny import DEBUG, REPOSITORY

LAUNCH = REPOSITORY / "launch"
# One shape and no translations: nothing is compiled but the two steps.
OPTIONS = [
    "--data.max-train-pairs=400",
    "--data.buckets=1",
    "--evaluation.valid-pairs=0",
    "--training.best-metric=loss",
    "--training.log-every-steps=1",
    "--training.devices=0",
]
PLACES = ("JAX_", "SLURM_", "OMPI_", "PMIX_", "PMI_", "MPI_", "TPU_", "JOB_COMPLETION")
COMPILED = "JAX_COMPILATION_CACHE_DIR"


def clean_environment() -> dict[str, str]:
    """This environment without what says where a process stands; the program is found from any folder."""
    kept = {name: value for name, value in os.environ.items() if name == COMPILED or not name.startswith(PLACES)}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "PYTHON": sys.executable}


def train_arguments(run_dir: Path, steps: int, save_every: int = 2) -> list[str]:
    """The arguments of a training of so many steps, evaluated at its end."""
    numbers = {"steps": steps, "evaluate-every-steps": steps, "save-every-steps": save_every}
    return ["train", DEBUG, "--run-dir", str(run_dir), *OPTIONS, *(f"--training.{name}={value}" for name, value in numbers.items())]


def newest(run_dir: Path) -> tuple[int, str]:
    """Step and state of the newest complete checkpoint; (-1, "") where there is none."""
    manifests = list(run_dir.glob("checkpoints/*/manifest.json"))
    if not manifests:
        return -1, ""
    manifest = json.loads(max(manifests, key=lambda path: int(path.parent.name)).read_text())
    return manifest["step"], manifest["state_sha256"]
