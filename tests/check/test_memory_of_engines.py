"""The memory of one process under an engine, by hand: 870,656 parameters, 66,816 of them outside four equal blocks."""

import pytest

from ift.check.engines import Engine, divide
from ift.check.memory import _state_bytes, estimate_memory, step_needs
from ift.check.remedies import remedies
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
        ("fsdp2", ["--bf16=true"], 4 * N // 4 + 2 * WHOLE, 4 * N // 4, 8 * N // 4, 0),
        ("fsdp2", [], 4 * N // 4 + 4 * WHOLE, 4 * N // 4, 8 * N // 4, 0),
        ("zero2", ["--bf16=true", "--method=dpo"], 2 * N + 4 * N // 4, 2 * N // 4, 8 * N // 4, 2 * N),
        ("fsdp2", ["--bf16=true", "--method=dpo"], 4 * N // 4 + 2 * WHOLE, 4 * N // 4, 8 * N // 4, 4 * N // 4),
        ("fsdp2", ["--use_peft", "--lora_r=4"], (N + LORA) + 4 * WHOLE, LORA, 2 * LORA, 0),
    ],
)  # fmt: skip
def test_one_of_four(engine, words, weights, gradients, optimizer, reference):
    held = step_needs(stage(*words, "--dtype=float32"), 64, whole=engine == "ddp").held
    assert divide(held, Engine(engine, 4)) == {
        "weights": weights, "gradients": gradients, "optimizer": optimizer, "reference": reference,
    }  # fmt: skip


def test_one_process_of_ddp_is_one_device():
    assert estimate_memory(stage(), 64, engine=Engine("ddp", 1)) == estimate_memory(stage(), 64)


def test_processes_are_added_until_a_step_fits():
    """Red when: a remedy that does not fit comes before one that does."""
    run = stage("--per_device_train_batch_size=1", "--gradient_checkpointing=true", "--dtype=float32")
    eight = estimate_memory(run, 64, engine=Engine("fsdp2", 8)).total
    found = remedies(run, 64, eight, Engine("fsdp2", 2))
    assert str(found[0]).startswith("--num_processes 8 (about ")
    assert all(one.total <= eight for one in found)
    found = remedies(run, 64, 2**50, Engine("ddp", 2))
    assert [one.flags for one in found][:2] == ["--accelerate_config zero2", "--accelerate_config fsdp2"]


def test_the_smallest_change_that_fits_comes_first_and_else_several_together():
    run = stage("--gradient_checkpointing=false", "--per_device_train_batch_size=4")
    now, longest = estimate_memory(run, 256).total, 256
    first = remedies(run, longest, now - 1)
    assert [one.flags.split()[0] for one in first] == [
        "--gradient_checkpointing", "--per_device_train_batch_size", "--max_length", "--use_peft", "--dtype",
    ]  # fmt: skip
    assert first[1].flags == "--per_device_train_batch_size 2 --gradient_accumulation_steps 2"
    assert first[2].flags == "--max_length 128"
    *alone, all_of_them = remedies(run, longest, 0)
    least = min(one.total for one in alone)
    assert all_of_them.total < least
    (together,) = remedies(run, longest, int(0.7 * least))
    assert together.total <= 0.7 * least
    assert together.flags.startswith("--gradient_checkpointing true --per_device_train_batch_size 1 ")


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
    assert running_engine() == Engine("fsdp2", 4)


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [("adamw_torch", 2), ("rmsprop", 1), ("adagrad", 1), ("lion_32bit", 1), ("sgd", 0)],
)
def test_optimisers_hold_their_states(optimizer, states):
    assert _state_bytes(optimizer, 4) == 4 * states


def test_rows_are_cut_last_and_by_no_more_than_is_needed():
    """Red when: the cut that would do alone (to 64 tokens) is kept beside changes that need no cut."""
    run = stage("--gradient_checkpointing=false", "--per_device_train_batch_size=4", "--dtype=float32")
    others = stage(
        "--gradient_checkpointing=true",
        "--per_device_train_batch_size=1",
        "--gradient_accumulation_steps=4",
        "--use_peft=true",
        "--dtype=bfloat16",
    )
    enough = estimate_memory(others, 512).total
    (found,) = remedies(run, 512, enough)
    assert "--max_length" not in found.flags
    *_, found = remedies(run, 512, 0)
    assert found.flags.endswith("--max_length 128")
