"""What this program never does: run what it reads. And what it installs: only what has a hash."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import REPOSITORY

CODE = sorted([*(REPOSITORY / "flax_s2s").rglob("*.py"), *(REPOSITORY / "configs").glob("*.py"), *(REPOSITORY / "launch").rglob("*.py")])
LOCKS = [
    REPOSITORY / "requirements.txt",
    *(path for room in ("launch", "tests") for path in sorted((REPOSITORY / room).glob("requirements*.txt"))),
]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "tarfile", "zipfile", "ctypes"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"}
# A setting of the C library; that children die with their parent; arrays that are written where a graph finds them, nothing is unpacked.
KNOWN = {("processor.py", "ctypes"), ("local.py", "ctypes"), ("folder.py", "zipfile")}


def offences(tree: ast.AST, file: str) -> Iterator[str]:
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        yield from (name for name in names if name.split(".")[0] in MODULES and (file, name.split(".")[0]) not in KNOWN)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                yield called
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell") and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield f"{called}({keyword.arg}=...)"


@pytest.mark.parametrize("file", CODE, ids=lambda file: file.relative_to(REPOSITORY).as_posix())
def test_nothing_that_is_read_is_run(file: Path) -> None:
    assert list(offences(ast.parse(file.read_text()), file.name)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from yaml import load",
        "import tarfile as t",
        "eval('1')",
        "np.load(f, allow_pickle=True)",
        "run('ls', shell=True)",
    ],
)
def test_the_check_finds_what_it_looks_for(text: str) -> None:
    assert len(list(offences(ast.parse(text), "some.py"))) == 1


@pytest.mark.parametrize("lock", LOCKS, ids=lambda file: file.name)
def test_every_requirement_has_a_hash_and_no_address(lock: Path) -> None:
    text = "\n".join(line for line in lock.read_text().replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#"))
    requirements = [line for line in text.splitlines() if line.strip()]
    assert len(requirements) > (20 if "gpu-aot" not in lock.name else 3)
    for line in requirements:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,]+\])?==\S+.*--hash=sha256:[0-9a-f]{64}", line), line
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text


def test_installing_demands_the_hashes() -> None:
    script = (REPOSITORY / "launch/environment.sh").read_text()
    installs = [line for line in script.splitlines() if 'pip" install' in line or ("-m pip" in line and " install " in line)]
    fetching = [line for line in installs if "--editable" not in line and "install pip" not in line]
    assert fetching and all("--require-hashes" in line for line in fetching)
