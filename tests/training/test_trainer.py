"""The real trainer: exact whatever the batches, equal to trl's where it must be, and what it logs and leaves."""

from __future__ import annotations

import copy
import json
import math
import random
import time

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, EarlyStoppingCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

import models
import reference
from ift import IFTConfig, IFTTrainer
from ift.lab.testbed import tiny_base_path
from ift.training.lambda_schedule import noisy_lambda
from models import assert_same_gradients, dataset_of, logged, tiny_model, trained, uneven_rows

SAMPLED = {"lookahead": "sample", "residual_lambda": 0.6}
SPLITS = [(8, 1), (4, 2), (1, 8)]


@pytest.fixture(scope="module")
def rows():
    return uneven_rows(tiny_model())


def oracle(rows, **options):
    """The reference's step on all rows as one batch, and the float64 model with its gradients."""
    model = models.double(tiny_model())
    step = reference.ift_step(model, **models.padded(*rows), **options)
    step.loss.backward()
    return step, {name: p.grad.float() for name, p in model.named_parameters()}


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"loss_reduction": "sequence"},
        {"loss_reduction": "token"},
        {"loss_reduction": "sequence", **SAMPLED},
        {"loss_reduction": "token", "lookahead": "expected", "propagation": "cumsum"},
    ],
    ids=["sequence", "token", "sampled", "expected"],
)
def test_gradient_accumulation_is_exact(tmp_path, rows, options):
    runs = [
        trained(
            tmp_path,
            tiny_model(),
            rows,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            **options,
        )
        for batch, steps in SPLITS
    ]
    for other in runs[1:]:
        assert_same_gradients(other.gradients[0], runs[0].gradients[0])
        for key in ("loss", "nll", "residual_nll", "lookahead_accuracy", "eos_nll", "entropy", "num_tokens"):
            assert logged(other, key) == pytest.approx(logged(runs[0], key), rel=1e-5), key
    if options.get("lookahead") != "sample":
        names = {"loss_reduction": "reduction", "propagation": "kind"}
        step, gradients = oracle(rows, **{names.get(key, key): value for key, value in options.items()})
        assert logged(runs[0], "loss")[0] == pytest.approx(step.loss.item(), rel=1e-5)
        assert_same_gradients(runs[0].gradients[0], gradients)


def test_packing_and_padding_free_are_the_rows(tmp_path, rows):
    plain = trained(tmp_path, tiny_model(), rows)
    for options in ({"packing": True, "max_length": 64}, {"padding_free": True}):
        # all eight rows in the step; packed, they are fewer and longer ones
        run = trained(tmp_path, tiny_model(), rows, **options)
        assert run.padding_free
        assert_same_gradients(run.gradients[0], plain.gradients[0])
        for key in ("loss", "nll", "residual_nll", "eos_nll", "num_tokens", "propagation_weight_max"):
            assert logged(run, key) == pytest.approx(logged(plain, key), rel=1e-5), key


def test_packed_rows_of_like_length_share_their_prefix(tmp_path):
    """Red when: what the collator says of the documents' borders, which apart are none, keeps them from it."""
    rows = models.likely_rows(tiny_model(), (14, 14, 12, 13))
    rows = rows, models.masked_labels(rows, [6, 9, 5, 8])
    plain = trained(tmp_path, tiny_model(), rows, lookahead_prefix="full")
    for options in ({"packing": True, "max_length": 64}, {"padding_free": True}):
        run = trained(tmp_path, tiny_model(), rows, **options)
        assert logged(run, "shared_prefix") == [1.0]
        assert_same_gradients(run.gradients[0], plain.gradients[0])


def test_packing_is_refused_for_a_family_that_mixes_documents(tmp_path, rows):
    with pytest.raises(ValueError, match="OPTForCausalLM lets packed documents"):
        trained(tmp_path, tiny_model("opt"), rows, packing=True, max_length=64, run=False)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing(tmp_path, rows, reentrant):
    plain = trained(tmp_path, tiny_model(), rows)
    run = trained(
        tmp_path,
        tiny_model(),
        rows,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )
    assert_same_gradients(run.gradients[0], plain.gradients[0])
    assert logged(run, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"selective": True}},
        {"pad_to_multiple_of": 64},
        {"pad_to_multiple_of": 64, "padding_free": True},
        {"streaming": True},
        {"streaming": True, "packing": True, "max_length": 64},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_is_only_a_matter_of_means_changes_nothing(tmp_path, rows, options):
    plain = trained(tmp_path, tiny_model(), rows)
    options = dict(options)
    data = dataset_of(*rows).to_iterable_dataset() if options.pop("streaming", False) else rows
    run = trained(tmp_path, tiny_model(), data, **options)
    assert_same_gradients(run.gradients[0], plain.gradients[0])
    assert logged(run, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-5)


def test_bf16_autocast_trains_every_weight(tmp_path, rows):
    exact = trained(tmp_path, tiny_model(sharpen=2.0), rows, propagation="none")
    run = trained(tmp_path, tiny_model(sharpen=2.0), rows, propagation="none", bf16=True)
    assert_same_gradients(run.gradients[0], exact.gradients[0], tolerance=0.2)
    assert logged(run, "loss") == pytest.approx(logged(exact, "loss"), rel=2e-2)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"target_modules": ["q_proj", "embed_tokens"]}])
def test_adapters_accumulate_exactly(tmp_path, rows, options):
    runs = []
    for batch, steps in SPLITS[:2]:
        options = {"target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, **options}
        runs.append(
            trained(
                tmp_path,
                tiny_model(),
                rows,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=steps,
                gradient_checkpointing=True,  # trl's default
                peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, **options),
            )
        )
    assert_same_gradients(runs[1].gradients[0], runs[0].gradients[0])
    assert all("lora" in name for name in runs[0].gradients[0])
    # every adapted layer but the ones that the last layer's keys make idle has a gradient
    assert all(gradient.isfinite().all() for gradient in runs[0].gradients[0].values())
    assert sum(float(gradient.abs().sum()) > 0 for gradient in runs[0].gradients[0].values()) > 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_modules": ["q_proj", "v_porj"]},
        {"modules_to_save": ["lm_haed"]},
        {"exclude_modules": ["k_porj"]},
        {"layers_to_transform": [0, 9]},
        {"layers_to_transform": [0], "layers_pattern": ["layers", "layrs"]},
        {"rank_pattern": {"q_porj": 2}},
        {"alpha_pattern": {"q_porj": 2}},
        {"target_parameters": ["q_porj.weight"]},
    ],
    ids=str,
)
def test_a_name_in_a_list_of_lora_that_the_model_lacks_is_refused(tmp_path, rows, wrong):
    """peft trains what matches and passes over the others."""
    name, value = list(wrong.items())[-1]
    lacking = [*value][-1]
    config = LoraConfig(task_type="CAUSAL_LM", **{"target_modules": ["q_proj", "k_proj"], **wrong})
    with pytest.raises(ValueError, match=f"^{name}: the model has no [a-z ]+ {lacking}"):
        trained(tmp_path, tiny_model(), rows, peft_config=config, run=False)


def test_names_and_patterns_of_lora_that_the_model_has_are_taken(tmp_path, rows):
    config = LoraConfig(
        task_type="CAUSAL_LM", target_modules=["self_attn.q_proj", "k_proj"],
        exclude_modules=["layers.0.self_attn.k_proj"],
        layers_to_transform=[0, 1], layers_pattern="layers", rank_pattern={r"layers\.1\..*q_proj": 2},
    )  # fmt: skip
    run = trained(tmp_path, tiny_model(), rows, peft_config=config, run=False)
    names = {name for name, one in run.model.named_parameters() if "lora_A" in name}
    assert len(names) == 3


def test_an_adapter_on_the_head_is_refused(tmp_path, rows):
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match="lm_head"):
        trained(tmp_path, tiny_model(), rows, peft_config=config, run=False)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_the_experts_auxiliary_loss_is_kept(tmp_path, rows, family):
    """Its value is the model's own, on the mixed pass, weighted by the coefficient; 0 turns it off."""
    from ift import ift_loss

    changes = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
    run = trained(tmp_path, tiny_model(family, **changes), rows, learning_rate=0.0)
    found = ift_loss(run.model, {**models.padded(*rows), "output_router_logits": True})
    assert logged(run, "aux_loss") == pytest.approx([found.scores.aux_loss.item()], rel=1e-5)
    assert logged(run, "loss")[0] == pytest.approx(
        found.loss.item() + 0.5 * found.scores.aux_loss.item(), rel=1e-5
    )
    own = run.model(**models.padded(*rows), output_router_logits=True).aux_loss
    sft = ift_loss(run.model, {**models.padded(*rows), "output_router_logits": True}, residual_lambda=0.0)
    assert sft.scores.aux_loss.item() == pytest.approx(own.item(), rel=1e-5)
    without = trained(tmp_path, tiny_model(family, **changes), rows, router_aux_loss_coef=0.0)
    assert not logged(without, "aux_loss")
    router = [name for name in run.gradients[0] if "gate" in name and "experts" not in name]
    assert any((run.gradients[0][n] - without.gradients[0][n]).abs().max() > 1e-4 for n in router)


# --- equal to trl's ---------------------------------------------------------------------------------------------------

SFT = {"residual_lambda": 0.0, "propagation": "none", "loss_reduction": "token"}


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_lambda_zero_without_propagation_per_token_is_trls_sft(tmp_path, family):
    data = uneven_rows(tiny_model(family), 24)
    options = {
        "max_steps": 20,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "optim": "adamw_torch",
        "learning_rate": 3e-3,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": True,
    }
    ours = trained(tmp_path, tiny_model(family), data, **SFT, **options)
    theirs = trained(
        tmp_path, tiny_model(family), data, trainer_class=SFTTrainer, config_class=SFTConfig, **options
    )
    assert_same_gradients(ours.gradients[0], theirs.gradients[0], 1e-6)
    assert len(logged(ours, "loss")) == 20
    assert logged(ours, "loss") == pytest.approx(logged(theirs, "loss"), rel=1e-4)
    assert logged(ours, "loss")[-1] < logged(ours, "loss")[0]
    assert logged(ours, "num_tokens")[:20] == logged(theirs, "num_tokens")[:20]
    assert logged(ours, "loss")[0] != pytest.approx(logged(ours, "loss")[1], rel=1e-3)
    # trl averages its two over micro-batches, we over tokens: the same where a step is one micro-batch
    one = {**options, "max_steps": 1, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    ours = trained(tmp_path, tiny_model(family), data, **SFT, **one)
    theirs = trained(
        tmp_path, tiny_model(family), data, trainer_class=SFTTrainer, config_class=SFTConfig, **one
    )
    for key in ("entropy", "mean_token_accuracy", "aux_loss"):
        assert logged(ours, key) == pytest.approx(logged(theirs, key), rel=1e-4), key


def test_ift_is_not_sft(tmp_path, rows):
    sft, ift = trained(tmp_path, tiny_model(), rows, **SFT), trained(tmp_path, tiny_model(), rows)
    assert logged(sft, "loss")[0] != pytest.approx(logged(ift, "loss")[0], rel=1e-2)


# --- lambda -----------------------------------------------------------------------------------------------------------


def test_noisy_lambda_is_the_same_in_every_accumulation_and_off_in_evaluation(tmp_path, rows):
    options = {
        "residual_noise_std": 0.5,
        "max_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "seed": 11,
    }
    runs = [
        trained(
            tmp_path,
            tiny_model(),
            rows,
            evaluation=dataset_of(*rows),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            **options,
        )
        for batch, steps in SPLITS
    ]
    expected = [noisy_lambda(0.2, 0.5, 11, step) for step in range(3)]
    assert len(set(expected)) == 3
    for run in runs:
        assert logged(run, "lambda") == pytest.approx(expected)
        assert logged(run, "eval_lambda") == pytest.approx([0.2] * 3)
        for step in range(3):
            assert_same_gradients(run.gradients[step], runs[0].gradients[step], 1e-4)


def test_lambda_warms_up_linearly_also_in_evaluation(tmp_path, rows):
    run = trained(
        tmp_path,
        tiny_model(),
        rows,
        evaluation=dataset_of(*rows),
        max_steps=5,
        residual_lambda=0.5,
        residual_lambda_start=0.1,
        residual_warmup_ratio=0.8,
        eval_strategy="steps",
        eval_steps=2,
    )
    assert logged(run, "lambda") == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert logged(run, "eval_lambda") == pytest.approx([0.3, 0.5, 0.5])  # the last step evaluates too
    # a step at lambda 0 has no look-ahead pass, so nothing of it to tell
    run = trained(tmp_path, tiny_model(), rows, max_steps=2, residual_warmup_ratio=1.0)
    assert logged(run, "lambda") == pytest.approx([0.0, 0.1])
    assert len(logged(run, "residual_nll")) == 1


# --- metrics ----------------------------------------------------------------------------------------------------------

METRICS = {
    "nll",
    "residual_nll",
    "residual_gap",
    "lookahead_accuracy",
    "lambda",
    "propagation_weight_max",
    "propagation_negative_share",
    "eos_nll",
    "entropy",
    "mean_token_accuracy",
    "num_tokens",
}


def expected_metrics(rows, detach):
    step, _ = oracle(rows)
    batch, trained_at = models.padded(*rows), step.trained
    leaf = step.token_losses.detach().requires_grad_()
    weights = reference.propagation_weights(
        leaf, *reference.trained_positions(batch["labels"], batch["attention_mask"])
    )
    loss = reference.loss_from_token_losses(leaf, batch["labels"], batch["attention_mask"], detach=detach)
    gradient = torch.autograd.grad(loss, leaf)[0]
    ends = trained_at & (batch["labels"] == 2)
    nll, residual = step.nll[trained_at].mean(), step.token_losses[trained_at].mean()
    return {
        "loss": step.loss.item(),
        "nll": nll.item(),
        "residual_nll": residual.item(),
        "residual_gap": (residual - nll).item(),
        "lookahead_accuracy": (step.lookahead_ids == batch["labels"])[trained_at].double().mean().item(),
        "lambda": 0.2,
        "propagation_weight_max": weights.max().item(),
        "propagation_negative_share": (gradient < 0)[trained_at].double().mean().item(),
        "eos_nll": step.nll[ends].mean().item(),
        "num_tokens": float(batch["attention_mask"].sum()),
    }


@pytest.mark.parametrize(("batch_size", "detach"), [(8, "scale"), (3, "none"), (1, "none"), (3, "scale")])
def test_metrics_are_the_references_in_training_and_exactly_so_in_evaluation(
    tmp_path, rows, batch_size, detach
):
    run = trained(
        tmp_path,
        tiny_model(),
        rows,
        evaluation=dataset_of(*rows),
        eval_strategy="steps",
        learning_rate=0.0,
        per_device_eval_batch_size=batch_size,
        propagation_detach=detach,
    )
    expected = expected_metrics(rows, detach)
    assert 0.1 < expected["lookahead_accuracy"] < 0.9
    assert (0 < expected["propagation_negative_share"] < 1) == (detach == "none")
    for prefix in ("", "eval_"):
        entry = next(entry for entry in run.state.log_history if f"{prefix}loss" in entry)
        assert {prefix + name for name in METRICS} <= set(entry)
        for name, value in expected.items():
            assert entry[prefix + name] == pytest.approx(value, rel=1e-5), prefix + name
    train, evaluation = (
        next(entry for entry in run.state.log_history if key in entry) for key in ("loss", "eval_loss")
    )
    assert train["tokens_per_second"] > 0
    assert "eval_tokens_per_second" not in evaluation
    assert "tokens_per_second" not in evaluation
    assert not any(isinstance(value, float) and math.isnan(value) for value in train.values())


def test_tokens_of_processes_with_the_same_rows_count_once(tmp_path, rows, monkeypatch):
    """By transformers' number, as in the loss: trl's own leaves out DeepSpeed's tensor parallelism."""
    run = trained(tmp_path, tiny_model(), rows, run=False)
    monkeypatch.setattr(run, "get_tp_size", lambda: 2)
    run._uncounted_tokens = [torch.tensor(6), torch.tensor(4)]
    run._count_tokens()
    assert run._total_train_tokens == 5


class Clock(TrainerCallback):
    """Stands still but for an hour before the first step and two seconds in each step."""

    def __init__(self, monkeypatch):
        self.seconds = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.seconds)

    def on_train_begin(self, args, state, control, **kwargs):
        self.seconds += 3600

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds += 2


def test_the_first_rate_of_tokens_is_of_the_first_steps_alone(tmp_path, rows, monkeypatch):
    """Neither the time between construction and training counts, nor that between two trainings."""
    clock = Clock(monkeypatch)
    options = {"max_steps": 2, "logging_steps": 1, "callbacks": [clock]}
    run = trained(tmp_path, tiny_model(), rows, run=False, **options)
    for _ in range(2):
        clock.seconds += 500
        run.train()
        assert logged(run, "tokens_per_second") == [logged(run, "num_tokens")[0] / 2] * 2
        run._total_train_tokens = 0


@pytest.mark.parametrize("ends", ["predicted", "failed"])
def test_a_loop_that_is_not_logged_leaves_nothing_in_the_next_evaluation(tmp_path, rows, monkeypatch, ends):
    """Red when: eval_loss is that of the evaluation's rows and of those that were predicted before."""
    run = trained(tmp_path, tiny_model(), rows, evaluation=dataset_of(*rows), prediction_loss_only=True)
    before = run.evaluate()
    others = dataset_of(*uneven_rows(tiny_model(), 11, seed=5))
    if ends == "predicted":
        run.predict(others)
    else:
        real = run.prediction_step

        def fails(*args, **kwargs):
            real(*args, **kwargs)
            raise KeyboardInterrupt

        monkeypatch.setattr(run, "prediction_step", fails)
        with pytest.raises(KeyboardInterrupt):
            run.evaluate(others)
        monkeypatch.undo()
    after = run.evaluate()
    for name in ("eval_loss", "eval_nll", "eval_eos_nll"):
        assert after[name] == pytest.approx(before[name]), name


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_evaluation_does_not_depend_on_the_batches(tmp_path, reduction):
    rows = uneven_rows(tiny_model(), 11)
    found = []
    for size in (1, 3, 4, 11):
        run = trained(
            tmp_path,
            tiny_model(),
            rows,
            evaluation=dataset_of(*rows),
            run=False,
            per_device_eval_batch_size=size,
            loss_reduction=reduction,
        )
        found.append(run.evaluate())
    step, _ = oracle(rows, reduction=reduction)
    for metrics in found:
        assert metrics["eval_loss"] == pytest.approx(step.loss.item(), rel=1e-5)
        assert metrics["eval_nll"] == pytest.approx(step.nll[step.trained].mean().item(), rel=1e-5)
    packed = trained(
        tmp_path,
        tiny_model(),
        rows,
        evaluation=dataset_of(*rows),
        run=False,
        packing=True,
        max_length=64,
        loss_reduction=reduction,
    ).evaluate()
    for key in ("eval_loss", "eval_nll", "eval_eos_nll", "eval_propagation_weight_max"):
        assert packed[key] == pytest.approx(found[0][key], rel=1e-5), key


def test_what_was_not_computed_is_absent(tmp_path, rows):
    ids, labels = rows
    no_end = [label.clone() for label in labels]
    for label in no_end:
        if (label != -100).sum() > 1:
            label[-1] = -100
    kept = [i for i, label in enumerate(no_end) if label[-1] != 2]
    run = trained(
        tmp_path, tiny_model(), ([ids[i] for i in kept], [no_end[i] for i in kept]), residual_lambda=0.0
    )
    entry = run.state.log_history[0]
    assert not {"residual_nll", "residual_gap", "eos_nll", "aux_loss"} & set(entry)
    assert "nll" in entry
    assert not {"lambda", "lookahead_accuracy", "shared_prefix"} & set(
        entry
    )  # one pass: nothing of a look-ahead


def test_metrics_jsonl_has_every_entry_whatever_report_to_says(tmp_path, rows):
    run = trained(
        tmp_path,
        tiny_model(),
        rows,
        evaluation=dataset_of(*rows),
        eval_strategy="steps",
        eval_steps=2,
        max_steps=4,
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [entry["step"] for entry in run.state.log_history]
    for line, entry in zip(lines, run.state.log_history, strict=True):
        told = {
            key: value for key, value in entry.items() if key != "total_flos"
        }  # added after the last entry
        assert {key: line[key] for key in told} == pytest.approx(told)
    trained(tmp_path, tiny_model(), rows)  # a new run begins a new file
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_resumed_run_keeps_the_lines_before_it_and_is_the_straight_run(tmp_path, rows):
    options = {"save_strategy": "steps", "save_steps": 2, **SAMPLED, "residual_noise_std": 0.3}
    options |= {"per_device_train_batch_size": 2, "optim": "adamw_torch"}
    straight = trained(tmp_path, tiny_model(), rows, max_steps=4, **options)
    before = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    resumed = trained(tmp_path, tiny_model(seed=9), rows, max_steps=4, run=False, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    after = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in after] == [line["step"] for line in before]
    for key in ("loss", "nll", "residual_nll", "lambda"):
        told = [[line[key] for line in lines if key in line] for lines in (after, before)]
        assert told[0] == pytest.approx(told[1], rel=1e-6)
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_named_evaluation_sets_have_names_of_their_own(tmp_path, rows):
    other = uneven_rows(tiny_model(), 5, seed=8)
    run = trained(
        tmp_path,
        tiny_model(),
        rows,
        evaluation={"near": dataset_of(*rows), "far": dataset_of(*other)},
        eval_strategy="steps",
    )
    assert run.args.metric_for_best_model == "eval_near_nll"
    for name, data in (("near", rows), ("far", other)):
        entry = next(entry for entry in run.state.log_history if f"eval_{name}_loss" in entry)
        assert {f"eval_{name}_{metric}" for metric in METRICS} <= set(entry)
        found = run.evaluate(dataset_of(*data), metric_key_prefix=f"eval_{name}")
        assert found[f"eval_{name}_nll"] == pytest.approx(entry[f"eval_{name}_nll"], rel=1e-6)
    assert logged(run, "eval_near_nll") != logged(run, "eval_far_nll")


def test_any_prefix_of_an_evaluation_is_kept(tmp_path, rows):
    run = trained(tmp_path, tiny_model(), rows, run=False)
    found = run.evaluate(dataset_of(*rows), metric_key_prefix="test")
    assert {f"test_{name}" for name in METRICS} <= set(found)
    assert "nll" not in found


def test_an_evaluation_set_given_later_is_prepared_as_the_first_was(tmp_path, rows):
    """Raw rows handed to `evaluate`: only their completions count, also when an earlier set was prepared."""
    raw = Dataset.from_dict({"prompt": ["w5 w6 w7"] * 3, "completion": ["w8 w9", "w10", "w11 w12 w13"]})
    run = trained(tmp_path, tiny_model(), rows, evaluation=raw, run=False)
    first, second = run.evaluate(), run.evaluate(raw)
    assert second["eval_nll"] == pytest.approx(first["eval_nll"], rel=1e-6)
    assert second["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-6)


def test_the_best_model_is_chosen_by_nll_and_early_stopping_works(tmp_path, rows):
    """The learning rate ruins the model, so the first evaluation is the best one and the run stops early."""
    run = trained(
        tmp_path,
        tiny_model(),
        rows,
        evaluation=dataset_of(*rows),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        learning_rate=3.0,
        max_steps=20,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    values = logged(run, "eval_nll")
    assert run.state.global_step < 20
    assert run.state.best_metric == min(values)
    assert run.evaluate()["eval_nll"] == pytest.approx(min(values), rel=1e-5)
    assert run.args.metric_for_best_model == "eval_nll"
    assert run.args.greater_is_better is False


# --- no (B, T, V) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookahead", ["greedy", "expected"])
def test_no_step_and_no_evaluation_builds_the_logits(tmp_path, monkeypatch, lookahead):
    from test_algorithm import Largest

    vocabulary, length = 2003, 150
    small = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 1, "num_key_value_heads": 1}
    model = tiny_model("llama", vocab_size=vocabulary, head_dim=16, **small)
    data = [torch.randint(3, 97, (length,)) for _ in range(2)]
    run = trained(
        tmp_path, model, (data, data), evaluation=dataset_of(data, data), run=False, lookahead=lookahead
    )
    monkeypatch.setattr("ift.step.scored_log_probs.TILE_TOKENS", 16)
    monkeypatch.setattr("ift.step.scored_log_probs.TILE_WIDTH", 128)
    with Largest() as seen:
        run.train()
        run.evaluate()
    size, what = max(seen.sizes)
    assert size <= 2 * length * (64 + 128), (
        what
    )  # the candidates of the expected look-ahead; the logits: 600,000


# --- what it leaves behind --------------------------------------------------------------------------------------------


def test_the_model_card_has_the_paper_and_every_setting(tmp_path, rows):
    run = trained(tmp_path, tiny_model(), rows, propagation_gamma=0.875, residual_noise_std=0.25)
    run.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "2405.11870" in card
    assert "hua2025intuitive" in card
    assert "Intuitive Fine-Tuning: Towards Simplifying Alignment" in card
    names = {field for field in IFTConfig.__dataclass_fields__ if field not in SFTConfig.__dataclass_fields__}
    for name in names:
        assert f"| `{name}` | {getattr(run.args, name)} |" in card
    assert "| `propagation_gamma` | 0.875 |" in card
    run.create_model_card()
    assert (tmp_path / "README.md").read_text().count("## IFT settings") == 1


def test_weights_of_the_users_own_are_named_in_the_records(tmp_path, rows):
    def linear(losses, layout):
        return (layout.positions + 1.0).to(losses.dtype)

    saving = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    run = trained(tmp_path, tiny_model(), rows, run=False, **saving)
    run.token_weights = linear
    run.train()
    run.create_model_card()
    settings = json.loads((tmp_path / "checkpoint-1" / "ift_settings.json").read_text())
    assert settings["propagation"] == "a function: linear"
    assert settings["lookahead"] == "greedy"
    assert not {"propagation_gamma", "propagation_detach"} & settings.keys()  # of weights that were not used
    assert (
        "| `propagation` | the function `linear` of `test_trainer.py` |"
        in (tmp_path / "README.md").read_text()
    )


def test_a_tied_head_is_not_missing_in_a_checkpoint(tmp_path, rows, monkeypatch):
    """Transformers warned of lm_head.weight at each resume; another weight that is not there is still named."""
    said = []
    monkeypatch.setattr("transformers.trainer.logger.warning", lambda text, *more: said.append(text))
    model = tiny_model("llama", tie_word_embeddings=True)
    run = trained(tmp_path, model, rows, max_steps=1, save_strategy="steps", save_steps=1)
    saved = tmp_path / "checkpoint-1"
    trained_weights = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.lm_head.weight.zero_()
    run._load_from_checkpoint(str(saved))
    assert said == []
    torch.testing.assert_close(model.state_dict(), trained_weights)
    weights = load_file(saved / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    run._load_from_checkpoint(str(saved))
    assert said == ["There were missing keys in the checkpoint model loaded: ['model.norm.weight']."]


def test_the_saved_model_stops_where_it_was_trained_to_and_loads(tmp_path, rows):
    model = tiny_model()
    model.generation_config.eos_token_id = 7
    run = trained(tmp_path, model, rows)
    assert model.generation_config.eos_token_id == [7, 2]
    run.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.generation_config.eos_token_id == [7, 2]
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    model = tiny_model()
    model.generation_config.eos_token_id = None
    trained(tmp_path, model, rows, run=False)
    assert model.generation_config.eos_token_id == 2


def test_default_arguments_take_the_models_name(tmp_path, rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    model.config._name_or_path = "someone/small-model"
    trainer = IFTTrainer(model, train_dataset=dataset_of(*rows), processing_class=models.tiny_tokenizer())
    assert trainer.args.output_dir == "small-model-IFT"


def test_rows_without_anything_to_learn_are_no_obstacle_to_a_step(tmp_path, rows):
    """A micro-batch may hold none: cutting at the document's end leaves such rows in a packed batch's middle."""
    ids, labels = [list(part) for part in rows]
    run = trained(tmp_path, tiny_model(), rows, run=False)
    run.current_gradient_accumulation_steps = 1
    batch = models.padded(ids[:2], [torch.full_like(label, -100) for label in labels[:2]])
    run.model.train()
    loss = run.compute_loss(run.model, batch, num_items_in_batch=torch.tensor(3))
    loss.backward()
    assert loss == 0


def test_python_and_torch_random_states_are_left_alone_by_a_sampled_look_ahead():
    from ift import ift_loss

    model = tiny_model()
    ids = torch.randint(3, 97, (2, 9))
    torch_state, python_state = torch.random.get_rng_state(), random.getstate()
    ift_loss(model, {"input_ids": ids, "labels": ids}, lookahead="sample")
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert python_state == random.getstate()


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_plain_sft_arguments_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="SFTConfig; give an IFTConfig"):
        trained(tmp_path, tiny_model(), rows, config_class=SFTConfig, run=False)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("compute_metrics", "--eval_generate N --eval_score NAME"),
        ("preprocess_logits_for_metrics", "a TrainerCallback that generates"),
        ("compute_loss_func", "`token_weights` takes a function"),
    ],
)
def test_what_needs_the_full_logits_is_refused(tmp_path, rows, name, instead):
    config = IFTConfig(output_dir=str(tmp_path), **models.SETTINGS)
    with pytest.raises(ValueError, match=f"{name} needs the full logits.*{instead}"):
        IFTTrainer(
            tiny_model(),
            config,
            train_dataset=dataset_of(*rows),
            processing_class=models.tiny_tokenizer(),
            **{name: lambda *a: None},
        )


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("tokenizer", "it is now processing_class."),
        ("max_seq_length", "it is a setting, args=IFTConfig(max_length=...)."),
        ("packing", "it is a setting, args=IFTConfig(packing=...)."),
        ("train_datset", "did you mean train_dataset?"),
        ("zzz", "it takes the arguments of trl's SFTTrainer."),
    ],
)
def test_an_unknown_argument_is_answered_with_the_right_one(tmp_path, name, answer):
    """Earlier versions of trl took the first three."""
    config = IFTConfig(output_dir=str(tmp_path), **models.SETTINGS)
    with pytest.raises(TypeError) as caught:
        IFTTrainer(tiny_model(), config, **{name: 1})
    assert str(caught.value) == f"IFTTrainer: unknown argument {name!r}; {answer}"


def test_rows_and_tokens_that_are_lost_are_logged(tmp_path, caplog):
    """From Python no check runs before. Red when: a row is dropped, or an answer cut, without a word."""
    base = str(tiny_base_path())
    answers = ["yes", "", "a " * 90]
    data = Dataset.from_list([{"prompt": "q ", "completion": answer} for answer in answers])
    config = IFTConfig(output_dir=str(tmp_path), **{**models.SETTINGS, "max_length": 20})
    trainer = IFTTrainer(
        AutoModelForCausalLM.from_pretrained(base), config, train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip
    found = [record.getMessage() for record in caplog.records if record.name == "ift.training.trainer"]
    report = trainer.data_reports["train"]
    assert found == [f"train data: {line}" for line in report.lost()]
    assert found[0] == "train data: 1 row dropped: the answer is empty (row 2)"
    assert found[1].startswith("train data: truncated to 20 tokens: 1 row ")
    assert f"{report.trained_tokens_lost} trained tokens" in found[1]


@pytest.mark.parametrize("as_name", [True, False])
def test_the_advice_on_long_rows_knows_the_models_positions(tmp_path, as_name):
    """512 of the tiny base. Red when: the advice is to raise --max_length beyond what the model was trained with."""
    base = str(tiny_base_path())
    rows = [{"prompt": "q ", "completion": ""}, *[{"prompt": "q ", "completion": "a " * 700}] * 2]
    config = IFTConfig(output_dir=str(tmp_path), **{**models.SETTINGS, "max_length": 1024})
    trainer = IFTTrainer(
        base if as_name else AutoModelForCausalLM.from_pretrained(base), config,
        train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip
    fix = trainer.data_reports["train"].limit.fix(1400)
    assert "a model with a longer context" in fix
    assert "raise --max_length" not in fix


def test_what_of_the_rows_is_not_used_is_logged(tmp_path, caplog):
    """Red when: a column has no effect, or a turn is not trained, and nothing says so. `ift train` has its plan."""
    caplog.set_level("INFO", "ift.training.trainer")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    empty = [*turns, {"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]
    data = Dataset.from_list([{"messages": one, "topic": "t"} for one in (turns, empty, turns)])
    base = str(tiny_base_path())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    config = IFTConfig(output_dir=str(tmp_path), **models.SETTINGS)
    trainer = IFTTrainer(model, config, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
    found = [record.getMessage() for record in caplog.records if record.name == "ift.training.trainer"]
    assert found == [
        "train data: format: chat messages; training on all assistant turns",
        "train data: 3 rows: column topic: not used in training (rows 1, 2, 3)",
        "train data: 1 row: empty assistant turns: not trained (row 2)",
        "eval data: format: chat messages; training on all assistant turns",
        "eval data: 3 rows: column topic: not used in training (rows 1, 2, 3)",
        "eval data: 1 row: empty assistant turns: not scored (row 2)",
    ]
    caplog.clear()
    sets = {"train_dataset": trainer.train_dataset, "data_reports": {"train": trainer.data_reports["train"]}}
    again = IFTTrainer(model, config, processing_class=tokenizer, **sets)
    assert "topic" not in caplog.text
    again.create_model_card()
    assert "| `trained tokens` | training on all assistant turns |" in (tmp_path / "README.md").read_text()


def test_predict_is_refused_with_the_remedy(tmp_path, rows):
    run = trained(tmp_path, tiny_model(), rows, run=False)
    with pytest.raises(ValueError, match="prediction_loss_only=True"):
        run.compute_loss(run.model, models.padded(*rows), return_outputs=True)


def test_an_unsupported_model_is_refused_before_training(tmp_path, rows):
    model = tiny_model("gemma3")
    model.config.hidden_size_per_layer_input = 8
    with pytest.raises(ValueError, match="per-layer embeddings"):
        trained(tmp_path, model, rows, run=False)


def test_a_checkpoint_of_other_settings_is_told(tmp_path, rows, caplog):
    """In Python nothing says what the caller named: the run continues, with a warning that names the keys."""
    saving = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    run = trained(tmp_path, tiny_model(), rows, propagation_detach="none", **saving)
    checkpoint = tmp_path / "checkpoint-1"
    assert json.loads((checkpoint / "ift_settings.json").read_text())["propagation_detach"] == "none"
    run.train(resume_from_checkpoint=str(checkpoint))
    assert "resumes with other settings" not in caplog.text
    run.args.propagation_detach = "scale"
    run.train(resume_from_checkpoint=str(checkpoint))
    assert "propagation_detach was 'none', is 'scale'" in caplog.text
    caplog.clear()
    (checkpoint / "ift_settings.json").unlink()  # as in a checkpoint of trl, of which nothing is known
    run.train(resume_from_checkpoint=str(checkpoint))
    assert "resumes with other settings" not in caplog.text
