"""Rows as one HTML page without outside parts and without a script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

import jinja2

from ift.lab.show.step import ShownRow
from ift.lab.show.terminal import shade

SHADES = 10  # classes s0 to s9 of page.css


def html_page(rows: Sequence[ShownRow], title: str, settings: str) -> str:
    """The page; `title` names model and data, `settings` those of the method. Its policy allows its style alone."""
    folder = files("ift.lab.show")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shade"] = lambda loss: shade(loss, SHADES)
    template = environment.from_string(folder.joinpath("page.html.j2").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return template.render(
        policy=policy, style=style, title=title, settings=settings, rows=rows, shades=range(SHADES)
    )
