"""The smallest real run: the debug preset, four steps."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DEBUG = str(REPOSITORY / "configs/debug.py")
TINY = [
    "--data.max-train-pairs=400",
    "--training.steps=4",
    "--training.log-every-steps=1",
    "--training.evaluate-every-steps=2",
    "--training.save-every-steps=2",
    "--evaluation.valid-pairs=16",
    "--training.devices=1",
]
