"""The memory of one process under an engine, by hand: 870,656 parameters, 66,816 of them outside four equal blocks."""

import warnings

import pytest
import torch

from ift.check.engines import Engine, divide
from ift.check.fake_step import Peak
from ift.check.memory import _state_bytes, estimate_memory, step_needs
from ift.lab.testbed import tiny_base_path
from ift.runs.arguments import UsageError, parse
from ift.runs.launch import running_engine, wanted_engine

N = 870_656
BLOCK = 4 * 128 * 128 + 3 * 128 * 352 + 2 * 128
OUTSIDE = 521 * 128 + 128
WHOLE = OUTSIDE + 2 * BLOCK  # gathered at once
LORA = 4 * 4 * (128 + 128) * 2  # r (in + out) for q and v of four layers


def stage(*words):
    base = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "x", "--output_dir", "x"]
    return parse([*base, *words])


def test_the_parts_of_the_model():
    assert N == 4 * BLOCK + OUTSIDE


@pytest.mark.parametrize(
    ("engine", "words", "weights", "gradients", "optimizer", "reference"),
    [
        ("ddp", [], 4 * N, 2 * 4 * N, 8 * N, 0),  # gradients and DDP's buckets
        ("zero1", ["--bf16=true"], 2 * N + 4 * N // 4, 2 * N, 8 * N // 4, 0),
        ("zero2", ["--bf16=true"], 2 * N + 4 * N // 4, 2 * N // 4, 8 * N // 4, 0),
        ("zero3", ["--bf16=true"], (2 + 4) * N // 4 + 2 * WHOLE, 2 * N // 4, 8 * N // 4, 0),
        ("zero3", ["--bf16=false"], 4 * N // 4 + 4 * WHOLE, 4 * N // 4, 8 * N // 4, 0),  # no copies of float32
        # DeepSpeed's optimisers work on float32 copies, whatever was loaded; accelerate loads into float32 for FSDP2
        ("ddp", ["--bf16=true", "--dtype=bfloat16"], 2 * N, 2 * 2 * N, 4 * N, 0),
        ("zero1", ["--bf16=true", "--dtype=bfloat16"], 2 * N + 4 * N // 4, 2 * N, 8 * N // 4, 0),
        ("zero2", ["--bf16=true", "--dtype=bfloat16"], 2 * N + 4 * N // 4, 2 * N // 4, 8 * N // 4, 0),
        ("zero3", ["--bf16=true", "--dtype=bfloat16"], (2 + 4) * N // 4 + 2 * WHOLE, 2 * N // 4, 8 * N // 4, 0),
        ("fsdp2", ["--bf16=true", "--dtype=bfloat16"], 4 * N // 4 + 2 * WHOLE, 4 * N // 4, 8 * N // 4, 0),
        ("fsdp2", ["--bf16=false", "--dtype=bfloat16"], 2 * N // 4 + 2 * WHOLE, 2 * N // 4, 4 * N // 4, 0),
        ("fsdp2", ["--bf16=true"], 4 * N // 4 + 2 * WHOLE, 4 * N // 4, 8 * N // 4, 0),
        ("fsdp2", [], 4 * N // 4 + 4 * WHOLE, 4 * N // 4, 8 * N // 4, 0),
        ("zero2", ["--bf16=true", "--method=dpo"], 2 * N + 4 * N // 4, 2 * N // 4, 8 * N // 4, 2 * N),
        ("fsdp2", ["--bf16=true", "--method=dpo"], 4 * N // 4 + 2 * WHOLE, 4 * N // 4, 8 * N // 4, 4 * N // 4),
        ("fsdp2", ["--use_peft", "--lora_r=4"], (N + LORA) + 4 * WHOLE, LORA, 2 * LORA, 0),
    ],
)  # fmt: skip
def test_one_of_four(engine, words, weights, gradients, optimizer, reference):
    held = step_needs(stage("--dtype=float32", *words), 64, whole=engine == "ddp").held
    assert divide(held, Engine(engine, 4)) == {
        "weights": weights, "gradients": gradients, "optimizer": optimizer, "reference": reference,
    }  # fmt: skip


def test_the_copies_of_a_step_are_those_of_the_optimised_weights():
    """AdamW makes one copy of a state on a GPU: of 16-bit weights under DDP, of float32 shards elsewhere."""
    run = stage("--bf16=true", "--dtype=bfloat16", "--optim=adamw_torch")
    sizes = {"ddp": 2 * N, "zero2": 4 * N // 4, "fsdp2": 4 * N // 4}
    for name, size in sizes.items():
        needs = step_needs(run, 2, torch.device("cuda"), whole=name == "ddp")
        needs.__dict__["peak"] = Peak()  # of passes that hold nothing
        assert needs.divided(Engine(name, 4)).activations == size


def test_checkpointing_is_estimated_without_a_deprecation_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert step_needs(stage("--gradient_checkpointing=true"), 8).peak.activations > 0


def test_one_process_of_ddp_is_one_device():
    assert estimate_memory(stage(), 64, engine=Engine("ddp", 1)) == estimate_memory(stage(), 64)


@pytest.mark.parametrize(
    ("flags", "engine"),
    [
        ([], Engine("ddp", 1)),
        (["--num_processes", "2"], Engine("ddp", 2)),
        (["--accelerate_config", "zero2"], Engine("zero2", 8)),
        (["--accelerate_config", "zero3", "--num_processes", "64"], Engine("zero3", 64)),
        (["--accelerate_config", "multi_node"], Engine("fsdp2", 16)),
    ],
)
def test_the_engine_that_flags_ask_for(flags, engine):
    assert wanted_engine(flags) == engine


def test_an_unknown_configuration_is_refused():
    with pytest.raises(UsageError, match="zero2, zero3"):
        wanted_engine(["--accelerate_config", "zero9"])


def test_the_engine_of_a_running_process(monkeypatch):
    assert running_engine() == Engine("ddp", 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert running_engine() == Engine("zero3", 4)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert running_engine() == Engine("fsdp2", 4, fsdp1=True)  # accelerate's version if none is set
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert running_engine() == Engine("fsdp2", 4)


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [("adamw_torch", 2), ("rmsprop", 1), ("adagrad", 1), ("lion_32bit", 1), ("sgd", 0)],
)
def test_optimisers_hold_their_states(optimizer, states):
    assert _state_bytes(optimizer, 4) == 4 * states


def test_fsdp2_holds_a_base_in_four_bits_whole():
    run = stage("--use_peft", "--lora_r=4", "--load_in_4bit", "--bf16=true", "--dtype=float32")
    held = step_needs(run, 64, whole=False).held
    base = held.weights - 2 * LORA  # trl makes the adapter bfloat16, and accelerate float32 again
    assert divide(held, Engine("fsdp2", 4))["weights"] == base + 4 * LORA // 4
