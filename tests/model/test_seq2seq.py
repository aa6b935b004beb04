"""The whole model, over configurations that use every choice: against a literal version, and what it promises about
time, padding, rows, ties, types and the parameters' tree.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jaxprs import carries

from flax_s2s.config import BOS, EOS, PAD, Config, DataConfig, ModelConfig, OptimizerConfig
from flax_s2s.model.dropout import choose, drop, row_keys
from flax_s2s.model.encoder import reverse_real, source_layer
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.model.sizes import sizes
from flax_s2s.rules import check

# A rate, so that every test without keys also says that nothing is dropped without keys.
SMALL = ModelConfig(embedding_size=6, hidden_size=4, dropout=0.5, compute="float32")
CONFIGS = {
    "fixed vector": replace(SMALL, attention="none", bidirectional_layers=0),
    "fixed vector, reversed, deep, tied": replace(
        SMALL, attention="none", bidirectional_layers=0, encoder_layers=2, decoder_layers=3, reverse_source=True, tie="softmax"
    ),
    "general, feeding, reversed": replace(
        SMALL, input_feeding=True, bidirectional_layers=0, encoder_layers=2, decoder_layers=2, reverse_source=True
    ),
    "additive, residual, deep": replace(SMALL, attention="additive", encoder_layers=3, decoder_layers=3, residual_from=3),
    "dot, all tied, zero bridge": replace(
        SMALL, attention="dot", embedding_size=4, tie="all", bridge="zero", decoder_layers=2, residual_from=2
    ),
    "additive, feeding, wide, dense bridge, tied": replace(
        SMALL,
        attention="additive",
        attention_size=3,
        attend_embeddings=True,
        input_feeding=True,
        bidirectional_size=3,
        bridge="dense",
        tie="softmax",
    ),
    "general with embeddings, wide, dense bridge, reversed": replace(
        SMALL, attend_embeddings=True, encoder_layers=2, bidirectional_layers=2, bidirectional_size=5, bridge="dense", reverse_source=True
    ),
}
CONFIGS |= {
    "gru, additive, feeding, wide, dense bridge": replace(
        SMALL,
        cell="gru",
        attention="additive",
        attention_size=3,
        input_feeding=True,
        bidirectional_size=3,
        bridge="dense",
        decoder_layers=2,
    ),
    "gru, zoneout, general, deep": replace(SMALL, cell="gru", zoneout=0.25, encoder_layers=2, decoder_layers=2),
    "layer norm, zoneout, dot, feeding": replace(SMALL, cell="layer_norm_lstm", zoneout=0.25, attention="dot", input_feeding=True),
}
CONFIGS |= {
    "no end mark, feeding": replace(
        SMALL, source_end=False, input_feeding=True, encoder_layers=2, decoder_layers=2, bidirectional_layers=2
    ),
    "no end mark, fixed vector": replace(SMALL, source_end=False, attention="none", bidirectional_layers=0),
}
CONFIGS |= {
    "coverage, general": replace(SMALL, input_feeding=True, coverage=True, decoder_layers=2, bridge="dense"),
    "coverage, dot": replace(SMALL, attention="dot", input_feeding=True, coverage=True),
    "coverage, additive": replace(SMALL, attention="additive", attention_size=3, input_feeding=True, coverage=True, tie="softmax"),
}
CONFIGS |= {
    f"bfloat16, {name}": replace(CONFIGS[name], compute="bfloat16")
    for name in (
        "coverage, general",
        "coverage, additive",
        "dot, all tied, zero bridge",
        "additive, feeding, wide, dense bridge, tied",
        "gru, zoneout, general, deep",
    )
}
# Two units, brought to mean 0 and variance 1, are +1 and -1 whatever they were: their gradients are nothing but rounding.
CONFIGS["bfloat16, layer norm, more units"] = replace(CONFIGS["layer norm, zoneout, dot, feeding"], hidden_size=16, compute="bfloat16")
FLOAT32 = [name for name, config in CONFIGS.items() if config.compute == "float32"]
BFLOAT16 = [name for name in CONFIGS if name not in FLOAT32]
every_config = pytest.mark.parametrize("name", CONFIGS)

SRC_VOCAB, TGT_VOCAB = 13, 11
SRC_IDS = np.array([[4, 5, 6, 7, 8, EOS], [9, 4, EOS, 0, 0, 0], [EOS, 0, 0, 0, 0, 0], [5, 5, 3, EOS, 0, 0]], np.int32)
TGT_IDS = np.array([[4, 9, 10, 5, EOS], [6, EOS, 0, 0, 0], [7, 8, EOS, 0, 0], [5, 4, 3, EOS, 0]], np.int32)


def tolerance(name, float32, bfloat16=2e-2):
    """The largest error allowed, as a share of the largest entry."""
    return bfloat16 if name in BFLOAT16 else float32


def shift_right(tgt_ids):
    return np.concatenate([np.full((len(tgt_ids), 1), BOS, np.int32), tgt_ids[:, :-1]], axis=1)


def vocabularies(config):
    return (TGT_VOCAB if config.tie == "all" else SRC_VOCAB), TGT_VOCAB


@cache
def draw_params(config):
    """Every parameter drawn, the biases too, so that nothing is zero by accident."""
    shapes = jax.eval_shape(lambda: init_params(config, *vocabularies(config), jax.random.key(0)))
    draws = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draws.uniform(-0.8, 0.8, leaf.shape), jnp.float32), shapes)


@cache
def compiled(config):
    """`(params, src_ids, inputs, tgt_ids) -> readouts, gradients` of the summed negative log-likelihood."""
    model = make_model(config, *vocabularies(config))

    @jax.jit
    def run(params, src_ids, inputs, tgt_ids):
        def loss(params):
            bound = model.bind(params)
            readouts = bound(src_ids, inputs)
            table, bias = bound.output()
            logp = jax.nn.log_softmax(readouts.astype(jnp.float32) @ table.T + bias[None, None, :])
            right = jnp.take_along_axis(logp, tgt_ids[:, :, None], axis=-1)[:, :, 0]
            return -jnp.sum(jnp.where(tgt_ids != PAD, right, 0)), readouts

        gradients, readouts = jax.grad(loss, has_aux=True)(params)
        return readouts, gradients

    return run


def run(config, src_ids=SRC_IDS, tgt_ids=TGT_IDS, inputs=None, params=None):
    inputs = shift_right(tgt_ids) if inputs is None else inputs
    readouts, gradients = compiled(config)(params or draw_params(config), src_ids, inputs, tgt_ids)
    return np.asarray(readouts, np.float32), gradients


def encode(config, src_ids, params):
    model = make_model(config, *vocabularies(config))
    return jax.jit(lambda params, src_ids: model.bind(params).encode(src_ids))(params, src_ids)


def assert_gradients(got, want, largest, each):
    """At most `largest` as a share of the largest entry of all, and `each` as a share of each array's own.

    A small gradient may be a sum of large terms that cancel; its own rounding is then larger than itself suggests.
    """
    got, want = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, want))
    assert got.keys() == want.keys()
    assert reference.error(*(np.concatenate([np.ravel(leaf) for leaf in tree.values()]) for tree in (got, want))) <= largest
    for path in want:
        assert reference.error(got[path], want[path]) <= each, jax.tree_util.keystr(path)


def test_every_config_is_one_that_training_accepts():
    accepted = replace(Config(), data=DataConfig(max_train_pairs=8), optimizer=OptimizerConfig(schedule="constant"))
    for model in CONFIGS.values():
        assert check(replace(accepted, model=model)).model == model


# Against literal versions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOAT32)
def test_readouts_are_those_of_the_literal_model(name):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), draw_params(CONFIGS[name]))
    want = reference.seq2seq(CONFIGS[name], params, SRC_IDS, shift_right(TGT_IDS))
    assert reference.error(run(CONFIGS[name])[0], want) <= 1e-5


def test_fixed_vector_model_is_two_lstms():
    config = CONFIGS["fixed vector"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), draw_params(config))
    zeros = np.zeros((4, config.hidden_size))
    encoder, decoder = params["encoder"]["layers"]["0"]["0"], params["decoder"]["layers"]["0"]
    _, hidden, cell = reference.layer(params["source_table"][SRC_IDS], **encoder, hidden=zeros, cell=zeros, mask=SRC_IDS != PAD)
    want, _, _ = reference.layer(params["target_table"][shift_right(TGT_IDS)], **decoder, hidden=hidden, cell=cell)
    assert reference.error(run(config)[0], want) <= 1e-5


@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_is_near_float32(name):
    readouts, gradients = run(CONFIGS[name])
    want, want_gradients = run(replace(CONFIGS[name], compute="float32"))
    assert reference.error(readouts, want) <= 3e-2
    assert_gradients(gradients, want_gradients, 3e-2, 0.3)
    drawn = jax.eval_shape(lambda: init_params(CONFIGS[name], *vocabularies(CONFIGS[name]), jax.random.key(0)))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((drawn, gradients))} == {"float32"}
    model = make_model(CONFIGS[name], *vocabularies(CONFIGS[name]))
    made = jax.eval_shape(lambda params, *ids: model.bind(params)(*ids), drawn, SRC_IDS, shift_right(TGT_IDS))
    assert made.dtype == jnp.bfloat16


def test_bfloat16_sums_no_gradient_coarsely():
    """A token that comes a thousand times gets the gradient of a thousand uses, and a bias that of all positions."""
    config = replace(SMALL, compute="bfloat16", attention="dot", bidirectional_layers=0)
    src_ids = np.full((64, 32), 5, np.int32)
    inputs = np.full((64, 32), 4, np.int32)
    gradients = {}
    for compute in ("bfloat16", "float32"):
        model = make_model(replace(config, compute=compute), *vocabularies(config))

        @jax.jit
        def gradient(params, model=model):
            return jax.grad(lambda params: model.bind(params)(jnp.asarray(src_ids), jnp.asarray(inputs)).astype(jnp.float32).sum())(params)

        gradients[compute] = gradient(draw_params(config))
    for name in ("source_table", "target_table"):
        assert reference.error(gradients["bfloat16"][name], gradients["float32"][name]) <= 1e-2, name
    got, want = (gradients[compute]["decoder"]["layers"]["0"]["bias"] for compute in ("bfloat16", "float32"))
    assert reference.error(got, want) <= 1e-2


# Time ---------------------------------------------------------------------------------------------------------------


@every_config
def test_step_by_step_equals_teacher_forcing(name):
    """Two hypotheses per sentence that read different tokens, each as if it were alone."""
    config = CONFIGS[name]
    model = make_model(config, *vocabularies(config))
    read = np.stack([shift_right(TGT_IDS), shift_right(TGT_IDS[::-1])], axis=1)  # [batch beam tgt]

    @jax.jit
    def decode(params, src_ids, read):
        bound = model.bind(params)
        memory = bound.encode(src_ids)

        read_one = bound.make_step(bound.lay_out(), memory)

        def step(carry, ids):
            carry, readouts, weights = read_one(carry, ids)
            return carry, (readouts, weights)

        carry, (readouts, weights) = jax.lax.scan(step, bound.start(memory, 2), read.transpose(2, 0, 1))
        return carry, readouts.transpose(2, 1, 0, 3), weights  # [beam batch tgt readout]

    carry, readouts, weights = decode(draw_params(config), SRC_IDS, read)
    for beam in range(2):
        want, _ = run(config, inputs=read[:, beam])
        assert reference.error(readouts[beam], want) <= tolerance(name, 5e-6)
    assert {state.cell.dtype.name for state in carry.states} == {"float32"}
    assert {state.hidden.dtype.name for state in carry.states} == {config.compute}
    if config.attention == "none":
        assert weights is None
    else:  # [tgt batch beam src]
        seen = (SRC_IDS != PAD).sum(axis=1) > (not config.source_end)  # whether there is anything to look at
        np.testing.assert_allclose(weights.sum(axis=-1), np.broadcast_to(seen[None, :, None], weights.shape[:3]), rtol=1e-5)
        assert not np.any(np.moveaxis(np.asarray(weights), 1, 2)[:, :, SRC_IDS == PAD])


@every_config
def test_teacher_forcing_is_causal(name):
    inputs = shift_right(TGT_IDS)
    readouts, _ = run(CONFIGS[name])
    for later in (1, 3):
        other = inputs.copy()
        other[:, later:] = (other[:, later:] + 1) % TGT_VOCAB
        changed, _ = run(CONFIGS[name], inputs=other)
        np.testing.assert_array_equal(changed[:, :later], readouts[:, :later])
        assert np.all(np.any(changed[:, later] != readouts[:, later], axis=-1))


@every_config
def test_no_weights_gradient_is_summed_inside_a_loop(name):
    """With input feeding too: the loops pass on states, and what is small or the source's, never an array like a kernel."""
    config = CONFIGS[name]
    model, params = make_model(config, *vocabularies(config)), draw_params(config)
    rows = np.arange(7) % 4  # as many as no kernel has
    src_ids, inputs = jnp.asarray(SRC_IDS[rows]), jnp.asarray(shift_right(TGT_IDS)[rows])
    program = jax.make_jaxpr(jax.grad(lambda params: model.bind(params)(src_ids, inputs).astype(jnp.float32).sum()))(params)
    carried = {aval.shape for aval in carries(program.jaxpr)}
    assert carried >= {(7, 1, config.hidden_size)} if config.input_feeding else carried >= {(7, config.hidden_size)}  # a decoder's state
    kernels = {leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "kernel" in jax.tree_util.keystr(path)}
    kernels |= {(config.embedding_size, 4 * config.hidden_size)}  # the fed part of a kernel
    assert not carried & (kernels | {shape[::-1] for shape in kernels})


# Padding and rows ---------------------------------------------------------------------------------------------------


# One of each kind of decoder: every shape is a compilation. That padding changes no readout is said of all others by the
# literal model above, which knows no padding.
@pytest.mark.parametrize(
    "name",
    ["fixed vector", "general with embeddings, wide, dense bridge, reversed", "additive, feeding, wide, dense bridge, tied", BFLOAT16[0]],
)
def test_more_padding_columns_change_nothing(name):
    readouts, gradients = run(CONFIGS[name])
    wider = [np.pad(ids, ((0, 0), (0, extra))) for ids, extra in ((SRC_IDS, 3), (TGT_IDS, 2))]
    got, got_gradients = run(CONFIGS[name], *wider)
    real = TGT_IDS != PAD
    assert reference.error(got[:, :5][real], readouts[real]) <= tolerance(name, 1e-6, 1e-2)
    assert_gradients(got_gradients, gradients, tolerance(name, 1e-6), tolerance(name, 3e-5))


@every_config
def test_permuting_rows_permutes_results(name):
    order = np.array([2, 0, 3, 1])
    readouts, gradients = run(CONFIGS[name])
    got, got_gradients = run(CONFIGS[name], SRC_IDS[order], TGT_IDS[order])
    assert reference.error(got, readouts[order]) <= tolerance(name, 1e-6, 1e-2)
    assert_gradients(got_gradients, gradients, tolerance(name, 1e-6), tolerance(name, 3e-5))


@every_config
def test_filler_rows_are_finite_and_change_nothing(name):
    src_ids, tgt_ids = SRC_IDS.copy(), TGT_IDS.copy()
    tgt_ids[3] = PAD
    readouts, gradients = run(CONFIGS[name], src_ids, tgt_ids)  # the last source is read, but nothing is predicted
    src_ids[3] = PAD
    got, got_gradients = run(CONFIGS[name], src_ids, tgt_ids)
    assert np.isfinite(got).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got_gradients))
    assert reference.error(got[:3], readouts[:3]) <= tolerance(name, 1e-6, 1e-2)
    assert_gradients(got_gradients, gradients, tolerance(name, 1e-6), tolerance(name, 3e-5))


@pytest.mark.parametrize("name", ["general, feeding, reversed", "general with embeddings, wide, dense bridge, reversed"])
def test_reversing_is_what_reversing_by_hand_does(name):
    config, by_hand = CONFIGS[name], SRC_IDS.copy()
    for row, length in enumerate((SRC_IDS != PAD).sum(axis=1)):
        by_hand[row, : length - 1] = by_hand[row, : length - 1][::-1]  # not the end mark
    assert by_hand[3].tolist() == [3, 5, 5, EOS, 0, 0]
    params = draw_params(config)
    reversing = encode(config, SRC_IDS, params)
    plain = encode(replace(config, reverse_source=False), by_hand, params)
    jax.tree.map(np.testing.assert_array_equal, reversing.start, plain.start)
    # To attention, position s is token s again.
    mask = jnp.asarray(SRC_IDS != PAD)
    np.testing.assert_array_equal(reverse_real(reversing.values, mask), plain.values)
    np.testing.assert_array_equal(reverse_real(jnp.asarray(by_hand), mask), SRC_IDS)


# Dropout ------------------------------------------------------------------------------------------------------------

# Without feeding; and with it, where the readout (of the embedding's size) is wider than the hidden state.
DROPPING = ["dot, all tied, zero bridge", "additive, feeding, wide, dense bridge, tied"]


def dropout_masks(config, keys, src, tgt):
    """What each site multiplies with, as tests/reference.py numbers them."""
    derived, emb, hidden = sizes(config), config.embedding_size, config.hidden_size
    encoder = [2 * derived.directions if i < config.bidirectional_layers else hidden for i in range(config.encoder_layers)]
    shapes = {0: (src, emb), 100: (tgt, emb), 200: (tgt, derived.readout)}
    shapes |= {index + 1: (src, size) for index, size in enumerate(encoder)}
    shapes |= {100 + index + 1: (tgt, hidden) for index in range(config.decoder_layers)}
    of = "features" if config.dropout_masks == "sentence" else "values"
    masks = {site: drop(jnp.ones((4, *shape)), keys, site, config.dropout, of) for site, shape in shapes.items()}
    words = {210: (src, emb), 211: (tgt, emb)}
    masks |= {site: drop(jnp.ones((4, *shape)), keys, site, config.word_dropout, "steps") for site, shape in words.items()}
    both = [1 + (index < config.bidirectional_layers) for index in range(config.encoder_layers)]
    states = {300 + 2 * i + d: encoder[i] // count for i, count in enumerate(both) for d in range(count)}
    states |= {400 + index: hidden for index in range(config.decoder_layers)}
    masks |= {site: drop(jnp.ones((4, 1, size)), keys, site, config.recurrent_dropout) for site, size in states.items()}
    steps = {site: src if site < 400 else tgt for site in states}
    masks |= {
        site + more: choose(keys, site + more, config.zoneout, steps[site], size) for site, size in states.items() for more in (200, 400)
    }
    return {site: np.asarray(mask) for site, mask in masks.items()}


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"dropout_masks": "sentence", "recurrent_dropout": 0.5, "word_dropout": 0.25},
        {"dropout": 0.0, "recurrent_dropout": 0.5},
        {"zoneout": 0.25},
        {"cell": "gru", "zoneout": 0.25, "recurrent_dropout": 0.5},
        {"cell": "layer_norm_lstm", "recurrent_dropout": 0.5},
    ],
)
@pytest.mark.parametrize("name", DROPPING)
def test_dropout_is_in_its_places_and_knows_neither_devices_nor_padding(name, kind):
    config = replace(CONFIGS[name], **kind)
    model, params, inputs = make_model(config, *vocabularies(config)), draw_params(config), shift_right(TGT_IDS)

    @jax.jit
    def readouts(src_ids, inputs, first_row):
        keys = row_keys(jax.random.key_data(jax.random.key(1)), first_row, src_ids.shape[0])
        return model.bind(params)(src_ids, inputs, keys)

    whole = np.asarray(readouts(SRC_IDS, inputs, jnp.int32(0)))
    masks = dropout_masks(config, row_keys(jax.random.key_data(jax.random.key(1)), jnp.int32(0), 4), 6, 5)
    literal = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    assert reference.error(whole, reference.seq2seq(config, literal, SRC_IDS, inputs, masks)) <= 1e-5
    half = readouts(*(np.pad(ids[2:], ((0, 0), (0, 3))) for ids in (SRC_IDS, inputs)), jnp.int32(2))
    real = TGT_IDS[2:] != PAD
    assert reference.error(np.asarray(half)[:, :5][real], whole[2:][real]) <= 2e-6
    assert np.any(readouts(SRC_IDS, inputs, jnp.int32(4)) != whole)


@pytest.mark.parametrize(
    ("encoder", "decoder", "sources"), [(3, 1, [2]), (3, 2, [1, 2]), (2, 2, [0, 1]), (1, 3, [0, 0, 0]), (2, 3, [0, 1, 1])]
)
def test_the_decoder_starts_from_the_uppermost_layers(encoder, decoder, sources):
    """So that every layer of the encoder matters, without attention too."""
    config = replace(SMALL, attention="none", bidirectional_layers=0, encoder_layers=encoder, decoder_layers=decoder)
    assert [source_layer(config, index) for index in range(decoder)] == sources
    _, gradients = run(config)
    assert all(np.any(gradients["encoder"]["layers"][str(index)]["0"]["kernel_rec"]) for index in range(encoder))


# Parameters ---------------------------------------------------------------------------------------------------------

GOLDEN = {
    "bridge/layers/0/0": (6, 4),
    "bridge/layers/0/1": (6, 4),
    "decoder/attention/kernel_key": (6, 3),
    "decoder/attention/kernel_query": (4, 3),
    "decoder/attention/vector": (3,),
    "decoder/kernel_readout": (10, 6),
    "decoder/layers/0/bias": (16,),
    "decoder/layers/0/kernel_in": (12, 16),
    "decoder/layers/0/kernel_rec": (4, 16),
    "encoder/layers/0/0/bias": (12,),
    "encoder/layers/0/0/kernel_in": (6, 12),
    "encoder/layers/0/0/kernel_rec": (3, 12),
    "encoder/layers/0/1/bias": (12,),
    "encoder/layers/0/1/kernel_in": (6, 12),
    "encoder/layers/0/1/kernel_rec": (3, 12),
    "output_bias": (11,),
    "source_table": (13, 6),
    "target_table": (11, 6),
}


def flatten(tree, path=""):
    """Leaves by their path; fails on anything but dicts with names as keys."""
    if type(tree) is not dict:
        return {path: tree}
    assert all(type(key) is str for key in tree)
    return {name: leaf for key in tree for name, leaf in flatten(tree[key], f"{path}/{key}" if path else key).items()}


def test_golden_parameter_tree():
    config = replace(CONFIGS["additive, feeding, wide, dense bridge, tied"], attend_embeddings=False)
    params = jax.eval_shape(lambda: init_params(config, SRC_VOCAB, TGT_VOCAB, jax.random.key(0)))
    assert {name: leaf.shape for name, leaf in flatten(params).items()} == GOLDEN


@pytest.mark.parametrize(
    ("tie", "tables"),
    [("none", {"source_table", "target_table", "output_table"}), ("softmax", {"source_table", "target_table"}), ("all", {"target_table"})],
)
def test_ties_decide_the_tables(tie, tables):
    params = jax.eval_shape(lambda: init_params(replace(SMALL, tie=tie), TGT_VOCAB, TGT_VOCAB, jax.random.key(0)))
    assert {name for name in params if name.endswith("table")} == tables
    bound = make_model(replace(SMALL, tie=tie), TGT_VOCAB, TGT_VOCAB)
    table, bias = jax.eval_shape(lambda params: bound.bind(params).output(), params)
    assert (table.shape, bias.shape) == ((TGT_VOCAB, 4 if tie == "none" else 6), (TGT_VOCAB,))


def test_a_tied_table_gets_the_sum_of_its_uses_gradients():
    tied = CONFIGS["dot, all tied, zero bridge"]
    _, gradients = run(tied)
    params = draw_params(tied)
    untied = replace(tied, tie="none")
    copies = params | {"source_table": params["target_table"], "output_table": params["target_table"]}
    _, apart = compiled(untied)(copies, SRC_IDS, shift_right(TGT_IDS), TGT_IDS)
    uses = [apart.pop(name) for name in ("source_table", "target_table", "output_table")]
    assert all(np.any(use) for use in uses)
    assert reference.error(gradients.pop("target_table"), sum(uses)) <= 1e-6
    assert_gradients(gradients, apart, 1e-6, 1e-6)


@pytest.mark.parametrize("init_scale", [0.0, 0.08])
def test_initial_parameters(init_scale):
    config = ModelConfig(64, 64, bidirectional_layers=0, init_scale=init_scale, forget_bias=1.5, bridge="dense", attention="additive")
    params, again, other = (
        {name: np.asarray(leaf) for name, leaf in flatten(init_params(config, 300, 300, jax.random.key(seed))).items()}
        for seed in (5, 5, 6)
    )
    for name, leaf in params.items():
        if name == "output_bias":
            assert not np.any(leaf)
        elif name.endswith("/bias"):
            expected = np.zeros(leaf.shape)
            expected[len(expected) // 4 : len(expected) // 2] = 1.5  # i f g o: the forget gates'
            np.testing.assert_array_equal(leaf, expected)
        elif name in ("source_table", "target_table") and not init_scale:
            assert np.std(leaf) == pytest.approx(64**-0.5, rel=0.02)
            assert abs(np.mean(leaf)) < 0.02 * 64**-0.5 * 5
        else:
            fan = sum(leaf.shape) if leaf.ndim == 2 else leaf.size + 1  # the additive score's vector is a kernel with one column
            bound = init_scale or np.sqrt(6 / fan)
            assert np.max(np.abs(leaf)) <= bound * (1 + 1e-6)
            assert min(np.max(leaf), -np.min(leaf)) > 0.8 * bound  # both ends are reached
    assert all(np.array_equal(params[name], again[name]) for name in params)
    assert all(np.any(params[name] != other[name]) for name in params if "bias" not in name)
    distinct = {leaf.tobytes() for name, leaf in params.items() if "bias" not in name}
    assert len(distinct) == sum("bias" not in name for name in params)  # no two are the same draw


def test_the_model_is_bound_without_copying():
    config = CONFIGS["fixed vector"]
    params = draw_params(config)
    bound = make_model(config, SRC_VOCAB, TGT_VOCAB).bind(params)
    assert bound.source_table[...] is params["source_table"]
