"""A step on a base that bitsandbytes quantised, on its CPU kernels: the same as with dequantised weights."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_folder import CHATML, save_tiny
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import models
import reference
from ift import ift_loss
from ift.step.model import keep_quantised_layout

bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")

FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
KINDS = {
    "nf4": FOUR_BITS | {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": FOUR_BITS | {"bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"), CHATML, tie_word_embeddings=request.param)


def quantised(folder, **options):
    found = BitsAndBytesConfig(**options)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=found, dtype="float32")
    keep_quantised_layout(model)  # the tests call it before `ift_loss` does
    return model


def pair(folder, kind):
    """The quantised model with LoRA, and the same with each quantised layer replaced by its dequantised weights."""
    model = quantised(folder, **KINDS[kind])
    twin = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    layers = 0
    for name, module in model.named_modules():
        weight = twin.get_submodule(name).weight if name.endswith("_proj") else None
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight.data = bitsandbytes.functional.dequantize_4bit(
                module.weight.data, module.weight.quant_state
            )
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            weight.data = module.weight.data.float() * module.weight.SCB[:, None] / 127
        layers += weight is not None
    assert layers == 14
    return with_adapter(model), with_adapter(twin)


def with_adapter(model):
    torch.manual_seed(1)
    options = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, options).train()


def batch():
    rows = [
        torch.randint(5, 300, (length,), generator=torch.Generator().manual_seed(length))
        for length in (20, 30, 11)
    ]
    return models.padded(rows, models.masked_labels(rows, [8, 8, 8]))


@pytest.mark.parametrize("prefix", ["full", "shared"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_step_in_four_bits_is_the_references(folder, kind, prefix):
    """Red when: packed weights are read as a matrix, or the head or the embedding is not the model's own."""
    model, twin = pair(folder, kind)
    found = ift_loss(model, batch(), residual_lambda=0.5, lookahead_prefix=prefix)
    found.loss.backward()
    twin = twin.double()
    wanted = reference.ift_step(twin, **batch(), residual_lambda=0.5)
    wanted.loss.backward()
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert found.scores.shared_prefix == (prefix == "shared")
    assert models.gradient_error(model, twin) < 1e-5


def test_a_mixed_pass_in_eight_bits_is_that_of_dequantised_weights(folder):
    """With given guesses: on a CPU bitsandbytes rounds activations in evaluation mode, that of the look-ahead."""

    def fixed(guess, ids, layout, settings):
        return replace(guess, ids=(layout.at_trained(ids) * 7 % 300)[:, None])

    losses = []
    for model in (pairs := pair(folder, "int8")):
        result = ift_loss(model, batch(), residual_lambda=0.5, change_guess=fixed)
        result.loss.backward()
        losses.append(result.loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert models.gradient_error(*pairs) < 1e-4


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_head_is_refused(folder, kind):
    model = quantised(folder, **KINDS[kind], llm_int8_skip_modules=[])
    with pytest.raises(ValueError, match=r"head is quantised \(Linear(4bit|8bitLt)\).*llm_int8_skip_modules"):
        ift_loss(model, batch())
