"""Contract tests and short trainings with the oldest and the newest versions that pyproject.toml allows.

    python tools/versions.py [--only oldest] [--folder .versions]     # make test-versions

Makes an environment for each under the folder, on top of this one: trl, transformers, accelerate and peft are
installed there, everything else (torch too) is this environment's. Exits with 1 if a test of any of them is red.
"""

from __future__ import annotations

import argparse
import os
import re
import site
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("trl", "transformers", "accelerate", "peft")
KINDS = ("oldest", "newest")
TESTS = (
    "tests/training/test_contract.py",
    "tests/training/test_trainer.py",
    "tests/methods/test_losses.py",
    "tests/cli/test_train.py",
)


def requirements(kind: str, pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """What pip is to install: the lower bounds ("oldest"), or what is allowed ("newest")."""
    dependencies = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    allowed = {re.split(r"[<>=!~]", one)[0]: one for one in dependencies}
    if kind == "newest":
        return [allowed[name] for name in PACKAGES]
    bounds = {name: re.search(r">=([\d.]+)", allowed[name]) for name in PACKAGES}
    return [f"{name}=={bound[1]}" for name, bound in bounds.items() if bound]


def make_environment(kind: str, folder: Path) -> Path:
    """An environment with these versions; returns its Python."""
    place = folder / kind
    venv.create(place, with_pip=True, clear=True)
    python = place / "bin" / "python"
    own = subprocess.check_output(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
    ).strip()
    below = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in below)
    Path(own, "below.pth").write_text(lines, encoding="utf-8")
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q", "--no-deps"]
    # pip would take what this environment has for good enough
    subprocess.run([*command, "--ignore-installed", "--upgrade", *requirements(kind)], check=True)
    return python


def main() -> int:
    """Test the versions asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=KINDS, help="these versions alone")
    parser.add_argument("--folder", type=Path, default=ROOT / ".versions")
    told = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    red = []
    for kind in [told.only] if told.only else KINDS:
        python = make_environment(kind, told.folder.resolve())
        shown = "; ".join(f"print({name!r}, version({name!r}))" for name in PACKAGES)
        subprocess.run([python, "-c", f"from importlib.metadata import version; {shown}"], check=True)
        tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        if subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode:
            red.append(kind)
    print(f"versions with red tests: {', '.join(red) or 'none'}")
    return bool(red)


if __name__ == "__main__":
    sys.exit(main())
