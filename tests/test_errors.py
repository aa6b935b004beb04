"""What a user is told, on whatever console."""

import io
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from etils import epath
from processes import PROGRAM, environment
from tiny import DEBUG, changed

from flax_s2s.cli.verbs import main
from flax_s2s.commands import children
from flax_s2s.errors import explain, prepare_streams
from flax_s2s.presets import load_preset
from flax_s2s.runtime.runlog import RunLog

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # else Python takes UTF-8 for it (PEP 538, PEP 540)


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nmore")]
)
def test_memory_that_is_not_enough_has_a_remedy(error: Exception) -> None:
    """jaxlib 0.10.2 raises the latter from XLA's allocator, with many lines."""
    code, message = explain(error)
    assert code == 2
    assert message.startswith("there is not enough memory (") and "data.batch_tokens" in message and "\n" not in message
    assert explain(jax.errors.JaxRuntimeError("INTERNAL: something else")) == (1, "")


def ascii_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)


def written(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode("ascii")


def test_what_a_console_cannot_show_is_escaped(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = ascii_stream(), ascii_stream()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    assert main(["evaluate", str(trained_run), "--split", "valid", "--samples", "2", "--beam-size", "1"]) == 0
    assert "reference" in written(err) and "\\u" in written(err)  # Chinese
    assert "exact_match" in written(out) and "\\xb1" in written(out)
    assert main(["evaluate", "日本"]) == 2
    assert "there is no run directory \\u65e5\\u672c" in written(err)
    with pytest.raises(SystemExit):
        main(["train", DEBUG, "--seed", "日本"])
    assert "\\u65e5\\u672c" in written(out) + written(err)


def test_a_console_that_is_closed_swallows_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3 starts after `>&- 2>&- <&-`: the streams are None."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["--help"]) == 0
    assert main(["no verb"]) == 2
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_is_named() -> None:
    """Also what is still in Python's buffer when a verb has done its work."""
    program = "from flax_s2s import __main__; from flax_s2s.cli import verbs; verbs.VERBS['shows'] = lambda _: print('a result') or 0; __main__.main()"
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", program, "shows"]
        done = subprocess.run(command, env=environment(1, PYTHONUNBUFFERED=""), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ("error: no space left on the disk; what was complete is intact: make room, then run the same command again\n")


class Gone(io.StringIO):
    """A pipe whose reader has left, or a terminal that was closed."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left"), OSError(5, "Input/output error")])
def test_a_training_does_not_end_with_its_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """rich 15.0 (Console.on_broken_pipe) would end the process with exit code 1."""
    monkeypatch.setattr("sys.stderr", Gone(error))
    (tmp_path / "logs").mkdir()
    RunLog(epath.Path(tmp_path)).line("你好 \udce6")
    assert (tmp_path / "logs/process-0.log").read_text("utf-8").endswith(" 你好 \\udce6\n")


def test_a_verb_ends_quietly_where_the_reader_of_its_result_has_left() -> None:
    with subprocess.Popen([*PROGRAM, "inspect", DEBUG, "--no-memory"], env=environment(1), stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0 and "Traceback" not in said and "Broken" not in said, said


def test_files_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    children.write(epath.Path(tmp_path), changed(load_preset(DEBUG), {"data.folder": "日本"}))
    program = "import sys; from flax_s2s.presets import load_preset; print(ascii(load_preset(sys.argv[1]).data.folder))"
    command = [sys.executable, "-c", program, str(tmp_path / "preset.py")]
    done = subprocess.run(command, env=environment(1, **C_LOCALE), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (ascii("日本") + "\n", "")


def test_streams_that_are_no_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    prepare_streams()
    assert sys.stdout is stream


@pytest.mark.parametrize(
    ("closed", "said"), [("<&-", "stdin is closed, so there is nothing to read"), (">&-", "stdout is closed, so there is no place")]
)
def test_lines_from_nowhere_or_to_nowhere_are_refused(closed: str, said: str, trained_run: Path) -> None:
    command = f'"$@" {closed}'
    done = subprocess.run(
        ["bash", "-c", command, "bash", *PROGRAM, "decode", str(trained_run)],
        env=environment(1),
        input="1 hour\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and said in done.stderr
