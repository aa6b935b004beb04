import ast
import dataclasses
import json
import typing
from pathlib import Path
from typing import Literal

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies as st
from tiny import changed

from flax_s2s import config as module
from flax_s2s.config import (
    Config,
    UserError,
    differences,
    flatten,
    from_json,
    load_preset,
    nearest,
    to_json,
)
from flax_s2s.model.lstm import choose_means
from flax_s2s.model.seq2seq import init_params, make_model, sizes
from flax_s2s.rules import check
from flax_s2s.training.state import count_parameters

PRESETS = Path(__file__).parents[1] / "configs"

PARAMETERS = {  # of each preset, with vocab.size tokens on both sides
    "cmudict_g2p": 5_796_040,
    "debug": 19_344,
    "fixed_vector_en_zh": 6_224_824,
    "gnmt_wmt16_en_de": 194_842_880,
    "iwslt15_en_vi": 37_445_248,
    "multi30k_en_de": 5_412_720,
    "quickstart": 739_572,
    "scan_length": 1_167_460,
    "scan_simple": 1_167_460,
    "squad_qa": 9_361_024,
    "sutskever2014_wmt14_en_fr": 160_064_000,
    "sutskever_reversed": 4_822_896,
    "synopsis": 5_926_720,
    "tatoeba_en_zh": 5_409_720,
}

GOOD = Config()


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
        (
            edited("evaluation", metrics=["blue"]),
            "evaluation.metrics='blue' is not one of bleu, chrf, exact_match, wer, ter, per, ser, rouge1, rouge2, rougeL",
        ),
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
