import ast
import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Literal

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies as st

from flax_s2s import config as module
from flax_s2s.config import (
    Config,
    ModelConfig,
    UserError,
    VocabConfig,
    check,
    differences,
    flatten,
    from_json,
    load_preset,
    nearest,
    to_json,
)
from flax_s2s.model.lstm import choose_means
from flax_s2s.model.seq2seq import init_params, make_model, sizes
from flax_s2s.training.state import count_parameters

PRESETS = Path(__file__).parents[1] / "configs"

PARAMETERS = {  # of each preset, with vocab.size tokens on both sides
    "debug": 19_344,
    "fixed_vector_en_zh": 9_299_824,
    "gnmt_wmt16_en_de": 194_842_880,
    "luong2015_iwslt15_en_vi": 34_299_520,
    "multi30k_en_de": 5_216_112,
    "quickstart": 739_572,
    "sutskever2014_wmt14_en_fr": 160_064_000,
    "tatoeba_en_zh": 6_227_824,
}

GOOD = Config()


def changed(config, fields):
    """changed(config, {"model.hidden_size": 3})"""
    for name, value in fields.items():
        room, _, field = name.rpartition(".")
        inner = dataclasses.replace(getattr(config, room), **{field: value}) if room else value
        config = dataclasses.replace(config, **{room or field: inner})
    return config


def values(hint):
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return st.lists(values(typing.get_args(hint)[0])).map(tuple)
    if hint is float:
        return st.floats(allow_nan=False) | st.integers(-(10**6), 10**6).map(float)
    return {int: st.integers(), str: st.text(), bool: st.booleans()}[hint]


def fields(cls=Config, path=""):
    """A strategy of each field by its name, such as model.hidden_size."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        found |= fields(hint, f"{path}{name}.") if dataclasses.is_dataclass(hint) else {path + name: values(hint)}
    return found


def changes():
    """Values for any of the fields; the config is made in the test, because what beartype does there is not repeatable."""
    return st.fixed_dictionaries({}, optional=fields())


# JSON


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(changes())
def test_json_gives_back_the_same_config(changes):
    config = changed(GOOD, changes)
    assert from_json(to_json(config)) == config


def test_json_holds_every_field_under_its_name():
    tree = json.loads(to_json(GOOD))
    for name, (value, _) in flatten(GOOD).items():
        room, _, field = name.rpartition(".")
        found = tree[room][field] if room else tree[field]
        assert (tuple(found) if isinstance(found, list) else found) == value


def test_json_reads_a_whole_number_as_a_float():
    text = to_json(changed(GOOD, {"model.dropout": 0.0})).replace('"dropout": 0.0', '"dropout": 0')
    assert type(from_json(text).model.dropout) is float


def edited(room, **fields):
    """The JSON of GOOD with fields set; None deletes."""
    tree = json.loads(to_json(GOOD))
    part = tree[room] if room else tree
    for name, value in fields.items():
        part.pop(name, None) if value is None else part.update({name: value})
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited("model", hidden_sise=3), "unknown field 'model.hidden_sise'; did you mean 'hidden_size'?"),
        (edited("", modell={}), "unknown field 'modell'; did you mean 'model'?"),
        (edited("model", zzz=3), "unknown field 'model.zzz'"),
        (edited("model", hidden_size=None), "field 'model.hidden_size' is missing"),
        (edited("", seed=None), "field 'seed' is missing"),
        (edited("model", hidden_size="512"), "model.hidden_size='512' must be of type int, got str"),
        (edited("model", hidden_size=512.0), "model.hidden_size=512.0 must be of type int, got float"),
        (edited("model", hidden_size=True), "model.hidden_size=True must be of type int, got bool"),
        (edited("model", dropout=False), "model.dropout=False must be of type float, got bool"),
        (edited("vocab", joint=1), "vocab.joint=1 must be of type bool, got int"),
        (edited("data", folder=[]), "data.folder=[] must be of type str, got list"),
        (edited("vocab", kind="bqe"), "vocab.kind='bqe' is not one of unigram, bpe, char, word"),
        (edited("vocab", kind=["bpe"]), "vocab.kind=['bpe'] is not one of unigram, bpe, char, word"),
        (edited("evaluation", metrics="bleu"), "evaluation.metrics must be a list, got 'bleu'"),
        (edited("evaluation", metrics=["blue"]), "evaluation.metrics='blue' is not one of bleu, chrf, exact_match, wer"),
        (edited("", model=5), "model must be an object of fields, got int"),
        ("[]", "config must be an object of fields, got list"),
        ("{", "config.json is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("", "config.json is not JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_json_errors_name_the_field_and_the_rule(text, message):
    with pytest.raises(UserError) as error:
        from_json(text)
    assert str(error.value) == message


def test_nearest_names_only_what_is_near():
    assert nearest("drop_out", ["dropout", "bridge"]) == "; did you mean 'dropout'?"
    assert nearest("xyz", ["dropout", "bridge"]) == ""


# Fields


def declared():
    """Every annotated field of a dataclass of config.py: (class, field, docstring or None)."""
    for node in ast.parse(Path(module.__file__).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            for line, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(line, ast.AnnAssign):
                    text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
                    yield node.name, line.target.id, text


def test_every_field_has_a_docstring_that_ends_as_a_sentence():
    rooms = set(typing.get_type_hints(Config)) - {"seed"}
    without = [f"{cls}.{name}" for cls, name, text in declared() if not (text and text.endswith(".")) and name not in rooms]
    assert without == []
    assert {name for _, name, _ in declared()} == {name.rpartition(".")[2] for name in flatten(GOOD)} | rooms


def test_every_field_is_identity_or_operational():
    assert {role for _, role in flatten(GOOD).values()} == {"identity", "operational"}
    roles = {name: role for name, (_, role) in flatten(GOOD).items()}
    assert {
        name for name, role in roles.items() if name.startswith(("training.", "decoding.", "evaluation.")) and role == "identity"
    } == set()
    learned = ("seed", "vocab.", "model.", "optimizer.")
    assert {name for name, role in roles.items() if name.startswith(learned) and role == "operational"} == {
        "model.kernel",
        "model.recompute",
    }


def test_every_field_is_a_plain_value():
    """No union: the command line would turn one into subcommands."""
    for name, (value, _) in flatten(GOOD).items():
        assert isinstance(value, (int, float, str, bool, tuple)), name


@pytest.mark.parametrize(("role", "other"), [("identity", "operational"), ("operational", "identity")])
def test_differences_are_those_of_the_role(role, other):
    new = changed(GOOD, {"model.hidden_size": 256, "seed": 2, "training.steps": 5, "decoding.beam_size": 1})
    expected = {
        "identity": ["seed: 1 -> 2", "model.hidden_size: 512 -> 256"],
        "operational": ["training.steps: 10000 -> 5", "decoding.beam_size: 5 -> 1"],
    }
    assert differences(GOOD, new, role) == expected[role]
    assert differences(GOOD, new, other) == expected[other]
    assert differences(GOOD, GOOD, role) == []


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(changes(), changes())
def test_two_configs_without_differences_are_equal(one, two):
    one, two = changed(GOOD, one), changed(GOOD, one | two)
    found = differences(one, two, "identity") + differences(one, two, "operational")
    assert (found == []) == (one == two)


# Presets


def preset(folder, text, name="mine"):
    file = folder / f"{name}.py"
    file.write_text(text)
    return str(file)


def test_a_preset_is_what_its_function_returns(tmp_path):
    path = preset(tmp_path, "from flax_s2s.config import Config\ndef config(): return Config(seed=7)\n")
    assert load_preset(path) == Config(seed=7)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.py"]  # no __pycache__


def test_a_missing_preset_names_the_nearest(tmp_path):
    preset(tmp_path, "", "quickstart")
    with pytest.raises(UserError, match=r"there is no preset '.*quikstart.py'; did you mean 'quickstart'\?"):
        load_preset(str(tmp_path / "quikstart.py"))
    with pytest.raises(UserError, match=r"there is no preset '.*nowhere/quickstart.py'$"):
        load_preset(str(tmp_path / "nowhere" / "quickstart.py"))
    with pytest.raises(UserError, match="there is no preset"):
        load_preset(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def config(:\n", "does not run: SyntaxError: "),
        ("import no_such_module\n", "does not run: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n", "does not run: AttributeError: .* has no attribute 'config'"),
        ("def config(): return 1 / 0\n", "does not run: ZeroDivisionError: division by zero"),
        ("from flax_s2s.config import ModelConfig\ndef config(): return ModelConfig(hidden=3)\n", "does not run: TypeError: .*hidden"),
        ("def config(): return {}\n", r"config\(\) of preset .* must return a flax_s2s.config.Config, got dict"),
        ("from flax_s2s.config import UserError\ndef config(): raise UserError('my rule')\n", "^my rule$"),
    ],
)
def test_errors_of_a_preset_are_the_users(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load_preset(preset(tmp_path, text))


def test_a_preset_is_a_python_file(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("")
    with pytest.raises(UserError, match=r"must be a Python file, NAME\.py"):
        load_preset(str(file))


def test_every_preset_has_a_stated_parameter_count():
    assert {file.stem for file in PRESETS.glob("*.py")} == set(PARAMETERS)


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.py")), ids=lambda file: file.stem)
def test_every_preset_is_consistent_and_builds(file):
    config = check(load_preset(str(file)))
    size = config.vocab.size
    params = jax.eval_shape(lambda: init_params(config.model, size, size, jax.random.key(0)))
    assert count_parameters(params) == PARAMETERS.get(file.stem), "state the preset's parameter count in PARAMETERS"
    model = make_model(config.model, size, size)
    source, target = jax.ShapeDtypeStruct((2, 5), jnp.int32), jax.ShapeDtypeStruct((2, 7), jnp.int32)
    readouts = jax.eval_shape(lambda params, source, target: model.bind(params)(source, target), params, source, target)
    assert (readouts.shape, readouts.dtype) == ((2, 7, sizes(config.model).readout), choose_means(config.model).compute)


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.py")), ids=lambda file: file.stem)
def test_every_preset_survives_its_json(file):
    config = load_preset(str(file))
    assert from_json(to_json(config)) == config


# Consistency


def test_a_consistent_config_is_returned_unchanged():
    assert check(GOOD) is GOOD


NUMBERS = sorted(name for name, (value, _) in flatten(GOOD).items() if isinstance(value, (int, float)) and not isinstance(value, bool))


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_negative(name):
    kind = type(flatten(GOOD)[name][0])
    with pytest.raises(UserError, match=f"^{name}={kind(-1)} must not be negative"):
        check(changed(GOOD, {name: kind(-1)}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_infinite(value):
    with pytest.raises(UserError, match=f"^model.dropout={value} must not be negative and must be finite"):
        check(changed(GOOD, {"model.dropout": value}))


@pytest.mark.parametrize(
    "name",
    """data.max_source_tokens data.max_target_tokens data.batch_tokens data.row_multiple data.buckets data.held_out_pairs
    model.embedding_size model.hidden_size model.encoder_layers model.decoder_layers optimizer.learning_rate
    optimizer.accumulate_batches training.steps training.log_every_steps training.evaluate_every_steps
    training.save_every_steps training.keep_last decoding.beam_size decoding.rows decoding.max_source_tokens
    optimizer.epsilon""".split(),
)
def test_a_count_of_nothing_is_refused(name):
    kind = type(flatten(GOOD)[name][0])
    with pytest.raises(UserError, match=f"^{name}=0 must be greater than 0$"):
        check(changed(GOOD, {name: kind(0)}))


@pytest.mark.parametrize(
    "name", ["model.dropout", "optimizer.beta1", "optimizer.beta2", "optimizer.label_smoothing", "optimizer.average_decay"]
)
def test_a_probability_is_below_one(name):
    assert check(changed(GOOD, {name: 0.99}))
    with pytest.raises(UserError, match=f"^{name}=1.0 must be at least 0 and less than 1$"):
        check(changed(GOOD, {name: 1.0}))


NO_LANGUAGE = (
    "evaluation.tokenizer=auto goes by the target's language, which data.target={} does not tell; "
    "give one: zh for Chinese, char for Japanese or Thai, 13a for languages written with spaces"
)
RULES = [  # fields that break a rule, the whole message, and the remedy it names
    (
        {"data.batch_tokens": 799},
        "data.batch_tokens=799 must hold 8 rows (data.row_multiple) of the longest pair, 100 tokens; use at least 800, or lower "
        "data.max_source_tokens and data.max_target_tokens",
        {"data.batch_tokens": 800},
    ),
    (
        {"data.batch_tokens": 799, "data.max_source_tokens": 10, "data.row_multiple": 10},
        "data.batch_tokens=799 must hold 10 rows (data.row_multiple) of the longest pair, 100 tokens; use at least 1000, or lower "
        "data.max_source_tokens and data.max_target_tokens",
        {"data.max_target_tokens": 79},
    ),
    (
        {"data.max_train_pairs": 0, "data.format": "phrases"},
        "data.format=phrases generates data.max_train_pairs pairs, got 0; use for example 40000",
        {"data.max_train_pairs": 40_000},
    ),
    (
        {"data.format": "tfds"},
        "data.format=tfds needs data.dataset, a TFDS name such as wmt14_translate/fr-en",
        {"data.dataset": "wmt14_translate/fr-en"},
    ),
    ({"data.train": ""}, "data.train is empty; name the training split", {"data.train": "train"}),
    ({"data.source": "zh"}, "data.source and data.target are both 'zh'; they must name two sides", {"data.source": "en"}),
    (
        {"data.format": "text", "data.target": "../zh"},
        "side '../zh' must be a file suffix or locale of letters, digits, '.', '_' and '-', such as en or zh_Hans",
        {"data.target": "zh_Hans"},
    ),
    (
        {"data.source": "e..n"},
        "side 'e..n' must be a file suffix or locale of letters, digits, '.', '_' and '-', such as en or zh_Hans",
        {"data.source": "en"},
    ),
    ({"vocab.character_coverage": 0.9}, "vocab.character_coverage=0.9 must be between 0.98 and 1", {"vocab.character_coverage": 0.98}),
    ({"vocab.character_coverage": 1.5}, "vocab.character_coverage=1.5 must be between 0.98 and 1", {"vocab.character_coverage": 1.0}),
    ({"vocab.size": 7}, "vocab.size=7 must be at least 8", {"vocab.size": 8}),
    (
        {"model.bidirectional_layers": 2},
        "model.bidirectional_layers=2 must be at most model.encoder_layers=1",
        {"model.bidirectional_layers": 1},
    ),
    (
        {"model.hidden_size": 255},
        "model.hidden_size=255 must be even, so that each direction gets half; use 256",
        {"model.hidden_size": 256},
    ),
    (
        {"model.input_feeding": True, "model.attention": "none"},
        "model.input_feeding needs attention, got model.attention=none; use general",
        {"model.attention": "general"},
    ),
    (
        {"model.tie": "all", "vocab.joint": False},
        "model.tie=all shares the source and target tables and needs vocab.joint; use model.tie=softmax",
        {"model.tie": "softmax"},
    ),
    (
        {"model.bidirectional_size": 100},
        "model.bridge=copy needs both directions together to be model.hidden_size=512 wide, got 200; use model.bridge=dense, or "
        "model.bidirectional_size=0",
        {"model.bridge": "dense"},
    ),
    (
        {"model.bidirectional_size": 100},
        "model.bridge=copy needs both directions together to be model.hidden_size=512 wide, got 200; use model.bridge=dense, or "
        "model.bidirectional_size=0",
        {"model.bidirectional_size": 0},
    ),
    (
        {"model.residual_from": 1},
        "model.residual_from=1 adds embeddings of 256 to states of 512; use 2 or more, or equal sizes",
        {"model.residual_from": 2},
    ),
    (
        {"model.residual_from": 1},
        "model.residual_from=1 adds embeddings of 256 to states of 512; use 2 or more, or equal sizes",
        {"model.embedding_size": 512},
    ),
    (
        {"model.residual_from": 2, "model.bidirectional_size": 512, "model.bridge": "dense", "model.encoder_layers": 4},
        "model.residual_from=2 adds states of 1024 and 512; use at least 3",
        {"model.residual_from": 3},
    ),
    (
        {"model.attention": "dot", "model.bidirectional_size": 512, "model.bridge": "dense"},
        "model.attention=dot needs states of one size, got 512 and 1024; use general",
        {"model.attention": "general"},
    ),
    (
        {"optimizer.schedule": "inverse_sqrt"},
        "optimizer.schedule=inverse_sqrt needs optimizer.warmup_steps greater than 0, got 0",
        {"optimizer.warmup_steps": 1},
    ),
    (
        {"optimizer.schedule": "cosine", "optimizer.warmup_steps": 9, "optimizer.decay_steps": 9, "training.steps": 9},
        "optimizer.schedule=cosine needs optimizer.decay_steps greater than the warm-up, got 9",
        {"optimizer.decay_steps": 10},
    ),
    (
        {"optimizer.schedule": "halving"},
        "optimizer.schedule=halving needs optimizer.halve_every_steps greater than 0, got 0",
        {"optimizer.halve_every_steps": 1},
    ),
    (
        {"optimizer.schedule": "cosine", "optimizer.decay_steps": 99, "training.steps": 100},
        "training.steps=100 goes beyond optimizer.decay_steps=99, where the learning rate of schedule=cosine is zero and nothing more "
        "is learned; use fewer steps, or a new run with more decay_steps",
        {"training.steps": 99},
    ),
    (
        {"model.dropout": 0.997},
        "model.dropout=0.997 must be at most 255/256, because one random byte decides a feature",
        {"model.dropout": 0.996},
    ),
    ({"seed": 2**32}, "seed=4294967296 must be less than 2**32", {"seed": 2**32 - 1}),
    (
        {"model.attention": "none", "model.bridge": "zero"},
        "model.attention=none with model.bridge=zero shows the decoder nothing of the source; use model.bridge=copy",
        {"model.bridge": "copy"},
    ),
    (
        {"model.kernel": "cudnn", "model.compute": "bfloat16"},
        "model.kernel=cudnn computes in float32 only, got model.compute=bfloat16; use model.kernel=auto",
        {"model.kernel": "auto"},
    ),
    ({"data.target": "1", "data.format": "tsv"}, NO_LANGUAGE.format("'1'"), {"evaluation.tokenizer": "13a"}),
    ({"data.target": "chinese", "data.format": "jsonl"}, NO_LANGUAGE.format("'chinese'"), {"evaluation.tokenizer": "zh"}),
    ({"data.target": "1", "data.format": "tsv"}, NO_LANGUAGE.format("'1'"), {"evaluation.metrics": ("chrf",)}),
    ({"optimizer.weight_decay": 0.1}, "optimizer.weight_decay needs optimizer.name=adamw, got adam", {"optimizer.name": "adamw"}),
    (
        {"training.best_metric": "wer"},
        "training.best_metric=wer must be loss or one of evaluation.metrics: bleu, chrf, exact_match",
        {"evaluation.metrics": ("wer",)},
    ),
    (
        {"training.best_metric": "bleu", "evaluation.valid_pairs": 0},
        "training.best_metric=bleu needs translations; raise evaluation.valid_pairs from 0",
        {"evaluation.valid_pairs": 1},
    ),
]


@pytest.mark.parametrize(("fields", "message", "remedy"), RULES, ids=[next(iter(rule[0])) for rule in RULES])
def test_a_broken_rule_is_named_and_its_remedy_works(fields, message, remedy):
    broken = changed(GOOD, fields)
    with pytest.raises(UserError) as error:
        check(broken)
    assert str(error.value) == message
    assert check(changed(broken, remedy))


@st.composite
def small_models(draw):
    """Models of all kinds whose sizes do not agree by themselves."""
    small = st.integers(1, 4)
    return ModelConfig(
        embedding_size=draw(st.sampled_from([4, 6, 8])),
        hidden_size=draw(st.sampled_from([4, 6, 8])),
        encoder_layers=draw(small),
        decoder_layers=draw(small),
        bidirectional_layers=draw(st.integers(0, 4)),
        bidirectional_size=draw(st.sampled_from([0, 2, 3, 8])),
        residual_from=draw(st.integers(0, 4)),
        reverse_source=draw(st.booleans()),
        attention=draw(st.sampled_from(["none", "dot", "general", "additive"])),
        attention_size=draw(st.sampled_from([0, 5])),
        input_feeding=draw(st.booleans()),
        bridge=draw(st.sampled_from(["copy", "dense", "zero"])),
        tie=draw(st.sampled_from(["none", "softmax", "all"])),
        compute=draw(st.sampled_from(["float32", "bfloat16"])),
    )


@hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.filter_too_much])
@hypothesis.given(small_models())
def test_every_model_that_passes_can_be_built(config):
    try:
        check(dataclasses.replace(GOOD, model=config, vocab=VocabConfig(size=20)))
    except UserError:
        hypothesis.reject()
    params = jax.eval_shape(lambda: init_params(config, 20, 20, jax.random.key(0)))
    model = make_model(config, 20, 20)
    ids = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    readouts = jax.eval_shape(lambda params, ids: model.bind(params)(ids, ids), params, ids)
    assert readouts.shape == (2, 3, sizes(config).readout)
