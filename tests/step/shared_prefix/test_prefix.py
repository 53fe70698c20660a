"""A shared prefix changes the price of a step, not the step: against the plain path, and where it must not be used."""

from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path

import prefix_worker
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_architectures import example
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
import two_processes
from ift import ift_loss
from ift.lab.compare.flops import UNCOUNTED
from ift.step.algorithm import FullRows
from ift.step.lookahead import LookAhead
from ift.step.model import evaluating, unwrapped
from ift.step.rows import row_layout
from ift.step.shared_prefix import prefix
from ift.step.shared_prefix.cache import cache_argument
from ift.step.shared_prefix.prefix import SHARING, SharedPrefix, shared_prefix
from ift.step.shared_prefix.work import LEAST_WORK, layer_parameters

EVERY = [*models.FAMILIES, *(family for family in models.OTHERS if family != "phimoe"), *models.FURTHER]


@pytest.fixture(autouse=True)
def _everything_is_said_again():
    prefix._logged.clear()


def step(model, batch, backward=True, **options):
    """What `ift_loss` gives, its loss with the experts' own added, and the gradients."""
    model.zero_grad()
    found = ift_loss(model, batch, **options)
    loss = found.loss if found.scores.aux_loss is None else found.loss + 0.5 * found.scores.aux_loss
    if backward:
        loss.backward()
    return (
        found,
        loss.detach(),
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    )


def assert_same_step(model, batch, tolerance=5e-6, shared=True, **options):
    """Both ways on one batch: loss, every token's scores and every parameter's gradient."""
    plain, plain_loss, wanted = step(model, batch, lookahead_prefix="full", **options)
    found, loss, gradients = step(model, batch, **options)
    assert plain.scores.shared_prefix is False
    assert found.scores.shared_prefix is shared
    assert loss.item() == pytest.approx(plain_loss.item(), rel=tolerance)
    assert gradients.keys() == wanted.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).abs().max() <= tolerance * largest, name
    assert torch.equal(found.scores.lookahead_ids, plain.scores.lookahead_ids)
    for name in ("losses", "nll", "entropy"):
        torch.testing.assert_close(
            getattr(found.scores, name), getattr(plain.scores, name), rtol=1e-4, atol=1e-5
        )
    return found


def experts(family):
    return {"output_router_logits": True} if family in ("mixtral", "qwen3_moe") else {}


@pytest.mark.parametrize("family", EVERY)
def test_every_family_of_the_table_shares_and_its_step_is_the_plain_one(family):
    """Left and right padding (moved to the left), untrained gaps, a prompt of one token, a row without any label."""
    model = models.tiny_model(family)
    assert model.config.model_type in SHARING
    rows, labels = example(model)
    assert_same_step(model, {**models.padded(rows, labels, "right", extra=2, pad=2), **experts(family)})
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_step(model, {**models.padded(rows, labels, "left"), **experts(family)})


VARIANTS = {
    "alibi": ("falcon", {"alibi": True}),
    "grouped falcon": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "some layers with a window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "a window and full layers": (
        "exaone4",
        {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "capped scores and a window": ("gemma2", {"sliding_window": 4}),
    "sinks and a window": ("gpt_oss", {"sliding_window": 4}),
    "experts and a window": ("mixtral", {"sliding_window": 4}),
    "no rotation in some layers": ("smollm3", {"no_rope_layers": [1, 0]}),
    "norm behind": ("opt", {"do_layer_norm_before": False}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_families_share(name):
    """Windows are shorter than the rows."""
    family, changes = VARIANTS[name]
    model = models.tiny_model(family, **changes)
    assert_same_step(model, {**models.padded(*example(model), "right"), **experts(family)})


def test_every_family_of_the_table_is_tested():
    assert {models.config_of(family).model_type for family in EVERY} == SHARING


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "options",
    [
        {"lookahead": "sample", "residual_lambda": 0.5, "seed": 3, "step": 5},
        {"lookahead": "expected", "lookahead_top_k": 5},
        {"residual_lambda": 1.0, "propagation": "none", "loss_reduction": "token"},
        {"residual_lambda": 0.3371, "propagation_detach": "none"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_look_ahead_shares(options, attention):
    model = models.tiny_model("llama", attn_implementation=attention, tie_word_embeddings=True)
    assert_same_step(model, models.padded(*example(model), "left"), **options)


@pytest.mark.parametrize("lengths", [(7, 7, 7), (7,), (7, 3)])
@pytest.mark.parametrize("prompt", [1, 2, 6])
def test_every_cut_from_the_first_token_to_the_last(lengths, prompt):
    model = models.tiny_model("gpt2")
    rows = models.likely_rows(model, lengths)
    batch = models.padded(rows, models.masked_labels(rows, [prompt] * len(rows)))
    assert_same_step(model, batch)
    if len(set(lengths)) == 1:
        del batch["attention_mask"]
        assert_same_step(model, batch)


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
def test_packed_documents_are_taken_apart_and_share(family):
    """53 tokens in one row, four passes over each; apart they are 4 x 14, three passes, and 4 x 8 of the answers."""
    model = models.tiny_model(family)
    rows = models.likely_rows(model, (14, 14, 12, 13))
    labels = models.masked_labels(rows, [6, 9, 5, 8], [(2, 7, 9)])
    found = assert_same_step(model, {**models.packed(rows, labels), **experts(family)})
    apart, _, _ = step(model, models.padded(rows, labels), residual_lambda=0.2)
    assert found.loss.item() == pytest.approx(apart.loss.item(), rel=1e-5)


def test_the_states_are_the_same_to_the_last_digits():
    """float64, without the head, which trl computes in float32."""
    model = models.double(models.tiny_model("qwen3"))
    batch = models.padded(*example(model), "right")
    layout = row_layout(batch["labels"], batch["attention_mask"])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    targets = batch["labels"][layout.trained]
    guess = LookAhead(targets.roll(1)[:, None], torch.ones(len(targets), 1), targets, targets)
    found = {}
    for name, passes in (
        ("full", FullRows(model, {**inputs, "use_cache": False}, layout, False)),
        ("shared", shared_prefix(model, inputs, layout, False)),
    ):
        with torch.no_grad(), evaluating(model):
            ahead = passes.look_ahead_states()
        states = passes.mixed_states(guess, 0.2)[0]
        model.zero_grad()
        states.pow(3).sum().backward()
        found[name] = ahead, states, [p.grad for n, p in model.named_parameters() if "lm_head" not in n]
    assert isinstance(passes, SharedPrefix)
    for ours, theirs in zip(found["shared"][:2], found["full"][:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for ours, theirs in zip(found["shared"][2], found["full"][2], strict=True):
        assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()


def lora(model, dropout=0.0, **options):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=dropout, init_lora_weights=False, **options)
    return get_peft_model(model, config).train()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_share(checkpointing):
    torch.manual_seed(1)
    model = lora(models.tiny_model("llama"), target_modules=["q_proj", "v_proj", "down_proj", "embed_tokens"])
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    assert_same_step(model, models.padded(*example(model), "left"), residual_lambda=0.5)


def test_bfloat16_is_as_near_to_float32_as_the_plain_path():
    exact = models.tiny_model("llama", sharpen=2.0)
    model = models.tiny_model("llama", sharpen=2.0, dtype=torch.bfloat16)
    batch = models.padded(*example(exact), "left")
    _, _, wanted = step(exact, batch)

    def error(way):
        _, _, found = step(model, batch, lookahead_prefix=way)
        pairs = [(found[name].float(), wanted[name]) for name in wanted]
        return (
            torch.stack([(a - b).norm() for a, b in pairs]).norm()
            / torch.stack([b.norm() for _, b in pairs]).norm()
        )

    assert error("shared") < 1.5 * error("full")


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_autocast_and_evaluation(family):
    model = models.tiny_model(family, sharpen=2.0)
    batch = models.padded(*example(model), "left")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, _, wanted = step(model, batch, lookahead_prefix="full", propagation="none")
        found, _, gradients = step(model, batch, propagation="none")
    assert found.scores.shared_prefix
    assert found.loss.item() == pytest.approx(plain.loss.item(), rel=2e-2)
    assert gradients.keys() == wanted.keys()
    assert all((gradient != 0).any() for gradient in gradients.values())
    with torch.no_grad(), evaluating(model):
        ways = [step(model, batch, False, lookahead_prefix=way)[0].loss for way in ("shared", "full")]
    torch.testing.assert_close(*ways, rtol=1e-6, atol=0)


# --- what falls back --------------------------------------------------------------------------------------------------


def assert_falls_back(caplog, model, batch, reason, **options):
    """The step is the plain one, and the log says why, once."""
    caplog.set_level(logging.INFO, "ift.step.shared_prefix.prefix")
    for _ in range(2):
        found = step(model, batch, **options)[0]
        assert found.scores.shared_prefix is False
    told = [record.message for record in caplog.records if record.name == "ift.step.shared_prefix.prefix"]
    assert len(told) == (reason is not None)
    assert reason is None or reason in told[0]


@pytest.mark.parametrize(
    ("family", "dropout", "name"),
    [
        ("llama", {"attention_dropout": 0.1}, "attention_dropout of model.layers.0.self_attn"),
        ("gpt2", {"resid_pdrop": 0.1}, "dropout of transformer.h.0.attn.resid_dropout"),
        ("opt", {"layerdrop": 0.1}, "layerdrop of model.decoder"),
        ("falcon", {"hidden_dropout": 0.1}, "hidden_dropout of transformer.h.0"),
        ("mixtral", {"router_jitter_noise": 0.1}, "jitter_noise of model.layers.0.mlp"),
    ],
)
def test_dropout_falls_back(caplog, family, dropout, name):
    model = models.tiny_model(family, **dropout)
    batch = models.padded(*example(model), "left")
    assert_falls_back(caplog, model, batch, f"{name} is on")
    model.eval()
    assert step(model, batch)[0].scores.shared_prefix  # there is none now


def test_an_adapters_dropout_falls_back(caplog):
    model = lora(models.tiny_model("llama"), 0.05, target_modules=["q_proj"])
    assert_falls_back(
        caplog, model, models.padded(*example(model)), "lora_dropout.default is on (--lora_dropout): correct"
    )


def test_reentrant_checkpointing_falls_back(caplog):
    model = models.tiny_model("llama")
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    assert_falls_back(caplog, model, models.padded(*example(model)), "{'use_reentrant': False}")


def test_an_untested_architecture_falls_back(caplog):
    model = models.tiny_model("phimoe")
    assert_falls_back(caplog, model, models.padded(*example(model)), "not tested for PhimoeForCausalLM")


def test_an_untested_attention_falls_back(caplog):
    model = models.tiny_model("llama", attn_implementation="flex_attention")
    with torch.no_grad(), evaluating(model):
        batch = models.padded(*example(models.tiny_model("llama")))
        layout = row_layout(batch["labels"], batch["attention_mask"])
        caplog.set_level(logging.INFO, "ift.step.shared_prefix.prefix")
        assert shared_prefix(model, batch, layout, False) is None
    assert "attn_implementation='flex_attention'" in caplog.text


def test_rotary_frequencies_that_depend_on_the_length_fall_back(caplog):
    """Phi-3's long context turns other frequencies on for a call that sees far positions: a prefix alone does not."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    model = models.tiny_model(
        "phi3", rope_parameters={**rope, "original_max_position_embeddings": 12}, sharpen=2.0
    )
    batch = models.padded(*example(model))
    assert_falls_back(caplog, model, batch, "rotary frequencies depend on the length (longrope)")


def test_a_mask_with_padding_between_tokens_falls_back(caplog):
    model = models.tiny_model("llama")
    batch = models.padded(*example(model))
    batch["attention_mask"][1, 4] = 0
    assert_falls_back(caplog, model, batch, "padding between tokens")


def test_auto_shares_from_a_work_on(monkeypatch):
    """A layer of a Llama has 4 projections, 3 matrices of the MLP and 2 norms; the last norm is shared out."""
    model = models.tiny_model("llama")
    batch, config = models.padded(*example(model)), model.config
    width, inner, keys = (
        config.hidden_size,
        config.intermediate_size,
        config.num_key_value_heads * config.head_dim,
    )
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner + 2 * width
    assert layer_parameters(model) == layer + width / config.num_hidden_layers
    work = batch["input_ids"].numel() * layer_parameters(model)
    for least, shares in ((work, True), (work + 1, False)):
        monkeypatch.setitem(LEAST_WORK, "cpu", least)
        assert bool(ift_loss(model, batch).scores.shared_prefix) == shares
        assert ift_loss(model, batch, lookahead_prefix="shared").scores.shared_prefix
    monkeypatch.delitem(LEAST_WORK, "cpu")  # a kind of device that was not measured
    assert not ift_loss(model, batch).scores.shared_prefix


def test_whoever_asks_for_it_gets_the_plain_path_without_a_word(caplog):
    model = models.tiny_model("llama")
    assert_falls_back(caplog, model, models.padded(*example(model)), None, lookahead_prefix="full")


def test_a_prefix_that_saves_nothing_is_not_shared(caplog):
    """26 tokens, of which all but the first are trained: 4 x 26 token passes against 3 x 26 + 25, 1 % less."""
    model = models.tiny_model("llama")
    ids = torch.randint(3, 97, (2, 26))
    assert_falls_back(caplog, model, {"input_ids": ids, "labels": ids}, "its common prefix too short")
    assert step(model, {"input_ids": ids[:, :24], "labels": ids[:, :24]})[0].scores.shared_prefix


def test_packed_documents_of_unlike_lengths_fall_back(caplog):
    """One of 40 tokens and four of 6, in one row of 64: as rows they would be 5 x 40."""
    model = models.tiny_model("llama")
    rows = [torch.randint(3, 97, (n,)) for n in (40, 6, 6, 6, 6)]
    batch = models.packed(rows, models.masked_labels(rows, [20, 3, 3, 3, 3]))
    assert_falls_back(caplog, model, batch, "its common prefix too short")


# --- two processes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    script = Path(__file__).parent / "prefix_worker.py"
    return two_processes.of_two_processes(script, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow  # tests/training/test_distributed.py runs DDP, which shares by default
@pytest.mark.parametrize("name", prefix_worker.CASES)
def test_two_processes_share_and_are_one(of_two_processes, name):
    """Against the plain path of one process; a rank that cannot share keeps the other from it, or they would wait."""
    found = of_two_processes[name]
    model, batch = prefix_worker.model_and_batch(name)
    plain, _, wanted = step(model, batch, lookahead_prefix="full")
    assert found["shared"] is not name.startswith("one rank cannot")
    assert found["loss"] == pytest.approx(plain.loss.item(), rel=1e-5)
    models.assert_same_gradients(found["gradients"], wanted)


# --- the cache's argument ---------------------------------------------------------------------------------------------


def test_the_cache_goes_to_the_argument_that_the_backbone_has():
    class Old(nn.Module):
        def forward(self, input_ids, past_key_values=None):
            """As up to transformers 5.23."""

    class New(nn.Module):
        def forward(self, input_ids, cache=None):
            """As from 5.24 on, where a decorator translates `past_key_values` and warns."""

    assert [cache_argument(backbone()) for backbone in (Old, New)] == ["past_key_values", "cache"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_transformers_finds_nothing_deprecated_in_how_the_cache_is_passed(family, recwarn):
    model = models.tiny_model(family)
    assert step(model, models.padded(*example(model)))[0].scores.shared_prefix
    assert not [str(warning.message) for warning in recwarn if "past_key_values" in str(warning.message)]


# --- what it leaves behind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_nothing_is_left_on_the_model(family):
    model = models.tiny_model(family)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = models.padded(*example(model))

    def flags():
        names = ("training", "gradient_checkpointing", "_can_checkpoint_with_cache")
        return [[getattr(module, name, None) for name in names] for module in model.modules()]

    before = flags()
    step(model, batch)
    assert flags() == before
    broken = unwrapped(model).get_input_embeddings().register_forward_hook(lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(model, batch)
    broken.remove()
    assert flags() == before


def test_a_step_without_a_backward_pass_frees_its_graph(monkeypatch):
    """Keys and values that held the cache that held them, by way of the checkpoints, would never be freed."""
    model = models.tiny_model("llama")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    made, make = [], prefix.prefix_writer

    def noted():
        cache = make()
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(prefix, "prefix_writer", noted)
    step(model, models.padded(*example(model)), backward=False)
    gc.collect()
    assert [reference() for reference in made] == [None]


def test_a_run_logs_how_many_of_its_steps_shared(tmp_path):
    model = models.tiny_model("llama")
    rows = models.uneven_rows(model)
    options = {"max_steps": 2, "per_device_train_batch_size": 4}
    assert models.logged(models.trained(tmp_path, model, rows, **options), "shared_prefix") == [1, 1]
    run = models.trained(tmp_path, model, rows, lookahead_prefix="full", **options)
    assert models.logged(run, "shared_prefix") == [0, 0]
    assert (
        models.logged(models.trained(tmp_path, model, rows, residual_lambda=0.0, **options), "shared_prefix")
        == []
    )


# --- what it costs ----------------------------------------------------------------------------------------------------


def flops(function):
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        function()
    return counter.get_total_flops()


OFTEN = ("llama", "gpt2", "mixtral")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "family",
    [family if family in OFTEN else pytest.param(family, marks=pytest.mark.slow) for family in EVERY],
)
def test_a_step_costs_what_it_must(family, checkpointing):
    """Operations of IFT over those of lambda 0, against the least that an exact look-ahead can add.

    With n and h operations a token of body and head, P prompt and C completion tokens: C (n + h) on top of
    3 (P + C) n + 4 C h, or 4 (P + C) n + 4 C h where the body is computed again in the backward pass.
    """
    model = models.tiny_model(family, vocab_size=500, tie_word_embeddings=False)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    length, rows = 64, 2
    ids = torch.randint(3, 500, (rows, length))
    mask = torch.ones_like(ids)
    with torch.no_grad(), evaluating(model):
        body = flops(lambda: model.base_model(input_ids=ids, attention_mask=mask)) / length
    head = 2 * rows * model.get_output_embeddings().weight.numel()
    for prompt in (52, 12):
        labels = ids.clone()
        labels[:, :prompt] = -100
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        ift, sft = (
            flops(lambda batch=batch, share=share: step(model, batch, residual_lambda=share))
            for share in (0.2, 0.0)
        )
        answer = length - prompt
        least = answer * (body + head) / ((4 if checkpointing else 3) * length * body + 4 * answer * head)
        full = flops(lambda batch=batch: step(model, batch, lookahead_prefix="full"))
        assert ift / sft <= 1.03 * (1 + least)
        assert full > ift
