"""`evaluate`, `score`, `inspect` and `bench`: what they print is true and has the documented form."""

import json
import math
import shutil
from pathlib import Path

import pytest
from tiny import DEBUG, REPOSITORY, TINY

from flax_s2s.cli import main
from flax_s2s.decoding.translate import Translator


def test_evaluate_prints_scores_with_signatures_and_writes_json(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained_run), "--split", "test", "--beam-size", "3", "--samples", "2", "--json", str(tmp_path / "j")]) == 0
    printed, result = capsys.readouterr(), json.loads((tmp_path / "j").read_text())
    assert (result["split"], result["pairs"], result["beam_size"]) == ("test", 1000, 3)
    assert result["metrics"].keys() == {"exact_match", "chrf", "wer"}
    for value in result["metrics"].values():
        assert f"{value['score']:.2f}" in printed.out and "|" in value["signature"]
    assert len(result["families"]) == 8 and all(family in printed.out for family in result["families"])
    assert printed.err.count("reference") == 2


def test_a_run_directory_decodes_wherever_it_is_moved(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "moved")
    for folder, name in ((trained_run, "a"), (tmp_path / "moved", "b")):
        assert main(["evaluate", str(folder), "--split", "valid", "--json", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_score_gives_a_log_probability_a_line_and_the_perplexity(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").write_text("3 hours\nMay 5, 2023\n")
    (tmp_path / "t").write_text("3小时\n2023年5月5日\n")
    assert main(["score", str(trained_run), "--source", str(tmp_path / "s"), "--target", str(tmp_path / "t")]) == 0
    printed = capsys.readouterr()
    logps = [float(line) for line in printed.out.splitlines()]
    assert len(logps) == 2 and all(logp < 0 for logp in logps)
    tokens = 3 + 1 + 9 + 1 + 2  # characters, end marks, and SentencePiece's leading space of each line
    assert f"perplexity {math.exp(-sum(logps) / tokens):.3f}" in printed.err


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [("a\nb\n", "a\n", "has 2 lines and"), ("", "", "is empty"), (None, "a\n", "there is no file"), ("\udcff", "a\n", "is not UTF-8")],
)
def test_score_refuses_what_is_not_pairs(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str | None, target: str, message: str
) -> None:
    if source is not None:
        (tmp_path / "s").write_bytes(source.encode(errors="surrogateescape"))
    (tmp_path / "t").write_text(target)
    assert main(["score", str(trained_run), "--source", str(tmp_path / "s"), "--target", str(tmp_path / "t")]) == 2
    assert message in capsys.readouterr().err


def test_inspect_counts_parameters_shapes_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", DEBUG, *TINY]) == 0
    printed = capsys.readouterr().out
    assert "decoder.layers.0.kernel_in     16x128  2,048" in printed
    assert "per target token" in printed and "padding" in printed and "tokens/s" in printed
    assert printed.count("MiB (") == 2


def test_inspect_reads_a_run_directory_and_does_without_a_corpus(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(trained_run), "--no-memory"]) == 0
    assert "not asked for" in capsys.readouterr().out
    assert main(["inspect", str(REPOSITORY / "configs/luong2015_iwslt15_en_vi.py"), "--data.folder", "nowhere"]) == 0
    printed = capsys.readouterr().out
    assert "without its corpus" in printed and "encoder.layers.1.0.kernel_rec" in printed


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
