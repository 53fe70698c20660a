"""Bad input of every kind, through the command itself: one message, the right exit code, nothing left behind."""

import json
import re
import shutil
from pathlib import Path

import pytest
from bad_inputs import CASES
from short_runs import SHORT


def held(folder: Path):
    """Everything in a folder, or the file in its place."""
    if folder.is_file():
        return folder.read_bytes()
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.fixture
def place(tmp_path, chat_model):
    """Lay out what a case needs; returns the words of its command line and its output folder."""

    def lay(case):
        rows, out, model = tmp_path / case.file, tmp_path / "out", chat_model
        content = case.rows
        if not isinstance(content, bytes):
            content = "".join(json.dumps(row) + "\n" for row in content).encode()
        rows.write_bytes(content)
        (tmp_path / "holds").mkdir()
        if case.model is not None:
            model = Path(shutil.copytree(chat_model, tmp_path / "model"))
            case.model(model)
        if case.out is not None:
            case.out(out)
        given = {"model_name_or_path": model, "dataset_name": rows, "output_dir": out}
        words = [f"--{name}={value}" for name, value in SHORT.items()]
        if case.yaml is None:
            words += [f"--{name}={value}" for name, value in given.items()]
        else:
            lines = "".join(f"{name}: {value}\n" for name, value in given.items())
            (tmp_path / "run.yaml").write_text(lines + case.yaml)
            words += ["--config", str(tmp_path / "run.yaml")]
        paths = {"ROWS": rows, "OUT": out, "TMP": tmp_path}
        for word in case.words:
            name, _, rest = word.partition("/")
            words.append(str(paths[name] / rest) if name in paths else word)
        return words, out

    return lay


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer(case, ift, place):
    words, out = place(case)
    before = held(out)
    done = ift(case.verb, *words)
    said = " ".join(f"{done.out} {done.err}".split())
    broken = f"{case.defect}: {said}"
    assert done.code == case.code, broken
    for words in (case.said,) if isinstance(case.said, str) else case.said:
        assert words in said, broken
    assert "Traceback" not in said, broken
    assert not re.search(r"[^./]\.\.(?![./])", said), f"a doubled full stop; {broken}"
    assert held(out) == before, broken
    if case.code:
        assert f"ift {case.verb}: " in said or "refused: ift train would not start" in said, broken
    assert not (Path(__file__).parent / "opened").exists(), broken


def test_the_table_is_long_enough_and_says_what_each_line_is_for():
    assert len(CASES) >= 50
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.defect and case.said for case in CASES)


def test_a_folder_that_is_not_ours_to_write_in(run_tiny, tmp_path, monkeypatch):
    """Simulated: root may write anywhere."""
    import os

    real = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    done = run_tiny()
    assert done.code == 1
    assert f"cannot be written to: {tmp_path} is not writable for this user" in done.err
    assert not done.folder.exists()
