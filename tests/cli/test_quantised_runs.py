"""`ift train` on a quantised base, and with optimisers of bitsandbytes, on its CPU kernels."""

import math
import re

import pytest
import torch
from killed_runs import weights
from safetensors.torch import load_file

pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")

ADAPTER = {"use_peft": "true", "lora_r": 4, "lora_dropout": 0, "lora_target_modules": "all-linear"}
RUN = {"max_steps": 6, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "report_to": "none"}


def adapter_weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def losses(done):
    return [line["loss"] for line in done.metrics if "loss" in line]


@pytest.mark.parametrize(
    "flags",
    [{"load_in_4bit": "true"}, {"load_in_4bit": "true", "method": "sft"}, {"load_in_8bit": "true"}],
    ids=["4 bits", "4 bits, sft", "8 bits"],
)
def test_an_adapter_on_a_quantised_base_learns_and_is_read_back(
    ift, run_tiny, chat_model, write_rows, tmp_path, flags
):
    """Red when: a loss is not finite or does not fall, or the saved adapter has other outputs on the same base."""
    common = {"model_name_or_path": chat_model, "dataset_name": write_rows(), "output_dir": tmp_path / "out"}
    assert "ok: " in ift("check", **common, **RUN, **ADAPTER, **flags).out
    done = run_tiny(**RUN, **ADAPTER, **flags)
    assert done.code == 0, done.err
    assert all(map(math.isfinite, losses(done)))
    assert losses(done)[-1] < losses(done)[0] - 0.2
    plain = run_tiny(**RUN | {"max_steps": 1}, **ADAPTER, out="plain")
    (count,) = re.findall(r"model +\S+: (\S+ \w parameters, \S+ \w trained \(\S+\))", plain.out)
    assert count in done.out, "packed weights are counted as they are when they are not packed"
    assert "the adapter is saved in torch.bfloat16" in " ".join(done.out.split())
    assert "same outputs on 3 rows" in done.out
    assert "MatMul8bitLt" not in done.out + done.err  # a warning of bitsandbytes in each layer of each pass


def test_a_quantised_base_without_an_adapter_is_refused_before_it_is_loaded(
    ift, run_tiny, chat_model, write_rows, tmp_path
):
    """Red when: `ift check` accepts it, or the run loads the model first."""
    common = {"model_name_or_path": chat_model, "dataset_name": write_rows(), "output_dir": tmp_path / "out"}
    wanted = (
        "load_in_4bit, without an adapter: quantised weights cannot be trained themselves. Fix: --use_peft"
    )
    checked = ift("check", **common, **RUN, load_in_4bit="true")
    assert checked.code == 1
    assert wanted in " ".join(checked.out.split())
    done = run_tiny(**RUN, load_in_4bit="true")
    assert done.code == 1
    assert wanted in " ".join((done.out + done.err).split())


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"method": "sft"},
        {"lora_target_modules": r".*q_proj", "lora_modules_to_save": "norm"},
        {"optim": "adamw_bnb_8bit", "lora_dropout": 0.1},
    ],
    ids=["ift", "sft", "a copied module", "8-bit states and dropout"],
)
def test_a_resumed_adapter_on_a_quantised_base_is_that_of_the_whole_run(run_tiny, flags):
    """Red when: the adapter is bfloat16 before the stop, and float32 after the checkpoint is loaded."""
    saving = {**RUN, **ADAPTER, "save_strategy": "steps", "save_steps": 3, "load_in_4bit": "true", **flags}
    whole = run_tiny(**saving, out="whole")
    assert whole.code == 0, whole.err
    done = run_tiny(**saving, out="resumed", resume_from_checkpoint=whole.folder / "checkpoint-3")
    assert losses(done) == losses(whole)[-len(losses(done)) :]
    ours, expected = (adapter_weights(whole.folder.parent / name) for name in ("resumed", "whole"))
    assert {key: one.dtype for key, one in ours.items()} == {key: one.dtype for key, one in expected.items()}
    assert torch.bfloat16 in {one.dtype for one in expected.values()}
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit", "adamw_bnb_8bit"])
def test_states_in_eight_bits_train_as_adamw_and_resume(run_tiny, name):
    """Close to AdamW, since only the states are rounded; the state of a checkpoint continues bit for bit."""
    saving = {**RUN, "save_strategy": "steps", "save_steps": 3}
    exact = losses(run_tiny(**RUN, optim="adamw_torch", out="exact"))
    whole = run_tiny(**saving, optim=name, out="whole")
    assert losses(whole) == pytest.approx(exact, rel=1e-2)
    assert losses(whole)[-1] < losses(whole)[0] - 0.2
    run_tiny(**saving, optim=name, out="resumed", resume_from_checkpoint=whole.folder / "checkpoint-3")
    ours, expected = weights(whole.folder.parent / "resumed"), weights(whole.folder)
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
