"""What the server answers is what `decode` writes; what it refuses, it says in a sentence; the whole command, with real clients."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient
from libretranslatepy import LibreTranslateAPI

from flax_s2s.cli.verbs import main
from flax_s2s.commands import serve
from flax_s2s.commands.serve import Options
from flax_s2s.runs import rundir
from flax_s2s.runs.rundir import make_path
from flax_s2s.serving.app import Settings, make_app
from flax_s2s.serving.limits import Limits

LINES = ["May 5, 2023", "3 hours", "", "  ", "$1,234.50", "一 二", "hours and hours", "May", "25 kilometers"]
SEARCH = ["--beam-size=3", "--n-best=3", "--max-source-tokens=24"]
OPTIONS = Options("127.0.0.1", 0, "best", False, ("en", "zh"), "", 0.0, "[uncertain]", (), 4000, 16, 32, 60.0)


def make(run: Path, limits: Limits, key: str = "", options: Options = OPTIONS) -> TestClient:
    """A server in this process, whose engine is ready."""
    import dataclasses

    decoding = dataclasses.replace(rundir.read_config(make_path(str(run))).decoding, beam_size=3, n_best=3, max_source_tokens=24)
    engines = serve._open([str(run)], decoding, options, lambda: False)
    app = make_app(engines, Settings(limits, key))
    client = TestClient(app, raise_server_exceptions=False)
    client.__enter__()
    assert app.state.desk.ready.wait(600)
    return client


@pytest.fixture(scope="module")
def server(trained_run: Path) -> Iterator[TestClient]:
    client = make(trained_run, Limits(4000, 16, 32, 60.0))
    yield client
    client.__exit__(None, None, None)


def decoded(run: Path, tmp_path: Path, asked: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
    """What `decode --form jsonl` writes."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in asked))
    target.unlink(missing_ok=True)
    assert main(["decode", str(run), "--input", str(source), "--output", str(target), "--form", "jsonl", *SEARCH, *options]) == 0
    return [json.loads(line) for line in target.read_text().splitlines()]


def own(server: TestClient, **asked: Any) -> list[dict[str, Any]]:
    response = server.post("/v1/translate", json=asked)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["translations"]
    return found


# Answers


def test_answers_are_those_of_decode(server: TestClient, trained_run: Path, tmp_path: Path) -> None:
    wanted = decoded(trained_run, tmp_path, [{"source": line} for line in LINES])
    assert any(one["others"] for one in wanted)
    found = own(server, source=LINES, n_best=3)
    spans = [one.pop("spans") for one in found]
    for one, other in zip(found, wanted, strict=True):
        assert one == other  # with all digits of its numbers
    for one, places in zip(found, spans, strict=True):
        assert len(places) == len(one["tokens"])
        assert "".join(one["text"][begin:end] for begin, end in places) == one["text"]
    assert [one["text"] for one in own(server, source=LINES)] == [one["text"] for one in wanted]
    assert [own(server, source=line)[0]["text"] for line in LINES] == [one["text"] for one in wanted]


@pytest.mark.parametrize(
    "wish",
    [{"prefix": "2023"}, {"include": ["5月"]}, {"exclude": ["年", "0"]}, {"prefix": "5", "include": ["年"], "exclude": ["2"]}, {"seed": 3}],
    ids=str,
)
def test_constraints_are_those_of_decode(server: TestClient, trained_run: Path, tmp_path: Path, wish: dict[str, Any]) -> None:
    wanted = decoded(trained_run, tmp_path, [{"source": line, **wish} for line in LINES])
    found = own(server, source=LINES, n_best=3, **wish)
    assert [{name: value for name, value in one.items() if name != "spans"} for one in found] == wanted


def test_attention_is_that_of_decode(server: TestClient, trained_run: Path, tmp_path: Path) -> None:
    decoded(trained_run, tmp_path, [{"source": line} for line in LINES], "--attention", str(tmp_path / "attention.jsonl"))
    wanted = [json.loads(line) for line in (tmp_path / "attention.jsonl").read_text().splitlines()]
    found = own(server, source=LINES, attention=True)
    for one, other in zip(found, wanted, strict=True):
        assert one.get("attention", []) == other["attention"]
        assert one.get("source_tokens", []) == other["source"]
        if one["tokens"]:
            whole = "".join(one["source"][begin:end] for begin, end in one["source_spans"])
            assert whole == one["source"]


def test_what_could_stand_at_a_place_leads_to_a_translation_that_begins_so(server: TestClient) -> None:
    (found,) = own(server, source="May 5, 2023", alternatives=4, attention=True)
    assert len(found["alternatives"]) == len(found["token_confidence"]) == len(found["tokens"])
    for place, confidence, logp in zip(found["alternatives"], found["token_confidence"], found["token_logp"], strict=True):
        assert confidence == pytest.approx(2.718281828**logp, rel=1e-3)  # no temperature was fitted
        probabilities = [one["probability"] for one in place]
        assert probabilities == sorted(probabilities, reverse=True)
    chosen = next(one for one in found["alternatives"][1] if one["token"] not in (found["tokens"][1], "</s>"))
    (again,) = own(server, source="May 5, 2023", prefix=chosen["prefix"])
    assert again["text"].startswith(chosen["prefix"])


def test_the_beam_holds_the_translation(server: TestClient) -> None:
    (found,) = own(server, source="May 5, 2023", beam=True)
    assert all(len(step) <= 3 for step in found["beam"])
    kept = [[one for one in step if one["kept"]] for step in found["beam"]]
    said = len(found["tokens"]) - (found["reason"] == "end")
    assert [len(step) for step in kept[:said]] == [1] * said
    assert kept[said - 1][0]["text"] == found["text"]
    for before, step in zip(found["beam"], found["beam"][1:], strict=False):
        assert all(one["parent"] < len(before) and one["text"].startswith(before[one["parent"]]["text"]) for one in step)


def test_requests_at_one_time_get_their_own_answers(server: TestClient) -> None:
    """From many threads, long and short, plain and with wishes: each is answered as if it were alone."""
    asked = [{"source": f"{number} hours, May {number}", "n_best": 1 + number % 3, "attention": number % 2 == 0} for number in range(16)]
    wanted = [own(server, **one) for one in asked]
    found: list[Any] = [None] * len(asked)

    def ask(number: int) -> None:
        found[number] = own(server, **asked[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == wanted


def test_nothing_is_compiled_after_it_is_ready(server: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    import jax

    with jax.log_compiles(), caplog.at_level("WARNING"):
        own(server, source=["May 5", "a" * 20], n_best=2, attention=True, alternatives=2, prefix="5", include=["年"], exclude=["x"])
        own(server, source=["May 5", "a" * 20])
        own(server, source="May 5", beam=True, alternatives=3, exclude=["x"])
    assert not [one.message for one in caplog.records if "Compiling" in one.message or "Finished XLA" in one.message]


# LibreTranslate's interface


def test_libretranslate(server: TestClient) -> None:
    texts = [one["text"] for one in own(server, source=LINES[:2])]
    assert server.post("/translate", json={"q": LINES[0], "source": "en", "target": "zh"}).json() == {"translatedText": texts[0]}
    assert server.post("/translate", data={"q": LINES[0], "source": "auto", "target": "zh"}).json() == {"translatedText": texts[0]}
    found = server.post("/translate", json={"q": LINES[:2], "source": "en", "target": "zh", "alternatives": 2}).json()
    assert found["translatedText"] == texts
    others = own(server, source=LINES[:2], n_best=3)
    assert found["alternatives"] == [[other["text"] for other in one["others"]] for one in others]
    both = server.post("/translate", json={"q": "\n".join(LINES[:2]), "source": "en", "target": "zh"}).json()
    assert both == {"translatedText": "\n".join(texts)}
    assert server.get("/languages").json() == [{"code": "en", "name": "en", "targets": ["zh"]}]


# What is refused


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/translate", {}, 400, "source: field required"),
        ("/v1/translate", {"source": 5}, 400, "source"),
        ("/v1/translate", {"source": "a", "n_bets": 2}, 400, "n_bets"),
        ("/v1/translate", {"source": "a", "n_best": "2"}, 400, "n_best"),
        ("/v1/translate", {"source": "a", "n_best": 4}, 400, "more than the 3"),
        ("/v1/translate", {"source": "a", "run": "other"}, 404, "there is no model 'other'"),
        ("/v1/translate", {"source": "a", "features": "N"}, 400, "without features"),
        ("/v1/translate", {"source": "a", "exclude": [""]}, 400, "exclude"),
        ("/v1/translate", {"source": "a", "exclude": ["x" * 500]}, 413, "127 bytes"),
        ("/v1/translate", {"source": "a", "exclude": ["x"] * 65}, 413, "64 are the most"),
        ("/v1/translate", {"source": "a", "prefix": "5" * 2000}, 413, "2,000 characters"),
        ("/v1/translate", {"source": "a", "include": ["a", "b", "c", "d", "5"]}, 413, "4 phrases"),
        ("/v1/translate", {"source": "a", "alternatives": 99}, 400, "more than the 10"),
        ("/v1/translate", {"source": ["a", "b"], "beam": True}, 400, "one sentence at a time"),
        ("/v1/translate", {"source": "x " * 100}, 413, "more than 23 tokens"),
        ("/v1/translate", {"source": "x" * 2000}, 413, "2,000 characters, and 23 tokens are the most"),
        ("/translate", {"q": "x" * 2000, "source": "en", "target": "zh"}, 413, "2,000 characters"),
        ("/v1/translate", {"source": ["a"] * 17}, 413, "17 sentences are more than the 16"),
        ("/v1/translate", b"{", 400, "the body is no JSON"),
        ("/v1/translate", b"\xff\xfe", 400, "body"),
        ("/v1/translate", b"[" * 2000, 400, "body"),
        ("/v1/translate", b'{"source": "a", "seed": 1e999}', 400, "seed"),
        ("/v1/translate", b"x" * 5000, 413, "more than 4,000 bytes"),
        ("/translate", {"q": "a", "source": "fr", "target": "zh"}, 400, "fr to zh is not served; there is en to zh"),
        ("/translate", {"q": "a", "source": "en", "target": "zh", "format": "html"}, 400, "format=html"),
        ("/translate", {"q": "a", "source": "en", "target": "zh", "alternatives": 7}, 400, "more than the 2"),
        ("/translate", {}, 400, "JSON object or a form"),
        ("/translate", b"\xff", 400, "JSON object or a form"),
        ("/translate", {"q": ["a\n" * 20], "source": "en", "target": "zh"}, 413, "21 lines"),
        ("/nothing", {}, 404, "no such address"),
        ("/health", {}, 405, "another method"),
    ],
)
def test_a_bad_request_is_told_why(server: TestClient, path: str, body: Any, status: int, message: str) -> None:
    how: Any = {"content": body, "headers": {"content-type": "application/json"}} if isinstance(body, bytes) else {"json": body}
    response = server.post(path, **how)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
    assert "Traceback" not in response.text and "/" + "home" not in response.text
    assert [one["text"] for one in own(server, source="May 5")]  # it goes on


@pytest.mark.parametrize("field", ["source", "prefix"])
def test_half_a_surrogate_pair_is_replaced_as_in_decode(server: TestClient, trained_run: Path, tmp_path: Path, field: str) -> None:
    asked = {"source": "May 5", field: "May \ud800"}
    body = json.dumps(asked | {"n_best": 3}).encode()
    response = server.post("/v1/translate", content=body, headers={"content-type": "application/json"})
    wanted = decoded(trained_run, tmp_path, [asked, {"source": "May"}])[:1]
    assert [{name: value for name, value in one.items() if name != "spans"} for one in response.json()["translations"]] == wanted
    assert server.post("/translate", content=b'{"q": "\\udc00 May"}', headers={"content-type": "application/json"}).status_code == 200


def test_a_number_that_json_does_not_have_is_refused(server: TestClient) -> None:
    for number in (b"NaN", b"1e999"):
        body = b'{"source": "May", "id": ' + number + b"}"
        response = server.post("/v1/translate", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert "no numbers of JSON" in response.json()["error"]


def test_a_key_is_asked_for(trained_run: Path) -> None:
    client = make(trained_run, Limits(4000, 16, 32, 60.0), key=" secret ")
    assert client.head("/health").status_code == 200
    asked = {"q": "May 5", "source": "en", "target": "zh"}
    assert client.get("/health").status_code == client.get("/").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
        for response in (client.post("/translate", json=asked, headers=headers), client.get("/metrics", headers=headers)):
            assert response.status_code == 401
            assert "Authorization: Bearer KEY" in response.json()["error"]
    for shown in ("Bearer secret", "bearer  secret "):
        assert client.post("/translate", json=asked, headers={"Authorization": shown}).status_code == 200
    assert client.get("/metrics").headers["www-authenticate"] == "Bearer"
    assert client.post("/translate", json=asked | {"api_key": "secret"}).status_code == 200
    assert client.post("/translate", data=asked | {"api_key": "secret"}).status_code == 200
    assert client.post("/v1/translate", json={"source": "May 5"}).status_code == 401
    client.__exit__(None, None, None)


def test_too_many_are_told_when_to_come_again(trained_run: Path) -> None:
    client = make(trained_run, Limits(4000, 4, 4, 60.0))
    statuses: list[tuple[int, str | None]] = []

    def ask() -> None:
        response = client.post("/v1/translate", json={"source": ["May 5, 2023 hours"] * 3, "n_best": 3})
        statuses.append((response.status_code, response.headers.get("retry-after")))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {status for status, _ in statuses} == {200, 429}
    assert all(int(after or 0) >= 1 for status, after in statuses if status == 429)
    assert client.post("/v1/translate", json={"source": "May 5"}).status_code == 200
    client.__exit__(None, None, None)


def test_what_takes_too_long_is_given_up(trained_run: Path) -> None:
    client = make(trained_run, Limits(4000, 16, 32, 0.001))
    response = client.post("/v1/translate", json={"source": "May 5", "beam": True})
    assert response.status_code == 504
    assert "no answer after 0.001 s" in response.json()["error"]
    assert client.get("/metrics").text.count("flax_s2s_sentences_waiting 0.0") == 1
    client.__exit__(None, None, None)


# What is said of it


def test_openapi_describes_what_is_answered(server: TestClient) -> None:
    document = server.get("/openapi.json").json()
    assert {"/translate", "/v1/translate", "/v1/info", "/languages", "/health", "/metrics"} <= set(document["paths"])
    schema = document["components"]["schemas"]["Translations"] | {"components": document["components"]}
    full = {"n_best": 3, "attention": True, "alternatives": 2, "beam": True, "id": 7}
    for asked in ({"source": LINES}, {"source": "May 5, 2023", **full}, {"source": "3 hours", "prefix": "猫猫", "n_best": 2}):
        jsonschema.validate(server.post("/v1/translate", json=asked).json(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"translations": [{"text": "a"}]}, schema)


def test_meters_count(server: TestClient) -> None:
    def read(name: str) -> float:
        lines = server.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    before, tokens = read('flax_s2s_sentences_total{run="debug"}'), read("flax_s2s_tokens_total")
    wrong = read('flax_s2s_requests_total{route="/v1/translate",status="400"}')
    found = own(server, source=LINES[:3])
    server.post("/v1/translate", json={})
    assert read('flax_s2s_sentences_total{run="debug"}') == before + 3
    assert read("flax_s2s_tokens_total") == tokens + sum(len(one["tokens"]) for one in found)
    assert read('flax_s2s_requests_total{route="/v1/translate",status="400"}') == wrong + 1


def test_the_page_may_load_nothing(server: TestClient) -> None:
    response = server.get("/")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "http" + "://" not in response.text.replace("http://www.w3.org/", "")


# The command


@contextlib.contextmanager
def running(run: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve` in a process of its own, and its address once it is ready."""
    command = [sys.executable, "-m", "flax_s2s", "serve", str(run), "--port", "0", *SEARCH, *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "ready after" in line:
                break
        assert "http://127.0.0.1:" in said, said
        yield process, said.split("s: ")[-1].strip()
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_its_clients_and_ends_in_order(trained_run: Path) -> None:
    with running(trained_run, "--languages", "en", "zh") as (process, address):
        client = LibreTranslateAPI(address + "/")
        texts = [client.translate(line, "en", "zh") for line in LINES[:2]]
        assert all(isinstance(one, str) for one in texts)
        assert client.languages()[0]["targets"] == ["zh"]
        assert client.detect("May")[0]["language"] == "en"
        with pytest.raises(urllib.error.HTTPError) as refused:
            client.translate("May 5", "fr", "zh")
        assert refused.value.code == 400
        refused.value.close()
        asked = json.dumps({"source": LINES[:2] * 8, "n_best": 3, "attention": True}).encode()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as cut:  # who leaves in the middle is no reason to stop
            cut.sendall(b"POST /v1/translate HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        answers: list[Any] = []

        def ask() -> None:
            request = urllib.request.Request(f"{address}/v1/translate", asked, {"content-type": "application/json"})
            with urllib.request.urlopen(request) as response:
                answers.append(json.load(response))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.05)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        thread.join()
        assert process.wait(20) == 0
        assert time.monotonic() - begin < 10
        assert len(answers[0]["translations"]) == 16
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "--port 70000 is no port"),
        (["--host", "203.0.113.7"], "cannot be served at"),
        (["--host", "no.such.host.invalid"], "is no address of this machine"),
        (["--languages", "en"], "must be two"),
        (["--abstain-below", "2"], "is a probability"),
        (["--most-waiting", "3"], "must be at least --most-lines"),
        (["--timeout-secs", "0"], "must be more than 0"),
        (["--shortlist", "64"], "leave it out"),
        (["--blocklist", "none.txt"], "none.txt"),
        (["--n-best", "9"], "beam_size"),
    ],
)
def test_a_mistake_is_one_message(trained_run: Path, options: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(trained_run), "--port", "0", *options]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_and_an_empty_key(
    trained_run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", str(trained_run), "--port", str(taken.getsockname()[1])]) == 2
    assert "give another --port" in " ".join(capfd.readouterr().err.split())
    monkeypatch.setenv(serve.KEY, " ")
    assert main(["serve", str(trained_run), "--port", "0"]) == 2
    assert "is set and empty" in " ".join(capfd.readouterr().err.split())
