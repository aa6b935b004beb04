"""The counting of launches, on sequences as XLA 0.10.2 dumps them: what has another form is an error, not a count of zero."""

import pytest
import thunks

KERNEL = "kCustomKernel [source | sink] {} grid: [7, 1, 1] threads: [128, 1, 1]  shared_memory: 0 bytes"
SEQUENCE = f"""\
000: kCommandBuffer [source | next=002 (1)]
    001: {KERNEL.format("first")}
002: kWhile         [prev=000 (1) | sink ]
condition:
    003: {KERNEL.format("compare")}
  body:
    000: kCommandBuffer [source | sink]
        004: kCublasLtMatmul [source | sink] kCublasLtMatmul
        005: kDynamicSliceFusion [source | sink] params=1, results=1
            006: kCopy [source | sink] kCopy
    007: {KERNEL.format("alone")}
008: kCopy [source | sink] kCopy
"""
METADATA = 'thunk_metadata {\n  thunk_info {\n    profile_annotation: "while.1"\n    thunk_id: 2\n  }\n  thunk_kind: "kWhile"\n}\n'
HLO = '  %while.1 = (s32[]) while(%tuple), condition=%c, body=%b, backend_config={"known_trip_count":{"n":"32"}}\n'


@pytest.fixture
def dump(tmp_path):
    def write(sequence=SEQUENCE, metadata=METADATA, hlo=HLO):
        for name, text in (("thunk_sequence", sequence), ("thunk_metadata", metadata), ("sm_9.0a_gpu_after_optimizations", hlo)):
            (tmp_path / f"module_1.jit_f.{name}.txt").write_text(text)
        return tmp_path

    return write


def test_launches_are_counted_as_often_as_their_loop_runs(dump):
    found = thunks.read(dump())
    assert (found.graphs, found.single, found.outside) == (1 + 32, 32 + 1, {"kernel": 1, "copy": 1})
    assert found.loops == [thunks.Loop("while.1", 32, False, {"product": 1, "copy": 1, "kernel": 1}, 1)]


def test_a_loop_without_a_trip_count_has_none(dump):
    assert thunks.read(dump(hlo=HLO.replace("known", "other"))).loops[0].trips is None


@pytest.mark.parametrize(
    "changed",
    [
        {"sequence": ""},
        {"sequence": SEQUENCE.replace("kCublasLtMatmul", "kNewMatmul")},
        {"sequence": SEQUENCE.replace("000: kCommandBuffer", "kCommandBuffer 000")},
        {"sequence": SEQUENCE.replace("grid:", "blocks:")},
        {"sequence": SEQUENCE.replace("  body:\n", "  branch:\n")},
        {"metadata": METADATA.replace("thunk_info", "info")},
        {"metadata": METADATA.replace("profile_annotation", "name")},
        {"metadata": ""},
        {"hlo": ""},
    ],
    ids=str,
)
def test_another_form_is_an_error(dump, changed):
    with pytest.raises((AssertionError, KeyError)):
        thunks.read(dump(**changed))
