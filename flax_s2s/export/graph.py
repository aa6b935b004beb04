"""The exported model as two ONNX graphs: one reads sources, one makes a step of the search; the beam stays with the host.

Enters: arrays by their parameters' names, where they lie in `weights.npz`, and what model they are of. Leaves: two files, whose weights are
those of `weights.npz` itself (external data of ONNX), so that each is on disk once. graphs.md has their inputs and outputs.

What depends on weights alone (gates in ONNX's order, int8 weights as float32) stands in the graphs as nodes, which onnxruntime computes once as it loads them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_s2s.config import UNK, ModelConfig, UserError

OPSET = 21
_IR = 10  # what goes with this opset
SCALE = ":scale"  # behind a name: what an array in int8 is multiplied with
_FAR = -1e30  # a score that no softmax sees
_LEAST = 1e-30
_HALF_STEPS = 63  # of an activation in int8: with 7 bits no CPU's sum of two products leaves its 16


class Place(NamedTuple):
    """An array in `weights.npz`."""

    shape: tuple[int, ...]
    quantized: bool
    offset: int  # of its first byte


def load_onnx() -> Any:
    """The package that builds the graphs, where the one that runs them is installed, too.

    Raises:
        UserError: one of them is not.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 what is written is compared
    except ImportError as error:
        raise UserError(f"export makes ONNX graphs, for which {error.name} is not installed: pip install 'flax_s2s[export]'") from None
    return onnx


class _Nodes:
    """Nodes of one graph, as they are added."""

    def __init__(self, onnx: Any, places: Mapping[str, Place], outer: "_Nodes | None" = None) -> None:
        self.onnx, self.places, self.outer = onnx, places, outer
        self.nodes: list[Any] = []
        self.held: dict[str, Any] = outer.held if outer else {}  # initializers; those of a loop's body stand outside of it
        self._count: list[int] = outer._count if outer else [0]

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """One node; its output's name, or a tuple of them."""
        self._count[0] += 1
        names = [f"{kind}_{self._count[0]}" + (f"_{place}" if outputs > 1 else "") for place in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names[0] if outputs == 1 else tuple(names)

    def name(self, value: str, name: str) -> None:
        """Gives a value the name that a graph's output has."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=f"name_{name}"))

    def constant(self, value: Any, kind: Any = np.int64) -> str:
        """A small array of the graph's own."""
        array = np.asarray(value, kind)
        name = f"{array.dtype}_{'_'.join(map(str, array.shape))}_{'_'.join(map(str, array.ravel().tolist()))}".replace("-", "m")
        self.held.setdefault(name, self.onnx.numpy_helper.from_array(array, name))
        return name

    def number(self, value: float) -> str:
        return self.constant(value, np.float32)

    def raw(self, name: str) -> str:
        """An array as it lies in the file."""
        if name not in self.held:
            helper, place = self.onnx.TensorProto, self.places[name]
            size = int(np.prod(place.shape)) * (1 if place.quantized else 4)
            tensor = helper(name=name, data_type=helper.INT8 if place.quantized else helper.FLOAT, dims=place.shape)
            tensor.data_location = helper.EXTERNAL
            for key, value in (("location", "weights.npz"), ("offset", place.offset), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            self.held[name] = tensor
        return name

    def weight(self, name: str) -> str:
        """An array as float32."""
        if not self.places[name].quantized:
            return self.raw(name)
        return str(self("Mul", self("Cast", self.raw(name), to=self.onnx.TensorProto.FLOAT), self.raw(name + SCALE)))

    def rows(self, name: str, ids: str) -> str:
        """Rows of a table, as float32; only these are taken out of int8."""
        found = self("Gather", self.raw(name), ids)
        if not self.places[name].quantized:
            return str(found)
        found = self("Cast", found, to=self.onnx.TensorProto.FLOAT)
        return str(self("Mul", found, self("Gather", self.raw(name + SCALE), ids)))

    def product(self, inputs: str, name: str, transposed: bool = False) -> str:
        """`inputs @ weight`, or `inputs @ weight.T`; of int8 weights with a scale for each row of inputs, so that rows know nothing of each other."""
        if not self.places[name].quantized:
            weight = self.raw(name)
            return str(self("MatMul", inputs, self("Transpose", weight, perm=[1, 0]) if transposed else weight))
        largest = self("ReduceMax", self("Abs", inputs), self.constant([-1]), keepdims=1)
        scale = self("Div", self("Max", largest, self.number(_LEAST)), self.number(_HALF_STEPS))
        steps = self("Add", self("Round", self("Div", inputs, scale)), self.number(_HALF_STEPS + 1))
        steps = self("Cast", steps, to=self.onnx.TensorProto.UINT8)
        weight, scales = self.raw(name), self.raw(name + SCALE)
        if transposed:
            weight, scales = self("Transpose", weight, perm=[1, 0]), self("Transpose", scales, perm=[1, 0])
        sums = self("MatMulInteger", steps, weight, self.constant(_HALF_STEPS + 1, np.uint8))
        return str(self("Mul", self("Mul", self("Cast", sums, to=self.onnx.TensorProto.FLOAT), scales), scale))

    def plus(self, first: str, second: str) -> str:
        return str(self("Add", first, second))

    def times(self, first: str, second: str) -> str:
        return str(self("Mul", first, second))

    def joined(self, *parts: str, axis: int = -1) -> str:
        return parts[0] if len(parts) == 1 else str(self("Concat", *parts, axis=axis))

    def size(self, value: str, axis: int) -> str:
        """One size of a value, as an array of one number."""
        return str(self("Shape", value, start=axis, end=axis + 1))

    def is_within(self, ids: str, count: int) -> str:
        return str(self("Less", ids, self.constant(count)))

    def log_sum(self, first: str, second: str) -> str:
        """log(exp a + exp b), of which either may be minus infinity."""
        largest = self("Max", first, second, self.number(_FAR))
        return self.plus(
            largest, self("Log", self.plus(self("Exp", self("Sub", first, largest)), self("Exp", self("Sub", second, largest))))
        )


class Graphs:
    """Both graphs of a model."""

    def __init__(self, model: ModelConfig, places: Mapping[str, Place], zoneout: float) -> None:
        """Of a model with these arrays; the share that zoneout keeps as the package rounds it.

        Raises:
            UserError: the package onnx is missing.
        """
        self.model, self.places, self.zoneout, self.onnx = model, places, zoneout, load_onnx()
        self.vocabulary = places["target_table"].shape[0]
        self.memory = [] if model.attention == "none" else ["values", "keys", "mask"]  # what a step reads of the source, besides states
        self.memory += (["copies", "held"] if model.copy else []) + (["beside"] if model.feed_features else [])
        self.states = [f"{part}_{index}" for index in range(model.decoder_layers) for part in ("hidden", "cell")]
        self.states += ["feed"] if model.input_feeding else []

    def make(self) -> dict[str, bytes]:
        """The files by their names."""
        return {"encoder.onnx": self._encoder(), "step.onnx": self._step()}

    # The encoder -------------------------------------------------------------------------------------------------------

    def _encoder(self) -> bytes:
        g, model, at = _Nodes(self.onnx, self.places), self.model, self.onnx.TensorProto
        turned = "tokens"
        if model.reverse_source:
            turned = g("ReverseSequence", "tokens", g("Sub", "lengths", g.constant(1)), batch_axis=0, time_axis=1)
        read = turned
        tables = [self.places[name].shape[0] for name in ("feature_table",) if name in self.places]
        known = self.places.get("source_table", self.places["target_table"]).shape[0] + sum(tables)
        if model.copy:
            read = g("Where", g.is_within(turned, known), turned, g.constant(UNK))
        embedded = self._embed(g, read)
        times = g("Range", g.constant(0), g("Squeeze", g.size("tokens", 1)), g.constant(1))
        lengths = "lengths" if model.source_end else g("Sub", "lengths", g.constant(1))  # of what is read
        real = g("Less", g("Unsqueeze", times, g.constant([0])), g("Unsqueeze", lengths, g.constant([1])))  # [batch, length]
        floats = g("Unsqueeze", g("Cast", real, to=at.FLOAT), g.constant([2]))
        features, finals = g("Transpose", embedded, perm=[1, 0, 2]), []
        for index in range(model.encoder_layers):
            outputs, final = self._read(g, index, features, g("Transpose", floats, perm=[1, 0, 2]), lengths)
            finals.append(final)
            features = g.plus(features, outputs) if 0 < model.residual_from <= index + 1 else outputs
        features = g("Transpose", features, perm=[1, 0, 2])
        for index in range(model.decoder_layers):
            for part, value in zip(("hidden", "cell"), self._bridge(g, index, finals), strict=True):
                g.name(value, f"{part}_{index}")
        if model.input_feeding:
            rows = g.joined(g.size("tokens", 0), g.constant([self._readout]), axis=0)
            g.name(g("ConstantOfShape", rows), "feed")
        if model.attention != "none":
            values = g.joined(features, embedded) if model.attend_embeddings else features
            if model.reverse_source:
                values = g("ReverseSequence", values, g("Sub", "lengths", g.constant(1)), batch_axis=0, time_axis=1)
            keys = values
            if "decoder/attention/kernel_key" in self.places:
                keys = g("MatMul", values, g.weight("decoder/attention/kernel_key"))
            g.name(values, "values")
            g.name(keys if model.attention == "additive" else g("Transpose", keys, perm=[0, 2, 1]), "keys")
            g.name(g("Where", real, g.number(0), g.number(_FAR)), "mask")
        if model.feed_features:
            among = g("Cast", g("Not", g.is_within(read, self.vocabulary)), to=at.FLOAT)
            sums = g("ReduceSum", g.times(embedded, g("Unsqueeze", among, g.constant([2]))), g.constant([1]), keepdims=0)
            g.name(g("MatMul", sums, g.weight("kernel_features")), "beside")
        if model.copy:
            self._copies(g, known)
        leaves = [*self._memory(), *((name, at.FLOAT, ["batch", self._size(name)]) for name in self.states)]
        inputs = [("tokens", at.INT64, ["batch", "length"]), ("lengths", at.INT64, ["batch"])]
        return self._finish("encoder", g, inputs + ([("width", at.INT64, [1])] if model.copy else []), leaves)

    def _embed(self, g: _Nodes, read: str) -> str:
        """Rows of the table, or of the one for text and the one for features."""
        if "feature_table" not in self.places:
            return g.rows("source_table" if "source_table" in self.places else "target_table", read)
        text, features = self.vocabulary, self.places["feature_table"].shape[0]
        is_text = g.is_within(read, text)
        of_text = g.rows("target_table", g("Where", is_text, read, g.constant(UNK)))
        of_feature = g("Clip", g("Sub", read, g.constant(text)), g.constant(0), g.constant(features - 1))
        return str(g("Where", g("Unsqueeze", is_text, g.constant([-1])), of_text, g.rows("feature_table", of_feature)))

    def _read(self, g: _Nodes, index: int, features: str, real: str, lengths: str) -> tuple[str, tuple[str, str]]:
        """A layer over time in its directions: outputs [length, batch, size], final states [batch, size]."""
        directions = 1 + (index < self.model.bidirectional_layers)
        native = self.model.cell in ("lstm", "gru") and not self.zoneout
        names = [f"encoder/layers/{index}/{number}" for number in range(directions)]
        if native:
            return self._read_natively(g, names, features, lengths)
        found = [self._loop(g, name, features, real, bool(number)) for number, name in enumerate(names)]
        joined = [g.joined(*parts) for parts in zip(*found, strict=True)]
        return joined[0], (joined[1], joined[2])

    def _read_natively(self, g: _Nodes, names: Sequence[str], features: str, lengths: str) -> tuple[str, tuple[str, str]]:
        """ONNX's own LSTM or GRU, whose gates stand in another order and whose kernels are turned."""
        lstm, units = self.model.cell == "lstm", self.places[f"{names[0]}/kernel_rec"].shape[0]
        order = (0, 3, 1, 2) if lstm else (1, 0, 2)  # input, output, forget, cell; update, reset, new

        def turn(array: str, many: int, axis: int) -> list[str]:
            return list(g("Split", array, axis=axis, num_outputs=many, outputs=many))

        def kernel(part: str) -> str:
            whole = []
            for name in names:
                gates = turn(g.weight(f"{name}/{part}"), len(order), 1)
                whole.append(g("Unsqueeze", g("Transpose", g.joined(*(gates[i] for i in order)), perm=[1, 0]), g.constant([0])))
            return g.joined(*whole, axis=0)

        def biases() -> str:
            whole = []
            for name in names:
                gates = turn(g.raw(f"{name}/bias"), 4, 0)
                nothing = g("Sub", gates[0], gates[0])
                rest = [nothing] * 4 if lstm else [nothing, nothing, gates[3]]
                whole.append(g("Unsqueeze", g.joined(*(gates[i] for i in order), *rest, axis=0), g.constant([0])))
            return g.joined(*whole, axis=0)

        lengths = g("Cast", lengths, to=self.onnx.TensorProto.INT32)
        way: dict[str, Any] = {"hidden_size": units, "direction": "bidirectional" if len(names) == 2 else "forward"}
        given = (features, kernel("kernel_in"), kernel("kernel_rec"), biases(), lengths)
        if lstm:
            outputs, *finals = g("LSTM", *given, outputs=3, **way)
        else:
            outputs, *finals = g("GRU", *given, outputs=2, linear_before_reset=1, **way)
        outputs = g("Transpose", outputs, perm=[0, 2, 1, 3])
        outputs = g("Reshape", outputs, g.constant([0, 0, -1]))
        finals = [g("Reshape", g("Transpose", final, perm=[1, 0, 2]), g.constant([0, -1])) for final in finals]
        return outputs, (finals[0], finals[-1])

    def _loop(self, g: _Nodes, name: str, features: str, real: str, backwards: bool) -> tuple[str, str, str]:
        """A cell that ONNX has no node for, over time; where a source has ended its state stays, and its outputs are zero."""
        units, at, helper = self.places[f"{name}/kernel_rec"].shape[0], self.onnx.TensorProto, self.onnx.helper
        projected = g("MatMul", features, g.weight(f"{name}/kernel_in"))
        start = g("ConstantOfShape", g.joined(g.size(features, 1), g.constant([units]), axis=0))
        body = _Nodes(self.onnx, self.places, g)
        recurrent = body("MatMul", "hidden", g.weight(f"{name}/kernel_rec"))
        news = self._cell(body, name, "projected", recurrent, "hidden", "cell")
        outputs = [body.plus("hidden", body.times("is_real", body("Sub", news[0], "hidden")))]
        outputs += [body.plus("cell", body.times("is_real", body("Sub", news[1], "cell"))), body.times(news[0], "is_real")]
        info = helper.make_tensor_value_info
        inside = helper.make_graph(
            body.nodes,
            f"{name}/step",
            [
                *(info(part, at.FLOAT, ["batch", units]) for part in ("hidden", "cell")),
                *(info(part, at.FLOAT, ["batch", None]) for part in ("projected", "is_real")),
            ],
            [info(part, at.FLOAT, ["batch", units]) for part in outputs],
        )
        way = int(backwards)
        hidden, cell, outputs_ = g(
            "Scan", start, start, projected, real, outputs=3, body=inside, num_scan_inputs=2, scan_input_directions=[way, way],
            scan_output_directions=[way],
        )  # fmt: skip
        return outputs_, hidden, cell

    def _bridge(self, g: _Nodes, index: int, finals: Sequence[tuple[str, str]]) -> tuple[str, str]:
        """The decoder layer's first state."""
        model = self.model
        hidden, cell = finals[min(index + max(model.encoder_layers - model.decoder_layers, 0), model.encoder_layers - 1)]
        if model.bridge == "zero":
            zeros = g("ConstantOfShape", g.joined(g.size("tokens", 0), g.constant([model.hidden_size]), axis=0))
            return zeros, zeros
        if model.bridge == "dense":
            names = [name for part in range(2) if (name := f"bridge/layers/{index}/{part}") in self.places]
            sides = (cell,) if len(names) == 1 else (hidden, cell)  # a GRU's cell is its hidden state
            made = [g("Tanh", g("MatMul", side, g.weight(name))) for side, name in zip(sides, names, strict=True)]
            return made[0], made[-1]
        return hidden, cell

    def _copies(self, g: _Nodes, known: int) -> None:
        """Which token of the target each of the source is, 0 for none; and which tokens a source holds."""
        size, at = self.vocabulary, self.onnx.TensorProto
        usual = g("And", g.is_within("tokens", size), g("Greater", "tokens", g.constant(UNK)))
        beyond = g("Where", g.is_within("tokens", known), g.constant(0), g("Sub", "tokens", g.constant(known - size)))
        copies = g("Where", usual, "tokens", beyond)
        g.name(copies, "copies")
        nothing = g("ConstantOfShape", g.joined(g.size("tokens", 0), "width", axis=0))
        ones = g("Cast", g("Greater", copies, g.constant(0)), to=at.FLOAT)
        g.name(g("ScatterElements", nothing, copies, ones, axis=1, reduction="max"), "held")

    # One step ----------------------------------------------------------------------------------------------------------

    def _step(self) -> bytes:
        g, model, at = _Nodes(self.onnx, self.places), self.model, self.onnx.TensorProto
        states = {name: g("Gather", name, "parents") for name in self.states}
        last = g("Where", g.is_within("last", self.vocabulary), "last", g.constant(UNK)) if model.copy else "last"
        features = g.rows("target_table", last)
        if model.feed_features:
            apart = g.plus(self._by_source(g, features, "beside"), g("Unsqueeze", "beside", g.constant([1])))
            features = g("Reshape", apart, g.constant([-1, model.embedding_size]))
        entering, context, weights = g.joined(features, *([states["feed"]] if model.input_feeding else [])), "", ""
        for index in range(model.decoder_layers):
            name, hidden, cell = f"decoder/layers/{index}", states[f"hidden_{index}"], states[f"cell_{index}"]
            projected, recurrent = g.product(entering, f"{name}/kernel_in"), g.product(hidden, f"{name}/kernel_rec")
            news = self._cell(g, name, projected, recurrent, hidden, cell)
            for part, value in zip(("hidden", "cell"), news, strict=True):
                g.name(value, f"next_{part}_{index}")
            features = g.plus(features, news[0]) if index and 0 < model.residual_from <= index + 1 else news[0]
            if index == 0 and model.attention != "none" and not model.input_feeding:
                context, weights = self._look(g, features)
            entering = g.joined(features, *([context] if context else []))
        if model.input_feeding:
            context, weights = self._look(g, features)
            entering = g.joined(features, context)
        readouts = entering
        if "decoder/kernel_readout" in self.places:
            readouts = g.product(entering, "decoder/kernel_readout")
            readouts = g("Tanh", readouts) if context else readouts
        output = "output_table" if "output_table" in self.places else "target_table"
        logp = g("LogSoftmax", g.plus(g.product(readouts, output, transposed=True), g.raw("output_bias")), axis=-1)
        logp = self._copy(g, logp, readouts, weights) if model.copy else logp
        if model.input_feeding:
            g.name(readouts, "next_feed")
        never = np.zeros(UNK + 1, np.float32)
        never[[0, 1, UNK]] = -np.inf  # padding, the begin mark, and what is not known are never said
        rest = g("ConstantOfShape", g("Sub", g.size(logp, 1), g.constant([UNK + 1])))
        totals = g.plus(g.plus(logp, g("Unsqueeze", "ranks", g.constant([1]))), g.joined(g.constant(never, np.float32), rest, axis=0))
        best, tokens = g("TopK", totals, "count", axis=-1, outputs=2)
        g.name(best, "totals")
        g.name(tokens, "chosen")
        if weights:
            g.name(weights, "attention")
        inputs = [*self._memory(), *((name, at.FLOAT, ["before", self._size(name)]) for name in self.states)]
        inputs += [("parents", at.INT64, ["rows"]), ("last", at.INT64, ["rows"]), ("ranks", at.FLOAT, ["rows"]), ("count", at.INT64, [1])]
        outputs = [(f"next_{name}", at.FLOAT, ["rows", self._size(name)]) for name in self.states]
        outputs += [("totals", at.FLOAT, ["rows", "best"]), ("chosen", at.INT64, ["rows", "best"])]
        return self._finish("step", g, inputs, outputs + ([("attention", at.FLOAT, ["rows", "length"])] if weights else []))

    def _by_source(self, g: _Nodes, rows: str, source: str) -> str:
        """[rows, size] as [batch, beam, size]."""
        return str(g("Reshape", rows, g.joined(g.size(source, 0), g.constant([-1]), g.size(rows, 1), axis=0)))

    def _look(self, g: _Nodes, queries: str) -> tuple[str, str]:
        """Contexts and weights of all rows."""
        if self.model.attention == "additive":
            queries = self._by_source(g, g.product(queries, "decoder/attention/kernel_query"), "keys")
            sums = g.plus(g("Unsqueeze", queries, g.constant([2])), g("Unsqueeze", "keys", g.constant([1])))
            scores = g("MatMul", g("Tanh", sums), g.raw("decoder/attention/vector"))
        else:
            scores = g("MatMul", self._by_source(g, queries, "keys"), "keys")
        weights = g("Softmax", g.plus(scores, g("Unsqueeze", "mask", g.constant([1]))), axis=-1)
        context = g("Reshape", g("MatMul", weights, "values"), g.joined(g.constant([-1]), g.size("values", 2), axis=0))
        return context, g("Reshape", weights, g.joined(g.constant([-1]), g.size("mask", 1), axis=0))

    def _copy(self, g: _Nodes, logp: str, readouts: str, weights: str) -> str:
        """What is said by copying or else by the softmax layer."""
        gate = g.plus(
            g("MatMul", readouts, g("Unsqueeze", g.raw("copy_vector"), g.constant([1]))), g.raw("copy_bias")
        )  # [rows, 1], as all of these
        copying, generating = g("Neg", g("Softplus", g("Neg", gate))), g("Neg", g("Softplus", gate))
        rows, width = g.size(weights, 0), g.size("held", 1)
        beam = g("Div", rows, g.size("held", 0))
        shape = g.joined(g.size("held", 0), beam, g.size("copies", 1), axis=0)
        copies = g("Reshape", g("Expand", g("Unsqueeze", "copies", g.constant([1])), shape), g("Shape", weights))
        sums = g("ScatterElements", g("ConstantOfShape", g.joined(rows, width, axis=0)), copies, weights, axis=1, reduction="add")
        shape = g.joined(g.size("held", 0), beam, width, axis=0)
        held = g("Reshape", g("Expand", g("Unsqueeze", "held", g.constant([1])), shape), g("Shape", sums))
        least = g.number(_LEAST)
        elsewhere = g("Gather", sums, g.constant([0]), axis=1)  # the end mark and features cannot be copied
        generated = g.plus(logp, g.log_sum(generating, g.plus(copying, g("Log", g("Max", elsewhere, least)))))
        lacking = g("Sub", width, g.constant([self.vocabulary]))
        nothing = g("Expand", g.number(-np.inf), g.joined(rows, lacking, axis=0))
        copied = g.plus(copying, g("Log", g("Max", sums, least)))
        copied = g("Where", g("Greater", held, g.number(0.5)), copied, g.number(-np.inf))
        return g.log_sum(g.joined(generated, nothing), copied)

    # Both --------------------------------------------------------------------------------------------------------------

    def _cell(self, g: _Nodes, name: str, projected: str, recurrent: str, hidden: str, cell: str) -> tuple[str, str]:
        """The next hidden state and cell."""
        outside, kind = g.outer or g, self.model.cell
        bias = outside.raw(f"{name}/bias")
        if kind == "gru":
            r, z, n = g("Split", projected, axis=-1, num_outputs=3, outputs=3)
            r_rec, z_rec, n_rec = g("Split", recurrent, axis=-1, num_outputs=3, outputs=3)
            r_bias, z_bias, n_bias, n_rec_bias = g("Split", bias, axis=0, num_outputs=4, outputs=4)
            reset = g("Sigmoid", g.plus(g.plus(r, r_rec), r_bias))
            update = g("Sigmoid", g.plus(g.plus(z, z_rec), z_bias))
            made = g("Tanh", g.plus(g.plus(n, n_bias), g.times(reset, g.plus(n_rec, n_rec_bias))))
            new = self._keep(g, g.plus(made, g.times(update, g("Sub", cell, made))), cell)
            return new, new
        sums = g.plus(projected, recurrent)
        if kind == "layer_norm_lstm":
            parts = [self._normal(g, part) for part in g("Split", sums, axis=-1, num_outputs=4, outputs=4)]
            sums = g.times(g.joined(*parts), outside.raw(f"{name}/gain"))
        i, f, o_input, o = g("Split", g.plus(sums, bias), axis=-1, num_outputs=4, outputs=4)
        new = g.plus(g.times(g("Sigmoid", f), cell), g.times(g("Sigmoid", i), g("Tanh", o_input)))
        read = new
        if kind == "layer_norm_lstm":
            read = g.plus(g.times(self._normal(g, new), outside.raw(f"{name}/cell_gain")), outside.raw(f"{name}/cell_bias"))
        return self._keep(g, g.times(g("Sigmoid", o), g("Tanh", read)), hidden), self._keep(g, new, cell)

    def _keep(self, g: _Nodes, new: str, old: str) -> str:
        """What zoneout's share of the old state leaves."""
        return g.plus(new, g.times(g("Sub", old, new), g.number(self.zoneout))) if self.zoneout else new

    def _normal(self, g: _Nodes, units: str) -> str:
        centered = g("Sub", units, g("ReduceMean", units, g.constant([-1])))
        spread = g.plus(g("ReduceMean", g.times(centered, centered), g.constant([-1])), g.number(1e-5))
        return str(g("Div", centered, g("Sqrt", spread)))

    def _memory(self) -> list[tuple[str, int, list[Any]]]:
        """What describes the arrays that a step reads of the source."""
        at = self.onnx.TensorProto
        shapes: dict[str, list[Any]] = {
            "values": ["batch", "length", "values"],
            "keys": ["batch", "length", "keys"] if self.model.attention == "additive" else ["batch", "keys", "length"],
            "mask": ["batch", "length"],
            "copies": ["batch", "length"],
            "held": ["batch", "width"],
            "beside": ["batch", self.model.embedding_size],
        }
        return [(name, at.INT64 if name == "copies" else at.FLOAT, shapes[name]) for name in self.memory]

    def _size(self, state: str) -> int:
        return self._readout if state == "feed" else self.places[f"decoder/layers/{state.rpartition('_')[2]}/kernel_rec"].shape[0]

    @property
    def _readout(self) -> int:
        return self.places["output_table" if "output_table" in self.places else "target_table"].shape[1]

    def _finish(self, name: str, g: _Nodes, inputs: Sequence[Any], outputs: Sequence[Any]) -> bytes:
        helper, info = self.onnx.helper, self.onnx.helper.make_tensor_value_info
        graph = helper.make_graph(g.nodes, name, [info(*one) for one in inputs], [info(*one) for one in outputs], list(g.held.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR, producer_name="flax_s2s")
        return bytes(model.SerializeToString(deterministic=True))


def check(folder: Path) -> None:
    """What ONNX's own checker and its inference of shapes say of both graphs; raises where something is wrong."""
    onnx = load_onnx()
    for name in ("encoder.onnx", "step.onnx"):
        onnx.checker.check_model(str(folder / name), full_check=True)
