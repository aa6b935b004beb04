"""`evaluate`, `inspect` and `bench`: what they print is true and has the documented form."""

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from etils import epath
from tiny import DEBUG, REPOSITORY, TINY

from flax_s2s.cli.verbs import main
from flax_s2s.commands.evaluate import read_targets
from flax_s2s.config import DataConfig
from flax_s2s.data import corpus
from flax_s2s.data.corpus import Pair, load
from flax_s2s.decoding.translate import Translator
from flax_s2s.runs.rundir import read_config, write_config

HELD_OUT = 100  # phrases of a split here, a tenth of the corpus': all that is said of them is computed from all of them


@pytest.fixture(autouse=True)
def _few_phrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PHRASES_HELD_OUT", HELD_OUT)


def test_evaluate_prints_scores_with_signatures_and_writes_json(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained_run), "--split", "test", "--beam-size", "3", "--samples", "2", "--json", str(tmp_path / "j")]) == 0
    printed, result = capsys.readouterr(), json.loads((tmp_path / "j").read_text())
    assert (result["split"], result["pairs"], result["beam_size"]) == ("test", HELD_OUT, 3)
    assert result["metrics"].keys() == {"exact_match", "chrf", "wer"}
    for value in result["metrics"].values():
        assert f"{value['score']:.2f}" in printed.out and "|" in value["signature"]
    assert len(result["families"]) == 8 and all(family in printed.out for family in result["families"])
    assert printed.err.count("reference") == 2
    assert 0 < result["cut_translations"] <= HELD_OUT and result["cut_sources"] == 0 and "sources were cut" not in printed.out
    said = f"{result['cut_translations']:,} of 100 translations were cut at their length limit, which lowers scores: "
    assert said + "decoding.max_length_ratio=1 * source tokens + decoding.max_length_extra=10; raise one of them" in printed.out
    for line in map(json.loads, (trained_run / "metrics.jsonl").read_text().splitlines()):
        assert ("cut_translations" in line and "cut_sources" in line) == (line["split"] == "valid")
    assert " of 16 translations were cut at their length limit, " in (trained_run / "logs/process-0.log").read_text()


def test_evaluate_takes_further_references(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_text("\n" * HELD_OUT)
    (tmp_path / "other").write_text("something else\n" * HELD_OUT)
    (tmp_path / "short").write_text("a\n")
    command = ["evaluate", str(trained_run), "--beam-size", "1", "--json", str(tmp_path / "j"), "--resamples"]
    found = []
    for options in (["100"], ["100", "--references", str(tmp_path / "empty")], ["0", "--references", str(tmp_path / "other")]):
        assert main([*command, *options]) == 0
        found.append(json.loads((tmp_path / "j").read_text())["metrics"])
    assert found[0] == found[1] and "|bs:100|seed:12345|" in found[0]["wer"]["signature"]
    assert all(value["signature"].startswith("nrefs:2|") and value["ci"] == 0 for value in found[2].values())
    assert main([*command, "0", "--metrics", "per", "ser", "ter", "--merge-sources"]) == 0
    result = json.loads((tmp_path / "j").read_text())
    assert list(result["metrics"]) == ["per", "ser", "ter"] and result["sources"] <= result["pairs"] == HELD_OUT
    source = next(iter(load(read_config(epath.Path(trained_run)).data, "test", 1).pairs)).source
    tsv = tmp_path / "some.tsv"
    tsv.write_text(f"nowhere\tx\n{source}\tx y\n{source}\tz\n")
    assert main([*command, "0", "--references", str(tsv)]) == 0
    found = json.loads((tmp_path / "j").read_text())["metrics"]
    assert found["wer"]["signature"].startswith("nrefs:var|")
    capsys.readouterr()
    for content, message in (
        ("a b\n", "some.tsv line 1 has 1 columns"),
        ("a\tb\nc\td\te\n", "some.tsv line 2 has 3 columns"),
        ("nowhere\tx\n", "some.tsv has no source of the split"),
    ):
        tsv.write_text(content)
        assert main([*command, "0", "--references", str(tsv)]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "10", "--references", str(tmp_path / "short")]) == 2
    assert "short has 1 lines; a file of references has a line for each of the 100 pairs" in capsys.readouterr().err
    assert main([*command, "-1"]) == 2
    assert "--resamples -1 must be 0" in capsys.readouterr().err


def test_a_file_of_two_columns_has_right_targets_of_a_source_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "alt.tsv").write_text("b\tB 1\nelse\tE\na\tA 1\nb\tB 2\n")
    found = read_targets(str(tmp_path / "alt.tsv"), [Pair("a", "x"), Pair("c", "x"), Pair("b", "x"), Pair("a", "y")], DataConfig())
    assert found == [["A 1"], [], ["B 1", "B 2"], ["A 1"]]


def test_references_stand_where_the_run_has_its_sides(tmp_path: Path) -> None:
    (tmp_path / "alt.tsv").write_text("n\tto\tof\n1\tA 1\ta\n\n2\tA 2\ta\n")
    (tmp_path / "alt.csv").write_text('"A, 1",a\n')
    by_name, by_number = ({"source": "of", "target": "to", "header": True}, {"source": "1", "target": "0"})
    for name, fields, wanted in (("alt.tsv", by_name, ["A 1", "A 2"]), ("alt.csv", by_number, ["A, 1"])):
        assert read_targets(str(tmp_path / name), [Pair("a", "x")], DataConfig(format="tsv", **fields)) == [wanted]


def test_evaluate_calibrates_and_draws(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(trained_run), "--beam-size", "1", "--json", str(tmp_path / "j"), "--calibration"]
    assert main([*command, str(tmp_path / "picture.png")]) == 0
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "j").read_text())["calibration"]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert found["before"]["temperature"] == 1 and found["after"]["temperature"] == found["temperature"]
    assert len(found["after"]["bins"]) == 15 and found["after"]["nll"] <= found["before"]["nll"] + 0.01
    for curve in (found["before"], found["after"]):
        assert sum(one["tokens"] for one in curve["bins"]) == curve["tokens"] and f"{curve['ece']:.4f}" in printed
    groups = found["sentences"]["groups"]
    assert len(groups) == 10 and groups[0]["quality"].keys() == {"chrf", "exact_match"}
    assert f"{found['sentences']['spearman_chrf']:.3f} (Spearman)" in printed
    assert main([*command, str(tmp_path / "picture.txt")]) == 2
    assert "must be a picture; end its name with .png, .pdf or .svg" in capsys.readouterr().err


def test_compare_says_where_two_runs_differ(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run at another checkpoint is not the same system; at the same one it is. What was found is there though nobody reads it."""
    shutil.copytree(trained_run, tmp_path / "early")
    shutil.rmtree(tmp_path / "early/checkpoints/4")
    command = ["compare", str(trained_run), "--beam-size", "1", "--checkpoint", "last", "--resamples", "50", "--json", str(tmp_path / "j")]
    assert main([*command[:2], str(tmp_path / "early"), *command[2:]]) == 0
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "j").read_text())
    assert found["checkpoints"] == [4, 2] and found["pairs"] == HELD_OUT
    for name, one in found["metrics"].items():
        assert f"{one['first']:.2f} ± {one['first_ci']:.2f}" in printed and 0 < one["p_value"] <= 1, name
    assert sum(one["sentences"] for one in found["lengths"]) == HELD_OUT and found["frequencies"]
    assert all(one["second_chrf"] > one["first_chrf"] and one["source"] in printed for one in found["second_better"])
    assert all(one["second_chrf"] < one["first_chrf"] and one["source"] in printed for one in found["first_better"])
    assert found["second_better"] or found["first_better"]
    assert len(found["cut_translations"]) == len(found["cut_sources"]) == 2 and found["words"] == {"source": "13a", "target": "zh"}
    assert f"A: {found['cut_translations'][0]:,} of 100 translations were cut" in printed and "source words (13a)" in printed
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(ValueError, match="no reader"):
        main([*command[:2], str(trained_run), *command[2:]])
    same = json.loads((tmp_path / "j").read_text())
    assert all(one["difference"] == 0 and one["p_value"] == 1 for one in same["metrics"].values())
    assert same["second_better"] == same["first_better"] == []


def test_runs_are_not_evaluated_as_one_on_pairs_that_some_were_trained_on(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where validation is held out, each seed holds out other pairs."""
    folders = [str(tmp_path / str(seed)) for seed in (1, 2)]
    for seed, folder in enumerate(folders, 1):
        shutil.copytree(trained_run, folder)
        config = read_config(epath.Path(folder))
        held_out = dataclasses.replace(config.data, valid="", held_out_pairs=20)
        write_config(epath.Path(folder), dataclasses.replace(config, seed=seed, data=held_out))
    assert main(["evaluate", *folders, "--split", "valid"]) == 2
    assert "runs with the seeds 1, 2 hold out other pairs for validation" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", *folders, "--split", "test", "--resamples", "0"]) == 0


def test_compare_refuses_runs_that_translate_something_else(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, field, value in (("other", "target", "de"), ("seed", "seed", 7)):
        shutil.copytree(trained_run, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (config["data"] if field in config["data"] else config)[field] = value
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    for others, message in (
        ([], "compare needs two run directories, got 1"),
        ([tmp_path / "other"], "has data.target='zh' and"),
        ([tmp_path / "seed"], "runs are compared on one corpus"),
        ([trained_run, "--resamples", "0"], "--resamples 0 must be at least 1"),
    ):
        assert main(["compare", str(trained_run), *map(str, others)]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


class Gone(io.StringIO):
    """A device that takes nothing."""

    def write(self, _: str) -> int:
        raise ValueError("no reader")


def test_a_run_directory_decodes_wherever_it_is_moved(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was computed is there though nobody reads it."""
    shutil.copytree(trained_run, tmp_path / "moved")
    command = ["--split", "valid", "--json"]
    assert main(["evaluate", str(trained_run), *command, str(tmp_path / "a")]) == 0
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(ValueError, match="no reader"):
        main(["evaluate", str(tmp_path / "moved"), *command, str(tmp_path / "b")])
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may have been trained when `tgt` passed for a language: it decodes, and is measured where its language is said."""
    shutil.copytree(trained_run, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((tmp_path / "old/config.json").read_text())
    config["data"]["target"] = "tgt"
    config["evaluation"] = {"metrics": ["bleu", "exact_match"], "tokenizer": "auto"}  # as it was written then
    config["training"]["best_metric"] = "bleu"
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    old = str(tmp_path / "old")
    for command, message in (
        (["evaluate", old], "bleu goes by the target's language, which data.target='tgt' does not tell; give it by --language"),
        (["evaluate", old, "--metrics", "rouge1", "--tokenizer", "13a"], "rouge1 goes by the target's language"),
        (["evaluate", old, "--language", "cn"], "evaluation.language='cn' is no language"),
        (["evaluate", old, "--tokenizer", "flores200"], "evaluation.tokenizer=flores200 needs a model"),
        (["compare", old, old], "bleu goes by the target's language"),
        (["compare", old, old, "--metrics", "ter"], "ter goes by the target's language"),
        (["decode", old, "--language", "cn"], "evaluation.language='cn' is no language"),
        (["decode", old, "--tokenizer", "flores200"], "evaluation.tokenizer=flores200 needs a model"),
        (["train", DEBUG, "--run-dir", str(tmp_path / "new"), "--language", "cn"], "evaluation.language='cn' is no language"),
        (
            ["train", DEBUG, "--run-dir", str(tmp_path / "new"), "--evaluation.metrics", "bleu", "exact_match", "--tokenizer=flores200"],
            "evaluation.tokenizer=flores200 needs a model",
        ),
    ):
        monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
        assert main(command) == 2, command
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()
    assert main(["inspect", old, "--no-memory"]) == 0
    for options in (["--language", "zh"], ["--tokenizer", "zh"], ["--metrics", "exact_match"]):  # the corpus is next
        assert main(["evaluate", old, *options]) == 2
        assert "locale 'tgt' is not in CLDR" in capsys.readouterr().err


def test_inspect_counts_parameters_shapes_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", DEBUG, *TINY]) == 0
    printed = capsys.readouterr().out
    assert "decoder/layers/0/kernel_in     16x128  2,048" in printed
    assert "per target token" in printed and "padding" in printed and "tokens/s" in printed
    assert printed.count("MiB (") == 2
    assert "compiling 2 shapes and the update takes about " in printed and "as many as data.buckets=2 says" in printed
    assert main(["inspect", DEBUG, *TINY, "--no-memory", "--data.buckets=0"]) == 0
    assert "one more would save less work in training.steps=4 than" in capsys.readouterr().out


def test_inspect_reads_a_run_directory_and_does_without_a_corpus(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(trained_run), "--no-memory"]) == 0
    assert "not asked for" in capsys.readouterr().out
    assert main(["inspect", str(REPOSITORY / "configs/iwslt15_en_vi.py"), "--data.folder", "nowhere", "--training.steps=300"]) == 0
    printed = capsys.readouterr().out
    assert "warning: optimizer.halve_from_step=9000 is not reached in training.steps=300" in printed
    assert "without its corpus" in printed and "decoder/layers/1/kernel_rec" in printed
    assert main(["inspect", "cmudict_g2p", "--data.folder", "nowhere"]) == 2  # whose size is that of its corpus
    assert "error: data.train='train': nowhere cannot be read" in capsys.readouterr().err


def test_bench_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", DEBUG, *TINY, "--rounds", "1", "--data.buckets", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["train_target_tokens_per_sec"] > 0 and result["decode_sentences_per_sec"] > 0
    assert result["train_source_tokens_per_sec"] > 0 and result["train_microsecs_per_time_step"] > 0
    assert result["compile_secs"] > 0 and result["peak_memory_bytes"] > 2**20
    assert result["model_flop_utilization"] > 0 and 0 <= result["padding"] < 1
    assert result["means"] == "scan, float32"


def test_bench_decodes_with_the_same_parameters_in_every_round(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it trains meanwhile ends its sentences earlier and earlier."""
    decoded, translate = [], Translator.__call__

    def counted(self, params, lines):
        found = translate(self, params, lines)
        decoded.append(sum(translation.tokens for translation in found))
        return found

    monkeypatch.setattr(Translator, "__call__", counted)
    assert main(["bench", DEBUG, *TINY, "--rounds", "3", "--data.buckets", "1", "--optimizer.learning-rate", "0.1"]) == 0
    assert len(decoded) == 4 and len(set(decoded)) == 1 and json.loads(capsys.readouterr().out)["rounds"] == 3


def test_bench_needs_a_round_and_a_kernel_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", DEBUG, *TINY, "--rounds", "0"]) == 2
    assert "--rounds=0 must be at least 1" in capsys.readouterr().err
    assert main(["bench", DEBUG, *TINY, "--model.kernel", "cudnn"]) == 2
    assert "model.kernel=cudnn needs an NVIDIA GPU, got cpu; use model.kernel=auto" in capsys.readouterr().err
