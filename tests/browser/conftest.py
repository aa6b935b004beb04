"""A model that was trained, a server of it, a Chromium with its page: each once."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from chromium import Chromium, serving
from tiny import DEBUG

TRAINING = ["--data.source=en", "--data.target=de", "--training.steps=300", "--training.evaluate-every-steps=300"]
TRAINING += ["--training.save-every-steps=300", "--training.best-metric=loss", "--evaluation.valid-pairs=0", "--training.devices=1"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flax_s2s.cli.verbs import main

    folder = tmp_path_factory.mktemp("runs") / "phrases"
    assert main(["train", DEBUG, "--run-dir", str(folder), *TRAINING]) == 0
    return folder


@pytest.fixture(scope="session")
def address(run: Path) -> Iterator[str]:
    with serving(run) as address:
        yield address


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def page(chromium: Chromium, address: str) -> Iterator[Chromium]:
    """The page, open and empty. Whatever a test does, no other host is asked, and the browser complains of nothing."""
    chromium.plant("")
    chromium.resize(1280)
    chromium.prefer("")
    chromium.open(address)
    chromium.one(".ready #source")
    yield chromium
    chromium.run("sessionStorage.clear()")
    assert chromium.hosts() == {urlsplit(address).netloc}
    assert chromium.complaints() == []
