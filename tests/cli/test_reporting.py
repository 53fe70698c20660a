"""`--report_to trackio`: a local record of the run where trackio is installed, one message where it is not."""

import importlib.util
import json
import sqlite3

import pytest

HAS_TRACKIO = importlib.util.find_spec("trackio") is not None


@pytest.mark.skipif(HAS_TRACKIO, reason="trackio is installed")
def test_without_trackio_the_run_is_refused_with_the_way_out(run_tiny):
    done = run_tiny(report_to="trackio")
    assert done.code == 1
    assert "not installed: trackio (for report_to trackio). Fix: pip install trackio" in done.err
    assert not done.folder.exists()


@pytest.mark.skipif(not HAS_TRACKIO, reason="needs trackio")
def test_trackio_records_the_run_on_this_machine(run_tiny, tmp_path, monkeypatch):
    import trackio.utils

    monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    done = run_tiny(report_to="trackio", run_name="first", project="tests")
    assert done.code == 0, done.err
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT metrics FROM metrics WHERE run_name = 'first'")
        logged = [json.loads(row[0]) for row in rows]
    losses = [entry["train/loss"] for entry in logged if "train/loss" in entry]
    assert losses == pytest.approx([line["loss"] for line in done.metrics if "loss" in line], rel=1e-6)
