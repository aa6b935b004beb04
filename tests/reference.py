"""What the tests believe: the equations in float64 NumPy, one row, one step, one position at a time.

Literal, slow, obviously right. Nothing here is shared with the package. Gradients are central finite differences of the
same functions, so that no derivative is written down twice.
"""

import itertools
from dataclasses import replace

import numpy as np


def error(got, want):
    """The largest difference, as a share of the largest entry of `want`."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"got shape {got.shape}, want {want.shape}"
    scale = np.abs(want).max(initial=0.0)
    return np.abs(got - want).max(initial=0.0) / (scale if scale > 0 else 1.0)


def wide(tree):
    """Parameters in float64."""
    return {name: wide(part) if isinstance(part, dict) else np.asarray(part, np.float64) for name, part in tree.items()}


def gradients(fn, arrays, step=1e-5):
    """Central differences of a scalar `fn(**arrays)` with respect to each entry of each array; its own error is near 1e-10."""
    found = {}
    for name, array in arrays.items():
        found[name] = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            above, below = array.copy(), array.copy()
            above[place] += step
            below[place] -= step
            found[name][place] = (fn(**arrays | {name: above}) - fn(**arrays | {name: below})) / (2 * step)
    return found


def assert_gradients(fn, tree, got, tolerance):
    """That `got`, a tree like this one, has the central differences of `fn(tree)`, up to a share of the largest of all; and none without a gradient."""
    flat, folders = {}, [((), tree, got)]
    while folders:
        path, inner, found = folders.pop()
        for name, part in inner.items():
            if isinstance(part, dict):
                folders.append(((*path, name), part, found[name]))
            else:
                flat["/".join((*path, name))] = np.asarray(part, np.float64), np.asarray(found[name], np.float64)

    def rebuilt(arrays):
        made = {}
        for path, array in arrays.items():
            *folders, name = path.split("/")
            inner = made
            for folder in folders:
                inner = inner.setdefault(folder, {})
            inner[name] = array
        return made

    want = gradients(lambda **arrays: fn(rebuilt(arrays)), {path: part for path, (part, _) in flat.items()})
    largest = max(np.abs(each).max() for each in want.values())
    for path, (_, found) in flat.items():
        np.testing.assert_allclose(found, want[path], atol=tolerance * largest, rtol=0, err_msg=path)
        assert np.abs(found).max() > 0, path


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, hidden, cell, kernel_in, kernel_rec, bias):
    """One row, one step: gates i, f, g, o; c' = f c + i g; h' = o tanh(c')."""
    i, f, g, o = np.split(x @ kernel_in + hidden @ kernel_rec + bias, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def normalized(units):
    """Mean 0, variance 1."""
    return (units - np.mean(units)) / np.sqrt(np.var(units) + 1e-5)


def layer_norm_lstm_step(x, hidden, cell, kernel_in, kernel_rec, bias, gain, cell_gain, cell_bias):
    """The same with each gate's sums normalized, and what tanh reads of the cell."""
    sums = [normalized(quarter) for quarter in np.split(x @ kernel_in + hidden @ kernel_rec, 4)]
    i, f, g, o = (a * units + b for a, units, b in zip(np.split(gain, 4), sums, np.split(bias, 4), strict=True))
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell_gain * normalized(cell) + cell_bias), cell


def gru_step(x, hidden, state, kernel_in, kernel_rec, bias):
    """Gates r, z; n = tanh(x part + r (h part)); h' = (1 - z) n + z h; what multiplies the kernel may be masked, `state` is not."""
    r_in, z_in, n_in = np.split(x @ kernel_in, 3)
    r_rec, z_rec, n_rec = np.split(hidden @ kernel_rec, 3)
    r_bias, z_bias, n_in_bias, n_rec_bias = np.split(bias, 4)
    r, z = sigmoid(r_in + r_rec + r_bias), sigmoid(z_in + z_rec + z_bias)
    new = (1 - z) * np.tanh(n_in + n_in_bias + r * (n_rec + n_rec_bias)) + z * state
    return new, new


STEPS = {"lstm": lstm_step, "layer_norm_lstm": layer_norm_lstm_step, "gru": gru_step}


def zoned(new, old, rate, zones):
    """Zoneout: where a zone is True the old value stays; without zones the mean over all of them."""
    if zones is None:
        return tuple(rate * o + (1 - rate) * n for n, o in zip(new, old, strict=True))
    return tuple(np.where(zone, o, n) for n, o, zone in zip(new, old, zones, strict=True))


def layer(inputs, hidden, cell, mask=None, reverse=False, keep=None, kind="lstm", zoneout=0.0, zones=None, **params):
    """A layer over [batch time emb]: outputs, final hidden states, final cells. Where the mask is False the state is held.

    `keep` [batch hid] is what a hidden state is multiplied with on its way to the next step; `zones` are two [batch time hid]. A gru's
    two states are one: the hidden state's zones are not used.
    """
    rows, steps = inputs.shape[:2]
    outputs = np.zeros((rows, steps, hidden.shape[1]))
    hidden, cell = hidden.copy(), cell.copy()
    for row in range(rows):
        for step in reversed(range(steps)) if reverse else range(steps):
            if mask is None or mask[row, step]:
                entering = hidden[row] if keep is None else hidden[row] * keep[row]
                new = STEPS[kind](inputs[row, step], entering, cell[row], **params)
                now = None if zones is None else [zones[1 if kind == "gru" else part][row, step] for part in range(2)]
                hidden[row], cell[row] = zoned(new, (hidden[row], cell[row]), zoneout, now)
            outputs[row, step] = hidden[row]
    return outputs, hidden, cell


def attention_score(score, query, memory, kernel_key=None, kernel_query=None, vector=None, cover=0.0, seen=0.0):
    """Between one query and one source position, at which earlier queries have looked so much as `seen`."""
    if score == "dot":
        return query @ (memory + seen * cover)
    if score == "general":
        return query @ (memory @ kernel_key + seen * cover)
    assert score == "additive", f"tests/reference.py: attention_score has no {score}"
    return vector @ np.tanh(query @ kernel_query + memory @ kernel_key + seen * cover)


def attention(score, queries, memory, mask, seen=None, **weights):
    """Contexts [batch tgt hid] and weights [batch tgt src]; a row without real positions keeps its zeros. `seen` [src], of one row, see `attention_score`."""
    rows, tgt, src = queries.shape[0], queries.shape[1], memory.shape[1]
    contexts, shares = np.zeros((rows, tgt, memory.shape[2])), np.zeros((rows, tgt, src))
    for row in range(rows):
        real = [s for s in range(src) if mask[row, s]]
        for t in range(tgt):
            looked = np.zeros(src) if seen is None else seen
            scores = {s: attention_score(score, queries[row, t], memory[row, s], seen=looked[s], **weights) for s in real}
            total = sum(np.exp(value) for value in scores.values())
            for s in real:
                shares[row, t, s] = np.exp(scores[s]) / total
                contexts[row, t] += shares[row, t, s] * memory[row, s]
    return contexts, shares


def cross_entropy(readouts, table, bias, tgt_ids, smoothing, pad=0):
    """Sums over real tokens: smoothed loss, negative log-likelihood, tokens."""
    smoothed = plain = tokens = 0.0
    vocab = table.shape[0]
    for row in range(tgt_ids.shape[0]):
        for t in range(tgt_ids.shape[1]):
            right = tgt_ids[row, t]
            if right == pad:
                continue
            logits = np.array([readouts[row, t] @ table[token] + bias[token] for token in range(vocab)])
            logp = logits - np.log(sum(np.exp(logits)))
            wanted = np.full(vocab, smoothing / vocab)
            wanted[right] += 1 - smoothing
            smoothed -= sum(wanted[token] * logp[token] for token in range(vocab))
            plain -= logp[right]
            tokens += 1
    return smoothed, plain, tokens


def seq2seq(config, params, src_ids, inputs, masks=None, pad=0):
    """Readouts [batch tgt readout] of the whole model, sentence by sentence: each is cut to its real tokens, so nothing is masked.

    `masks` are what dropout multiplies with, [batch time features] by site (0: source embeddings, i: encoder layer i, 100: target
    embeddings, 100 + i: decoder layer i, 200: readouts; 210 and 211: whole tokens of source and target; [batch 1 hid]: 300 + 2 i + d
    and 400 + i: states on their way to the next step, of encoder layer i in direction d and decoder layer i; 200 and 400 more: zones of
    their hidden states and cells); None drops nothing.
    """
    readouts = []
    for row in range(len(src_ids)):
        of_row = {site: mask[row] for site, mask in (masks or {}).items()}
        readouts.append(sentence(config, params, src_ids[row][src_ids[row] != pad], inputs[row], of_row)[0])
    return np.stack(readouts)


def sentence(config, params, source, inputs, masks):
    """Readouts [tgt readout] of one source sentence and the target tokens that the decoder reads; and attention [tgt src]."""

    def kept(features, site, step):
        return features * masks[site][step] if masks else features

    def next_state(x, old, index, step):
        new = STEPS[config.cell](x, kept(old[0], 400 + index, 0), old[1], **decoder["layers"][str(index)])
        zones = [masks[600 + index][step], masks[800 + index][step]] if masks else None
        return zoned(new, old, round(config.zoneout * 256) / 256, [zones[1]] * 2 if zones and config.cell == "gru" else zones)

    source = source if config.source_end else source[:-1]
    memory, finals = encode(config, params, source, kept, masks)
    decoder, states, readouts, looks = params["decoder"], [], [], []
    beside = 0.0
    if config.feed_features:
        vocab, (order, _, embedded) = len(params["target_table"]), embed(config, params, source, kept)
        rows = [row for place, row in zip(order, embedded, strict=True) if source[place] >= vocab]
        beside = np.sum(rows, axis=0) @ params["kernel_features"] if rows else 0.0
    for index in range(config.decoder_layers):
        # Top layer to top layer; a deeper decoder repeats the top layer's.
        hidden, cell = finals[min(index + max(config.encoder_layers - config.decoder_layers, 0), config.encoder_layers - 1)]
        if config.bridge == "dense":
            kernels = params["bridge"]["layers"][str(index)]
            hidden, cell = np.tanh(hidden @ kernels["0"]), np.tanh(cell @ kernels["1" if "1" in kernels else "0"])
        if config.bridge == "zero":
            hidden = cell = np.zeros(config.hidden_size)
        states.append((hidden, cell))

    def context(query):
        before = np.sum(looks, axis=0) if looks else np.zeros(len(memory))
        real, weights = np.ones((1, len(memory))), decoder.get("attention", {})
        contexts, weights = attention(config.attention, query[None, None], memory[None], real, before, **weights)
        looks.append(weights[0, 0])
        return contexts[0, 0]

    feed = np.zeros(config.hidden_size if config.tie == "none" else config.embedding_size)
    for t, token in enumerate(inputs):
        features, seen = kept(kept(params["target_table"][token], 211, t), 100, t) + beside, np.zeros(0)
        if config.input_feeding:
            features = np.concatenate([features, feed])
        for index in range(config.decoder_layers):
            entering = np.concatenate([features, seen])
            states[index] = next_state(entering, states[index], index, t)
            residual = index > 0 and 0 < config.residual_from <= index + 1
            outputs = kept(states[index][0], 100 + index + 1, t)
            features = features + outputs if residual else outputs
            if index == 0 and config.attention != "none" and not config.input_feeding:
                seen = context(features)
        if config.input_feeding:
            seen = context(features)
        readout = np.concatenate([features, seen])
        if "kernel_readout" in decoder:
            readout = readout @ decoder["kernel_readout"]
        feed = kept(readout if config.attention == "none" else np.tanh(readout), 200, t)
        readouts.append(feed)
    return np.stack(readouts), np.array(looks)


def looked_again(looks):
    """Of one sentence, of each step, how much of its attention lies where it lay before (See et al. 2017, equation 12)."""
    return np.array([sum(min(looks[t, s], looks[:t, s].sum()) for s in range(looks.shape[1])) for t in range(len(looks))])


def said(config, params, source, inputs, symbols, unk=3):
    """Probabilities [tgt vocab+symbols] of a model that copies, for one sentence (See et al. 2017, equation 9).

    What the source has beyond the vocabulary, its features included, are symbols of its own, at most so many; they are read as UNK.
    """
    output = params["output_table" if config.tie == "none" else "target_table"]
    vocab, features = len(output), len(params.get("feature_table", []))
    if config.tie != "all":
        features = len(params["source_table"]) - vocab
    beyond = vocab + features
    read = np.where(source < beyond, source, unk)
    readouts, looks = sentence(config, params, read, np.where(inputs < vocab, inputs, unk), None)
    found = np.zeros((len(inputs), vocab + symbols))
    for t, (readout, weights) in enumerate(zip(readouts, looks, strict=True)):
        logits = output @ readout + params["output_bias"]
        copying = sigmoid(readout @ params["copy_vector"] + params["copy_bias"])
        generating = 1.0
        for token, weight in zip(source, weights, strict=True):
            if token >= beyond or unk < token < vocab:
                found[t, token if token < vocab else token - features] += copying * weight
                generating -= copying * weight
        found[t, :vocab] += generating * np.exp(logits) / np.exp(logits).sum()
    return found


def first_place(config, params, source):
    """Where an alignment begins: behind the features, where the decoder reads them by itself and monotonic attention could not come back."""
    if config.alignment != "monotonic" or not config.feed_features:
        return 0
    return int((source >= len(params["target_table"])).sum())


def hard_said(config, params, source, target, reach=5, bos=1):
    """Of a model with hard attention, one sentence: p(where | where before, state) [tgt from to] and q(token | where) [tgt src vocab].

    An alignment's probability is the product of both over the target; its first token comes from `first_place` (Wu and Cotterell 2019).
    """
    decoder, hidden = params["decoder"], config.hidden_size
    alone = {**params, "decoder": {name: part for name, part in decoder.items() if name != "kernel_readout"}}
    states, _ = sentence(replace(config, attention="none"), alone, source, np.array([bos, *target[:-1]]), None)
    memory, _ = encode(config, params, source, lambda features, site, step: features, None)
    output = params["output_table" if config.tie == "none" else "target_table"]
    moves, said = np.zeros((len(target), len(source), len(source))), np.zeros((len(target), len(source), len(output)))
    for t, state in enumerate(states):
        shifts = state @ decoder["kernel_shift"] + decoder["bias_shift"] if config.alignment_order == "first" else np.zeros(2 * reach + 1)
        for here in range(len(source)):
            likely = {}
            for there, value in enumerate(memory):
                if config.alignment == "hard" or there >= max(here, first_place(config, params, source)):
                    score = attention_score(config.attention, state, value, **decoder.get("attention", {}))
                    likely[there] = np.exp(score + shifts[min(max(there - here, -reach), reach) + reach])
            for there in likely:
                moves[t, here, there] = likely[there] / sum(likely.values())
            readout = np.tanh(state @ decoder["kernel_readout"][:hidden] + memory[here] @ decoder["kernel_readout"][hidden:])
            logits = np.exp(output @ readout + params["output_bias"])
            said[t, here] = logits / logits.sum()
    return moves, said


def alignment_loss(config, params, src_ids, tgt_ids, smoothing, pad=0):
    """Sums over real tokens: smoothed loss, negative log-likelihood, tokens; every alignment there is, one by one."""
    smoothed = plain = tokens = 0.0
    for source, target in zip(src_ids, tgt_ids, strict=True):
        source, target = source[source != pad], target[target != pad]
        if not len(target):
            continue
        moves, said = hard_said(config, params, source, target)
        sums, first = np.zeros(2), first_place(config, params, source)
        for places in itertools.product(range(len(source)), repeat=len(target)):
            path = np.prod([moves[t, places[t - 1] if t else first, place] for t, place in enumerate(places)])
            right = [said[t, place, target[t]] for t, place in enumerate(places)]
            spread = [np.exp((1 - smoothing) * np.log(p) + smoothing * np.log(said[t, places[t]]).mean()) for t, p in enumerate(right)]
            sums += path * np.prod(spread), path * np.prod(right)
        smoothed, plain, tokens = smoothed - np.log(sums[0]), plain - np.log(sums[1]), tokens + len(target)
    return smoothed, plain, tokens


def copying_loss(config, params, src_ids, tgt_ids, smoothing, pad=0, bos=1):
    """Sums over real tokens: smoothed loss, negative log-likelihood, tokens; what is smoothed is what is generated."""
    smoothed = plain = tokens = 0.0
    for source, target in zip(src_ids, tgt_ids, strict=True):
        source, target = source[source != pad], target[target != pad]
        if not len(target):
            continue
        inputs = np.array([bos, *target[:-1]])
        never = {**params, "copy_vector": 0 * params["copy_vector"], "copy_bias": np.array(-np.inf)}
        with np.errstate(divide="ignore"):  # what no symbol stands for has a probability of zero
            vocab, logp = len(params["output_bias"]), np.log(said(config, params, source, inputs, len(source)))
            uniform = np.log(said(config, never, source, inputs, len(source))[:, :vocab]).mean(axis=1)
        for t, right in enumerate(target):
            smoothed -= (1 - smoothing) * logp[t, right] + smoothing * uniform[t]
            plain -= logp[t, right]
            tokens += 1
    return smoothed, plain, tokens


def embed(config, params, source, kept):
    """The order that the source is read in, all of it as a slice, and the embeddings as they are read."""
    order = np.arange(len(source))
    if config.reverse_source:
        order[:-1] = order[:-1][::-1]  # the end mark stays last
    every = slice(len(source))
    tables = ["target_table", "feature_table"] if config.tie == "all" else ["source_table"]  # what the source has more than the target
    table = np.concatenate([params[name] for name in tables if name in params])
    return order, every, kept(kept(table[source[order]], 210, every), 0, every)


def encode(config, params, source, kept, masks):
    """The top layer's outputs [src hid], in the order of the sentence, and each layer's final hidden state and cell."""
    order, every, embedded = embed(config, params, source, kept)
    features, finals = embedded, []
    for index in range(config.encoder_layers):
        parts = []
        for direction, params_of in sorted(params["encoder"]["layers"][str(index)].items()):
            zeros = np.zeros((1, params_of["kernel_rec"].shape[0]))
            site = 300 + 2 * index + int(direction)
            of_cell = {"kind": config.cell, "zoneout": round(config.zoneout * 256) / 256}
            if masks:
                of_cell |= {"keep": masks[site], "zones": [masks[site + more][None] for more in (200, 400)]}
            read = layer(features[None], hidden=zeros, cell=zeros, reverse=direction == "1", **of_cell, **params_of)
            parts.append([part[0] for part in read])
        outputs, hidden, cell = (np.concatenate(both, axis=-1) for both in zip(*parts, strict=True))
        finals.append((hidden, cell))
        outputs = kept(outputs, index + 1, every)
        features = features + outputs if 0 < config.residual_from <= index + 1 else outputs
    if config.attend_embeddings:
        features = np.concatenate([features, embedded], axis=-1)
    return features[order], finals
