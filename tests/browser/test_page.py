"""The page in a real Chromium, before a real server of a model that was trained. Run by `bash tests/run.sh --browser`."""

from pathlib import Path

import pytest
from chromium import translate
from page import ASKED, ONE, TWO, shown, texts, type_text, word
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser
WEB = Path(__file__).parents[2] / "flax_s2s/serving/web"
ARABIC, HEBREW = "مرحبا", "שלום"


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
        assert page.text(".detail").startswith(
            f"{source.split()[index]}: looked at by {word(page, most).get_attribute('textContent') or 'the end'} "
        )


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
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
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
