"""The lines of the plan, from small objects in place of a trainer."""

import torch

from ift.lab.testbed import tiny_base_path
from ift.runs.arguments import parse
from ift.runs.plan import dtype_line


def stage(*words):
    base = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "x", "--output_dir", "x"]
    return parse([*base, *words])


def test_the_states_of_deepspeed_are_float32_whatever_the_weights_are(monkeypatch):
    model = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    run = stage()
    line = dtype_line(run, model, "adamw_torch")
    assert "optimiser states torch.bfloat16, saved in torch.bfloat16" in line
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    line = dtype_line(run, model, "adamw_torch")
    assert "optimiser states torch.float32, saved in torch.bfloat16" in line


def test_the_weights_of_a_base_in_few_bits():
    """Red when: 4-bit weights are called bfloat16, the dtype of those that are not quantised."""
    model = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    model.is_loaded_in_4bit = True
    assert dtype_line(stage(), model, "adamw_torch").startswith(
        "weights of linear layers in 4 bits, all others torch.bfloat16, optimiser states"
    )


def test_the_copies_of_whole_modules_have_a_dtype_of_their_own():
    """Red when: the line names the dtype of one trained tensor as that of all."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def line(**lora):
        model = AutoModelForCausalLM.from_pretrained(tiny_base_path(), dtype=torch.bfloat16)
        wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], **lora))
        return dtype_line(stage("--dtype=bfloat16"), wrapped, "adamw_torch")

    assert line().endswith("optimiser states torch.float32, the adapter is saved in torch.float32")
    assert line(modules_to_save=["embed_tokens"]).endswith(
        "optimiser states torch.float32 and torch.bfloat16, the adapter is saved in torch.float32, and the copies of "
        "lora_modules_to_save in torch.bfloat16"
    )
