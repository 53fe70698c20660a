"""Every method stops where a run goes wrong, and says what to set."""

import pytest
import torch

from ift.runs.resource_errors import is_out_of_memory
from ift.training.non_finite import NonFiniteError


@pytest.mark.parametrize("method", ["sft", "dpo", "dft"])
def test_every_method_stops(tmp_path, run_method, method):
    stopped = run_method(method, learning_rate=1e18, max_grad_norm=0, max_steps=6)
    assert isinstance(stopped, NonFiniteError)
    assert stopped.report.exists()
    assert "learning rate" in str(stopped)
    assert "--learning_rate" in str(stopped)


@pytest.fixture
def run_method(tmp_path):
    from ift.lab.testbed import tiny_base_path
    from ift.runs import train_method

    long = 80  # times, so that activations are what fills the memory
    rows = [
        {"prompt": f"{n} plus {n}", "chosen": f" {2 * n}" * long, "rejected": f" {2 * n + 1}"}
        for n in range(4)
    ]

    def run(method, **settings):
        how = {"logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 2, **settings}
        with pytest.raises(RuntimeError) as stopped:
            train_method(method, tiny_base_path(), rows, tmp_path / "out", how)
        return stopped.value

    return run


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        (
            {"per_device_train_batch_size": 4},
            [
                "--gradient_checkpointing true (about",
                "--per_device_train_batch_size 2 --gradient_accumulation_steps 2 (about",
                "--max_length ",
            ],
        ),
        (
            {"per_device_train_batch_size": 1, "gradient_checkpointing": True, "dtype": "bfloat16"},
            ["--max_length ", "--use_peft true (about"],
        ),
    ],
)
def test_out_of_memory_says_what_to_set(run_method, monkeypatch, settings, ways):
    from ift.training.trainer import IFTTrainer

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nand more")

    monkeypatch.setattr(IFTTrainer, "compute_loss", full)
    how = {"gradient_checkpointing": False, "dtype": "float32", **settings}
    said = str(run_method("ift", **how)).splitlines()
    assert said[0] == "out of memory: CUDA out of memory. Tried to allocate 20.00 GiB."
    assert [line.strip().startswith(way) for line, way in zip(said[2:], ways, strict=True)] == [True] * len(
        ways
    )


def test_what_is_out_of_memory():
    with pytest.raises(RuntimeError) as full:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(full.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
