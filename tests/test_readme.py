"""The documentation: every example of the README runs, every link and file it names is there, and its figures are those of the presets."""

import ast
import dataclasses
import io
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import REPOSITORY

from flax_s2s import config
from flax_s2s.cli import options
from flax_s2s.cli.verbs import VERBS, main

README = REPOSITORY / "README.md"
FOLDERS = ("configs", "findings", "flax_s2s", "launch", "tests")
DOCUMENTS = [*REPOSITORY.glob("*.md"), *(path for folder in FOLDERS for path in sorted((REPOSITORY / folder).rglob("*.md")))]
MOST_WORDS = 1800

# What makes the README's trainings small enough for a test. Nothing else of an example is changed.
SMALL = """--vocab.size=60 --model.embedding-size=8 --model.hidden-size=8 --data.max-source-tokens=32 --data.max-target-tokens=32
--data.buckets=1 --data.batch-tokens=256 --training.steps=2 --training.log-every-steps=1 --training.evaluate-every-steps=2
--training.save-every-steps=2 --training.devices=1 --evaluation.valid-pairs=16 --decoding.beam-size=2 --decoding.rows=16
--decoding.max-source-tokens=32""".split()
SMALLER = {'load_preset("quickstart")': 'load_preset("debug")', "steps=200": "steps=4, devices=1"}
SHOWN = ("text",)  # blocks that are to be read, not run
WORDS = "eins zwei drei vier sieben acht neun zehn elf zwanzig".split()


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def blocks(document: Path) -> list[tuple[str, str]]:
    """The fenced blocks, each with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory as the README's reader has it: the quickstart's run (a smaller one), a corpus and a file to translate."""
    place = tmp_path_factory.mktemp("reader")
    shutil.copytree(trained_run, place / "runs/quickstart")
    (place / "FOLDER").mkdir()
    drawn = random.Random(1)
    lines = [" ".join(drawn.choices(WORDS, k=drawn.randint(2, 8))) for _ in range(2000)]
    (place / "FOLDER/pairs.tsv").write_text("".join(f"{line}\t{line.upper()}\n" for line in lines))
    (place / "new.txt").write_text("zwei drei\nacht\n\nelf elf\n")
    return place


@pytest.fixture(scope="module")
def served() -> Iterator[list[tuple[subprocess.Popen[str], str]]]:
    """The servers that examples have started, each with its address."""
    found: list[tuple[subprocess.Popen[str], str]] = []
    yield found
    for process, _ in found:
        process.terminate()
        with process:
            assert process.wait(30) == 0


def serve(arguments: list[str], place: Path) -> tuple[subprocess.Popen[str], str]:
    """A server at a port that is free, once it is ready."""
    command = [sys.executable, "-m", "flax_s2s", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=place)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "ready after" in line or "error" in line)
    return process, said.split("s: ")[-1].strip()


def run(line: str, place: Path, patch: pytest.MonkeyPatch, served: list[tuple[subprocess.Popen[str], str]]) -> None:
    """Runs a line of a shell block; of the two scripts that take minutes it only sees that bash can read them."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|>")
    reader.whitespace_split = True
    match list(reader):
        case ["bash", ("launch/quickstart.sh" | "tests/run.sh") as script]:
            subprocess.run(["bash", "-n", REPOSITORY / script], check=True)
        case ["source", ".venv/bin/activate"]:
            assert "make_environment .venv " in (REPOSITORY / "launch/quickstart.sh").read_text()
        case ["echo", text, ">", file]:
            (place / file).write_text(text + "\n")
        case ["echo", text, "|", "flax-s2s", *arguments]:
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{text}\n".encode())))
            assert main(arguments) == 0
        case ["echo", text, "|", "python", *arguments]:
            done = subprocess.run([sys.executable, *arguments], input=f"{text}\n", capture_output=True, text=True, check=True, cwd=place)
            print(done.stdout, end="")
        case ["flax-s2s", "serve", *arguments]:
            served.append(serve(arguments, place))
        case ["curl", *arguments]:
            arguments = [one.replace("http://127.0.0.1:8000", served[-1][1]) for one in arguments]
            done = subprocess.run(["curl", "--fail", *arguments], capture_output=True, text=True, check=True)
            assert json.loads(done.stdout)["translatedText"]
        case ["flax-s2s", "train", *arguments]:
            assert main(["train", *arguments, *SMALL]) == 0
        case ["flax-s2s", *arguments]:
            assert main(arguments) == 0
        case _:
            pytest.fail(f"this test does not know how to run {line!r}")


def smaller(block: str) -> str:
    for given, small in SMALLER.items():
        block = block.replace(given, small)
    return block


def test_every_block_of_the_readme_is_run_or_shown() -> None:
    assert {language for language, _ in blocks(README)} <= {"bash", "python", *SHOWN}


def test_every_example_of_the_readme_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], served: list[Any]
) -> None:
    """In their order, as a reader who types them all would."""
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    for language, block in blocks(README):
        for line in commands(block) if language == "bash" else ():
            capfd.readouterr()
            run(line, place, monkeypatch, served)
            if "|" in line:
                assert capfd.readouterr().out.count("\n") == 1
        if language == "python":
            exec(compile(smaller(block), "README.md", "exec"), names)
    assert len((place / "new.out").read_text().splitlines()) == 4
    assert (place / "report.html").read_text().endswith("</html>\n")
    assert (place / "pictures/line-1.png").read_bytes().startswith(b"\x89PNG")
    assert names["reached"].step == 4


def test_a_command_that_is_not_known_fails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ("make all", "bash launch/other.sh", "flax-s2s decode runs/quickstart --no-such-option 1"):
        with pytest.raises((pytest.fail.Exception, AssertionError, SystemExit)):
            run(line, place, monkeypatch, [])


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_option_of_a_command_is_one(document: Path) -> None:
    fields = {
        field.name
        for kind in (*vars(options).values(), *vars(config).values())
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
    }
    known = {f"--{name.replace('_', '-')}" for name in fields | set(config.flatten(config.Config()))} | {"--help"}
    for _, block in blocks(document):
        for line in commands(block):
            command = re.search(rf"(?:flax-s2s|-m flax_s2s) (?:{'|'.join(VERBS)}) (.*)", line)
            for option in re.findall(r"--[a-z][a-z.-]*", command[1]) if command else ():
                assert option in known or re.sub(r"(--|[.])no-", r"\1", option) in known, line


def test_the_phrases_that_are_shown_are_the_quickstarts() -> None:
    shown = next(block for language, block in blocks(README) if language in SHOWN).partition("five phrases\n")[2].splitlines()
    phrases = [re.split(r"  +", line.strip())[0] for line in shown if line.startswith("  ")]
    asked = (REPOSITORY / "launch/quickstart.sh").read_text()
    assert len(phrases) == 5
    assert all(f"    '{phrase}'\n" in asked for phrase in phrases)


def test_the_readme_is_short_and_names_every_verb() -> None:
    text = README.read_text()
    assert len(text.split()) <= MOST_WORDS
    assert set(re.findall(r"^\| `([a-z-]+) ", text, re.MULTILINE)) == set(VERBS)


def anchors(document: Path) -> set[str]:
    """What GitHub calls the headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"(?:\]\(|src=\")([^)\s\"]+)", document.read_text()):
        target, _, anchor = link.partition("#")
        if not re.match(r"https?:", link):
            path = document.parent / target if target else document
            assert path.exists(), link
            assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_file_that_is_named_is_there(document: Path) -> None:
    for name in re.findall(rf"(?<![\w./])(?:{'|'.join(FOLDERS)})/[\w./-]+\.(?:py|sh|sbatch|yaml|md|txt)\b", document.read_text()):
        assert (REPOSITORY / name).is_file() or name == "configs/mine.py", name


def rows(document: Path) -> Iterator[str]:
    return (line for line in document.read_text().splitlines() if line.startswith("| "))


@pytest.mark.parametrize("document", [README, REPOSITORY / "configs/README.md"], ids=name_of)
def test_a_preset_has_the_figures_that_a_table_gives_it(document: Path) -> None:
    """So that a figure has one origin: the docstring, which says where and when it was measured."""
    seen = 0
    for row in rows(document):
        figures = set(re.findall(r"\d+\.\d+", row))
        preset = re.match(r"\| (?:\[[^]]*\]\(configs/(\w+)\.py\)|`(\w+)`)", row)
        if preset and figures:
            docstring = ast.get_docstring(ast.parse((REPOSITORY / f"configs/{preset[1] or preset[2]}.py").read_text())) or ""
            assert figures <= set(re.findall(r"\d+\.\d+", docstring)), row
            seen += 1
    assert seen >= 5


def test_every_preset_is_in_the_table_of_tasks() -> None:
    linked = set(re.findall(r"\]\((\w+\.py)\)", (REPOSITORY / "configs/README.md").read_text()))
    assert linked == {path.name for path in (REPOSITORY / "configs").glob("*.py")}


def test_every_module_is_on_the_map() -> None:
    """In its room's row; of the commands those that are no verbs."""
    package = REPOSITORY / "flax_s2s"
    table = {
        room.strip("[]`/"): row for row in rows(package / "README.md") if (room := re.match(r"\| (\[?`[\w/]+`)", row)) and (room := room[1])
    }
    root = "\n".join(rows(package / "README.md"))
    for path in sorted(package.rglob("*.py")):
        room, name = path.parent.name, path.stem
        if name.startswith("__") or (name.replace("_", "-") in VERBS and room == "commands"):
            continue
        assert (f"`{name}`" in table[room]) if path.parent != package else (f"`{name}.py`" in root), name_of(path)
    for room, row in table.items():
        named = set(re.findall(r"`([a-z0-9_]+)`", row)) - {room}
        assert named <= {path.stem for path in (package / room).glob("*.py")}, room
