import ast
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Literal

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from tiny import changed

from flax_s2s import config as module
from flax_s2s.config import FORMATS, Config, Metric, ModelConfig, UserError, differences, flatten, from_json, from_python, nearest, to_json
from flax_s2s.model.lstm import choose_means
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.model.sizes import sizes
from flax_s2s.presets import is_preset, load_preset
from flax_s2s.rules import check, find_misfits
from flax_s2s.training.state import count_parameters

PRESETS = Path(__file__).parents[1] / "configs"

SIZES = {
    "cmudict_g2p": 200,
    "debug": 400,
    "g2p": 100,
    "inflection": 100,
    "lemmas": 100,
    "ocr_correction": 100,
    "transliteration": 100,
    "quickstart": 500,
    "scan_length": 100,
    "scan_simple": 100,
}  # where vocab.size is what there is
PARAMETERS = {  # of each preset, with vocab.size tokens on both sides
    "cmudict_g2p": 5_796_040,
    "debug": 19_344,
    "fixed_vector_en_zh": 6_224_824,
    "gnmt_wmt16_en_de": 194_842_880,
    "g2p": 973_679,
    "inflection": 998_117,
    "iwslt15_en_vi": 37_445_248,
    "multi30k_en_de": 5_412_720,
    "lemmas": 981_733,
    "ocr_correction": 4_426_469,
    "quickstart": 739_572,
    "scan_length": 1_167_460,
    "scan_simple": 1_167_460,
    "squad_qa": 9_361_024,
    "sutskever2014_wmt14_en_fr": 160_064_000,
    "sutskever_reversed": 4_822_896,
    "synopsis": 5_926_720,
    "tatoeba_en_zh": 5_409_720,
    "transliteration": 973_679,
}

GOOD = Config()
METRICS = ", ".join(typing.get_args(Metric))


def values(hint):
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return st.lists(values(typing.get_args(hint)[0])).map(tuple)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6).map(float)
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
        (edited("vocab", kind="bqe"), "vocab.kind='bqe' is not one of unigram, bpe, char, word; did you mean 'bpe'?"),
        (edited("vocab", kind=["bpe"]), "vocab.kind=['bpe'] is not one of unigram, bpe, char, word"),
        (edited("evaluation", metrics="bleu"), "evaluation.metrics must be a list, got 'bleu'"),
        (
            edited("evaluation", metrics=["blue"]),
            f"evaluation.metrics='blue' is not one of {METRICS}; did you mean 'bleu'?",
        ),
        (edited("model", dropout=math.nan), "model.dropout=nan must be finite"),
        (edited("model", dropout=10**400), "model.dropout=inf must be finite"),
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
    with pytest.raises(UserError, match=r"there is no preset '.*quikstart.py'.*; presets: quickstart$"):
        load_preset(str(tmp_path / "quikstart.py"))
    with pytest.raises(UserError, match=r"there is no preset '.*nowhere/quickstart.py'; did you mean 'quickstart'"):
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
        ("def config(): return {}\n", r"^preset '.*mine.py': what config\(\) returns must be a Config, got dict$"),
        ("from flax_s2s.config import UserError\ndef config(): raise UserError('my rule')\n", "^preset '.*mine.py': my rule$"),
        ("import sys\ndef config(): sys.exit(0)\n", "does not run: SystemExit: 0"),  # else nothing is done, and it is a success
    ],
)
def test_errors_of_a_preset_are_the_users(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load_preset(preset(tmp_path, text))


def broken(name, value):
    """GOOD with a field that no annotation would let in: Python checks none, only this test run does."""
    config = dataclasses.replace(GOOD)
    room, _, field = name.rpartition(".")
    if room:
        object.__setattr__(config, room, dataclasses.replace(getattr(config, room)))
    object.__setattr__(getattr(config, room) if room else config, field, value)
    return config


class Text(str):
    """No str of a file's."""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.attention", "luong", "model.attention='luong' is not one of none, dot, general, additive"),
        ("model.attention", "genral", "model.attention='genral' is not one of none, dot, general, additive; did you mean 'general'?"),
        ("model.attention", None, "model.attention=None is not one of none, dot, general, additive"),
        ("model.attention", Text("luong"), "model.attention='luong' is not one of none, dot, general, additive"),
        ("data.folder", Text("here"), "data.folder='here' must be of type str, got Text"),
        ("optimizer.schedule", "linear", "optimizer.schedule='linear' is not one of constant, inverse_sqrt, cosine, halving"),
        ("model.hidden_size", "192", "model.hidden_size='192' must be of type int, got str"),
        ("model.hidden_size", 192.0, "model.hidden_size=192.0 must be of type int, got float"),
        ("model.hidden_size", np.int64(192), "model.hidden_size=np.int64(192) must be of type int, got int64"),
        ("model.dropout", np.float64(0.1), "model.dropout=np.float64(0.1) must be of type float, got float64"),
        ("model.hidden_size", np.ones((2, 2)), "model.hidden_size=array([[1., 1.], [1., 1.]]) must be of type int, got ndarray"),
        ("model.hidden_size", True, "model.hidden_size=True must be of type int, got bool"),
        ("vocab.joint", 1, "vocab.joint=1 must be of type bool, got int"),
        ("model.dropout", math.nan, "model.dropout=nan must be finite"),
        ("optimizer.learning_rate", math.inf, "optimizer.learning_rate=inf must be finite"),
        ("evaluation.metrics", ["bleu"], "evaluation.metrics=['bleu'] must be a tuple, such as ('one',) or ('one', 'two'), got list"),
        ("evaluation.metrics", "bleu", "evaluation.metrics='bleu' must be a tuple, such as ('one',) or ('one', 'two'), got str"),
        ("optimizer.frozen", ("encoder", 3), "optimizer.frozen=3 must be of type str, got int"),
        ("model.hiden_size", 3, "unknown field 'model.hiden_size'; did you mean 'hidden_size'?"),
        ("data", ModelConfig(), "data must be a DataConfig, got ModelConfig"),
        ("model", {"hidden_size": 3}, "model must be a ModelConfig, got dict"),
        ("model", None, "model must be a ModelConfig, got NoneType"),
        ("data.folder", "x" * 100 + "\n", None),
        ("data.folder", ["x" * 100], f"data.folder=['{'x' * 78}... must be of type str, got list"),
    ],
)
def test_what_python_made_is_read_as_strictly_as_a_file(name, value, message):
    if message is None:
        assert flatten(from_python(broken(name, value)))[name][0] == value
        return
    with pytest.raises(UserError) as error:
        from_python(broken(name, value))
    assert str(error.value) == message


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(changes())
def test_what_is_right_comes_back_from_the_strict_reader(changes):
    config = changed(GOOD, changes)
    assert from_python(config) == config


def test_a_choice_comes_back_as_python_s_string():
    assert type(from_python(broken("model.attention", Text("dot"))).model.attention) is str


def test_a_whole_number_of_a_preset_is_a_float_where_one_is_due():
    assert type(from_python(broken("model.dropout", 0)).model.dropout) is float


def test_an_error_of_a_field_names_the_preset(tmp_path):
    text = "from flax_s2s.config import Config\ndef config():\n    made = Config()\n    object.__setattr__(made, 'seed', '1')\n    return made\n"
    with pytest.raises(UserError, match=r"^preset '.*mine.py': seed='1' must be of type int, got str$"):
        load_preset(preset(tmp_path, text))


WRONG = {  # what a preset returns, and what is said of it
    'Config(model=ModelConfig(attention="luong"))': "model.attention='luong' is not one of none, dot, general, additive",
    'Config(evaluation=EvaluationConfig(metrics=("blue",)))': f"evaluation.metrics='blue' is not one of {METRICS}; did you mean 'bleu'?",
    'Config(optimizer=OptimizerConfig(schedule="linear"))': "optimizer.schedule='linear' is not one of constant, inverse_sqrt, cosine, halving",
    'Config(model=ModelConfig(hidden_size="192"))': "model.hidden_size='192' must be of type int, got str",
    "Config(model=ModelConfig(hidden=192))": "gives ModelConfig an unknown field 'hidden'; did you mean 'hidden_size'?",
    "dataclasses.replace(Config(), modell=ModelConfig())": "gives Config an unknown field 'modell'; did you mean 'model'?",
    "Config(data=ModelConfig())": "data must be a DataConfig, got ModelConfig",
    "type('Mine', (Config,), {})()": "what config() returns must be a Config, got Mine",
}


def test_python_itself_lets_all_of_it_pass(tmp_path):
    """Outside of this test run, in which every annotation is checked."""
    start = "import dataclasses\nfrom flax_s2s.config import *\nfrom flax_s2s.config import EvaluationConfig\ndef config(): return "
    files = [preset(tmp_path, f"{start}{made}\n", f"preset{number}") for number, made in enumerate(WRONG)]
    program = """
import sys
from flax_s2s.config import UserError
from flax_s2s.presets import load_preset
for name in sys.argv[1:]:
    try:
        print(load_preset(name))
    except UserError as error:
        print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(PRESETS.parent)}
    done = subprocess.run([sys.executable, "-c", program, *files], env=environment, capture_output=True, text=True, check=True)
    said = [line.removeprefix(f"preset {name!r}").lstrip(": ") for name, line in zip(files, done.stdout.splitlines(), strict=True)]
    assert said == list(WRONG.values())


def test_a_preset_has_a_name(tmp_path, monkeypatch):
    """Which is looked for in the working directory's configs/, then in those beside the package."""
    monkeypatch.chdir(tmp_path)
    assert load_preset("debug") == load_preset(str(PRESETS / "debug.py"))
    (tmp_path / "configs").mkdir()
    preset(tmp_path / "configs", "from flax_s2s.config import Config\ndef config(): return Config(seed=8)\n", "debug")
    preset(tmp_path / "configs", "", "mine")
    assert load_preset("debug").seed == 8
    (tmp_path / "notes").touch()
    assert all(is_preset(name) for name in ("mine", "quickstart", "configs/mine.py"))
    assert not any(is_preset(name) for name in ("notes", "configs/mine", "yours", ""))
    with pytest.raises(
        UserError, match=r"^there is no preset 'quikstart'; did you mean 'quickstart'\?; presets: cmudict_g2p, debug, .*mine"
    ):
        load_preset("quikstart")


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
    size = config.vocab.size or SIZES[file.stem]
    params = jax.eval_shape(lambda: init_params(config.model, size, size, jax.random.key(0)))
    assert count_parameters(params) == PARAMETERS.get(file.stem), "state the preset's parameter count in PARAMETERS"
    model = make_model(config.model, size, size)
    source, target = jax.ShapeDtypeStruct((2, 5), jnp.int32), jax.ShapeDtypeStruct((2, 7), jnp.int32)
    if config.model.hard:
        memory, _, readouts = jax.eval_shape(
            lambda params, source, target: model.bind(params).align(source, target), params, source, target
        )
        assert memory.values.shape == (2, 5, sizes(config.model).readout)
    else:
        readouts = jax.eval_shape(lambda params, source, target: model.bind(params)(source, target), params, source, target)
    assert (readouts.shape, readouts.dtype) == ((2, 7, sizes(config.model).readout), choose_means(config.model).compute)


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.py")), ids=lambda file: file.stem)
def test_every_preset_survives_its_json(file):
    config = load_preset(str(file))
    assert from_json(to_json(config)) == config


LAST_STEP = {  # of each preset with a cosine: as its scores were measured
    "cmudict_g2p": 16_000,
    "g2p": 3_000,
    "inflection": 3_000,
    "lemmas": 6_000,
    "ocr_correction": 20_000,
    "transliteration": 6_000,
    "fixed_vector_en_zh": 4_000,
    "multi30k_en_de": 13_000,
    "quickstart": 2_000,
    "scan_length": 6_000,
    "scan_simple": 6_000,
    "squad_qa": 30_000,
    "sutskever_reversed": 3_000,
    "synopsis": 8_000,
    "tatoeba_en_zh": 8_000,
}


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.py")), ids=lambda file: file.stem)
def test_a_preset_s_cosine_ends_with_its_steps_and_its_schedule_fits(file):
    config = check(load_preset(str(file)))
    assert (config.optimizer.decay_steps if config.optimizer.schedule == "cosine" else None) == LAST_STEP.get(file.stem)
    assert find_misfits(config) == []


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.py")), ids=lambda file: file.stem)
def test_a_preset_says_where_its_data_come_from_and_under_which_license(file):
    config, text = load_preset(str(file)), ast.get_docstring(ast.parse(file.read_text()))
    if config.data.format == "phrases":
        assert config.data.origin == ""
        return
    said = text[text.index("\nData: ") :].partition("\n\n")[0]
    assert "https://" in said and re.search(r"license|CC BY|free for research|non-commercial", said)
    assert re.search(r"\(.*(license|CC BY|BSD|free|research).*\)", config.data.origin) and len(config.data.origin) < 150
    if config.data.format == "tfds":
        assert config.data.dataset in text and 'file_format="array_record"' in text and "array_record" in config.data.origin
    elif FORMATS[config.data.format] in ("table", "objects"):
        assert all(f"{config.data.train}.{config.data.format}" in part for part in (said, config.data.origin))
    else:
        assert all(f"train.{side}" in part for side in (config.data.source, config.data.target) for part in (said, config.data.origin))
