"""Wheel and source archive: the same bytes twice, and a working package in an environment that has nothing of ours.

The environment takes the dependencies from this one by a path file, so that nothing is downloaded.
"""

import email
import hashlib
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ift

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
# not httpx2, which the client of the Hub takes too where it is there
EXTRAS = (
    "matplotlib",
    "gymnasium",
    "bitsandbytes",
    "lm_eval",
    "sacrebleu",
    "rouge_score",
    "trackio",
)
IMPORT_ALL = """
import importlib, pkgutil, sys
extras = sys.argv[1].split(",")
for name in extras:
    sys.modules[name] = None  # as if it were not installed
import ift
missing, count = set(), 0
for module in pkgutil.walk_packages(ift.__path__, "ift."):
    if module.name.startswith("ift.cli.main"):
        continue
    try:
        importlib.import_module(module.name)
        count += 1
    except ImportError as error:
        assert (error.name or "").partition(".")[0] in extras, (module.name, error)
        missing.add(module.name.split(".")[1])
assert ift.__file__.startswith(sys.prefix), ift.__file__
print(count, *sorted(missing))
"""


def run(*words, **options):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=500, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder):
    run(
        sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    return {file.suffix: file for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("hatchling", reason="needs hatchling")
    pytest.importorskip("hatch_fancy_pypi_readme", reason="needs hatch-fancy-pypi-readme")
    return build(tmp_path_factory.mktemp("dist"))


def test_two_builds_have_the_same_bytes(built, tmp_path):
    digests = [
        {suffix: hashlib.sha256(file.read_bytes()).hexdigest() for suffix, file in files.items()}
        for files in (built, build(tmp_path / "again"))
    ]
    assert digests[0] == digests[1]
    assert set(digests[0]) == {".whl", ".gz"}


def test_the_metadata_are_those_of_the_project(built):
    """Name, version, Python, dependencies, extras, licence and entry point; the README is the description."""
    with zipfile.ZipFile(built[".whl"]) as wheel:
        held = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
        found = email.message_from_bytes(wheel.read(held["METADATA"]))
        entries = wheel.read(held["entry_points.txt"]).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (found["Name"], found["Version"]) == (project["name"], ift.__version__)
    assert found["Requires-Python"] == project["requires-python"]
    assert found["License-Expression"] == "Apache-2.0"
    assert "LICENSE" in held
    assert found.get_all("Provides-Extra") == sorted(project["optional-dependencies"])
    wanted = {Requirement(one).name for one in project["dependencies"]}
    always = {Requirement(one) for one in found.get_all("Requires-Dist") if "extra ==" not in one}
    assert {one.name for one in always} == wanted
    assert "ift = ift.cli.main:main" in entries
    assert "Intuitive Fine-Tuning" in found.get_payload()
    assert not [name for name in held if name.startswith("test_")]


@pytest.mark.parametrize("kind", [".whl", ".gz"])
def test_it_works_in_an_environment_of_its_own(built, tmp_path, kind):
    """Every module is importable without the extras, or names the extra that it lacks; then the demo, tiny."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    others = [
        path for path in dict.fromkeys([sysconfig.get_path("purelib"), *sys.path]) if "site-packages" in path
    ]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps")
    run(*install, "--no-build-isolation", "--ignore-installed", built[kind])
    away = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    count, *missing = run(python, "-c", IMPORT_ALL, ",".join(EXTRAS), cwd=tmp_path, env=away).split()
    assert int(count) > 150
    assert set(missing) <= {"lab", "cli"}
    ift = tmp_path / "venv" / "bin" / "ift"
    words = ("demo", "--train_rows", "16", "--test_rows", "8", "--output_dir", tmp_path / "demo")
    assert "exact" in run(ift, *words, cwd=tmp_path, env=away)
