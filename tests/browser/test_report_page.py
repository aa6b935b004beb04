"""The page of a report, run by a real browser: what it shows, sorts and says; and that text of a corpus is never run."""

import base64
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium
from reported import HOSTILE, command, read_document, write_corpus

from flax_s2s.cli.verbs import main
from flax_s2s.serving import report

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync".split()
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    write_corpus(folder / "corpus")
    for seed in (1, 2):
        assert main(command(folder, seed)) == 0
    runs = [str(folder / f"seed-{seed}") for seed in (1, 2)]
    assert main(["report", *runs, "--output", str(folder / "report.html"), "--by", "kind", "--sentences", "8"]) == 0
    return folder / "report.html"


@pytest.fixture
def shown(chromium: Chromium, page: Path) -> Any:
    """The page, freshly opened, without a word from the browser's console."""
    return opened(chromium, page)


def opened(chromium: Chromium, page: Path) -> Any:
    chromium.plant("")
    chromium.resize(1280)
    chromium.prefer("reduce", "prefers-reduced-motion")
    chromium.open(page.as_uri())
    assert chromium.complaints() == []
    return chromium.driver


def find(driver: Any, selector: str) -> list[Any]:
    return driver.find_elements("css selector", selector)


def click(driver: Any, element: Any) -> None:
    """In the middle of the window, where nothing lies over it."""
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def numbers(driver: Any) -> list[int]:
    return [int(row.get_attribute("data-number")) for row in find(driver, ".sentences tbody tr")]


def test_each_section_is_there_and_each_curve_is_drawn(shown: Any) -> None:
    heads = [one.text for one in find(shown, "h2")]
    assert heads == ["Scores", "Curves", "Sentences", "Calibration", "What was trained on what", "Configuration and versions"]
    assert [link.text for link in find(shown, "nav a")] == heads
    captions = [one.text.split("\n")[0] for one in find(shown, "#curves ~ .charts figcaption")]
    assert [caption.split(" ·")[0] for caption in captions] == [
        *("Loss", "Perplexity", "exact_match", "chrf", "Learning rate", "Gradient norm", "Speed"),
    ]
    inked = shown.execute_script(
        """return [...document.querySelectorAll("canvas")].map((one) => {
            const data = one.getContext("2d").getImageData(0, 0, one.width, one.height).data;
            return data.some((byte, i) => i % 4 === 3 && byte > 0); })"""
    )
    assert len(inked) == 8 and all(inked)


def test_text_of_a_corpus_is_shown_as_text_and_nothing_is_fetched(shown: Any, chromium: Chromium) -> None:
    assert "report" in shown.title and shown.title != "run"
    assert not find(shown, "img") and not find(shown, "td b")
    cells = [one.text for one in find(shown, ".sentences td:last-child")]
    assert any("<img src=x onerror=document.title='run'>" in cell for cell in cells)
    assert chromium.hosts() == set()
    blocked = shown.execute_async_script(
        """const done = arguments[0], made = document.createElement("script");
        document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
        made.textContent = "document.title = 'run'"; document.body.append(made);"""
    )
    assert blocked.startswith("script-src") and shown.title != "run"
    assert "Content Security Policy" in chromium.complaints()[-1]


@pytest.mark.parametrize("name", ["worst", "unsure", "longest", "different"])
def test_sentences_are_sorted_by_a_click(shown: Any, page: Path, name: str) -> None:
    [test] = read_document(page)["tests"]

    def value(one: Any) -> float:
        scores = [run["chrf"] for run in one["runs"]]
        least_sure = min(run["confidence"] for run in one["runs"])
        return {"worst": sum(scores) / 2, "unsure": least_sure, "longest": -one["length"], "different": min(scores) - max(scores)}[name]

    [button] = find(shown, f'button[data-order="{name}"]')
    click(shown, button)
    expected = [one["number"] for one in sorted(test["sentences"], key=lambda one: (value(one), one["number"]))]
    assert numbers(shown) == expected
    [head] = find(shown, "th[aria-sort]")
    click(shown, head.find_element("css selector", "button"))
    ordered = {one["number"]: value(one) for one in test["sentences"]}
    values = [ordered[number] for number in numbers(shown)]
    assert values == sorted(values, reverse=True)


def test_sentences_are_searched(shown: Any) -> None:
    [search] = find(shown, 'input[type="search"]')
    search.send_keys("onerror")
    assert numbers(shown) == [12]
    assert HOSTILE.split()[0] in find(shown, ".sentences td:last-child")[0].text


def test_a_token_says_by_keyboard_and_by_mouse_what_it_looked_at(shown: Any, page: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    [test] = read_document(page)["tests"]
    number = next(int(key) + 1 for key, runs in test["details"].items() if runs[0])
    detail = test["details"][str(number - 1)][0]
    [row] = find(shown, f'tr[data-number="{number}"]')
    line = next(
        one for one in row.find_elements("css selector", ".tokens[tabindex]") if one.get_attribute("aria-label").startswith("translation")
    )
    shown.execute_script("arguments[0].focus()", line)
    ActionChains(shown).send_keys(Keys.ARROW_RIGHT).perform()
    told = row.find_element("css selector", ".told").text
    assert f"p {detail['probability'][0]:.3f}" in told and "looks at" in told and "instead:" in told
    weights = list(base64.b64decode(detail["attention"]))[: len(detail["source"])]
    source = row.find_element("css selector", "dd").find_elements("css selector", ".tok")
    shades = [one.value_of_css_property("background-color") for one in source]
    alpha = [0.0 if shade == "rgba(0, 0, 0, 0)" else float(shade.rstrip(")").split(",")[3]) for shade in shades]
    assert alpha == pytest.approx([0.85 * weight / 255 for weight in weights], abs=0.005)
    ActionChains(shown).send_keys(Keys.ESCAPE).perform()
    assert row.find_element("css selector", ".told").text == ""
    last = line.find_elements("css selector", ".tok")[-1]
    shown.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", last)
    ActionChains(shown).move_to_element(last).perform()
    assert f"p {detail['probability'][-1]:.3f}" in row.find_element("css selector", ".told").text


def test_a_curve_is_read_by_keyboard_and_as_numbers(shown: Any, page: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    [family] = read_document(page)["families"]
    figure = find(shown, "#curves ~ .charts figure")[0]
    shown.execute_script("arguments[0].focus()", figure.find_element("css selector", ".plot"))
    ActionChains(shown).send_keys(Keys.HOME).perform()
    said = figure.find_element("css selector", "figcaption small").text
    assert said.startswith("step 1:") and "seed-1 train" in said and "train mean" in said
    click(shown, figure.find_element("css selector", "summary"))
    rows = figure.find_elements("css selector", "details tbody tr")
    assert len(rows) == len(family["bands"]["train"]["loss"]["steps"]) == 6
    labels = [one.text for one in figure.find_elements("css selector", ".u-legend .u-label")]
    assert {"train most", "train least", "train mean", "seed-1 train", "seed-2 valid"} <= {label.rstrip(":") for label in labels}


@pytest.mark.parametrize("width", [1280, 768, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_any_width_and_both_themes(chromium: Chromium, page: Path, width: int, theme: str) -> None:
    chromium.resize(width)
    chromium.prefer(theme)
    chromium.open(page.as_uri())
    assert chromium.complaints() == []
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    back, ink = (chromium.one("body").value_of_css_property(name) for name in ("background-color", "color"))
    assert contrast(back, ink) >= 7
    for element in (*chromium.all(".muted")[:3], *chromium.all("nav a")[:1]):
        assert contrast(back, element.value_of_css_property("color")) >= 4.5


def contrast(one: str, other: str) -> float:
    """Of two colors, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_run_of_which_little_is_there_makes_a_page_too(chromium: Chromium, page: Path, tmp_path: Path) -> None:
    document = read_document(page)
    [first, _] = document["runs"]
    bare = {
        **first,
        "train": {"step": []},
        "valid": {"step": []},
        "facts": {},
        "versions": {},
        "hashes": {},
        "checkpoints": [],
        "step": 0,
        "notes": [],
    }
    (tmp_path / "bare.html").write_bytes(
        report.make_page({**document, "runs": [bare], "families": [{"runs": [0], "bands": {}}], "tests": [], "config": []})
    )
    shown = opened(chromium, tmp_path / "bare.html")
    assert find(shown, "#top")[0].text == "seed-1\nno step is logged yet · seed 1"
    assert [one.text for one in find(shown, "h2")] == ["What was trained on what", "Configuration and versions"]
