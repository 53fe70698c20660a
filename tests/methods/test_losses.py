"""Every method against its formula as slow loops: loss and gradient of one batch on tiny models."""

from __future__ import annotations

import copy
from collections import defaultdict
from types import SimpleNamespace

import oracle
import pytest
import torch
from peft import LoraConfig, get_peft_model

import models
import pair_runs
from ift.methods import token_kl as token_kl_module
from ift.methods.settings import DPOSettings, ORPOSettings, TDPOSettings
from ift.methods.tdpo import TDPOTrainer
from models import assert_same_gradients, tiny_model


def gradients(model):
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def expected(model, compute):
    """Loss and gradients of a formula on a float64 copy."""
    twin = models.double(model)
    loss = compute(twin)
    loss.backward()
    return loss.item(), gradients(twin)


PREFERENCE = {
    "dpo": lambda p, r, pairs: oracle.dpo(p, r, pairs, 0.1),
    "tdpo1": lambda p, r, pairs: oracle.tdpo1(p, r, pairs, 0.1),
    "tdpo2": lambda p, r, pairs: oracle.tdpo2(p, r, pairs, 0.1, 0.5),
    "orpo": lambda p, r, pairs: oracle.orpo(p, pairs, 0.25),
    "simpo": lambda p, r, pairs: oracle.simpo(p, pairs, 2.0, 1.6),
}
FAMILIES = [
    ("dpo", "llama", {}),
    ("tdpo1", "llama", {}),
    ("tdpo2", "llama", {}),
    ("tdpo2", "gemma2", {}),  # soft-capping
    ("tdpo1", "gpt2", {}),
    ("tdpo2", "granite", {}),  # scaled logits
    ("orpo", "llama", {}),
    ("simpo", "llama", {}),
    ("dpo", "gemma2", {}),
    ("simpo", "gemma2", {}),
]


@pytest.mark.parametrize(("method", "family", "options"), FAMILIES, ids=lambda value: str(value))
def test_loss_and_gradient_are_the_formula_s(tmp_path, method, family, options):
    model, reference = tiny_model(family), tiny_model(family, seed=1)
    pairs = pair_runs.pairs_of(model)
    wanted, slopes = expected(model, lambda twin: PREFERENCE[method](twin, models.double(reference), pairs))
    two = reference if method.startswith(("dpo", "tdpo")) else None
    trainer = pair_runs.trainer_of(method, tmp_path, model, pairs, two, **options)
    assert pair_runs.step(trainer) == pytest.approx(wanted, rel=1e-5)
    assert_same_gradients(gradients(model), slopes)


def test_tdpo_on_a_head_with_a_bias(tmp_path):
    """The bias of the policy's head moves the loss and gets its gradient."""
    model, reference = tiny_model(), tiny_model(seed=1)
    for one in (model, reference):
        head = torch.nn.Linear(models.WIDTH, models.VOCABULARY)
        torch.nn.init.normal_(head.bias)
        one.set_output_embeddings(head)
    pairs = pair_runs.pairs_of(model)
    wanted, slopes = expected(
        model, lambda twin: oracle.tdpo2(twin, models.double(reference), pairs, 0.1, 0.5)
    )
    trainer = pair_runs.trainer_of("tdpo2", tmp_path, model, pairs, reference)
    assert pair_runs.step(trainer) == pytest.approx(wanted, rel=1e-5)
    assert_same_gradients(gradients(model), slopes)


@pytest.mark.parametrize("method", ["dpo", "tdpo1", "tdpo2"])
def test_with_an_adapter_the_reference_is_the_base(tmp_path, method):
    base = tiny_model()
    pairs = pair_runs.pairs_of(base)
    reference = copy.deepcopy(base)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=False,
        lora_dropout=0.1,
    )
    trainer = pair_runs.trainer_of(method, tmp_path, base, pairs, peft_config=lora)
    assert trainer.ref_model is None
    twin = get_peft_model(models.double(reference), lora).double().eval()
    twin.load_state_dict(trainer.model.state_dict())
    loss = PREFERENCE[method](twin, models.double(reference), pairs)
    loss.backward()
    wanted, slopes = loss.item(), gradients(twin)
    assert pair_runs.step(trainer) == pytest.approx(wanted, rel=1e-5)
    found = gradients(trainer.model)
    assert found
    assert all("lora" in name for name in found)
    assert_same_gradients(found, slopes)


@pytest.mark.parametrize("method", ["dpo", "tdpo1", "tdpo2"])
def test_if_an_adapter_is_continued_the_reference_is_a_frozen_copy_of_it(tmp_path, method):
    base = tiny_model()
    pairs = pair_runs.pairs_of(base)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], init_lora_weights=False)
    start = get_peft_model(copy.deepcopy(base), lora)
    trainer = pair_runs.trainer_of(method, tmp_path, copy.deepcopy(start), pairs)
    assert trainer.ref_model is None
    twin, reference = copy.deepcopy(start).double().eval(), copy.deepcopy(start).double().eval()
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if ".default." in name:
                weight += 0.05 * weight.mean() + 0.02
                trainer.model.get_parameter(name).copy_(weight)
    wanted = PREFERENCE[method](twin, reference, pairs).item()
    with_base_as_reference = PREFERENCE[method](twin, models.double(base), pairs).item()
    assert pair_runs.step(trainer) == pytest.approx(wanted, rel=1e-5)
    assert abs(with_base_as_reference - wanted) > 1e-3 * abs(wanted)


@pytest.mark.parametrize("size", [1, 2])
def test_tokens_of_processes_with_the_same_rows_count_once(size):
    """Six tokens, by transformers' number of such processes."""
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), beta=0.1, _total_train_tokens=0, get_tp_size=lambda: size,
        _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(gather_for_metrics=lambda table: table, gather=lambda table: table),
    )  # fmt: skip
    found = SimpleNamespace(log_probs=torch.zeros(2, 3))
    TDPOTrainer._record(trainer, found, torch.zeros(2), torch.zeros(2), torch.ones(2, 3))
    assert trainer._total_train_tokens == 6 // size


def test_the_reference_of_an_adapter_has_no_dropout(tmp_path):
    """Asked twice in training, with GPT-2's own dropout left on, the base says the same."""
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], init_lora_weights=False)
    base = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    pairs = pair_runs.pairs_of(tiny_model("gpt2"))
    trainer = pair_runs.trainer_of("tdpo2", tmp_path, base, pairs, peft_config=lora, disable_dropout=False)
    trainer.model.train()
    batch = trainer.data_collator(list(trainer.train_dataset))
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    first, second = (trainer._reference(trainer.model, {**batch, "labels": labels}).states for _ in range(2))
    assert torch.equal(first, second)
    assert any(module.p > 0 and module.training for module in trainer.model.modules() if hasattr(module, "p"))
    assert abs(pair_runs.step(trainer) - pair_runs.step(trainer)) > 1e-6  # the policy's is on


def test_chunks_change_nothing_and_no_gradient_reaches_the_reference(tmp_path, monkeypatch):
    model, reference = tiny_model(), tiny_model(seed=1)
    pairs = pair_runs.pairs_of(model)
    trainer = pair_runs.trainer_of("tdpo2", tmp_path, model, pairs, reference)
    whole = pair_runs.step(trainer), gradients(model)
    sizes = []
    chunk = token_kl_module._chunk
    monkeypatch.setattr(token_kl_module, "_chunk", lambda *a: (sizes.append(len(a[0])), chunk(*a))[1])
    monkeypatch.setattr(token_kl_module, "ROWS_OF_A_CHUNK", 5)
    assert pair_runs.step(trainer) == pytest.approx(whole[0], rel=1e-6)
    assert_same_gradients(gradients(model), whole[1])
    assert max(sizes) == 5
    assert len(sizes) == 2 * -(
        -sum(label != -100 for p in pairs for s in p for label in s[1]) // 5
    )  # and again backward
    assert all(p.grad is None for p in reference.parameters())


def test_trl_s_own_orpo_likelihood_covers_prompts_and_averages_tokens(tmp_path):
    model = tiny_model()
    pairs = pair_runs.pairs_of(model)
    wanted, slopes = expected(model, lambda twin: oracle.orpo(twin, pairs, 0.25, "all"))
    other, _ = expected(model, lambda twin: oracle.orpo(twin, pairs, 0.25))
    trainer = pair_runs.trainer_of("orpo", tmp_path, model, pairs, orpo_likelihood="all")
    assert pair_runs.step(trainer) == pytest.approx(wanted, rel=1e-5)
    assert abs(wanted - other) > 0.01
    assert_same_gradients(gradients(model), slopes)


def test_a_worked_value_of_tdpo():
    """u = 1 - (-1) = 2, K_w = 3, K_l = 4: version 1 -log s(.5 (2 - 1)), version 2 at alpha .5 -log s(.5 (2 - .5))."""
    from ift.methods.tdpo import tdpo_losses

    ratios, kl = torch.tensor([1.0, -1.0]), torch.tensor([3.0, 4.0], requires_grad=True)
    first = tdpo_losses(ratios, kl, 0.5, 0.5, 1)
    assert first.item() == pytest.approx(0.474077, rel=1e-5)
    second = tdpo_losses(ratios, kl, 0.5, 0.5, 2)
    assert second.item() == pytest.approx(0.386871, rel=1e-5)
    (slope,) = torch.autograd.grad(second, kl)
    assert slope[0] == 0  # the chosen answers' KL is held still
    assert slope[1] > 0


ANSWERS = {
    ("sft", "sequence"): lambda p, sides: oracle.sft(p, sides, "sequence"),
    ("sft", "token"): lambda p, sides: oracle.sft(p, sides, "token"),
    ("dft", None): oracle.dft,
}


@pytest.mark.parametrize(("method", "reduction"), ANSWERS)
def test_methods_of_answers(tmp_path, method, reduction):
    from ift.methods import METHODS

    model = tiny_model()
    rows, labels = models.uneven_rows(model)
    sides = [(row.tolist(), label.tolist()) for row, label in zip(rows, labels, strict=True)]
    wanted, slopes = expected(model, lambda twin: ANSWERS[method, reduction](twin, sides))
    trainer_class, config_class = METHODS[method].load()
    extra = {} if reduction is None else {"loss_reduction": reduction}
    run = models.trained(
        tmp_path, model, (rows, labels), trainer_class=trainer_class, config_class=config_class,
        **METHODS[method].settings, **extra,
    )  # fmt: skip
    assert models.logged(run, "loss")[0] == pytest.approx(wanted, rel=1e-4)
    assert_same_gradients({name: g.double() for name, g in run.gradients[0].items()}, slopes)


def test_neftune_s_noise_has_the_papers_scale_and_stays_out_of_evaluation(tmp_path):
    """Uniform in +- alpha / sqrt(T H), on every embedding of a training pass."""
    from ift.methods import METHODS

    trainer_class, config_class = METHODS["neftune"].load()
    model = tiny_model()
    rows = models.likely_rows(model, [20] * 8)
    data = rows, models.masked_labels(rows, [5] * 8)
    seen = []
    run = models.trained(
        tmp_path, model, data, trainer_class=trainer_class, config_class=config_class, run=False,
        evaluation=models.dataset_of(*data), **METHODS["neftune"].settings,
    )  # fmt: skip
    original = type(model.model.embed_tokens).forward

    def forward(module, ids):
        clean = original(module, ids)
        seen.append([clean.detach(), None])
        return clean

    model.model.embed_tokens.forward = forward.__get__(model.model.embed_tokens)
    model.model.layers[0].register_forward_pre_hook(
        lambda module, args: seen[-1].__setitem__(1, args[0].detach())
    )
    run.train()
    noise = seen[0][1] - seen[0][0]
    bound = 5 / (20 * models.WIDTH) ** 0.5
    assert 0.95 * bound < noise.abs().max() <= bound
    assert noise.mean().abs() < 0.05 * bound
    seen.clear()
    run.evaluate()
    assert all(torch.equal(clean, entered) for clean, entered in seen)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: TDPOSettings(o, tdpo_version=3), "tdpo_version is 3; give 1 or 2"),
        (lambda o: TDPOSettings(o, tdpo_alpha=-1.0), "tdpo_alpha is -1.0; give 0 or more"),
        (lambda o: TDPOSettings(o, tdpo_version=1, tdpo_alpha=0.3), "TDPO1 has no alpha"),
        (lambda o: TDPOSettings(o, precompute_ref_log_probs=True), "Set precompute_ref_log_probs to false"),
        (lambda o: TDPOSettings(o, label_smoothing=0.1), "TDPO is defined with the reverse KL"),
        (lambda o: DPOSettings(o, truncation_mode="keep_end"), "Use 'keep_start', or raise max_length"),
        (lambda o: ORPOSettings(o, orpo_likelihood="prompt"), "choose response or all"),
        (lambda o: ORPOSettings(o, generate_during_eval=True), "generate_during_eval"),
    ],
)
def test_settings_that_a_method_has_no_place_for_are_refused(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        make(str(tmp_path))
