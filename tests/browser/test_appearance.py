"""How the page looks: widths, colors, directions, several models."""

import shutil
from urllib.parse import urlsplit

import pytest
from chromium import serving, translate
from page import ASKED, ONE, TWO, texts, type_text, word
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser


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


def test_how_sure_a_word_is_shows_without_color(page):
    lines = page.run(
        "return ['fair', 'unsure', 'doubtful', 'fixed'].map((name) => {"
        " const one = document.querySelector(`.legend .word.${name}`);"
        " return [getComputedStyle(one).textDecorationLine, getComputedStyle(one).textDecorationStyle]; })"
    )
    assert {line for line, _ in lines} == {"underline"} and len({style for _, style in lines}) == 4


def test_nothing_moves_where_motion_is_unwanted(page):
    moving = "document.querySelector('.run').classList.add('busy'); return getComputedStyle(document.querySelector('.run'), '::before').animationName"
    assert page.run(moving) == "wait"
    page.prefer("reduce", "prefers-reduced-motion")
    assert page.run(moving) == "none"


def test_text_that_runs_from_right_to_left_stands_right(page):
    for text, direction in (("שלום", "rtl"), (ONE, "ltr")):
        type_text(page, text)
        assert page.run("return getComputedStyle(document.getElementById('source')).direction") == direction


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
