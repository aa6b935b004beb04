"""The smallest real run, the debug preset in four steps; and configurations that differ in a field."""

import dataclasses
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
# Further, where neither translations nor several shapes are what is tested: they are most of what is compiled.
PLAIN = ["--data.buckets=1", "--evaluation.valid-pairs=0", "--training.best-metric=loss"]


def changed(config, fields):
    """changed(config, {"model.hidden_size": 3})"""
    for name, value in fields.items():
        room, _, field = name.rpartition(".")
        inner = dataclasses.replace(getattr(config, room), **{field: value}) if room else value
        config = dataclasses.replace(config, **{room or field: inner})
    return config


def sides(pairs):
    """Source and target of each pair, without features."""
    return [pair[:2] for pair in pairs]
