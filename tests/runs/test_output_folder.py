"""What a new run deletes in its output folder: what a run of ours left there, and nothing else."""

import json
from types import SimpleNamespace

import pytest

from ift.data import DataError
from ift.runs.output_folder import mark_run_started, prepare_output_folder, write_run
from ift.training.checkpoints import NOTHING_TO_RESUME, write_manifest


def told(folder, *, model="model", data="rows.jsonl", **run):
    run = {"resume": None, "overwrite_output_dir": True, **run}
    return SimpleNamespace(
        config=SimpleNamespace(output_dir=str(folder), resume_from_checkpoint=None),
        run=SimpleNamespace(**run),
        model=SimpleNamespace(model_name_or_path=str(model)),
        script=SimpleNamespace(dataset_name=str(data)),
        mixture=SimpleNamespace(datasets=[]),
        later_folders=[],
    )


def checkpoint(folder, optimizer=True):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    if optimizer:
        (folder / "optimizer.pt").write_text("moments")
    write_manifest(folder, int(folder.name.rpartition("-")[2]), {})
    return folder


def test_a_new_run_deletes_what_a_run_left_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    write_run(out, finished=True)
    checkpoint(out / "checkpoint-3")
    for name in ("checkpoint-best", "checkpoint-4"):  # not ours: another name, no manifest
        (out / name).mkdir()
        (out / name / "notes.txt").write_text("mine")
    (out / "checkpoint-5").symlink_to(checkpoint(tmp_path / "elsewhere-5"))
    (out / "answers.jsonl").symlink_to(tmp_path / "elsewhere-5" / "optimizer.pt")
    (out / "metrics.jsonl").write_text("{}\n")
    mark_run_started(told(out))
    kept = {"run.json", "checkpoint-best", "checkpoint-4", "checkpoint-5", "answers.jsonl"}
    assert {path.name for path in out.iterdir()} == kept
    assert (tmp_path / "elsewhere-5" / "optimizer.pt").exists()


def test_a_new_run_deletes_the_model_of_the_earlier_one_and_of_the_later_stages(tmp_path):
    first, second = tmp_path / "1-sft", tmp_path / "2-dpo"
    models = "adapter_model.safetensors adapter_config.json model-00001-of-00002.safetensors README.md tokenizer.json"
    for folder in (first, second):
        write_run(folder, finished=True)
        for name in (*models.split(), "notes.md"):
            (folder / name).write_text("earlier")
    for folder in (first / "merged", second / "merged"):
        folder.mkdir()
        (folder / "ift_model.json").write_text("{}")
    run = told(first)
    run.later_folders = [str(second)]
    mark_run_started(run)
    assert {path.name for path in first.iterdir()} == {"run.json", "notes.md"}
    assert {path.name for path in second.iterdir()} == {"notes.md", "merged"}  # the last stage merges nothing


def test_a_run_does_not_replace_the_base_of_its_adapter(tmp_path):
    out, adapter = tmp_path / "out", tmp_path / "adapter"
    write_run(out, finished=True)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(out)}))
    with pytest.raises(DataError, match=rf"{out}: is in the output folder"):
        prepare_output_folder(told(out, model=adapter))


def test_files_named_like_ours_stay_where_no_run_was(tmp_path):
    (tmp_path / "answers.jsonl").write_text("mine\n")
    mark_run_started(told(tmp_path))
    assert (tmp_path / "answers.jsonl").read_text() == "mine\n"


def test_a_run_does_not_replace_what_it_starts_from(tmp_path):
    write_run(tmp_path, finished=True)
    start = checkpoint(tmp_path / "checkpoint-3")
    rows = tmp_path / "answers.jsonl"
    rows.write_text("{}\n")
    for given in ({"model": tmp_path}, {"model": start}, {"data": rows}, {"data": start / "optimizer.pt"}):
        with pytest.raises(DataError, match=r"is in the output folder.*another --output_dir"):
            prepare_output_folder(told(tmp_path, **given))
    own = tmp_path / "rows.jsonl"
    own.write_text("{}\n")
    assert prepare_output_folder(told(tmp_path, data=own)) == []


def test_a_checkpoint_without_optimiser_state_is_none_to_resume_from(tmp_path):
    write_run(tmp_path, finished=False)
    path = checkpoint(tmp_path / "checkpoint-3", optimizer=False)
    for resume in ("auto", str(path)):
        with pytest.raises(DataError) as refused:
            prepare_output_folder(told(tmp_path, resume=resume))
        assert NOTHING_TO_RESUME in str(refused.value)
    asked = told(tmp_path)
    asked.config.resume_from_checkpoint = str(path)
    with pytest.raises(DataError, match="no optimiser state"):
        prepare_output_folder(asked)
    whole = checkpoint(tmp_path / "checkpoint-2")
    asked = told(tmp_path, resume="auto")
    lines = prepare_output_folder(asked)
    assert lines[0].startswith(f"skipped {path}: it has no optimiser state")
    assert asked.config.resume_from_checkpoint == str(whole)


@pytest.mark.parametrize("harm", ["a file is gone", "a file is cut", "the manifest is cut"])
def test_a_checkpoint_that_was_damaged_later_is_not_deleted_by_a_restart(tmp_path, harm):
    """Red when: --resume auto starts from scratch, and the new run deletes the weights that are still there."""
    write_run(tmp_path, finished=False)
    path = checkpoint(tmp_path / "checkpoint-3")
    if harm == "a file is gone":
        (path / "optimizer.pt").unlink()
    elif harm == "a file is cut":
        (path / "optimizer.pt").write_text("mom")
    else:
        (path / "manifest.json").write_text("{")
    said = {
        "a file is gone": "optimizer.pt is missing",
        "a file is cut": "optimizer.pt has 3 bytes, not 7",
        "the manifest is cut": "its manifest cannot be read",
    }[harm]
    with pytest.raises(DataError) as refused:
        prepare_output_folder(told(tmp_path, resume="auto", overwrite_output_dir=False))
    assert f"{tmp_path} has no checkpoint to resume from (checkpoint-3: {said}" in str(refused.value)
    assert "a start from scratch would delete it" in str(refused.value)
    assert f"--model_name_or_path {path} and another --output_dir" in str(refused.value)
    assert "from scratch with --overwrite_output_dir instead of --resume" in str(refused.value)
    asked = told(tmp_path)
    assert prepare_output_folder(asked) == []
    mark_run_started(asked)
    assert not path.exists()


def test_a_job_killed_while_it_wrote_its_first_checkpoint_starts_from_scratch(tmp_path):
    """A checkpoint that was never complete holds nobody up: a cluster repeats the same command."""
    write_run(tmp_path, finished=False)
    path = checkpoint(tmp_path / "checkpoint-3")
    (path / "manifest.json").unlink()
    asked = told(tmp_path, resume="auto", overwrite_output_dir=False)
    assert prepare_output_folder(asked) == [
        f"skipped {path}: it has no manifest: its writing was interrupted",
        f"no complete checkpoint in {tmp_path}: starts from scratch",
    ]
    mark_run_started(asked)
    assert (path / "model.safetensors").exists()


def test_a_restart_from_scratch_does_not_replace_what_it_starts_from(tmp_path):
    write_run(tmp_path, finished=False)
    (tmp_path / "answers.jsonl").write_text("{}\n")
    for given in ({"model": tmp_path}, {"data": tmp_path / "answers.jsonl"}):
        with pytest.raises(DataError, match=r"is in the output folder.*another --output_dir"):
            prepare_output_folder(told(tmp_path, resume="auto", overwrite_output_dir=False, **given))
