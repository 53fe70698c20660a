"""Steps that weights in 16 bits do not take."""

import pytest
import torch

from ift.check.engines import Engine
from ift.check.memory import loaded_dtype, step_needs
from ift.check.rounding import lost_updates
from ift.lab.testbed import tiny_base_path
from ift.methods.start import start_options
from ift.models.loading import load_config
from ift.runs.arguments import parse

IN_16_BITS = ["--dtype=bfloat16", "--bf16=true"]


def problem(*words, engine="ddp"):
    base = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "x", "--output_dir", "x"]
    run = parse([*base, *words])
    held = step_needs(run, 8, whole=engine == "ddp").held
    read = load_config(run.model.model_name_or_path, start_options(run))
    return lost_updates(run.config, held, Engine(engine, 2), read, loaded_dtype(run, read))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 9), (torch.float16, 12)])
def test_below_that_share_every_step_is_lost_and_just_above_twice_it_none(dtype, bits):
    """What the message says, shown for weights of all mantissas."""
    weights = torch.linspace(0.02, 0.04, 1000).to(dtype)
    below, above = weights.float() * 0.99 * 2**-bits, weights.float() * 2.02 * 2**-bits
    assert torch.equal((weights.float() + below).to(dtype), weights)
    assert not ((weights.float() + above).to(dtype) == weights).any()


def test_a_small_learning_rate_is_named_with_the_least_step_and_the_fix():
    """0.02 / 2^9 is 3.9e-5."""
    said = problem(*IN_16_BITS, "--learning_rate=3.8e-5")
    assert said.startswith(
        "the weights are trained in bfloat16, without a copy in float32, and learning_rate 3.8e-05"
    )
    assert "an update below 2^-9 of a weight is rounded away (3.9e-05 for a weight of 0.02)" in said
    assert said.endswith(
        "Fix: --dtype float32 (the default), or LoRA, whose adapter is float32 on such weights"
    )
    assert "2^-12 of a weight" in problem("--dtype=float16", "--learning_rate=1e-6")
    assert "bfloat16" in problem("--dtype=auto", "--bf16=true", "--learning_rate=1e-6")  # that of the files
    assert problem(*IN_16_BITS, "--learning_rate=1e-6", "--bf16=false", engine="fsdp2")


def test_whole_copies_beside_an_adapter_are_weights_in_16_bits():
    said = problem(
        *IN_16_BITS, "--learning_rate=1e-6", "--use_peft", "--lora_modules_to_save", "embed_tokens"
    )
    assert said.startswith(
        "the copies of lora_modules_to_save are trained in bfloat16, without a copy in float32"
    )
    assert said.endswith("Fix: --dtype float32 (the default), or a higher learning rate")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_adapter_beside_a_base_in_four_bits_is_in_16_bits(dtype):
    """Red when: it is taken for float32, which it is beside any other base."""
    said = problem("--use_peft", "--load_in_4bit", f"--dtype={dtype}", "--learning_rate=1e-6")
    assert said.startswith("the matrices of the adapter are trained in bfloat16, without a copy in float32")
    assert said.endswith("Fix: a higher learning rate, or LoRA on a base in 16 bits")


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        ([*IN_16_BITS, "--learning_rate=4e-5"], "ddp"),
        (["--dtype=float32", "--bf16=true", "--learning_rate=1e-6"], "ddp"),
        ([*IN_16_BITS, "--learning_rate=1e-6", "--use_peft"], "ddp"),
        ([*IN_16_BITS, "--learning_rate=1e-6", "--optim=sgd"], "ddp"),  # whose step is the gradient's
        (
            [*IN_16_BITS, "--learning_rate=1e-6", "--optim=adamw_anyprecision"],
            "ddp",
        ),  # which keeps what is lost
        ([*IN_16_BITS, "--learning_rate=1e-6"], "zero2"),  # copies in float32
        ([*IN_16_BITS, "--learning_rate=1e-6"], "fsdp2"),
        ([*IN_16_BITS, "--learning_rate=0"], "ddp"),
    ],
)
def test_nothing_is_lost(words, engine):
    assert problem(*words, engine=engine) == ""
