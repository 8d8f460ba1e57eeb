"""The web page and its parts: files of this package, of the viewer, and the sample pictures."""

from __future__ import annotations

from importlib.resources import files

from regard.explain.html import escaped
from regard.version import __version__

ASSETS = {
    "page.css": ("regard.serve", "text/css"),
    "page.js": ("regard.serve", "text/javascript"),
    "paint.js": ("regard.serve", "text/javascript"),
    "viewer.css": ("regard.explain", "text/css"),
    "viewer.js": ("regard.explain", "text/javascript"),
}
"""Where each part lies, and its type."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the page may do: load from its own server, and nothing else from anywhere."""
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report holds its style and script, and loads nothing at all."""
_SAMPLES = {
    "dog.jpg": "a golden retriever",
    "friends.jpg": "two dogs at a window",
    "moonwalk.jpg": "an astronaut on the Moon",
    "cat.jpg": "a cat",
    "china.jpg": "a temple",
    "astronaut.jpg": "an astronaut, portrait",
}
"""Sample pictures in the order of the page, as their buttons call them."""


def page_html() -> str:
    """Return the page."""
    buttons = "".join(
        f"<button type='button' data-sample='{escaped(name)}' title='{escaped(what)}'>"
        f"<img src='samples/{escaped(name)}' alt='{escaped(what)}' width='64' height='64'></button>"
        for name, what in _SAMPLES.items()
    )
    text = (files("regard.serve") / "page.html").read_text("utf-8")
    return text.replace("<!--samples-->", buttons).replace("<!--version-->", escaped(__version__))


def asset(name: str) -> tuple[bytes, str] | None:
    """Return a part of the page and its type; None where there is none of that name."""
    if name not in ASSETS:
        return None
    package, kind = ASSETS[name]
    return (files(package) / name).read_bytes(), kind


def sample(name: str) -> bytes | None:
    """Return a sample picture; None where there is none of that name."""
    return (files("regard") / "samples" / name).read_bytes() if name in _SAMPLES else None
