#!/usr/bin/env bash
# onnxruntime 1.32.0 on CPUs with VNNI: its own product with weights in blocks of int8 (MatMulNBits, bits=8, accuracy_level=4) is hardly faster than float32 for hundreds of
# rows, while MatMulInteger with a scale for each row, made of eight plain operators, is twice as fast.
#
# Guess: MatMulNBits quantizes its inputs by blocks of a row, too, multiplies int8 by int8 and needs one operator, so it is the faster of the two.
# Seen, of 320 rows by 256 x 8,000, one thread: 0.9 to 1.0 of float32's time beside 0.45 to 0.5; of 5 rows 0.7 beside 0.4. Both are as near to float32's results.
set -euo pipefail
grep -qm1 avx512_vnni /proc/cpuinfo || { echo "this CPU has no avx512_vnni, for which the figures are"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2
"$folder/env/bin/python" - <<'P'
import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROWS, INNER, COLUMNS, BLOCK = 320, 256, 8000, 128
draw = np.random.default_rng(0)
weight, rows = draw.normal(size=(INNER, COLUMNS)).astype(np.float32), draw.normal(size=(ROWS, INNER)).astype(np.float32)
node, held = helper.make_node, {}


def keep(name, array):
    held[name] = numpy_helper.from_array(array, name)
    return name


blocks = weight.T.reshape(COLUMNS, INNER // BLOCK, BLOCK)
scales = np.abs(blocks).max(axis=-1) / 127
numbers = (np.round(blocks / scales[..., None]) + 128).astype(np.uint8)
by_blocks = node(
    "MatMulNBits", ["x", keep("blocks", numbers), keep("block_scales", scales)], ["y"], domain="com.microsoft", K=INNER, N=COLUMNS, bits=8,
    block_size=BLOCK, accuracy_level=4,
)
scale = np.abs(weight).max(axis=0) / 127
keep("int8", np.round(weight / scale).astype(np.int8))
keep("scale", scale)
for name, value in (("axes", np.array([-1])), ("most", np.float32(127)), ("zero", np.float32(128)), ("zero_point", np.uint8(128))):
    keep(name, np.asarray(value))
by_rows = [
    node("Abs", ["x"], ["abs"]),
    node("ReduceMax", ["abs", "axes"], ["largest"]),
    node("Div", ["largest", "most"], ["row_scale"]),
    node("Div", ["x", "row_scale"], ["steps"]),
    node("Round", ["steps"], ["rounded"]),
    node("Add", ["rounded", "zero"], ["moved"]),
    node("Cast", ["moved"], ["uint8"], to=TensorProto.UINT8),
    node("MatMulInteger", ["uint8", "int8", "zero_point"], ["sums"]),
    node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
    node("Mul", ["floats", "scale"], ["half"]),
    node("Mul", ["half", "row_scale"], ["y"]),
]
keep("weight", weight)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
sessions = {}
for name, nodes in (("float32", [node("MatMul", ["x", "weight"], ["y"])]), ("blocks", [by_blocks]), ("rows", by_rows)):
    used = {one for each in nodes for one in each.input}
    values = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["rows", None]) for value in "xy"]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], [held[one] for one in held if one in used])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    sessions[name] = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
taken = {name: [] for name in sessions}
for _ in range(30):
    for name, session in sessions.items():
        begin = time.perf_counter()
        session.run(None, {"x": rows})
        taken[name].append(1e3 * (time.perf_counter() - begin))
medians = {name: statistics.median(many) for name, many in taken.items()}
print("onnxruntime", onnxruntime.__version__, {name: f"{median:.2f} ms" for name, median in medians.items()})
exact = rows @ weight
print({name: f"{np.abs(session.run(None, {'x': rows})[0] - exact).max() / np.abs(exact).max():.4f}" for name, session in sessions.items()})
assert medians["blocks"] > 1.4 * medians["rows"] and medians["rows"] < 0.7 * medians["float32"], "this has changed"
P
