"""A resumed run is compared with its checkpoint, by the content of the files too that settings name."""

from types import SimpleNamespace

import pytest

from ift.data import DataError
from ift.runs.run_facts import check_unchanged, file_hashes, hashes_of_data
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


def test_a_fact_that_no_longer_counts_does_not_keep_a_checkpoint_from_resuming(resumed):
    """Earlier versions recorded assistant_only_loss as false; completion_only_loss says what is trained."""
    folder, weights, facts = resumed
    write_manifest(folder, 2, facts() | {"assistant_only_loss": False})
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


def test_a_changed_file_of_rows_is_named(resumed, tmp_path):
    """Red when: three files are mixed, a line of one is changed, and only hashes are shown."""
    folder, weights, facts = resumed
    names = [tmp_path / f"{name}.jsonl" for name in ("a", "b", "c")]
    for file in names:
        file.write_text("{}\n")

    def now(data):
        report = SimpleNamespace(streaming=False)
        parts = [SimpleNamespace(origin=SimpleNamespace(files=[file])) for file in names]
        hashes = hashes_of_data(SimpleNamespace(report=report, parts=parts))
        return facts() | {"data": data, "files": hashes}

    write_manifest(folder, 2, now("1"))
    assert check_unchanged(run_of(folder, weights), now("1")) == []
    with pytest.raises(DataError, match="although no file has changed: a setting selects"):
        check_unchanged(run_of(folder, weights), now("2"))
    names[1].write_text('{"a": 1}\n')
    assert check_unchanged(run_of(folder, weights), now("1")) == []  # its rows are the same
    with pytest.raises(
        DataError, match=r"run: the content of b.jsonl has changed \(data\).*--allow_changed data$"
    ):
        check_unchanged(run_of(folder, weights), now("2"))
    names.pop()
    with pytest.raises(
        DataError, match=r"were those of a.jsonl, b.jsonl, c.jsonl, are those of a.jsonl, b.jsonl"
    ):
        check_unchanged(run_of(folder, weights), now("2"))


def test_a_checkpoint_from_before_the_hashes_of_files_of_rows(resumed):
    """It resumes with the same rows; other rows are refused, with the reason for a mixture that holds rows out."""
    folder, weights, facts = resumed
    write_manifest(folder, 2, facts() | {"data": "1"})
    run = run_of(folder, weights)
    assert check_unchanged(run, facts() | {"data": "1", "files": [["a", "0"]]}) == []
    run.mixture = SimpleNamespace(datasets=["a", "b"])
    with pytest.raises(
        DataError, match=r"data was '1', is '2': the rows have changed .*from a mixture as a whole"
    ):
        check_unchanged(run, facts() | {"data": "2", "files": [["a", "0"]]})


def test_a_checkpoint_knows_the_time_of_the_steps_before_it(resumed, tmp_path):
    folder, _, _ = resumed
    assert read_seconds(folder) == 12.5
    write_manifest(folder, 2, {})
    assert read_seconds(folder) is None
    assert read_seconds(tmp_path / "none") is None
