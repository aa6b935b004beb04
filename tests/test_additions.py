"""Who adds a metric, a score of attention, a cell or a source format to its Literal in `config` is told here what else it needs.

Each value of the four goes through every place that must know it. `tests/README.md` has the recipes.
"""

import contextlib
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pytest
import reference
import tensorflow_datasets as tfds
from pyarrow import parquet
from tiny import DEBUG, changed

from flax_s2s import languages
from flax_s2s.answers.files import Files
from flax_s2s.answers.layout import find_sides
from flax_s2s.cli.verbs import main
from flax_s2s.config import (
    BOS,
    EOS,
    FORMATS,
    METRICS,
    Cell,
    Config,
    DataConfig,
    EvaluationConfig,
    Format,
    Metric,
    ModelConfig,
    Scoring,
    TrainingConfig,
    UserError,
    from_json,
    to_json,
)
from flax_s2s.data import corpus
from flax_s2s.evaluation import evaluate, metrics
from flax_s2s.evaluation.evaluate import Example, measure_examples
from flax_s2s.model import attention, cells
from flax_s2s.model.flops import count_flops
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.rules import check
from flax_s2s.runtime.runlog import gain, least_gain

ATTENTIONS = get_args(get_type_hints(ModelConfig)["attention"])


@cache
def help_of(option: str) -> str:
    """The choices that `train --help` names for an option."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        patch.setenv("COLUMNS", "100")  # one box beside another in wider ones
        main(["train", DEBUG, "--help"])
    found = re.search(rf"{re.escape(option)} [^a-z]*\{{([^}}]*)\}}", " ".join(printed.getvalue().replace("│", " ").split()))
    assert found, f"{option} is not in train --help with its choices"
    return found[1]


def goes_through_doors(option: str, field: str, value: Any, **others: Any) -> None:
    """In --help, and in `config.json` and back, and accepted by the rules."""
    name = value[0] if isinstance(value, tuple) else value
    assert name in re.split(r"[,\s]+", help_of(option)), f"{option} does not offer {name}"
    config = changed(Config(data=DataConfig(max_train_pairs=8, dataset="name")), {field: value, **others})
    assert from_json(to_json(config)) == config
    assert check(config)


# Metrics


def test_every_metric_has_its_traits() -> None:
    assert METRICS.keys() == {*get_args(Metric)}, "config.METRICS must say of each Metric what is the worst, what it needs, what is right"


@pytest.mark.parametrize("metric", get_args(Metric))
def test_a_metric(metric: Metric) -> None:
    traits, config = METRICS[metric], EvaluationConfig(metrics=(metric,), tokenizer="13a", language="en")

    def score(hypothesis: str, references: tuple[str, ...] = ("a green tree grows here",)) -> float:
        example = Example("source", references[:1], right=references)
        return measure_examples(metric, [example], [hypothesis], config, "en").score().score

    best, wrong = score("a green tree grows here"), score("UPLIK ZQ")
    assert best == pytest.approx(0 if traits.worst else 100), (
        f"evaluation.metrics.measure computes {metric}, or config.METRICS.worst is not so"
    )
    assert math.isinf(traits.worst) or wrong == traits.worst, f"config.METRICS.worst of {metric}"
    assert math.isfinite(traits.worst) or score("UPLIK ZQ " * 9) > 100, f"config.METRICS.worst of {metric}: it can always be worse"
    assert gain(metric, best) > gain(metric, wrong) >= least_gain(metric)
    other = score("another", ("a green tree grows here", "another"))
    assert (other == best) == traits.any_right, f"config.METRICS.any_right of {metric}"
    assert (metric in help_of_merging()) == traits.any_right, f"the docstring of EvaluationConfig.merge_sources names {metric}"


def help_of_merging() -> list[str]:
    """The words of the field that says which metrics take any right target."""
    text = Path(evaluate.__file__).parents[1].joinpath("config.py").read_text()
    said = re.search(r'merge_sources: bool = [^\n]*\n    """(.*?)"""', text, re.DOTALL)
    assert said
    return re.findall(r"\w+", said[1].partition("of which only")[2])


@pytest.mark.parametrize("metric", get_args(Metric))
def test_what_a_metric_needs_to_know(metric: Metric) -> None:
    needs = METRICS[metric].needs
    unknown = EvaluationConfig(metrics=(metric,))
    with_tokenizer = replace(unknown, tokenizer="13a")
    assert (languages.find_lack(metric, unknown, "tgt") == "") == (needs == "nothing")
    assert (languages.find_lack(metric, with_tokenizer, "tgt") == "") == (needs != "language")
    by_model = replace(unknown, tokenizer="flores200")  # which no metric but BLEU takes words apart by
    assert (languages.find_lack(metric, by_model, "tgt") == "") == (needs in ("nothing", "tokenizer"))


@pytest.mark.parametrize("metric", get_args(Metric))
def test_a_metric_stands_where_users_look(metric: Metric) -> None:
    assert get_args(get_type_hints(TrainingConfig)["best_metric"]) == ("loss", *get_args(Metric))
    for option, field, value in (
        ("--evaluation.metrics", "evaluation.metrics", (metric,)),
        ("--training.best-metric", "training.best_metric", metric),
    ):
        goes_through_doors(option, field, value, **{"evaluation.metrics": (metric,)})
    table = [re.findall(r"[\w+]+", line.split("|")[1]) for line in (metrics.__doc__ or "").splitlines() if line.startswith("| ")]
    assert any(metric in names for names in table), f"the docstring of evaluation/metrics.py has no row for {metric}"


# Scores of attention, and cells

SMALL = ModelConfig(embedding_size=3, hidden_size=4, attention_size=5, dropout=0.0, compute="float32")
SRC_IDS = np.array([[4, 5, 6, EOS], [7, EOS, 0, 0]], np.int32)
INPUTS = np.array([[BOS, 4, 5], [BOS, 6, 7]], np.int32)


def make_params(config: ModelConfig) -> Any:
    """All of them drawn, the biases too."""
    shapes, draws = jax.eval_shape(lambda: init_params(config, 8, 8, jax.random.key(0))), np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draws.uniform(-0.8, 0.8, leaf.shape), jnp.float32), shapes)


def assert_as_the_literal_model(config: ModelConfig) -> None:
    params = make_params(config)
    found = jax.jit(lambda params: make_model(config, 8, 8).bind(params)(jnp.asarray(SRC_IDS), jnp.asarray(INPUTS)))(params)
    want = reference.seq2seq(config, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), SRC_IDS, INPUTS)
    assert reference.error(found, want) <= 1e-5


# Multiplications of a query of 4 with a source position of 4 (dot) or 6: the score and the context, counted by hand.
ATTENDED = {"none": 0, "dot": 4 + 4, "general": 4 + 6, "additive": 5 + 6}
# What a step multiplies an input of 3 and a state of 2 with, in columns.
COLUMNS = {"lstm": 4 * 2, "layer_norm_lstm": 4 * 2, "gru": 3 * 2}


def test_every_score_and_cell_has_its_counterpart() -> None:
    assert ATTENDED.keys() == {*ATTENTIONS}, "tests/test_additions.py: ATTENDED counts each score by hand"
    assert COLUMNS.keys() == {*get_args(Cell)}, "tests/test_additions.py: COLUMNS counts each cell by hand"
    assert reference.STEPS.keys() == {*get_args(Cell)}, "tests/reference.py: STEPS has a literal step of each cell"


@pytest.mark.parametrize("score", ATTENTIONS)
def test_a_score_of_attention(score: Any) -> None:
    # All sizes differ, but a dot needs states of one size.
    config = replace(SMALL, attention=score, bidirectional_size=2 if score == "dot" else 3, bridge="dense")
    assert_as_the_literal_model(config)
    found = count_flops(config, jax.eval_shape(lambda: init_params(config, 8, 8, jax.random.key(0))))
    assert found.attended == 2.0 * ATTENDED[score], f"model.attention.score_products of {score}"
    goes_through_doors("--model.attention", "model.attention", score)
    assert ("none", *get_args(Scoring)) == ATTENTIONS
    assert score == "none" or f"{score}: `" in (attention.Attention.__doc__ or ""), (
        f"the docstring of Attention gives no equation of {score}"
    )


@pytest.mark.parametrize("cell", get_args(Cell))
def test_a_cell(cell: Cell) -> None:
    config = replace(SMALL, cell=cell, bridge="dense", zoneout=0.25)
    assert_as_the_literal_model(config)
    found = count_flops(config, jax.eval_shape(lambda: init_params(config, 8, 8, jax.random.key(0))))
    assert found.source_token == 2.0 * (2 * (3 + 2) * COLUMNS[cell] + 4 * 4)  # two directions, and the keys
    goes_through_doors("--model.cell", "model.cell", cell)
    assert re.search(rf"^    {cell} ", cells.__doc__ or "", re.MULTILINE), f"the docstring of model/cells.py gives no equations of {cell}"


# Source formats


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    """The two pairs, as a TFDS dataset."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        text = tfds.features.Text
        features = tfds.features.FeaturesDict({"en": text(), "de": text()})
        return tfds.core.DatasetInfo(builder=self, description="test", features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[Any]:
        for number, (en, de) in enumerate(PAIRS):
            yield number, {"en": en, "de": de}


PAIRS = [("a dog", "ein Hund"), ("a cat", "eine Katze")]
OBJECTS = [dict(zip(("en", "de"), pair, strict=True)) for pair in PAIRS]
SIDES = {"aligned": ("en", "de"), "table": ("0", "1"), "objects": ("en", "de"), "dataset": ("en", "de"), "generated": ("en", "de")}


def lines(rows: Any) -> str:
    return "".join(f"{row}\n" for row in rows)


def as_parquet(records: list[dict[str, str]]) -> bytes:
    with io.BytesIO() as out:
        parquet.write_table(pyarrow.Table.from_pylist(records), out)
        return out.getvalue()


UNITS = ("".join(f'<tuv xml:lang="{side}"><seg>{text}</seg></tuv>' for side, text in record.items()) for record in OBJECTS)
# The pairs as files of each format.
FILES: dict[str, dict[str, str | bytes]] = {
    "text": {"train.en": lines(en for en, _ in PAIRS), "train.de": lines(de for _, de in PAIRS)},
    "tsv": {"train.tsv": lines(map("\t".join, PAIRS))},
    "csv": {"train.csv": lines(map(",".join, PAIRS))},
    "jsonl": {"train.jsonl": lines(map(json.dumps, OBJECTS))},
    "json": {"train.json": json.dumps(OBJECTS)},
    "conllu": {"train.conllu": lines(["# global.columns = ID EN DE", *("\t".join(("1", *pair)) for pair in PAIRS)])},
    "tmx": {"train.tmx": f"<tmx><body>{''.join(f'<tu>{unit}</tu>' for unit in UNITS)}</body></tmx>"},
    "parquet": {"train.parquet": as_parquet(OBJECTS)},
    "tfds": {},  # see TinyPairs
    "phrases": {},
}


def test_every_format_is_of_a_kind() -> None:
    assert FORMATS.keys() == {*get_args(Format)}, "config.FORMATS must say of each Format what kind of corpus it is"
    assert FILES.keys() == {*get_args(Format)}, "tests/test_additions.py: FILES has the pairs as files of each format"


@pytest.mark.parametrize("form", get_args(Format))
def test_a_format(form: Format, tmp_path: Path) -> None:
    kind = FORMATS[form]
    source, target = SIDES[kind]
    data = DataConfig(format=form, folder=str(tmp_path), source=source, target=target, dataset="tiny_pairs", max_train_pairs=2)
    for name, content in FILES[form].items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if kind == "dataset":
        tfds.builder("tiny_pairs", data_dir=tmp_path, file_format="array_record").download_and_prepare()
    reader = corpus.Reader(data, "train", 1)
    read = list(reader)
    assert len(read) == 2 and ([pair[:2] for pair in read] == PAIRS or kind == "generated"), f"data.corpus.Reader of {form}"
    assert (reader.fingerprint() is None) == (kind == "generated")
    goes_through_doors("--data.format", "data.format", form, **{"data.source": "0", "data.target": "1", "evaluation.language": "de"})
    assert re.search(rf"^    {form} ", corpus.__doc__ or "", re.MULTILINE), f"the docstring of data/corpus.py does not show {form}"
    table = changed(Config(), {"data": replace(data, header=True), "evaluation.language": "de"})
    with contextlib.nullcontext() if kind == "table" else pytest.raises(UserError, match=r"data\.header is of tables"):
        check(table)
    sides = find_sides(data, Files())
    assert sides.table == (kind == "table")
    assert kind != "objects" or sides.fields == (source, target), (
        f"answers.layout.find_sides: lines of {form} have the fields of the corpus"
    )
