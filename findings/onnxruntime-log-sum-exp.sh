#!/usr/bin/env bash
# onnxruntime 1.32.0 on CPUs: the operator ReduceLogSumExp takes several times as long as the four operators that it stands for.
#
# Guess: one operator reads its input once or twice and is at least as fast as ReduceMax, Sub, Exp, ReduceSum, Log and Add in a row, which write two arrays of its size.
# Seen, of 320 rows with 8,000 columns, one thread: 5 to 7 times the time of the parts; LogSoftmax, which writes the whole array besides, takes less than the parts. The
# results agree to the sixth digit.
set -euo pipefail
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

axes = numpy_helper.from_array(np.array([-1]), "axes")
one = [helper.make_node("ReduceLogSumExp", ["x", "axes"], ["y"])]
parts = [
    helper.make_node("ReduceMax", ["x", "axes"], ["m"]),
    helper.make_node("Sub", ["x", "m"], ["s"]),
    helper.make_node("Exp", ["s"], ["e"]),
    helper.make_node("ReduceSum", ["e", "axes"], ["t"]),
    helper.make_node("Log", ["t"], ["l"]),
    helper.make_node("Add", ["l", "m"], ["y"]),
]
softmax = [helper.make_node("LogSoftmax", ["x"], ["z"], axis=-1), helper.make_node("ReduceMax", ["z", "axes"], ["y"])]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
sessions = {}
for name, nodes in (("one operator", one), ("its parts", parts), ("LogSoftmax", softmax)):
    values = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["rows", None]) for value in "xy"]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    sessions[name] = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
given = {"x": np.random.default_rng(0).normal(size=(320, 8000), scale=3).astype(np.float32)}
taken = {name: [] for name in sessions}
for _ in range(30):
    for name, session in sessions.items():
        begin = time.perf_counter()
        session.run(None, given)
        taken[name].append(1e3 * (time.perf_counter() - begin))
medians = {name: statistics.median(many) for name, many in taken.items()}
print("onnxruntime", onnxruntime.__version__, {name: f"{median:.2f} ms" for name, median in medians.items()})
np.testing.assert_allclose(*(sessions[name].run(None, given)[0] for name in ("one operator", "its parts")), rtol=1e-6)
assert medians["one operator"] > 3 * medians["its parts"], "this has changed"
P
