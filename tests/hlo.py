"""Reading compiled programs: what they send between devices and to the host, and where."""

import math
import re
from typing import NamedTuple

_SENDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
_COLLECTIVE = re.compile(rf"= (.*?) ({_SENDS})(-start)?\(")
_HOST = re.compile(r"= .*? (infeed|outfeed|send|recv|send-done|recv-done)\(|custom-call\(.*host")
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


class Collective(NamedTuple):
    """One operation that sends something between devices."""

    kind: str
    inside_loop: bool
    types: frozenset[str]
    bytes: int


def computations(text):
    """The lines of each computation of an HLO module, by name."""
    found, name = {}, ""
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = header[1]
            found[name] = []
        elif line.startswith("  "):
            found[name].append(line)
    return found


def inside_loops(found):
    """Names of the computations that a while loop runs, however deep."""
    called = {name: {n for n in re.findall(r"%([\w.\-]+)", " ".join(lines)) if n in found} for name, lines in found.items()}
    waiting = [
        n for lines in found.values() for line in lines if " while(" in line for n in re.findall(r"(?:body|condition)=%([\w.\-]+)", line)
    ]
    inside = set()
    while waiting:
        name = waiting.pop()
        if name not in inside:
            inside.add(name)
            waiting += called[name]
    return inside


def collectives(text):
    """Everything a program sends between devices."""
    found = computations(text)
    loops = inside_loops(found)
    sent = []
    for name, lines in found.items():
        for result, kind, _ in (match.groups() for line in lines if (match := _COLLECTIVE.search(line))):
            arrays = re.findall(r"\b(\w+)\[([\d,]*)\]", result)
            size = sum(_BYTES[dtype] * math.prod(map(int, filter(None, shape.split(",")))) for dtype, shape in arrays)
            sent.append(Collective(kind, name in loops, frozenset(dtype for dtype, _ in arrays), size))
    return sent


def host_transfers(text):
    """The lines where a program talks to the host."""
    return [line.strip() for line in text.splitlines() if _HOST.search(line)]
