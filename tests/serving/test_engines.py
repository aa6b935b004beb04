"""What else is served: an exported folder, several runs, models with features, sampling; each as `decode` has it, or refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from served import OPTIONS, own, serving

from flax_s2s.cli.verbs import main
from flax_s2s.commands import serve
from flax_s2s.commands.wiring import keep_calibration, read_calibration
from flax_s2s.decoding.requests import Request
from flax_s2s.runs import rundir
from flax_s2s.runs.rundir import make_path
from flax_s2s.serving.wishes import Wish

LINES = ["May 5, 2023", "", "$1,234.50", "\U0001f600 2021 March"]


def decoded(runs: list[Path], tmp_path: Path, asked: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
    """What `decode --form jsonl` writes."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in asked))
    how = ["--input", str(source), "--output", str(target), "--form", "jsonl", "--max-source-tokens", "24", "--rows", "16"]
    assert main(["decode", *map(str, runs), *how, *options]) == 0
    return [json.loads(line) for line in target.read_text().splitlines()]


def without_spans(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.items() if name != "spans"} for one in found]


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "folder"
    assert main(["export", str(trained_run), "--output", str(target), "--beam-size", "3", "--max-source-tokens", "24"]) == 0
    return target


def test_an_exported_folder_answers_as_its_run_does(folder: Path, trained_run: Path, tmp_path: Path) -> None:
    wanted = decoded([trained_run], tmp_path, [{"source": line} for line in LINES], "--beam-size", "3", "--n-best", "2")
    for client in serving([str(folder)]):
        found = own(client, source=LINES, n_best=2, attention=True)
        assert [one["text"] for one in found] == [one["text"] for one in wanted]
        assert [[other["text"] for other in one["others"]] for one in found] == [[o["text"] for o in one["others"]] for one in wanted]
        for one in found:
            assert "".join(one["text"][begin:end] for begin, end in one["spans"]) == one["text"]
            assert "".join(one["tokens"]) == one["text"]
            if one["text"]:
                assert "".join(one["source_tokens"]) == one["source"]
                assert len(one["attention"][0]) == len(one["source_spans"])
        assert [one["logp"] for one in found] == pytest.approx([one["logp"] for one in wanted], abs=1e-3)
        info = client.get("/v1/info").json()["runs"][0]
        assert info["holds"] == ["n_best", "attention"] and not info["calibrated"]
        for wish in ({"prefix": "2"}, {"include": ["2"]}, {"alternatives": 2}, {"beam": True}, {"seed": 3}):
            response = client.post("/v1/translate", json={"source": "May", **wish})
            assert response.status_code == 400
            assert "more than an exported folder can do" in response.json()["error"]
        assert client.post("/v1/translate", json={"source": "1" * 99}).status_code == 413
        assert client.post("/translate", json={"q": LINES[0], "source": "auto"}).json()["translatedText"] == wanted[0]["text"]


def test_several_runs_are_one_model_or_stand_side_by_side(trained_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(trained_run)
    runs = [str(trained_run), str(other)]
    wanted = decoded([trained_run, other], tmp_path, [{"source": line} for line in LINES])
    for client in serving(runs):
        assert without_spans(own(client, source=LINES)) == [one | {"others": []} for one in wanted]
        assert len(client.get("/v1/info").json()["runs"]) == 1
    for client in serving(runs, OPTIONS._replace(side_by_side=True)):
        assert [one["name"] for one in client.get("/v1/info").json()["runs"]] == ["debug", "other"]
        assert own(client, source=LINES, run="other") == own(client, source=LINES, run="debug") == own(client, source=LINES)


def test_sampling_a_blocklist_and_abstaining(trained_run: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("1\n\n")
    asked = [{"source": line, "seed": 7} for line in LINES]
    sampling = ["--temperature", "1", "--blocklist", str(blocked), "--abstain-below", "0.9", "--placeholder", "?"]
    wanted = decoded([trained_run], tmp_path, asked, *sampling)
    assert any(one["abstained"] and one["text"] == "?" for one in wanted)
    options = OPTIONS._replace(blocklist=str(blocked), abstain_below=0.9, placeholder="?")
    for client in serving([str(trained_run)], options, temperature=1.0):
        assert without_spans(own(client, source=LINES, seed=7)) == wanted
        assert own(client, source=LINES[0], seed=8)[0]["tokens"] != wanted[0]["tokens"]


def test_who_leaves_at_any_moment_leaves_nothing_behind(trained_run: Path) -> None:
    decoding = dataclasses.replace(serve.settings_of(rundir.read_config(make_path(str(trained_run)))), max_source_tokens=12)
    (engine,) = serve._open([str(trained_run)], decoding, OPTIONS, lambda: False).values()
    wishes = [Wish(Request(" ")), Wish(Request("May 5")), Wish(Request("May 6")), Wish(Request("3"), beam=True), Wish(Request("May 7"))]
    for ticket, ready in enumerate(engine.read(wishes)):
        engine.put(ticket, ready)
    engine.withdraw(0)
    engine.withdraw(1)
    answers = engine.turn()
    engine.withdraw(2)
    for _ in range(1000):
        if not engine.busy:
            break
        answers += engine.turn()
        if any(ticket == 4 for ticket, _ in answers):
            engine.withdraw(3)  # while its beam is watched, or before
    assert [ticket for ticket, _ in answers if ticket != 3] == [4]
    assert not engine.busy
    engine.put(5, engine.read([Wish(Request("May 7"))])[0])
    engine.reset()
    assert not engine.busy and engine.turn() == []
    engine.put(6, engine.read([Wish(Request("May 7"))])[0])
    while engine.busy:
        again = engine.turn()
    assert again == [(6, dict(answers)[4])]


def test_a_calibration_belongs_to_its_checkpoints(tmp_path: Path) -> None:
    folder = make_path(str(tmp_path))
    assert read_calibration(folder, ["a"]) is None
    assert keep_calibration(folder, ["a", "b"], 0.75)
    assert read_calibration(folder, ["a", "b"]) == 0.75
    assert read_calibration(folder, ["b", "a"]) is None
    (tmp_path / rundir.CALIBRATION).write_text("[")
    assert read_calibration(folder, ["a", "b"]) is None


def test_probabilities_are_at_the_temperature_that_was_fitted(trained_run: Path, tmp_path: Path) -> None:
    how = ["--split", "test", "--calibration", str(tmp_path / "c.png"), "--json", str(tmp_path / "c.json"), "--beam-size", "1"]
    assert main(["evaluate", str(trained_run), *how]) == 0
    fitted = json.loads((tmp_path / "c.json").read_text())["calibration"]["temperature"]
    try:
        for client in serving([str(trained_run)]):
            assert client.get("/v1/info").json()["runs"][0]["calibrated"]
            (found,) = own(client, source=LINES[0], alternatives=3)
            plain = [2.718281828**logp for logp in found["token_logp"]]
            moved = [a - b for a, b in zip(found["token_confidence"], plain, strict=True)]
            assert fitted != 1 and all(abs(one) > 1e-6 for one in moved)
            sure = [place[0]["probability"] > 1 / 150 for place in found["alternatives"]]
            assert all(sure)
    finally:
        (trained_run / rundir.CALIBRATION).unlink()
