"""Reading what XLA dumps of a GPU program: what is launched, in which loop, how often, and what of it by CUDA graphs.

Enters: the folder of `xla_dump_to`. Leaves: `Launches`. The form of these files is no interface, so whatever is not known is an
error, never a count of zero.

    python tests/thunks.py FOLDER       what is launched outside of loops, and in a step of each
"""

import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_THUNK = re.compile(r"^( *)(\d+): (k\w+) +\[[^\]]*\] ?(.*)$")
_PART = re.compile(r"^ *(condition|body):$")
_NAMED = re.compile(r"thunk_metadata \{\n  thunk_info \{\n((?:    .*\n)*)  \}\n  thunk_kind: \"(\w+)\"\n\}")
_TRIPS = re.compile(r'^ *(?:ROOT )?%(\S+) = .* while\(.*?(?:"known_trip_count":\{"n":"(\d+)"\}.*)?$', re.MULTILINE)
_PRODUCTS = {"kCublasLtMatmul", "kGemm"}
_COPIES = {"kCopy", "kDeviceToDeviceCopy", "kMemset32BitValue", "kMemzero"}
_OTHERS = {"kCustomCall", "kPartitionId", "kAllReduce"}


@dataclass
class Thunk:
    """A launch, or what holds several: a graph or a loop."""

    number: int
    kind: str
    what: str
    parts: dict[str, list["Thunk"]] = field(default_factory=dict)  # "body", and of a loop "condition"


@dataclass
class Loop:
    """A while loop."""

    name: str
    trips: int | None  # None: the host waits for the condition at each step, unless the loop is in a graph
    in_graph: bool
    step: "Counter[str]"  # launches of a step, those in graphs too
    graphs: int  # of a step


@dataclass
class Launches:
    """What a call of a program launches; of loops without a trip count one step is counted."""

    graphs: int = 0  # CUDA graphs
    single: int = 0  # what is in none
    outside: "Counter[str]" = field(default_factory=Counter)  # of loops
    loops: list[Loop] = field(default_factory=list)


def read(folder: Path) -> Launches:
    """What the one program that was dumped there launches."""
    found = Launches()
    _count(_parse(_only(folder, "thunk_sequence*").read_text()), _trip_counts(folder), found, found.outside, 1, False, None)
    return found


def _only(folder: Path, name: str) -> Path:
    """The last of the files of that name: the thunks are dumped again once graphs are formed, if any are."""
    found = sorted(folder.glob(f"*.{name}.txt"))
    if not found:
        raise FileNotFoundError(f"XLA has dumped no {name} into {folder}")
    assert len({path.name.split(".")[0] for path in found}) == 1, f"{folder} has several programs"
    return found[-1]


def _trip_counts(folder: Path) -> dict[int, tuple[str, int | None]]:
    """Name and trip count of each loop, by its thunk's number."""
    metadata, text = _only(folder, "thunk_metadata").read_text(), _only(folder, "*gpu_after_optimizations").read_text()
    trips = {name: int(count) if count else None for name, count in _TRIPS.findall(text)}
    entries = _NAMED.findall(metadata)
    assert len(entries) == metadata.count("thunk_metadata {"), "the form of the thunks' metadata is another"
    found = {}
    for info, kind in entries:
        if kind == "kWhile":
            name, number = re.search(r'profile_annotation: "(.*)"', info), re.search(r"thunk_id: (\d+)", info)
            assert name, f"a loop without a name: {info}"
            found[int(number[1]) if number else 0] = name[1], trips[name[1]]
    return found


def _parse(text: str) -> list[Thunk]:
    """The sequence as a tree."""
    top: list[Thunk] = []
    around: list[tuple[int, Thunk, str]] = []  # what the next line may be in: indentation, thunk and which part
    for line in text.splitlines():
        if part := _PART.match(line):
            at = max(i for i, (_, thunk, inside) in enumerate(around) if thunk.kind == "kWhile" and inside != "body")
            del around[at + 1 :]
            around[at] = (around[at][0], around[at][1], part[1])
            continue
        thunk_line = _THUNK.match(line)
        if not thunk_line:
            assert not line.strip(), f"not known in a sequence of thunks: {line}"
            continue
        indent, thunk = len(thunk_line[1]), Thunk(int(thunk_line[2]), thunk_line[3], thunk_line[4])
        while around and around[-1][0] >= indent:
            around.pop()
        siblings = around[-1][1].parts.setdefault(around[-1][2], []) if around else top
        siblings.append(thunk)
        around.append((indent, thunk, "" if thunk.kind == "kWhile" else "body"))
    assert top, "an empty sequence of thunks"
    return top


def _count(thunks: list[Thunk], trips: Any, found: Launches, here: "Counter[str]", times: int, in_graph: bool, loop: Loop | None) -> None:
    for thunk in thunks:
        body = thunk.parts.get("body", [])
        if thunk.kind == "kWhile":
            assert body, f"a loop without a body: {thunk}"
            name, count = trips[thunk.number]
            inner = Loop(name, count, in_graph, Counter(), 0)
            found.loops.append(inner)
            _count(body, trips, found, inner.step, times * (count or 1), in_graph, inner)
        elif thunk.kind == "kCommandBuffer":
            assert body, f"an empty graph: {thunk}"
            found.graphs += times
            if loop:
                loop.graphs += 1
            _count(body, trips, found, here, times, True, loop)
        elif thunk.kind == "kAsyncDone":
            continue  # a wait of one stream for another, on the device
        elif thunk.kind in ("kDynamicSliceFusion", "kSequential", "kAsyncStart"):  # wrappers: what they wrap follows
            assert body, f"nothing in {thunk}"
            _count(body, trips, found, here, times, in_graph, loop)
        else:
            here[_sort(thunk)] += 1
            found.single += 0 if in_graph else times


def _sort(thunk: Thunk) -> str:
    """A product, a copy, a kernel, or a counter: a kernel of one thread."""
    assert not thunk.parts, f"not known to hold others: {thunk.kind}"
    if thunk.kind in _PRODUCTS:
        return "product"
    if thunk.kind in _COPIES:
        return "copy"
    if thunk.kind in ("kCustomKernel", "kKernel"):
        assert "grid: [" in thunk.what, f"a kernel without a grid: {thunk}"
        return "counter" if "grid: [1, 1, 1] threads: [1, 1, 1]" in thunk.what else "kernel"
    assert thunk.kind in _OTHERS, f"not known: {thunk.kind} {thunk.what}"
    return thunk.kind


def _show(counts: "Counter[str]") -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    launches = read(Path(sys.argv[1]))
    print(f"{launches.graphs} graph launches, {launches.single} others; outside of loops: {_show(launches.outside)}")
    for one in launches.loops:
        print(f"{one.name}: {one.trips or 'until the host has seen'}{' in a graph' * one.in_graph}, {one.graphs} graphs; {_show(one.step)}")
