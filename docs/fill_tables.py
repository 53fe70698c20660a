"""Fill the tables of the pages and of the README from the records: `python docs/fill_tables.py`.

A table stands between `<!-- table: MODULE.FUNCTION ARGUMENT ... -->` and `<!-- end of table -->`: it is what that
function of `docs/page_tables/MODULE.py` returns for these arguments. All other text is written by hand.
"""

from __future__ import annotations

import re
import shlex
from importlib import import_module

from page_tables import DOCS

MARKED = re.compile(r"(<!-- table: (\w+)\.(\w+)(.*?) -->)\n.*?(<!-- end of table -->)", re.DOTALL)


def made(marked: re.Match[str]) -> str:
    """The two markers with the table between them, made from the records."""
    start, module, function, arguments, end = marked.groups()
    maker = getattr(import_module(f"page_tables.{module}"), function)
    return f"{start}\n{maker(*shlex.split(arguments))}\n{end}"


def main() -> None:
    """Fill every table of every page, in place."""
    for page in [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]:
        before = page.read_text(encoding="utf-8")
        after = MARKED.sub(made, before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(DOCS.parent)}: renewed")


if __name__ == "__main__":
    main()
