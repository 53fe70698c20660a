"""A checkpoint counts only when it is whole, and old ones go only then."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch

from ift.training import checkpoints
from ift.training.checkpoints import (
    MANIFEST,
    SealedCheckpoints,
    changed_keys,
    newest_complete,
    read_facts,
    why_not_resumable,
    write_manifest,
)


@pytest.fixture
def make(tmp_path):
    """A checkpoint of two files, sealed or not."""

    def made(step, sealed=True):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "deep").mkdir(parents=True)
        (folder / "weights").write_bytes(bytes([step % 256]) * 1000)
        (folder / "deep" / "state").write_text("state")
        (folder / "optimizer.pt").write_text("moments")
        if sealed:
            write_manifest(folder, step, {"seed": 1})
        return folder

    return made


def test_a_whole_checkpoint_is_whole_and_says_what_it_was_made_with(make):
    folder = make(3)
    assert why_not_resumable(folder) is None
    assert read_facts(folder) == {"seed": 1}
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["step"] == 3
    assert manifest["files"]["deep/state"]["bytes"] == 5


def cut(folder):
    (folder / "weights").write_bytes(b"\3" * 999)


def flip(folder):
    (folder / "weights").write_bytes(b"\3" * 999 + b"\4")


def weights_alone(folder):
    (folder / "optimizer.pt").unlink()
    write_manifest(folder, 3, {})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "weights has 999 bytes, not 1,000"),
        (flip, "weights differs from the manifest"),
        (lambda folder: (folder / "deep" / "state").unlink(), "deep/state is missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "it has no manifest: its writing was interrupted"),
        (lambda folder: (folder / MANIFEST).write_text('{"step'), "its manifest cannot be read"),
        (weights_alone, "it has no optimiser state (save_only_model)"),
    ],
)
def test_every_damage_is_found(make, harm, said):
    folder = make(3)
    harm(folder)
    assert why_not_resumable(folder).startswith(said)


def test_the_newest_whole_one_is_taken_by_step_and_the_others_are_named(make, tmp_path):
    make(9), make(20, sealed=False), make(100)
    cut(tmp_path / "checkpoint-100")
    (tmp_path / "checkpoint-x").mkdir()
    found, skipped = newest_complete(tmp_path)
    assert found == tmp_path / "checkpoint-9"
    assert [path.name for path, _ in skipped] == ["checkpoint-100", "checkpoint-20"]
    assert newest_complete(tmp_path / "deep") == (None, [])


def test_differing_facts_are_named():
    assert changed_keys({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}) == ["b", "c", "d"]


def test_old_checkpoints_go_only_after_the_new_one_is_sealed(make, tmp_path, monkeypatch):
    from ift.training import checkpoints

    make(1), make(2), make(3, sealed=False)
    order = []
    write_it = checkpoints.write_manifest
    monkeypatch.setattr(
        checkpoints,
        "write_manifest",
        lambda folder, *rest: order.append(folder.name) or write_it(folder, *rest),
    )
    real = checkpoints.delete_old
    monkeypatch.setattr(checkpoints, "delete_old", lambda *how: order.append("prune") or real(*how))
    args = SimpleNamespace(output_dir=str(tmp_path), save_total_limit=2)
    state = SimpleNamespace(is_world_process_zero=True, global_step=3, best_model_checkpoint=None)
    keeper = SealedCheckpoints({})
    keeper.on_train_begin(args, state, None)
    assert args.save_total_limit is None  # transformers prunes nothing by itself
    keeper.on_save(args, state, None)
    keeper.on_train_end(args, state, None)
    assert order == ["checkpoint-3", "prune"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert args.save_total_limit == 2


def test_a_repeated_stop_is_one_and_a_later_one_ends_the_run(monkeypatch):
    now, ended = [100.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    before = [
        signal.signal(number, lambda number, frame: ended.append(number)) for number in checkpoints.SIGNALS
    ]
    keeper = checkpoints.SealedCheckpoints({})
    keeper.on_train_begin(SimpleNamespace(save_total_limit=None), SimpleNamespace(global_step=0), None)
    try:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a launcher's, right behind
        assert (keeper.received, ended) == (signal.SIGINT, [])
        now[0] += 3
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]
    finally:
        for number, handler in zip(checkpoints.SIGNALS, before, strict=True):
            signal.signal(number, handler)


def test_a_signal_while_the_processes_compare_theirs_counts_at_the_next_step(monkeypatch):
    """It comes after this process has told the others of none: alone, it must neither stop nor forget the signal."""
    keeper, signals = SealedCheckpoints({}), [signal.SIGTERM]

    def all_reduce(number, operation):
        if signals:
            keeper._stop(signals.pop(), None)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    args = SimpleNamespace(device="cpu", save_only_model=True)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    state = SimpleNamespace(epoch=0.5, global_step=1, max_steps=4)
    keeper.on_step_end(args, state, control)
    assert (keeper.stopped, control.should_training_stop) == (None, False)
    keeper.on_step_end(args, state, control)
    assert (keeper.stopped, control.should_training_stop) == (signal.SIGTERM, True)
    assert control.should_save
    assert not args.save_only_model


def test_only_checkpoints_of_a_run_of_ours_are_deleted(make, tmp_path):
    """Neither what is named alike, nor a checkpoint of another tool, nor a link, whatever the limit."""
    ours = [make(step) for step in (1, 2, 3, 4)]
    make(5, sealed=False)
    (tmp_path / "checkpoint-1-good").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    elsewhere = make(6).rename(tmp_path / "elsewhere")
    (tmp_path / "checkpoint-7").symlink_to(elsewhere)
    checkpoints.delete_old(tmp_path, None, None)
    assert all(path.exists() for path in ours)
    checkpoints.delete_old(tmp_path, 1, str(ours[1]))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-1-good",
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-5",
        "checkpoint-7",
        "checkpoint-best",
        "elsewhere",
    ]
    assert (elsewhere / "weights").exists()


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_the_first_signal_is_answered_at_once_by_one_process(rank, lines, monkeypatch, capfd):
    """Red when: nothing is said until the step is over, so that a user presses Ctrl-C again and loses it."""
    monkeypatch.setenv("RANK", rank)
    checkpoints = SealedCheckpoints({})
    for _ in range(2):  # a launcher repeats a Ctrl-C immediately
        checkpoints._stop(signal.SIGINT, None)
    assert capfd.readouterr().err.count("stopping: this step is finished first") == lines
