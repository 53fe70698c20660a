"""What is said after a process of a run was lost."""

import signal

import pytest
import torch

from ift.runs.arguments import parse_stages
from ift.runs.lost_process import LostProcess, explain_lost_process
from ift.runs.train_stage import explain_resource_errors
from ift.training.checkpoints import write_manifest

GLOO = (
    "[pair.cc:537] Read error [127.0.0.1]:21183: Connection reset by peer. This is caused by a remote worker"
)


@pytest.fixture
def words(tmp_path):
    (tmp_path / "out" / "checkpoint-5").mkdir(parents=True)
    write_manifest(tmp_path / "out" / "checkpoint-5", 5, {})
    (tmp_path / "out" / "checkpoint-10").mkdir()  # not complete
    return ["--model_name_or_path", "m", "--dataset_name", "d", f"--output_dir={tmp_path}/out"]


def test_a_killed_process_is_answered_with_the_checkpoint_and_the_whole_command(words, tmp_path):
    given = [*words, "--num_processes", "2", "--resume=auto"]
    said = explain_lost_process(128 + signal.SIGKILL, parse_stages(given), given)
    first, command = said.splitlines()
    assert first.startswith(
        "a process was ended by SIGKILL (as the system does where the machine's memory runs out)"
    )
    assert f"Newest checkpoint: {tmp_path}/out/checkpoint-5. To resume:" in first
    assert command == (
        f"  ift train --model_name_or_path m --dataset_name d --output_dir {tmp_path}/out --num_processes 2 "
        "--resume auto"
    )


def test_several_machines_are_all_started_again(words):
    given = [*words, "--num_machines", "2", "--num_processes", "16", "--machine_rank", "1"]
    said = explain_lost_process(128 + signal.SIGSEGV, parse_stages(given), given)
    assert "ended by SIGSEGV, and" in said
    assert "To resume, on every machine with its own --machine_rank:" in said


@pytest.mark.parametrize("code", [0, 1, 2, 70, 130, 143])
def test_a_process_that_said_why_it_ended_is_not_repeated(words, code):
    assert explain_lost_process(code, parse_stages(words), words) == ""


def test_a_process_that_cannot_reach_another_says_how_to_resume(words, tmp_path, monkeypatch):
    (stage,) = parse_stages(words)
    for error in (
        RuntimeError(GLOO),
        torch.distributed.DistBackendError("NCCL error: unhandled system error"),
    ):
        with pytest.raises(RuntimeError) as alone, explain_resource_errors(stage, None):
            raise error
        assert alone.value is error  # of a run of one process
        monkeypatch.setenv("WORLD_SIZE", "2")
        with (
            pytest.raises(
                LostProcess, match=r"checkpoint-5\. To resume, repeat the command with --resume auto"
            ),
            explain_resource_errors(stage, None),
        ):
            raise error
        monkeypatch.delenv("WORLD_SIZE")
    (tmp_path / "out" / "checkpoint-5" / "manifest.json").unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LostProcess, match="No checkpoint was saved"), explain_resource_errors(stage, None):
        raise RuntimeError(GLOO)
