"""The page as it is sent: one answer, which the policy allows to run, and nothing that comes from elsewhere."""

import base64
import hashlib
import re
from pathlib import Path

from flax_s2s.serving.webpage import load_page

WEB = Path(__file__).parents[2] / "flax_s2s/serving/web"


def test_every_part_is_in_the_page_once():
    page = load_page()
    assert {path.suffix for path in WEB.iterdir()} == {".html", ".css", ".js"}
    for path in WEB.glob("*.[cj]s*"):
        assert page.html.count(path.read_text("utf-8")) == 1, path.name
    assert page.html.startswith("<!doctype html>")


def test_the_policy_allows_what_is_inside_and_nothing_else():
    html, policy = load_page()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", html, re.S)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
    assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert re.search("^[!-~ ]+$", policy)  # it is a header


def test_nothing_is_asked_of_other_hosts_and_no_text_becomes_markup():
    html = load_page().html
    addresses = set(re.findall(r"""https?://[^\s"'`)]+""", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a vocabulary, which nobody fetches
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\son[a-z]+=[\"']|\sstyle=", html)
