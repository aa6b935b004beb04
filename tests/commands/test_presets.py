"""The presets whose data are not at hand, on a small corpus of the same form: they train, and are evaluated, to their scores."""

import importlib.resources
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
import tensorflow_datasets.question_answering
import tensorflow_datasets.translate  # registers its datasets, as the one above does
from tiny import REPOSITORY

from flax_s2s.cli.verbs import main
from flax_s2s.presets import load_preset

SMALL = """--data.max-source-tokens=100 --data.max-target-tokens=100 --data.batch-tokens=800 --data.buckets=1 --model.embedding-size=8 --model.hidden-size=8 --training.steps=2
--training.log-every-steps=1 --training.devices=1 --evaluation.valid-pairs=0 --training.best-metric=loss --decoding.beam-size=2""".split()
WORDS = "one two three four five six seven eight nine ten".split()


def sentences(split: str, count: int) -> Iterator[str]:
    drawn = random.Random(split)
    for _ in range(count):
        yield " ".join(drawn.choices(WORDS, k=drawn.randint(3, 9)))


def as_text(folder: Path, source: str, target: str, splits: dict[str, int]) -> None:
    for split, count in splits.items():
        lines = list(sentences(split, count))
        (folder / f"{split}.{source}").write_text("".join(line + "\n" for line in lines))
        (folder / f"{split}.{target}").write_text("".join(line.upper() + "\n" for line in lines))


def as_dataset(folder: Path, name: str, make: Callable[[str], dict[str, Any]], splits: dict[str, int], monkeypatch: Any) -> None:
    """Prepares a dataset with TFDS' own declaration of its features; only the examples are ours."""

    def split_generators(self: Any, manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: enumerate(map(make, sentences(split, count))) for split, count in splits.items()}

    monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)  # TFDS wants the backport where it prepares
    monkeypatch.setattr(tfds.builder_cls(name.partition("/")[0]), "_split_generators", split_generators)
    tfds.builder(name, data_dir=folder, file_format="array_record").download_and_prepare()


def question(line: str) -> dict[str, Any]:
    first, last = line.split()[0], line.split()[-1]
    answers = {"text": [last, f"the {last}"], "answer_start": [0, 0]}
    return {"id": line, "title": "numbers", "context": line, "question": f"What comes after {first}?", "answers": answers}


def translation(target: str) -> Callable[[str], dict[str, str]]:
    return lambda line: {"en": line, target: line.upper()}


def write_corpus(preset: str, folder: Path, monkeypatch: Any) -> None:
    """The splits that a preset names, as their publishers name them."""
    if preset == "iwslt15_en_vi":
        as_text(folder, "en", "vi", {"train": 60, "tst2012": 8, "tst2013": 8})
    elif preset == "squad_qa":
        as_dataset(folder, "squad/v1.1", question, {"train": 60, "validation": 8}, monkeypatch)
    elif preset == "gnmt_wmt16_en_de":
        as_dataset(folder, "wmt16_translate/de-en", translation("de"), {"train": 60, "validation": 8, "test": 8}, monkeypatch)
    elif preset == "transliteration":
        for split, count in {"train": 60, "valid": 8, "test": 8}.items():
            (folder / f"{split}.tsv").write_text("".join(f"{line}\t{line.upper()}\n" for line in sentences(split, count)))
    elif preset == "lemmas":
        for split, count in {"train": 60, "valid": 8, "test": 8}.items():
            words = (
                f"1\t{line[:7]}\t{line[:7].upper()}\tNOUN\t_\tCase=Nom|Number=Sing\t0\troot\t_\t_\n\n" for line in sentences(split, count)
            )
            (folder / f"{split}.conllu").write_text("".join(words))
    elif preset == "ocr_correction":
        as_text(folder, "ocr", "gs", {"train": 60, "valid": 8, "test": 8})
    elif preset == "sutskever2014_wmt14_en_fr":
        as_dataset(folder, "wmt14_translate/fr-en", translation("fr"), {"train": 60, "validation": 8, "test": 8}, monkeypatch)


@pytest.mark.parametrize(
    "preset", ["squad_qa", "iwslt15_en_vi", "gnmt_wmt16_en_de", "sutskever2014_wmt14_en_fr", "transliteration", "ocr_correction", "lemmas"]
)
def test_a_preset_trains_and_is_evaluated_on_data_of_its_form(preset: str, tmp_path: Path, monkeypatch: Any) -> None:
    write_corpus(preset, tmp_path, monkeypatch)
    path, run = str(REPOSITORY / f"configs/{preset}.py"), str(tmp_path / "run")
    vocab = load_preset(path).vocab
    size = "--vocab.size=0" if vocab.kind == "char" else "--vocab.size=60" if vocab.joint else "--vocab.size=28"
    assert main(["train", path, "--run-dir", run, "--data.folder", str(tmp_path), size, *SMALL]) == 0
    split = "test" if load_preset(path).data.test else "valid"
    assert main(["evaluate", run, "--split", split, "--json", str(tmp_path / "scores.json")]) == 0
    written = json.loads((tmp_path / "scores.json").read_text())
    assert set(written["metrics"]) == set(load_preset(path).evaluation.metrics)
    assert (written["sources"], written["pairs"]) == (8, 16 if preset == "squad_qa" else 8)  # two answers to each question
