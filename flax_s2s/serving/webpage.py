"""The page: its parts in `web/`, joined to one answer.

Enters: nothing. Leaves: the page, with style and scripts inside, and the policy that a browser is to hold it to: it runs these scripts and
no others, and asks no other server for anything.
"""

import base64
import hashlib
from importlib import resources
from typing import NamedTuple

_SCRIPTS = (
    "elements.js",
    "server.js",
    "words.js",
    "source.js",
    "sentence.js",
    "alternatives.js",
    "beam.js",
    "column.js",
    "main.js",
)
"""They are one module, in this order: what one declares the others may use."""


class Page(NamedTuple):
    """What is sent."""

    html: str
    policy: str  # of the header Content-Security-Policy


def load_page() -> Page:
    """The page, and the policy that fits it."""
    folder = resources.files("flax_s2s.serving") / "web"
    style = (folder / "page.css").read_text("utf-8")
    script = "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    html = (folder / "page.html").read_text("utf-8")
    html = html.replace("<!-- style -->", f"<style>{style}</style>")
    html = html.replace("<!-- script -->", f'<script type="module">{script}</script>')
    policy = {
        "default-src": "'none'",
        "style-src": hash_source(style),
        "script-src": hash_source(script),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return Page(html, "; ".join(f"{name} {value}" for name, value in policy.items()))


def hash_source(text: str) -> str:
    """What a policy calls a script or a style that stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
