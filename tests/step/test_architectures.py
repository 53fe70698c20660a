"""The step of every supported family against the oracle; the families that cannot work, refused by name."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import transformers
from packaging.version import Version

import models
import reference
from ift import ift_loss
from ift.step.algorithm import enable_residual
from ift.step.model_checks import check_head, check_packing

PACKABLE = [family for family in models.FAMILIES if family not in models.MIXES_DOCUMENTS]


def example(model, lengths=(9, 14, 5, 12, 7)):
    """Rows with a prompt, a hole (a second user turn), one trained token, none, and a prompt of one token."""
    rows = models.likely_rows(model, lengths)
    labels = models.masked_labels(rows, [3, 2, 4, 12, 1], [(1, 6, 9)])
    return rows, labels


def check_against_reference(model, batch, **options):
    """Loss and every parameter's gradient to 1e-5, look-ahead ids exactly; returns what `ift_loss` gave."""
    model.zero_grad()
    found = ift_loss(model, batch, **options)
    found.loss.backward()
    twin = models.double(model)
    names = {"propagation": "kind", "propagation_gamma": "gamma", "propagation_detach": "detach"}
    names |= {
        "loss_reduction": "reduction",
        "lookahead_temperature": "temperature",
        "lookahead_top_k": "top_k",
    }
    wanted = reference.ift_step(
        twin, **batch, **{names.get(key, key): value for key, value in options.items()}
    )
    wanted.loss.backward()
    assert torch.equal(found.layout.trained, wanted.trained)
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)
    torch.testing.assert_close(found.scores.losses.double(), wanted.token_losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.weights.double(), wanted.weights.detach(), rtol=1e-4, atol=1e-5)
    assert models.gradient_error(model, twin) < 1e-5
    if options.get("residual_lambda", 0.2) > 0:
        assert torch.equal(found.scores.lookahead_ids, wanted.lookahead_ids)
        torch.testing.assert_close(found.scores.nll.double(), wanted.nll, rtol=1e-4, atol=1e-5)
        trained = found.layout.trained
        assert torch.equal(found.scores.lookahead_hits, (wanted.lookahead_ids == batch["labels"]) & trained)
        agreement = found.scores.lookahead_hits.sum() / trained.sum()
        assert 0.1 < agreement < 0.9, f"the look-ahead agrees at {agreement:.0%}: this proves nothing"
    return found


@pytest.mark.parametrize(
    ("tied", "side"), [(False, "left"), (True, "right")], ids=["untied-left", "tied-right"]
)
@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_step_of_every_family_is_the_references(family, tied, side):
    model = models.tiny_model(family, tie_word_embeddings=tied)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    batch = models.padded(*example(model), side=side, extra=2, pad=2)
    detach = {"left": "scale", "right": "none"}[side]  # the default, and the released code
    check_against_reference(model, batch, propagation_detach=detach)
    check_head(model)


@pytest.mark.parametrize("family", models.OTHERS)
def test_the_step_of_further_families_is_the_references(family):
    model = models.tiny_model(family)
    check_head(model)
    check_against_reference(model, models.padded(*example(model), side="left"))
    if family.startswith("narrow"):  # documents longer than the window
        check_packing(model)
        check_against_reference(model, models.packed(*example(model)))


@pytest.mark.parametrize("family", ["gpt2", "falcon", "gemma3", "qwen3_moe"])
def test_the_expected_embedding_of_every_kind_of_embedding(family):
    model = models.tiny_model(family)
    batch = models.padded(*example(model), side="left")
    check_against_reference(model, batch, lookahead="expected", lookahead_top_k=5, lookahead_temperature=0.7)


@pytest.mark.parametrize("family", PACKABLE)
def test_packed_documents_are_the_rows(family):
    model = models.tiny_model(family)
    check_packing(model)
    rows, labels = example(model)
    apart = check_against_reference(model, models.padded(rows, labels))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    together = check_against_reference(model, models.packed(rows, labels))
    assert together.loss.item() == pytest.approx(apart.loss.item(), rel=1e-6)
    for name, expected in gradients.items():
        actual = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(
            actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1e-3)
        )
    start = 0
    for b, row in enumerate(rows):
        torch.testing.assert_close(
            together.scores.losses[0, start : start + len(row)],
            apart.scores.losses[b, : len(row)],
            rtol=1e-4,
            atol=1e-5,
        )
        start += len(row)


@pytest.mark.parametrize("family", [*sorted(models.MIXES_DOCUMENTS), "bloom", "gpt_oss"])
def test_packing_is_refused_where_attention_mixes_documents(family):
    """Not only refused: they do mix. From transformers 5.24 on Falcon keeps them apart, and is not refused."""
    model = models.tiny_model(family)
    apart_now = family == "falcon" and Version(transformers.__version__) >= Version("5.24")
    refused = pytest.raises(ValueError, match=rf"{type(model).__name__} lets packed documents.*packing=False")
    with nullcontext() if apart_now else refused:
        check_packing(model)
    rows, labels = example(model)
    together = ift_loss(model, models.packed(rows, labels), lookahead_prefix="full").loss.item()
    apart = ift_loss(model, models.padded(rows, labels)).loss.item()
    assert (abs(together - apart) > 1e-3) is not apart_now


def test_attention_that_forgets_the_documents_is_found_by_the_probe(monkeypatch):
    model = models.tiny_model("llama")
    backbone = model.model.forward
    monkeypatch.setattr(
        model.model,
        "forward",
        lambda *args, position_ids=None, **kwargs: backbone(
            *args, attention_mask=torch.ones_like(kwargs["input_ids"]), position_ids=position_ids, **kwargs
        ),
    )
    with pytest.raises(ValueError, match="attend to each other"):
        check_packing(model)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_encoder_decoder_is_refused():
    config = transformers.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    with pytest.raises(ValueError, match=r"T5ForConditionalGeneration \(t5\) cannot.*encoder-decoder"):
        enable_residual(transformers.T5ForConditionalGeneration(config))


def test_a_vision_model_is_refused():
    text = transformers.LlamaConfig(**models.GROUPED)
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=8,
        patch_size=4,
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=96)
    with pytest.raises(ValueError, match=r"LlavaForConditionalGeneration \(llava\) cannot.*image"):
        enable_residual(transformers.LlavaForConditionalGeneration(config))


@pytest.mark.parametrize("name", ["hidden_size_per_layer_input", "vocab_size_per_layer_input"])
def test_per_layer_embeddings_keyed_by_ids_are_refused(name):
    model = models.tiny_model("gemma3")
    setattr(model.config, name, 8)
    with pytest.raises(ValueError, match=r"Gemma3ForCausalLM.*per-layer embeddings"):
        enable_residual(model)


def test_a_real_gemma_3n_text_model_is_refused():
    config = transformers.Gemma3nTextConfig(
        vocab_size=97,
        vocab_size_per_layer_input=97,
        hidden_size=32,
        hidden_size_per_layer_input=8,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_kv_shared_layers=0,
        laurel_rank=4,
        layer_types=["full_attention", "full_attention"],
    )
    with pytest.raises(ValueError, match="per-layer embeddings"):
        enable_residual(transformers.Gemma3nForCausalLM(config))


def test_a_module_that_is_no_language_model_is_refused():
    with pytest.raises(ValueError, match="not a transformers language model"):
        enable_residual(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no separate backbone"):
        enable_residual(models.tiny_model().model)


def test_prompt_tuning_is_refused():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(
        models.tiny_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(ValueError, match="virtual tokens"):
        enable_residual(model)


def test_lora_on_the_head_is_refused_also_when_it_comes_later():
    from peft import LoraConfig, get_peft_model

    model = models.tiny_model()
    enable_residual(model)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"]))
    with pytest.raises(ValueError, match="`lm_head` cannot be trained"):
        ift_loss(model, {"input_ids": torch.ones(1, 4).long(), "labels": torch.ones(1, 4).long()})


def test_a_transformed_logit_that_is_not_known_is_found(monkeypatch):
    model = models.tiny_model()
    check_head(model)
    own = model.forward
    monkeypatch.setattr(model, "forward", lambda **kwargs: _tripled(own(**kwargs)))
    with pytest.raises(ValueError, match="LlamaForCausalLM transforms its logits"):
        check_head(model)


def test_a_model_that_sees_later_tokens_is_refused():
    model = models.tiny_model("gemma3")
    enable_residual(model)
    model = models.tiny_model("gemma3", use_bidirectional_attention=True)
    with pytest.raises(ValueError, match=r"Gemma3ForCausalLM.*depends on the tokens after it"):
        enable_residual(model)


def _tripled(output):
    output.logits = output.logits * 3
    return output


def test_a_head_that_is_more_than_a_projection_is_found():
    """BERT's head has a layer of its own before the projection."""
    model = transformers.BertLMHeadModel(transformers.BertConfig(**models.LAYERS, is_decoder=True))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    ids = torch.randint(3, 97, (1, 7))
    with pytest.raises(ValueError, match="BertLMHeadModel transforms its logits"):
        ift_loss(model, {"input_ids": ids, "labels": ids})  # a loop of one's own is refused as the trainer is


def test_a_model_whose_backbone_transformers_does_not_find_is_refused():
    config = transformers.Llama4TextConfig(
        **models.GROUPED, num_local_experts=2, num_experts_per_tok=1, intermediate_size_mlp=48
    )
    with pytest.raises(ValueError, match=r"Llama4ForCausalLM \(llama4_text\) cannot.*no separate backbone"):
        enable_residual(transformers.Llama4ForCausalLM(config))
