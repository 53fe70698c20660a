"""`ift_loss`: every option against the oracle, and exactness under everything that wraps a model."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_architectures import check_against_reference, example
from torch.utils._python_dispatch import TorchDispatchMode

import models
import reference
from host_waits import HostWaits
from ift import enable_residual, ift_loss
from ift.step.lookahead_variants import look_ahead_uniforms
from ift.step.model import evaluating
from ift.step.rows import row_layout

OPTIONS = [
    {"residual_lambda": 0.0},
    {"residual_lambda": 0.0, "propagation": "none", "loss_reduction": "token"},
    {"residual_lambda": 1.0},
    {"residual_lambda": 0.2, "loss_reduction": "token"},
    {"propagation_detach": "scale"},
    {"propagation_detach": "none"},
    {"propagation_detach": "weights", "loss_reduction": "token"},
    {"propagation_gamma": 0.5},
    {"propagation_gamma": 1.0},
    {"propagation": "cumsum", "propagation_gamma": 0.8},
    {"propagation": "none"},
    {"lookahead": "expected", "lookahead_top_k": 3},
    {"lookahead": "expected", "lookahead_top_k": 500, "lookahead_temperature": 2.0, "residual_lambda": 0.5},
]


def named(options):
    return "-".join(f"{key.split('_')[-1]}={value}" for key, value in options.items())


@pytest.fixture(scope="module")
def llama_and_rows():
    model = models.tiny_model("llama", tie_word_embeddings=True)
    return model, *example(model)


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_every_option_is_the_references(llama_and_rows, options):
    model, rows, labels = llama_and_rows
    check_against_reference(model, models.padded(rows, labels, "left"), **options)
    check_against_reference(model, models.packed(rows, labels), **options)


def sampled_ids(model, rows, labels, temperature, seed, step):
    """What a sampled look-ahead takes, row by row: the inverse of each position's distribution function."""
    found = []
    for row, label in zip(rows, labels, strict=True):
        layout = row_layout(label[None])
        uniforms = look_ahead_uniforms(row[None], layout, seed, step)[0]
        with torch.no_grad(), evaluating(model):
            steps = (model(input_ids=row[None]).logits[0] / temperature).softmax(-1).cumsum(-1)
        ids = row.clone()
        for t in layout.trained[0].nonzero()[:, 0].tolist():
            ids[t] = int((uniforms[t] > steps[t - 1]).sum())
        found.append(ids)
    return found


@pytest.mark.parametrize("side", ["left", "right", "packed"])
def test_a_sampled_look_ahead_is_the_references(llama_and_rows, side):
    model, rows, labels = llama_and_rows
    batch = models.packed(rows, labels) if side == "packed" else models.padded(rows, labels, side)
    twin = models.double(model)
    drawn = sampled_ids(twin, rows, labels, 0.8, 3, 5)
    place = models.packed(drawn, labels) if side == "packed" else models.padded(drawn, labels, side)
    model.zero_grad()
    found = ift_loss(
        model, batch, residual_lambda=0.5, lookahead="sample", lookahead_temperature=0.8, seed=3, step=5
    )
    found.loss.backward()
    wanted = reference.ift_step(twin, **batch, residual_lambda=0.5, lookahead_ids=place["input_ids"])
    wanted.loss.backward()
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert models.gradient_error(model, twin) < 1e-5
    greedy = ift_loss(model, batch, residual_lambda=0.5)
    assert torch.equal(greedy.scores.lookahead_ids, found.scores.lookahead_ids)  # the argmax, always
    assert greedy.loss.item() != pytest.approx(found.loss.item(), rel=1e-3)
    other = ift_loss(
        model, batch, residual_lambda=0.5, lookahead="sample", lookahead_temperature=0.8, seed=3, step=6
    )
    assert other.loss.item() != found.loss.item()


def test_the_entropy_and_the_top1_are_those_of_the_mixed_pass(llama_and_rows):
    model, rows, labels = llama_and_rows
    batch = models.padded(rows, labels)
    scores = ift_loss(model, batch, residual_lambda=0.7).scores
    own = model.get_input_embeddings()(batch["input_ids"])
    guess = model.get_input_embeddings()(scores.lookahead_ids)
    trained = row_layout(batch["labels"], batch["attention_mask"]).trained
    mixed = torch.where(trained[..., None], 0.3 * own + 0.7 * guess, own)
    log_probs = (
        model(inputs_embeds=mixed, attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    )
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    torch.testing.assert_close(scores.entropy[:, 1:], entropy * trained[:, 1:], rtol=1e-4, atol=1e-5)
    assert torch.equal(scores.top1[:, 1:], (log_probs.argmax(-1) == batch["labels"][:, 1:]) & trained[:, 1:])


def embedding_outputs(model, batch, **options):
    """What the model's first layer is given in the mixed pass."""
    seen = []
    hook = model.model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    found = ift_loss(model, batch, **options)
    hook.remove()
    return seen[-1], found, len(seen)


def test_the_residual_is_mixed_at_trained_positions_only(llama_and_rows):
    model, rows, labels = llama_and_rows
    batch = models.padded(rows, labels, "left")
    own = model.get_input_embeddings()(batch["input_ids"])
    given, found, _ = embedding_outputs(model, batch, residual_lambda=0.4, lookahead_prefix="full")
    trained = found.layout.trained
    assert torch.equal(given[~trained], own[~trained])
    differs = found.scores.lookahead_ids != batch["input_ids"]
    assert not differs[~trained].any()
    assert ((given - own).abs() > 1e-5).any(-1).equal(differs)
    guess = model.get_input_embeddings()(found.scores.lookahead_ids)
    torch.testing.assert_close(given, 0.6 * own + 0.4 * guess, rtol=1e-5, atol=1e-6)


def test_lambda_zero_runs_one_pass_and_looks_ahead_not_at_all(llama_and_rows):
    model, rows, labels = llama_and_rows
    batch = models.padded(rows, labels)
    _, found, passes = embedding_outputs(model, batch, residual_lambda=0.0)
    assert passes == 1
    assert found.scores.lookahead_ids is None
    torch.testing.assert_close(found.scores.nll, found.scores.losses.detach())
    assert torch.equal(found.scores.lookahead_hits, found.scores.top1)
    assert embedding_outputs(model, batch, residual_lambda=0.1, lookahead_prefix="full")[2] == 2
    assert embedding_outputs(model, batch, residual_lambda=0.1)[2] == 3  # the prefix is a pass of its own


def test_a_later_token_never_changes_an_earlier_loss(llama_and_rows):
    model, _, _ = llama_and_rows
    ids = torch.randint(3, 97, (1, 12), generator=torch.Generator().manual_seed(1))
    before = ift_loss(model, {"input_ids": ids, "labels": ids}, residual_lambda=0.5)
    for t in range(2, 12):
        changed = ids.clone()
        changed[0, t:] = (changed[0, t:] + 31) % 97
        after = ift_loss(model, {"input_ids": changed, "labels": changed}, residual_lambda=0.5)
        torch.testing.assert_close(
            after.scores.losses[:, :t], before.scores.losses[:, :t], rtol=1e-5, atol=1e-5
        )
        assert torch.equal(after.scores.lookahead_ids[:, : t + 1], before.scores.lookahead_ids[:, : t + 1])
        assert (after.scores.losses[:, t:] != before.scores.losses[:, t:]).any()


@pytest.mark.parametrize("lookahead", ["greedy", "sample", "expected"])
def test_a_batch_without_a_trained_token_has_loss_zero_and_a_graph(lookahead):
    model = models.tiny_model()
    ids = torch.randint(3, 97, (2, 6))
    found = ift_loss(model, {"input_ids": ids, "labels": torch.full_like(ids, -100)}, lookahead=lookahead)
    found.loss.backward()
    assert found.loss == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_num_items_divides_by_the_global_count(llama_and_rows):
    model, rows, labels = llama_and_rows
    whole = ift_loss(model, models.padded(rows, labels)).loss
    parts = [
        ift_loss(model, models.padded(rows[a:b], labels[a:b]), num_items=torch.tensor(4)).loss
        for a, b in ((0, 2), (2, 5))
    ]
    torch.testing.assert_close(sum(parts), whole)


# --- wrapped models ---------------------------------------------------------------------------------------------------


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step_gradients(model, batch, **options):
    model.zero_grad()
    loss = ift_loss(model, batch, **options).loss
    loss.backward()
    return loss.detach(), gradients(model)


def assert_same(ours, theirs, tolerance=1e-5):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        error = (ours[name].float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-4)
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_gradient_checkpointing_changes_nothing(family, reentrant):
    model = models.tiny_model(family)
    batch = models.padded(*example(model))
    loss, plain = step_gradients(model, batch)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    again, checkpointed = step_gradients(model, batch)
    torch.testing.assert_close(again, loss, rtol=1e-6, atol=0)
    assert_same(checkpointed, plain)


ADAPTERS = {
    "lora": {},
    "dora": {"use_dora": True},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "whole head and embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "trainable tokens": {"trainable_token_indices": [5, 6, 7, 20, 50]},
}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "checkpointed", "reentrant"])
def test_adapters_are_the_references(name, checkpointing):
    torch.manual_seed(1)
    base = models.tiny_model("llama")
    batch = models.padded(*example(base), side="left")
    options = {"target_modules": ["q_proj", "down_proj"], **ADAPTERS[name]}
    model = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **options)
    ).train()
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    found = ift_loss(model, batch, residual_lambda=0.5)
    found.loss.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    twin = copy.deepcopy(model).double()
    twin.gradient_checkpointing_disable()
    twin.zero_grad()
    wanted = reference.ift_step(twin, **batch, residual_lambda=0.5)
    wanted.loss.backward()
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert models.gradient_error(model, twin) < 1e-5
    if name == "embeddings":
        assert any(
            "embed_tokens.lora_embedding_A" in n for n, p in model.named_parameters() if p.grad is not None
        )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("lookahead", ["greedy", "expected"])
def test_autocast_keeps_every_weights_gradient(family, lookahead):
    """Weights cast under no_grad sit in autocast's cache: used again by an older torch, they carry no gradient."""
    model = models.tiny_model(family, sharpen=2.0)
    batch = models.padded(*example(model))
    options = {"propagation": "none", "lookahead": lookahead}
    exact_loss, exact = step_gradients(model, batch, **options)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ift_loss(model, batch, **options).loss
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), exact_loss, rtol=2e-2, atol=0)
    assert_same(gradients(model), exact, 0.15)


def test_autocasts_cache_is_cleared_between_the_passes(monkeypatch):
    """torch 2.13 looks at the gradient mode of a cached cast; earlier ones, which we allow too, do not."""
    model = models.tiny_model("llama")
    enable_residual(model)
    events, clear = [], torch.clear_autocast_cache
    model.model.norm.register_forward_hook(lambda *args: events.append("pass"))
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: (events.append("cleared"), clear()))
    ids = torch.randint(3, 97, (1, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ift_loss(model, {"input_ids": ids, "labels": ids}, lookahead_prefix="full")
        events.append("left")
    assert events[: events.index("left")] == ["pass", "cleared", "pass"]


def test_a_bfloat16_model_trains():
    model = models.tiny_model("llama", dtype=torch.bfloat16, sharpen=2.0)
    batch = models.padded(*example(model))
    for lookahead in ("greedy", "sample", "expected"):
        loss, found = step_gradients(model, batch, lookahead=lookahead)
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in found.values())
        assert len(found) == len(list(model.parameters()))


def test_frozen_embeddings_are_mixed_all_the_same():
    model = models.tiny_model("llama")
    batch = models.padded(*example(model))
    loss, all_of_them = step_gradients(model, batch)
    model.get_input_embeddings().weight.requires_grad_(False)
    again, rest = step_gradients(model, batch)
    assert again == loss
    assert set(all_of_them) - set(rest) == {"model.embed_tokens.weight"}
    assert_same(rest, {name: all_of_them[name] for name in rest})


def test_gradient_reaches_the_embeddings_of_the_guesses():
    """An id that occurs nowhere in the batch is moved, because the model guessed it (R1)."""
    model = models.tiny_model("llama", tie_word_embeddings=False)
    batch = models.padded(*example(model))
    model.zero_grad()
    found = ift_loss(model, batch)
    found.loss.backward()
    new = set(found.scores.lookahead_ids.flatten().tolist()) - set(batch["input_ids"].flatten().tolist())
    last = found.scores.lookahead_ids[1, 13].item()  # a row's last position feeds nothing
    moved = model.get_input_embeddings().weight.grad.abs().sum(-1)
    assert any(moved[i] > 0 for i in new - {last})


# --- dropout and modes ------------------------------------------------------------------------------------------------


def test_dropout_is_off_in_the_look_ahead_and_on_in_the_mixed_pass():
    model = models.tiny_model("gpt2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    rows, labels = example(model)
    batch = models.padded(rows, labels)
    torch.manual_seed(0)
    first = ift_loss(model, batch).scores
    second = ift_loss(model, batch).scores
    assert torch.equal(first.lookahead_ids, second.lookahead_ids)
    assert torch.equal(first.nll, second.nll)
    assert not torch.equal(first.losses, second.losses)
    wanted = reference.ift_step(models.double(model.eval()), **batch)
    torch.testing.assert_close(first.nll.double(), wanted.nll, rtol=1e-4, atol=1e-5)
    assert torch.equal(first.lookahead_ids, wanted.lookahead_ids)
    model.train()
    torch.manual_seed(5)
    assert not torch.equal(
        ift_loss(model, batch, residual_lambda=0.0).scores.nll, first.nll
    )  # one pass, with dropout


def test_adapters_dropout_is_off_in_the_look_ahead():
    base = models.tiny_model("llama")
    batch = models.padded(*example(base))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "down_proj"],
        lora_dropout=0.5,
        init_lora_weights=False,
    )
    model = get_peft_model(base, config).train()
    first, second = ift_loss(model, batch).scores, ift_loss(model, batch).scores
    assert torch.equal(first.nll, second.nll)
    assert not torch.equal(first.losses, second.losses)


def test_every_modules_mode_is_as_it_was_even_after_an_error(llama_and_rows):
    model = copy.deepcopy(llama_and_rows[0]).train()
    model.model.layers[0].eval()  # frozen by its owner
    before = [module.training for module in model.modules()]
    batch = models.padded(*llama_and_rows[1:])
    ift_loss(model, batch)
    assert [module.training for module in model.modules()] == before
    hooks = len(model.get_input_embeddings()._forward_hooks)
    broken = model.model.norm.register_forward_hook(lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ift_loss(model, batch)
    broken.remove()
    assert [module.training for module in model.modules()] == before
    assert len(model.get_input_embeddings()._forward_hooks) == hooks
    assert not model.get_input_embeddings()._forward_pre_hooks


# --- the patched forward ----------------------------------------------------------------------------------------------


def test_without_a_step_the_forward_is_what_it_was():
    model, plain = models.tiny_model("llama"), models.tiny_model("llama")
    enable_residual(model)
    enable_residual(model)
    ids = torch.randint(3, 97, (2, 7))
    ours, theirs = model(input_ids=ids, labels=ids), plain(input_ids=ids, labels=ids)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)
    options = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.eval().generate(ids, **options), plain.eval().generate(ids, **options))


def test_a_copy_of_the_model_runs_its_own_weights():
    model = models.tiny_model("llama")
    enable_residual(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    ids = torch.randint(3, 97, (1, 7))
    assert not torch.equal(twin(input_ids=ids).logits, model(input_ids=ids).logits)
    assert (
        ift_loss(twin, {"input_ids": ids, "labels": ids}).loss
        != ift_loss(model, {"input_ids": ids, "labels": ids}).loss
    )


def test_a_model_that_embeds_twice_is_refused():
    model = models.tiny_model("llama")
    own = model.model.forward

    def twice(**kwargs):
        model.get_input_embeddings()(kwargs["input_ids"])
        return own(**kwargs)

    model.model.forward = twice
    ids = torch.randint(3, 97, (1, 7))
    with pytest.raises(ValueError, match="more than once"):
        ift_loss(model, {"input_ids": ids, "labels": ids})


def test_a_model_that_does_not_embed_with_its_module_is_refused():
    model = models.tiny_model("llama")
    own = model.model.forward

    def other(input_ids=None, **kwargs):
        return own(inputs_embeds=model.get_input_embeddings().weight[input_ids], **kwargs)

    enable_residual(model)
    model.model.forward = other
    ids = torch.randint(3, 97, (1, 7))
    with pytest.raises(ValueError, match="did not use its input-embedding module"):
        ift_loss(model, {"input_ids": ids, "labels": ids})


def test_the_head_of_a_gemma_reads_its_soft_cap():
    """Without the cap the losses of Gemma 2 would be other ones: the architecture test would not see a cap of 30."""
    model = models.tiny_model("gemma2")
    batch = models.padded(*example(model))
    capped = ift_loss(model, batch).loss
    model.config.final_logit_softcapping = None
    assert ift_loss(model, batch).loss.item() != pytest.approx(capped.item(), rel=1e-2)


# --- no (B, T, V) -----------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Records the number of elements of every tensor made."""

    def __init__(self):
        super().__init__()
        self.sizes: list[tuple[int, str]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.sizes.append((tensor.numel(), f"{function} {tuple(tensor.shape)}"))
        return result


@pytest.mark.parametrize("lookahead", ["greedy", "sample", "expected"])
@pytest.mark.parametrize("training", [True, False])
def test_no_tensor_is_larger_than_a_tile(monkeypatch, lookahead, training):
    """300 positions x 2,003 tokens with tiles of 16 x 128: a (B, T, V) tensor would have 600,000 elements."""
    monkeypatch.setattr("ift.step.scored_log_probs.TILE_TOKENS", 16)
    monkeypatch.setattr("ift.step.scored_log_probs.TILE_WIDTH", 128)
    vocabulary, k = 2003, 64
    one_head = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16}
    model = models.tiny_model(
        "llama", vocab_size=vocabulary, hidden_size=16, intermediate_size=24, **one_head
    )
    model.train(training)
    ids = torch.randint(3, vocabulary, (2, 150))
    allowed = max(
        vocabulary * 16,  # the head's weight and its gradient
        300 * (k + 128),  # the candidates of the expected look-ahead beside one tile's; never N K H
        (300 + vocabulary) * 16,  # embeddings of the batch and of the guesses, each id once
        2 * 150 * 150,  # attention
    )
    assert allowed < 2 * 150 * vocabulary / 2
    assert allowed < 300 * k * 16 / 2
    with Largest() as seen, torch.set_grad_enabled(training):
        loss = ift_loss(
            model,
            {"input_ids": ids, "labels": ids},
            lookahead=lookahead,
            lookahead_top_k=k,
            residual_lambda=0.5,
        ).loss
        if training:
            loss.backward()
    size, what = max(seen.sizes)
    assert size <= allowed, what


@pytest.mark.parametrize("propagation", ["bellman", "none"])
def test_a_step_over_full_rows_waits_for_a_gpu_once(propagation):
    """For the number of trained positions; the backward pass does not wait. transformers waits twice a pass."""
    model = models.tiny_model("llama")
    ids = torch.randint(3, 97, (2, 9))
    with HostWaits() as waits:
        found = ift_loss(
            model, {"input_ids": ids, "labels": ids}, lookahead_prefix="full", propagation=propagation
        )
        found.loss.backward()
    assert waits.of("ift") == {"tolist in ift.step.rows.facts": 1}


def test_the_default_never_pushes_a_known_end_up_and_the_released_code_does():
    """A row whose last token the model knows well: dL/dl of that token by hand, n trained positions, S_n = l_n.

    Released: (l_n + sum_t gamma^(n-t) (l_t - L)) / sum S, negative here. The default: the same without "- L".
    """
    model = models.tiny_model("llama")
    (row,) = models.likely_rows(model, [12])
    labels = models.masked_labels([row], [4])[0]
    ends = torch.where(torch.arange(12) == 11, labels, -100)
    descent = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(60):
        descent.zero_grad()
        alone = {"input_ids": row[None], "labels": ends[None]}
        ift_loss(model, alone, residual_lambda=0.0, propagation="none").loss.backward()
        descent.step()
    batch = {"input_ids": row[None], "labels": labels[None]}
    for options, shifted in (({}, 0.0), ({"propagation_detach": "none"}, 1.0)):
        found = ift_loss(model, batch, **options)
        cost = found.scores.losses[0, 4:].tolist()
        sums = [sum(0.95 ** (i - t) * cost[i] for i in range(t, 8)) for t in range(8)]
        row_loss = sum(a * b for a, b in zip(sums, cost, strict=True)) / sum(sums)
        push = cost[7] + sum(0.95 ** (7 - t) * (cost[t] - shifted * row_loss) for t in range(8))
        assert found.gradient[0, 11].item() == pytest.approx(push / sum(sums), rel=1e-4)
        assert (push < 0) == bool(options)
        assert (found.gradient < 0).any() == bool(options)


def test_four_bit_layers_stay_as_they_were_quantised():
    """Red when: on a CPU with AVX512-BF16 the look-ahead lets bitsandbytes change their weights for good.

    The attribute is bitsandbytes' own; tests/step/test_quantised.py has the layers themselves.
    """
    model = models.tiny_model("llama")
    layer = model.model.layers[0].mlp.up_proj
    layer.support_avx512bf16_for_cpu = True
    ids = torch.tensor([[3, 4, 5, 6]])
    ift_loss(model, {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)})
    assert layer.support_avx512bf16_for_cpu is False


def test_names_of_settings_are_answered_as_by_the_config():
    """Before the model is used. Red when: gamma beside one's own weights is ignored, or Python answers a typo."""
    with pytest.raises(
        TypeError, match=r"^ift_loss: unknown setting 'residual_lamda'; did you mean residual_lambda\?$"
    ):
        ift_loss(None, {}, residual_lamda=0.9)
    with pytest.raises(
        TypeError, match=r"^ift_loss: unknown setting 'depth'; the fields of ift\.step\.StepSettings"
    ):
        ift_loss(None, {}, depth=3)

    def focal(losses, layout):
        return 1 - (-losses.detach()).exp()

    for changed in ({"propagation_gamma": 0.5}, {"propagation": "cumsum"}, {"propagation_detach": "none"}):
        with pytest.raises(
            ValueError, match=r"^token_weights focal takes the place of the propagation\. Leave"
        ):
            ift_loss(None, {}, token_weights=focal, **changed)
