"""A resumed run is compared with its checkpoint, by the content of the files too that settings name."""

from types import SimpleNamespace

import pytest

from ift.data import DataError
from ift.runs.run_facts import check_unchanged, file_hashes
from ift.training.checkpoints import read_seconds, write_manifest


def run_of(folder, weights, allowed=()):
    config = SimpleNamespace(token_weights=f"{weights}:f", resume_from_checkpoint=str(folder))
    return SimpleNamespace(config=config, run=SimpleNamespace(allow_changed=list(allowed)))


@pytest.fixture
def resumed(tmp_path):
    """A checkpoint, the file of its weights, and the facts of the run as they are now."""
    weights, folder = tmp_path / "weights.py", tmp_path / "checkpoint-2"
    weights.write_text("def f(losses, layout): ...\n")
    folder.mkdir()

    def facts():
        config = run_of(folder, weights).config
        return {"token_weights": config.token_weights, **file_hashes(config)}

    write_manifest(folder, 2, facts(), 12.5)
    return folder, weights, facts


def test_a_changed_file_of_token_weights_is_refused_and_named(resumed):
    folder, weights, facts = resumed
    assert check_unchanged(run_of(folder, weights), facts()) == []
    weights.write_text("def f(losses, layout): return 1\n")
    with pytest.raises(
        DataError, match=r"weights.py:f, has changed \(token_weights_sha256\).*--allow_changed token_w"
    ):
        check_unchanged(run_of(folder, weights), facts())
    allowed = run_of(folder, weights, ["token_weights_sha256"])
    assert check_unchanged(allowed, facts()) == ["changed, allowed by --allow_changed: token_weights_sha256"]


def test_a_checkpoint_from_before_the_hashes_resumes(resumed):
    folder, weights, facts = resumed
    write_manifest(folder, 2, {"token_weights": facts()["token_weights"]})
    assert check_unchanged(run_of(folder, weights), facts()) == []


def test_another_number_of_processes_is_refused(resumed):
    """A step would have other rows. Checkpoints of earlier versions do not know the number."""
    folder, weights, facts = resumed
    assert check_unchanged(run_of(folder, weights), facts() | {"processes": 1}) == []
    write_manifest(folder, 2, facts() | {"processes": 2})
    assert check_unchanged(run_of(folder, weights), facts() | {"processes": 2}) == []
    with pytest.raises(DataError, match=r"had 2 processes and now has 1, .*--allow_changed processes"):
        check_unchanged(run_of(folder, weights), facts() | {"processes": 1})


def test_hashes_are_of_files_that_are_there(tmp_path):
    (tmp_path / "zero.json").write_text("{}")
    config = SimpleNamespace(token_weights=None, deepspeed=str(tmp_path / "zero.json"))
    assert list(file_hashes(config)) == ["deepspeed_sha256"]
    assert file_hashes(SimpleNamespace(token_weights="missing.py:f", deepspeed={"a": 1})) == {}


def test_a_checkpoint_knows_the_time_of_the_steps_before_it(resumed, tmp_path):
    folder, _, _ = resumed
    assert read_seconds(folder) == 12.5
    write_manifest(folder, 2, {})
    assert read_seconds(folder) is None
    assert read_seconds(tmp_path / "none") is None
