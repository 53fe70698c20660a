"""A hook of mkdocs: the formulas of a page become MathML when the site is built, so a browser loads nothing for them.

`pymdownx.arithmatex` (generic) finds `$...$` and `$$...$$`; here its LaTeX is translated.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\s*\\[(\[](?P<tex>.*?)\\[)\]]\s*</(?P=tag)>', re.DOTALL
)


def to_mathml(content: str) -> str:
    """The HTML of a page, with each formula as MathML: in a line, or as a block of its own."""

    def translated(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return convert(html.unescape(found["tex"]).strip(), display=display)

    return _FORMULA.sub(translated, content)


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return to_mathml(html)
