"""Rows in a file, and `ift train` called in this process."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from short_runs import ROWS, SHORT
from tiny_folder import CHATML, save_tiny


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Rows that `datasets` reads are cached in a temporary folder."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session", autouse=True)
def _quick_checks(each_peak_once):
    """Every command here checks its run first."""


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-chat", CHATML)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-base", None)


@pytest.fixture
def write_rows(tmp_path):
    """Write the rows of a format to a .jsonl file of the test's folder."""

    def write(form="messages", name="rows.jsonl"):
        rows = ROWS[form] if isinstance(form, str) else form
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def ift(tmp_path, capfd, monkeypatch):
    """Run a verb in this process, in the test's folder; the environment and accelerate's state are put back."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from ift.cli.main import app

    monkeypatch.chdir(tmp_path)

    def run(verb, *words, **flags):
        capfd.readouterr()
        arguments = [*map(str, words), *(f"--{name}={value}" for name, value in flags.items())]
        code = app([verb, *arguments], standalone_mode=False)
        said = capfd.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    environment = dict(os.environ)
    yield run
    os.environ.clear()
    os.environ.update(environment)
    for state in (AcceleratorState, PartialState):
        state._reset_state()
    GradientState._reset_state()


@pytest.fixture
def train(ift):
    """Run `ift train` in this process."""
    return functools.partial(ift, "train")


@pytest.fixture
def run_tiny(train, chat_model, write_rows, tmp_path):
    """A short run on the tiny model; returns what it said, with `folder` and, read back, `metrics` and `ends`.

    `metrics` are the trainer's lines of metrics.jsonl, `ends` those of the watch over the end of the answers.
    """

    def run(*words, form="messages", out="out", **changes):
        folder = tmp_path / out
        flags = {
            "model_name_or_path": chat_model,
            "dataset_name": changes.pop("dataset_name", None) or write_rows(form),
            "output_dir": folder,
            **SHORT,
            **changes,
        }
        done = train(*words, **flags)
        done.folder = folder
        lines = folder / "metrics.jsonl"
        found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        done.metrics = [line for line in found if "end_nll" not in line]
        done.ends = [line for line in found if "end_nll" in line]
        return done

    return run
