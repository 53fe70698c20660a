"""Draw docs/images/show.png: the page of `ift show`, as Chromium shows it. `python docs/make_show_picture.py [FILE]`.

The model is the shipped base, the row the first of the testbed. Chromium is found as by the browser tests, or named in
IFT_CHROMIUM.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ift.cli import show
from ift.lab.testbed import problems, tiny_base_path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT, SCALE = (
    760,
    534,
    1.5,
)  # of the window in CSS pixels, and pixels of the picture for each of them


def main(target: Path) -> None:
    """Write the picture."""
    browser = os.environ.get("IFT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        sys.exit("no Chromium found: apt-get install chromium, or set IFT_CHROMIUM")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny_base").symlink_to(tiny_base_path())
        (folder / "rows.jsonl").write_text(json.dumps(next(iter(problems("train", 1))).row) + "\n")
        before = Path.cwd()
        os.chdir(folder)
        try:
            show.main(["tiny_base", "rows.jsonl", "-n", "1", "--propagation_detach", "none"])
        finally:
            os.chdir(before)
        subprocess.run(
            [
                browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={folder / 'profile'}", f"--force-device-scale-factor={SCALE}",
                f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={target.resolve()}",
                (folder / "ift-show.html").resolve().as_uri(),
            ],
            check=True, timeout=120, capture_output=True,
        )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "images" / "show.png")
