"""The page in a real Chromium, before a real server of a model that was trained. Run by `bash tests/run.sh --browser`."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tiny import DEBUG

pytest.importorskip("selenium")
from chromium import Chromium, serving, translate
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser
WEB = Path(__file__).parents[2] / "flax_s2s/serving/web"
TRAINING = ["--data.source=en", "--data.target=de", "--training.steps=300", "--training.evaluate-every-steps=300"]
TRAINING += ["--training.save-every-steps=300", "--training.best-metric=loss", "--evaluation.valid-pairs=0", "--training.devices=1"]
ONE, TWO = "March 3, 2021", "Monday, April 12"
ASKED = {"n_best": 2, "attention": True, "alternatives": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from flax_s2s.cli.verbs import main

    folder = tmp_path_factory.mktemp("runs") / "phrases"
    assert main(["train", DEBUG, "--run-dir", str(folder), *TRAINING]) == 0
    return folder


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with serving(run) as address:
        yield address


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def page(chromium: Chromium, address: str) -> Iterator[Chromium]:
    """The page, open and empty. Whatever a test does, no other host is asked, and the browser complains of nothing."""
    chromium.plant("")
    chromium.resize(1280)
    chromium.open(address)
    chromium.one(".ready #source")
    yield chromium
    chromium.run("sessionStorage.clear()")
    assert chromium.hosts() == {urlsplit(address).netloc}
    assert chromium.complaints() == []


def type_text(page: Chromium, text: str) -> None:
    field = page.one("#source")
    field.clear()
    field.send_keys(text)


def texts(page: Chromium) -> list[str]:
    return page.run("return [...document.querySelectorAll('.sentence:not(.stale) .translation')].map((one) => one.textContent)")


def shown(page: Chromium, *expected: str) -> None:
    page.until(lambda: texts(page) == list(expected), f"the translations {expected}, instead of {texts(page)}")


def word(page: Chromium, index: int):
    return page.all(".translation .word")[index]


def test_what_is_typed_is_translated_as_the_server_answers(page, address):
    answers = [translate(address, line, **ASKED) for line in (ONE, TWO)]
    type_text(page, f"{ONE}\n\n  \n{TWO}")
    shown(page, *(answer["text"] for answer in answers))
    assert all(answer["text"].strip() for answer in answers)
    assert page.text("#spoken") == "\n".join(answer["text"] for answer in answers)
    type_text(page, " \n ")
    page.until(lambda: texts(page) == [], "nothing for nothing")


def test_the_other_hypotheses_are_listed_with_their_scores(page, address):
    answer = translate(address, ONE, n_best=5)
    type_text(page, ONE)
    page.one(".others")
    listed = page.run("return [...document.querySelectorAll('.others li')].map((one) => [...one.children].map((part) => part.textContent))")
    assert [text for text, _ in listed] == [answer["text"], *(other["text"] or "(nothing)" for other in answer["others"])]
    assert listed[0][1] == f"score {answer['score']:.2f}, log-probability {answer['logp']:.2f}".replace("-0", "−0").replace(" -", " −")


# Answers come when they are let go, and one that was given up comes all the same: as on a network that is slow and a server that is late.
HELD = """
window.held = [];
const send = window.fetch;
window.fetch = async (path, settings) => {
  const answer = await send(path, { ...settings, signal: undefined });
  if (path === "v1/translate") await new Promise((resolve) => window.held.push({ resolve, source: JSON.parse(settings.body).source[0] }));
  return answer;
};
"""


def test_only_the_newest_answer_is_shown(page, address):
    page.plant(HELD)
    page.open(address)
    newest = translate(address, TWO, **ASKED)["text"]
    assert newest != translate(address, ONE, **ASKED)["text"]
    for count, line in enumerate((ONE, TWO), 1):
        type_text(page, line)
        page.until(lambda line=line, count=count: [one["source"] for one in page.run("return held")][-1:] == [line] and count, "a request")
    page.run("held.at(-1).resolve()")
    shown(page, newest)
    page.run("for (const one of held) one.resolve(); return new Promise((resolve) => setTimeout(resolve, 300))")
    shown(page, newest)


def test_an_alternative_begins_the_new_translation_and_can_be_taken_back(page, address):
    type_text(page, ONE)
    before = translate(address, ONE, **ASKED)
    shown(page, before["text"])
    word(page, 0).click()
    options = page.all("[role=option]")
    listed = before["alternatives"][0]
    assert [option.find_element("class name", "option-text").text.strip(" ✓") for option in options] == [
        "the translation ends here" if one["token"] == "</s>" else one["prefix"].strip() or one["token"] for one in listed
    ]
    chosen = next(index for index, one in enumerate(listed) if one["token"] not in (before["tokens"][0], "</s>") and one["prefix"].strip())
    prefix = listed[chosen]["prefix"]
    after = translate(address, ONE, prefix=prefix, **ASKED)["text"]
    options[chosen].click()
    shown(page, after)
    assert after.startswith(prefix) and after != before["text"]
    assert prefix in page.text(".chip")
    page.one(".chip button").click()
    shown(page, before["text"])
    assert not page.all(".chip")
    for expected in (after, before["text"]):  # undone: that it was removed, then that it was chosen
        page.one("#undo").click()
        shown(page, expected)
    assert not page.one("#undo").is_enabled()


def test_a_place_inside_a_word_has_alternatives_of_its_own(page, address):
    type_text(page, TWO)
    answer = translate(address, TWO, **ASKED)
    shown(page, answer["text"])
    index, first = next((i, one) for i, one in enumerate(page.all(".translation .word")) if len(one.text) > 2)
    first.click()
    pieces = page.all(".pieces button")
    assert "".join(piece.text for piece in pieces) == word(page, index).text
    page.focused().send_keys(Keys.ARROW_RIGHT)
    assert [piece.get_attribute("aria-pressed") for piece in page.all(".pieces button")][:2] == ["false", "true"]


def weights(page: Chromium, selector: str) -> str:
    """The word that is lit most."""
    return page.one(f"{selector}.lit-most").text


def test_attention_lights_what_was_looked_at_most_both_ways(page, address):
    source = "😀 2021 March"  # the face is one character, and two units of what JavaScript counts
    type_text(page, source)
    answer = translate(address, source, **ASKED)
    shown(page, answer["text"])
    group = (WEB / "words.js").read_text() + "return groupWords(arguments[0], arguments[1])"
    sources, targets = (page.run(group, answer[text], answer[spans]) for text, spans in (("source", "source_spans"), ("text", "spans")))
    assert [one.get_attribute("textContent") for one in page.all(".source-word")] == source.split()

    def attended(target, looked):
        return sum(answer["attention"][row][column] for row in target["tokens"] for column in looked["tokens"]) / len(target["tokens"])

    for index, target in enumerate(targets):
        ActionChains(page.driver).move_to_element(word(page, index)).perform()
        most = max(range(len(sources)), key=lambda one, target=target: attended(target, sources[one]))
        page.until(lambda most=most: "lit-most" in page.all(".source-word")[most].get_attribute("class"), f"light on word {most}")
    for index, looked in enumerate(sources):
        ActionChains(page.driver).move_to_element(page.all(".source-word")[index]).perform()
        ends = {"tokens": [len(answer["tokens"]) - 1]}
        most = max(range(len(targets) + 1), key=lambda one, looked=looked: attended([*targets, ends][one], looked))
        page.until(lambda most=most: "lit-most" in word(page, most).get_attribute("class"), f"light on word {most}")


def test_the_beam_is_drawn_as_the_server_searched_it(page, address):
    type_text(page, ONE)
    beam = translate(address, ONE, beam=True)["beam"]
    page.one(".opens[data-panel=beam]").click()
    page.one(".tree")
    assert len(page.all(".tree .node")) == len(page.all(".tree .branch")) == sum(map(len, beam))
    assert len(page.all(".tree .node.kept")) == sum(branch["kept"] for step in beam for branch in step)
    listed = page.run(
        "return [...document.querySelectorAll('.steps > li')].map((step) => [...step.querySelectorAll('li')].map((one) => one.textContent))"
    )
    assert [len(step) for step in listed] == [len(step) for step in beam]
    assert all(
        text.startswith(branch["text"] or "(nothing)")
        for step, row in zip(beam, listed, strict=True)
        for branch, text in zip(step, row, strict=True)
    )
    page.one(".opens[data-panel=beam]").click()
    assert not page.all(".tree")


def test_everything_can_be_done_by_keys(page, address):
    before = translate(address, ONE, **ASKED)
    assert page.focused().get_attribute("id") == "source"
    page.focused().send_keys(ONE)
    shown(page, before["text"])
    while "word" not in (page.focused().get_attribute("class") or ""):
        page.focused().send_keys(Keys.TAB)
    assert page.focused().text == word(page, 0).text
    page.focused().send_keys(Keys.ARROW_RIGHT)
    second = page.focused().text
    assert second == word(page, 1).text
    page.focused().send_keys(Keys.ENTER)
    assert page.focused().get_attribute("role") == "listbox"
    active = page.focused().get_attribute("aria-activedescendant")
    page.focused().send_keys(Keys.ARROW_DOWN)
    assert page.focused().get_attribute("aria-activedescendant") != active
    page.focused().send_keys(Keys.ESCAPE)
    assert page.focused().text == second and not page.one(".sentence").find_elements("css selector", "[aria-expanded=true].word")
    page.focused().send_keys(Keys.ENTER)
    listbox = page.focused()
    active = page.run("return document.querySelector('[role=option].active .option-text').textContent")
    while active == second or page.all("[role=option].active[aria-disabled=true]"):
        listbox.send_keys(Keys.ARROW_DOWN)
        active = page.run("return document.querySelector('[role=option].active .option-text').textContent")
    listbox.send_keys(Keys.ENTER)
    page.until(lambda: page.all(".chip"), "a chip with the chosen beginning")
    assert "word" in page.focused().get_attribute("class")
    page.focused().send_keys(Keys.CONTROL, "z")
    shown(page, before["text"])


# No element reaches over the right edge, but inside what scrolls by itself.
WIDER = """return [document.documentElement.scrollWidth, ...[...document.querySelectorAll("body *:not(.hidden)")].filter((one) =>
  !one.closest(".tree-scroll")).map((one) => one.getBoundingClientRect().right)].reduce((most, one) => Math.max(most, one), 0)"""


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_scrolls_sideways(page, width):
    page.resize(width)
    type_text(page, f"{ONE}\n{'x' * 40}\n{TWO}")
    page.until(lambda: len(texts(page)) == 3, "translations")
    page.one(".opens[data-panel=beam]").click()
    page.one(".tree")
    for one in (word(page, 0), word(page, 1)):
        one.click()
        assert page.one(".alternatives").is_displayed()
        assert page.run(WIDER) <= page.run("return document.documentElement.clientWidth") <= width
        page.focused().send_keys(Keys.ESCAPE)


# The least contrast of text that is seen to the color behind it, by WCAG 2.2; opacity and what lies behind are counted in.
CONTRAST = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const over = (colors) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)].map((value) => value / 255);
};
const luminance = (color) => color.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const backs = (one) => (one ? [...backs(one.parentElement), getComputedStyle(one).backgroundColor] : []);
const found = [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && !one.closest(".hidden, .mirror, svg, dialog") &&
  (one.matches(".end-mark, textarea") || [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())));
return found.map((one) => {
  const behind = backs(one);
  const [front, back] = [over([...behind, getComputedStyle(one).color]), over(behind)].map(luminance);
  return [(Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05), one.outerHTML.slice(0, 80)];
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_color_schemes(page, scheme):
    page.prefer(scheme)
    type_text(page, ONE)
    page.one(".others")
    word(page, 0).click()
    page.run(
        "for (const name of ['sure', 'fair', 'unsure', 'doubtful', 'fixed']) {"
        " const one = document.querySelector('.word').cloneNode(true); one.className = `word ${name}`;"
        " const lit = one.cloneNode(true); lit.classList.add('lit'); lit.style.setProperty('--light', '45%');"
        " document.querySelector('.translation').append(one, lit); }"
    )
    contrasts = page.run(CONTRAST)
    assert len(contrasts) > 20
    assert [pair for pair in contrasts if pair[0] < 4.5] == []
    page.prefer("light")


def test_how_sure_a_word_is_shows_without_color(page):
    lines = page.run(
        "return ['fair', 'unsure', 'doubtful', 'fixed'].map((name) => {"
        " const one = document.querySelector(`.legend .word.${name}`);"
        " return [getComputedStyle(one).textDecorationLine, getComputedStyle(one).textDecorationStyle]; })"
    )
    assert {line for line, _ in lines} == {"underline"} and len({style for _, style in lines}) == 4


# The first answers to what is asked at an address are these; then the server's own come.
PLANTED = """
const planted = %s;
const send = window.fetch;
window.asked = [];
window.fetch = async (path, settings) => {
  window.asked.push({ path, key: settings.headers.Authorization, ...JSON.parse(settings.body ?? "{}") });
  const answer = planted[path]?.shift();
  if (answer === 0) throw new TypeError("no server");
  if (answer) return new Response(JSON.stringify(answer.body ?? {}), answer);
  return send(path, settings);
};
"""


def plant(page: Chromium, address: str, **answers: list) -> None:
    paths = {name.replace("_", "/"): answers for name, answers in answers.items()}
    page.plant(PLANTED % json.dumps(paths))
    page.open(address)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"status": 429, "headers": {"Retry-After": "1"}}, "The server is busy. The next try is in 1 second."),
        ({"status": 503}, "The server is starting. This page goes on by itself."),
        (0, "The server does not answer. This page tries again by itself."),
    ],
)
def test_what_passes_is_said_and_waited_for(page, address, answer, sentence):
    plant(page, address, v1_translate=[answer])
    type_text(page, ONE)
    page.until(lambda: page.text(".run .notice") == sentence, sentence)
    shown(page, translate(address, ONE, **ASKED)["text"])
    assert page.text(".run .notice") == "" and not page.all(".panel.busy")


def test_a_server_that_starts_is_waited_for(page, address):
    plant(page, address, v1_info=[{"status": 503}], health=[{"status": 503}])
    page.until(lambda: page.text("#notice").startswith("The server is starting."), "a notice")
    page.one(".ready #source")
    assert page.text("#notice") == ""


def test_a_key_is_asked_for_until_it_is_right(page, address):
    plant(page, address, v1_info=[{"status": 401}, {"status": 401}])
    page.one("#key").send_keys("wrong", Keys.ENTER)
    page.until(lambda: page.text("#key-hint").startswith("The server did not accept that key."), "another question")
    page.one("#key").send_keys("right", Keys.ENTER)
    page.one(".ready #source")
    assert [one.get("key") for one in page.run("return asked")] == [None, "Bearer wrong", "Bearer right"]


def test_other_refusals_are_shown_in_the_servers_words(page, address):
    plant(page, address, v1_translate=[{"status": 500, "body": {"error": "It broke."}}])
    type_text(page, ONE)
    page.until(lambda: page.text(".run .notice").startswith("It broke."), "the server's sentence")
    page.one(".run .notice button").click()
    shown(page, translate(address, ONE, **ASKED)["text"])


def test_a_line_that_is_too_long_does_not_keep_the_others_from_being_translated(page, address):
    page.run(
        "const field = document.getElementById('source'); field.value = arguments[0];"
        "field.dispatchEvent(new InputEvent('input', { inputType: 'insertFromPaste' }))",
        f"{ONE}\n{'x ' * 20_000}\n{TWO}",
    )
    shown(page, *(translate(address, line, **ASKED)["text"] for line in (ONE, TWO)))
    assert len(page.all(".sentence > .warning")) == 1


def info(address: str, **changes: object) -> dict:
    run = {"name": "phrases", "source": "en", "target": "de", "attention": False, "features": False, "calibrated": False, "holds": []}
    return {"status": 200, "body": {"name": "flax_s2s 0", "runs": [run | changes]}}


def test_a_model_that_can_less_is_asked_for_less(page, address):
    plant(page, address, v1_info=[info(address)])
    type_text(page, ONE)
    shown(page, translate(address, ONE)["text"])
    asked = [one for one in page.run("return asked") if one["path"] == "v1/translate"]
    assert asked and all({key for key in one if one[key] is not None} == {"path", "source", "run"} for one in asked)
    assert not page.all(".opens") and not page.all(".translation [role=button]")
    assert page.all(".translation .word")


def test_features_are_asked_for_where_the_model_has_them(page, address):
    assert page.run("return document.getElementById('features-row').hidden")
    plant(page, address, v1_info=[info(address, features=True)], v1_translate=[{"status": 400}] * 20)
    type_text(page, "house")
    page.one("#features").send_keys("N;PL")
    page.until(lambda: page.run("return asked.at(-1).features") == "N;PL", "a request with features")


ARABIC, HEBREW = "مرحبا", "שלום"


def test_text_that_runs_from_right_to_left_stands_right(page):
    for text, direction in ((HEBREW, "rtl"), (ONE, "ltr")):
        type_text(page, text)
        assert page.run("return getComputedStyle(document.getElementById('source')).direction") == direction


@pytest.mark.parametrize(
    ("text", "spans", "words"),
    [
        ("Zwei Männer.", [[0, 4], [4, 8], [8, 11], [11, 12], [12, 12]], [["Zwei", [0]], ["Männer.", [1, 2, 3]]]),
        ("你好世界", [[0, 2], [2, 4], [4, 4]], [["你好", [0]], ["世界", [1]]]),
        ("ging", [[0, 1], [1, 4]], [["g", [0]], ["ing", [1]]]),
        ("in 上海 an", [[0, 2], [2, 4], [4, 5], [5, 8]], [["in", [0]], ["上", [1]], ["海", [2]], ["an", [3]]]),
        ("a 😀b", [[0, 1], [1, 2], [2, 4], [4, 4]], [["a", [0]], ["😀b", [1, 2]]]),
        (f"{ARABIC} {HEBREW}", [[0, 2], [2, 5], [5, 10]], [[ARABIC, [0, 1]], [HEBREW, [2]]]),
        ("", [[0, 0]], []),
    ],
)
def test_tokens_are_grouped_into_words(page, text, spans, words):
    script = (
        WEB / "words.js"
    ).read_text() + "return groupWords(...arguments).map(({start, end, tokens}) => [cut(arguments[0], start, end), tokens])"
    assert page.run(script, text, spans) == words


def test_several_models_are_shown_side_by_side(chromium, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    with serving(run, other, options=("--side-by-side",)) as address:
        page = chromium
        page.open(address)
        type_text(page, ONE)
        page.until(lambda: len(texts(page)) == 2, "two translations")
        assert texts(page) == [translate(address, ONE, run=name, **ASKED)["text"] for name in ("phrases", "other")]
        tops = [one.rect["y"] for one in page.all(".run")]
        assert tops[0] == tops[1]
        page.resize(360)
        first, second = (one.rect for one in page.all(".run"))
        assert second["y"] >= first["y"] + first["height"]
        assert page.hosts() == {urlsplit(address).netloc} and page.complaints() == []
