"""What is done with the page, and read from it."""

import json
import urllib.request

from chromium import Chromium, translate

ONE, TWO = "March 3, 2021", "Monday, April 12"


def as_page(address: str, source: str, **more: object) -> dict:
    """What the server answers where it is asked as the page asks it."""
    with urllib.request.urlopen(f"{address}/v1/info") as answer:
        most = json.load(answer)["runs"][0]["limits"]["n_best"]
    return translate(address, source, n_best=min(5, most), attention=True, alternatives=6, **more)


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
