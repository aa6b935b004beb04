"""What is done with the page, and read from it."""

from chromium import Chromium

ONE, TWO = "March 3, 2021", "Monday, April 12"
ASKED = {"n_best": 2, "attention": True, "alternatives": 6}
"""What the page asks for that may change the answer."""


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
