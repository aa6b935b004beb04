"""What the page does with refusals, with models that can less, and with what comes late."""

import json

import pytest
from chromium import Chromium, translate
from page import ASKED, ONE, TWO, shown, type_text
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser


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
