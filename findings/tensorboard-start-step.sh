#!/usr/bin/env bash
# TensorBoard 2.21: a run that goes on after step N and says so with SessionLog.START at step N loses its points of step N.
#
# Guess: START with step N takes back what came after N (the steps that a restarted run makes again) and keeps N itself, which is
# done.
# Seen: events at step N are dropped too, whatever their tag. A run that goes on at N must write N + 1. Only where the file is
# read again: nothing in the file is lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet tensorboard==2.21.0 tensorboardX==2.6.5 'setuptools<81'
"$folder/env/bin/python" - "$folder" <<'P'
import os
import sys
from importlib.metadata import version

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

print("tensorboard", version("tensorboard"))


def steps_seen(start):
    """A run of 40 steps, evaluated every 20, which stopped at 20 and went on; START carries the given step."""
    folder = f"{sys.argv[1]}/{start}"
    os.mkdir(folder)
    for number, (began, steps) in enumerate(((None, [20]), (start, [40]))):
        writer = EventsWriter(f"{folder}/{number}")
        if began is not None:
            writer.write_event(Event(wall_time=100.0 * number, step=began, session_log=SessionLog(status=SessionLog.START)))
        for step in steps:
            writer.write_event(Event(wall_time=100.0 * number + step, step=step, summary=scalar("valid/loss", 1.0)))
        writer.close()
    accumulator = EventAccumulator(folder)
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars("valid/loss")]


for start, expected in ((20, [40]), (21, [20, 40])):
    seen = steps_seen(start)
    print(f"START at {start}: points at {seen}")
    assert seen == expected, "this has changed"
P
