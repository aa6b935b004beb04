"""A Chromium without a window, and what it saw: requests, messages, sizes. And the server, as a process that really answers."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_SECS = 60  # for what a slow machine does at last; nothing is judged by its time
_OWN = ("http", "https", "ws", "wss")


@contextlib.contextmanager
def serving(*runs: Path, options: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a server of these runs, ready to answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "flax_s2s", "serve", *map(str, runs), f"--port={port}", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            _await_ready(address, process)
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECS)


def _await_ready(address: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 4 * PATIENCE_SECS
    while time.monotonic() < end:
        assert process.poll() is None, process.stderr and process.stderr.read()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health") as answer:
            assert answer.status == 200
            return
        time.sleep(0.2)
    raise AssertionError(f"{address} is not ready")


def translate(address: str, source: str, **asked: object) -> dict:
    """What the server answers to one line, asked by other means than the page."""
    body = json.dumps({"source": source, **asked}).encode()
    request = urllib.request.Request(f"{address}/v1/translate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["translations"][0]


class Chromium:
    """A browser with a fresh profile."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        quiet = ("background-networking", "component-update", "sync", "gpu")
        flags = ("headless=new", "no-sandbox", "no-first-run", f"user-data-dir={profile}", *(f"disable-{name}" for name in quiet))
        for flag in flags:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.planted: str | None = None
        self.resize(1280)

    def plant(self, script: str) -> None:
        """Runs a script before those of each page from now on, in place of the one before."""
        if self.planted:
            self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": self.planted})
        self.planted = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})["identifier"]

    def open(self, address: str) -> None:
        """The page, as far as it shows itself."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(address)

    def resize(self, width: int, height: int = 900) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        )

    def prefer(self, value: str, feature: str = "prefers-color-scheme") -> None:
        """Sets what the system prefers: light or dark; "" for what it does."""
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": feature, "value": value}] if value else []})

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> WebElement:
        """The first such element, which must come to be there and be seen."""
        return self.until(lambda: next((one for one in self.all(selector) if one.is_displayed()), None), selector)

    def text(self, selector: str) -> str:
        """The text of an element as the document has it, without what a style adds."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def until(self, condition, what: str):
        """What the condition gives as soon as it gives something."""
        return WebDriverWait(self.driver, PATIENCE_SECS, 0.05).until(lambda _: condition(), f"this did not come to be: {what}")

    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def hosts(self) -> set[str]:
        """Whom requests were sent to since the last call; those without a host, such as data:, left out."""
        entries = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        urls = [entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in urls if urlsplit(url).scheme in _OWN}

    def complaints(self) -> list[str]:
        """What the browser complained of since the last call: errors of scripts, violations of the policy, and all else but refusals."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in messages if "Failed to load resource" not in message]
