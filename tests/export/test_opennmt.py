"""Checkpoints of OpenNMT-py: what an imported run says, beside a literal model of theirs; and what is refused."""

import argparse
import fractions
import random

import numpy as np
import pytest

import flax_s2s
from flax_s2s.cli.verbs import main
from flax_s2s.config import UNK, UserError
from flax_s2s.export import opennmt, runtime

WORDS = ["a", "b", "c", "d", "e", "averages0"]
SOURCE = ["<unk>", "<blank>", "<s>", "</s>", *WORDS]  # as onmt_build_vocab numbers them
TARGET = ["<blank>", "<unk>", "x", "</s>", "y", "<s>", "z", "w"]
HIDDEN, EMBEDDING = 6, 5
MODELS = {
    "general, fed": {},
    "dot, fed, deep": {"global_attention": "dot", "enc_layers": 2, "dec_layers": 2},
    "general, one direction": {"encoder_type": "rnn", "input_feed": 0},
    "dot, not fed": {"global_attention": "dot", "input_feed": 0},
    "fixed vector, deep": {"global_attention": "none", "enc_layers": 2, "dec_layers": 2, "input_feed": 0},
}


def draw(changed):
    """What `read` finds in a checkpoint."""
    rng = np.random.default_rng(4)
    opt = {
        "model_task": "seq2seq", "encoder_type": "brnn", "decoder_type": "rnn", "rnn_type": "LSTM", "enc_layers": 1, "dec_layers": 1,
        "enc_hid_size": HIDDEN, "dec_hid_size": HIDDEN, "src_word_vec_size": EMBEDDING, "tgt_word_vec_size": EMBEDDING, "input_feed": 1,
        "global_attention": "general", "global_attention_function": "softmax", "bridge": False, "copy_attn": False, "coverage_attn": False,
        "context_gate": None, "position_encoding": False, "generator_function": "softmax", "n_src_feats": 0, "dropout": [0.3],
    } | changed  # fmt: skip
    arrays = {}

    def layer(prefix, suffix, inputs, units):
        for name, shape in (
            ("weight_ih", (4 * units, inputs)),
            ("weight_hh", (4 * units, units)),
            ("bias_ih", (4 * units,)),
            ("bias_hh", (4 * units,)),
        ):
            arrays[f"{prefix}{name}{suffix}"] = rng.uniform(-1, 1, shape).astype(np.float32)

    both = opt["encoder_type"] == "brnn"
    for index in range(opt["enc_layers"]):
        for direction in range(1 + both):
            layer("encoder.rnn.", f"_l{index}" + "_reverse" * direction, HIDDEN if index else EMBEDDING, HIDDEN // (1 + both))
    for index in range(opt["dec_layers"]):
        inputs = HIDDEN if index else EMBEDDING + HIDDEN * opt["input_feed"]
        layer(*((f"decoder.rnn.layers.{index}.", "") if opt["input_feed"] else ("decoder.rnn.", f"_l{index}")), inputs, HIDDEN)
    for side, tokens in (("encoder", SOURCE), ("decoder", TARGET)):
        arrays[f"{side}.embeddings.make_embedding.emb_luts.0.weight"] = rng.uniform(-1, 1, (len(tokens), EMBEDDING)).astype(np.float32)
    if opt["global_attention"] != "none":
        arrays["decoder.attn.linear_out.weight"] = rng.uniform(-1, 1, (HIDDEN, 2 * HIDDEN)).astype(np.float32)
    if opt["global_attention"] == "general":
        arrays["decoder.attn.linear_in.weight"] = rng.uniform(-1, 1, (HIDDEN, HIDDEN)).astype(np.float32)
    generator = {
        "weight": rng.uniform(-1, 1, (len(TARGET), HIDDEN)).astype(np.float32),
        "bias": rng.uniform(-1, 1, len(TARGET)).astype(np.float32),
    }
    return {"opt": opt, "vocab": {"src": SOURCE, "tgt": TARGET, "data_task": "seq2seq"}, "model": arrays, "generator": generator}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(w, prefix, suffix, x, state):
    hidden, cell = state
    sums = (
        w[f"{prefix}weight_ih{suffix}"] @ x
        + w[f"{prefix}bias_ih{suffix}"]
        + w[f"{prefix}weight_hh{suffix}"] @ hidden
        + w[f"{prefix}bias_hh{suffix}"]
    )
    i, f, g, o = np.split(sums, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def log_probability(found, source, target):
    """As onmt computes it: the encoder reads the words alone; attention after the LSTM; `[context; state]` to the readout, which is fed."""
    opt, w, generator = found["opt"], found["model"], found["generator"]
    both = opt["encoder_type"] == "brnn"
    read = [w["encoder.embeddings.make_embedding.emb_luts.0.weight"][SOURCE.index(word) if word in SOURCE else 0] for word in source]
    states = []
    for index in range(opt["enc_layers"]):
        outputs, finals = [], []
        for direction in range(1 + both):
            state, of_each = (np.zeros(HIDDEN // (1 + both)),) * 2, []
            for x in reversed(read) if direction else read:
                state = lstm(w, "encoder.rnn.", f"_l{index}" + "_reverse" * direction, x, state)
                of_each.append(state[0])
            outputs.append(of_each[::-1] if direction else of_each)
            finals.append(state)
        read = [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
        states.append(tuple(np.concatenate([final[part] for final in finals]) for part in range(2)))
    memory, fed, total = np.stack(read), np.zeros(HIDDEN), 0.0
    said = [TARGET.index(word) for word in target]
    for last, token in zip([TARGET.index("<s>"), *said], [*said, TARGET.index("</s>")], strict=True):
        x = w["decoder.embeddings.make_embedding.emb_luts.0.weight"][last]
        x = np.concatenate([x, fed]) if opt["input_feed"] else x
        for index in range(opt["dec_layers"]):
            names = (f"decoder.rnn.layers.{index}.", "") if opt["input_feed"] else ("decoder.rnn.", f"_l{index}")
            states[index] = lstm(w, *names, x, states[index])
            x = states[index][0]
        if opt["global_attention"] != "none":
            query = w["decoder.attn.linear_in.weight"] @ x if opt["global_attention"] == "general" else x
            weights = np.exp(memory @ query) / np.exp(memory @ query).sum()
            x = np.tanh(w["decoder.attn.linear_out.weight"] @ np.concatenate([weights @ memory, x]))
        fed = x
        logits = generator["weight"] @ x + generator["bias"]
        total += logits[token] - np.log(np.exp(logits).sum())
    return total


@pytest.mark.parametrize("name", MODELS)
def test_an_imported_run_says_what_the_model_said(tmp_path, monkeypatch, name):
    """The log-probabilities of pairs, unknown words among them; and the run is one like any other."""
    found = draw(MODELS[name])
    monkeypatch.setattr(opennmt, "read", lambda file: found)
    assert main(["import", "model.pt", "--run-dir", str(tmp_path / "run")]) == 0
    rng = random.Random(5)
    pairs = [
        (rng.choices([*WORDS, "unseen"], k=rng.randint(1, 7)), rng.choices(["x", "y", "z", "w"], k=rng.randint(1, 5))) for _ in range(12)
    ]
    model = flax_s2s.load(tmp_path / "run")
    scores = model.score([(" ".join(source), " ".join(target)) for source, target in pairs])
    wanted = [log_probability(found, source, target) for source, target in pairs]
    np.testing.assert_allclose([one.logp for one in scores], wanted, rtol=2e-4)
    best = model.translate("a b", compute="float32")
    assert best.logp == pytest.approx(log_probability(found, ["a", "b"], best.text.split()), rel=2e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"global_attention": "mlp"}, "trained with global_attention=mlp .*, which cannot be imported; only dot or general or none can"),
        ({"rnn_type": "GRU"}, "trained with rnn_type=GRU, which cannot be imported; only LSTM can"),
        ({"encoder_type": "transformer"}, "encoder_type=transformer"),
        ({"bridge": True}, "bridge=True"),
        ({"context_gate": "both"}, "context_gate=both, which cannot be imported; only a model without it can"),
        ({"global_attention": "none"}, "global_attention=none with input_feed=1, which cannot be imported"),
        ({"copy_attn": True}, "copy_attn=True"),
        ({"coverage_attn": True}, "coverage_attn=True"),
        ({"src_word_vec_size": 4}, "src_word_vec_size=4 and tgt_word_vec_size=5"),
        ({"enc_layers": 2}, "enc_layers=2, dec_layers=1, input_feed=1"),
        ({"enc_layers": 2, "dec_layers": 2, "input_feed": 0}, "of several with attention those with input_feed=1"),
        ({"enc_hid_size": 8}, "enc_hid_size=8 and dec_hid_size=6"),
    ],
)
def test_what_cannot_be_imported_is_named(changed, message):
    found = draw({})
    with pytest.raises(UserError, match=message):
        opennmt.convert(found | {"opt": found["opt"] | changed})


def test_a_checkpoint_that_lacks_something(tmp_path, monkeypatch, capsys):
    found = draw({})
    del found["model"]["decoder.attn.linear_in.weight"]
    with pytest.raises(UserError, match=r"lacks decoder\.attn\.linear_in\.weight"):
        opennmt.convert(found)
    for vocab, message in (
        ({"decoder_start_token": "</s>"}, "decoder_start_token=</s>, which cannot be imported; only <s> can"),
        ({"src": [*SOURCE[:-1], "a"]}, "vocabulary of src has a token twice"),
    ):
        with pytest.raises(UserError, match=message):
            opennmt.convert(draw({}) | {"vocab": {"src": SOURCE, "tgt": TARGET} | vocab})
    with pytest.raises(UserError, match="vocabulary of tgt lacks <s>"):
        opennmt.convert(draw({}) | {"vocab": {"src": SOURCE, "tgt": [token for token in TARGET if token != "<s>"]}})
    pieces = draw({}) | {"vocab": {"src": [*SOURCE[:-1], "\u2581a"], "tgt": TARGET}}
    monkeypatch.setattr(opennmt, "read", lambda file: pieces)
    assert main(["import", "model.pt", "--run-dir", str(tmp_path / "run")]) == 2
    assert "pieces of a SentencePiece model, such as \u2581a; give that model: --source-model FILE" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "run").exists()


def test_what_is_no_whole_model_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    """And the same command works once the checkpoint is whole."""
    found = draw({})
    spoilt = found | {"generator": found["generator"] | {"bias": np.full(len(TARGET), np.nan, np.float32)}}
    short = found | {"vocab": {"src": [*SOURCE, "more"], "tgt": TARGET}}
    bare = found | {"opt": {name: value for name, value in found["opt"].items() if name != "input_feed"}}
    for given, message in (
        (spoilt, "holds numbers that are not finite (output_bias)"),
        (short, "is not as OpenNMT-py 3 saves a model (IndexError"),
        (bare, "is not as OpenNMT-py 3 saves a model (KeyError 'input_feed')"),
    ):
        monkeypatch.setattr(opennmt, "read", lambda file, given=given: given)
        assert main(["import", "model.pt", "--run-dir", str(tmp_path / "run")]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(opennmt, "read", lambda file: found)
    assert main(["import", "model.pt", "--run-dir", str(tmp_path / "run")]) == 0
    assert main(["import", "model.pt", "--run-dir", str(tmp_path / "run")]) == 2
    assert "holds a run already" in " ".join(capsys.readouterr().err.split())


def test_an_imported_run_is_trained_further_and_exported(tmp_path, monkeypatch):
    """With the tokens that it has; unknown ones stay apart in the exported folder too."""
    monkeypatch.setattr(opennmt, "read", lambda file: draw({}))
    assert main(["import", "model.pt", "--run-dir", str(tmp_path / "run")]) == 0
    lines = ["a b c", "unseen unseen d", " e  a "]
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--parity", str(tmp_path / "lines")]) == 0
    exported, run = runtime.load(tmp_path / "out"), flax_s2s.load(tmp_path / "run")
    for line in lines:
        assert exported.source.encode(line) == run._opened.vocabularies.source.encode([line])[0]
    assert exported.source.encode("unseen unseen d").count(UNK) == 2
    pairs = [("a b", "x y"), ("c d", "z w"), ("e", "x"), ("a c e", "w x y")] * 4
    (tmp_path / "pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    options = [
        "--data.folder",
        str(tmp_path),
        "--data.format",
        "tsv",
        "--data.train",
        "pairs.tsv",
        "--data.valid",
        "pairs.tsv",
        "--data.test",
        "",
    ]
    options += ["--data.source", "0", "--data.target", "1", "--training.steps", "2", "--training.evaluate-every-steps", "2"]
    command = ["train", str(tmp_path / "run"), "--run-dir", str(tmp_path / "new"), "--init-from", str(tmp_path / "run"), *options]
    assert main(command) == 0


def test_a_checkpoint_is_read_without_its_objects(tmp_path):
    """Those of torch itself: arrays and plain values alone."""
    torch = pytest.importorskip("torch", reason="comes with the extra `import`")
    found = draw({})
    kept = {part: {name: torch.tensor(array) for name, array in found[part].items()} for part in ("model", "generator")}
    checkpoint = kept | {"vocab": found["vocab"], "opt": argparse.Namespace(**found["opt"])}
    torch.save(checkpoint, tmp_path / "model.pt")
    read = opennmt.read(str(tmp_path / "model.pt"))
    assert read["opt"] == found["opt"] and read["vocab"] == found["vocab"]
    np.testing.assert_array_equal(read["generator"]["weight"], found["generator"]["weight"])
    torch.save(checkpoint | {"opt": fractions.Fraction(1, 2)}, tmp_path / "object.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save(checkpoint | {"model": {}}, tmp_path / "empty.pt")
    for name, message in (
        ("object.pt", "it holds an object, fractions.Fraction"),
        ("text.pt", "is no checkpoint of arrays and plain values"),
        ("none.pt", "is not there; give a checkpoint of OpenNMT-py"),
        ("empty.pt", "holds no weights"),
    ):
        with pytest.raises(UserError, match=message):
            opennmt.read(str(tmp_path / name))
