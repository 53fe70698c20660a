"""IFTConfig: the paper's defaults, every range and every conflict with its remedy."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
from trl import SFTConfig

from ift import IFTConfig
from ift.methods.settings import DFTSettings, DPOSettings, ORPOSettings, SimPOSettings, TDPOSettings
from ift.step.settings import CHOICES, StepSettings
from ift.training.config import METHOD_FIELDS

OWN = [name for name in IFTConfig.__dataclass_fields__ if name not in SFTConfig.__dataclass_fields__]

OWN_OF_THE_STEP = tuple(
    name
    for name in OWN
    if name not in ("residual_lambda_start", "residual_warmup_ratio", "residual_noise_std", "token_weights")
)


def make(**options):
    return IFTConfig(output_dir="unused", **options)


def test_the_defaults_are_the_papers():
    config = make()
    assert {name: getattr(config, name) for name in OWN} == {
        "residual_lambda": 0.2,
        "residual_lambda_start": None,
        "residual_warmup_ratio": 0.0,
        "residual_noise_std": 0.0,
        "lookahead": "greedy",
        "lookahead_temperature": 1.0,
        "lookahead_top_k": 64,
        "lookahead_prefix": "auto",
        "propagation": "bellman",
        "propagation_gamma": 0.95,
        "propagation_detach": "scale",
        "loss_reduction": "sequence",
        "token_weights": None,
    }


def test_the_steps_settings_are_those_of_the_config():
    assert make().step_settings() == StepSettings(seed=42)
    changed = {
        "residual_lambda": 0.7,
        "lookahead": "sample",
        "loss_reduction": "token",
        "propagation": "cumsum",
    }
    found = make(seed=3, **changed).step_settings(residual_lambda=0.1, step=5)
    assert found == StepSettings(**{**changed, "residual_lambda": 0.1}, seed=3, step=5)
    assert METHOD_FIELDS == OWN_OF_THE_STEP


def test_the_choices_are_those_of_the_step():
    for name, choices in CHOICES.items():
        assert IFTConfig.__dataclass_fields__[name].metadata["choices"] == list(choices)


def test_every_own_field_is_described():
    for name in OWN:
        metadata = IFTConfig.__dataclass_fields__[name].metadata
        assert metadata["help"].endswith(".")
        assert isinstance(getattr(make(), name), str) == ("choices" in metadata)


def test_it_can_be_made_on_a_machine_without_a_gpu():
    """trl's own raises there unless told `bf16=False`."""
    assert make().bf16 in (False, True)
    assert make(use_cpu=True).bf16 is False or make(use_cpu=True).use_cpu


def test_the_best_model_is_that_of_the_lowest_teacher_forced_nll():
    assert make().metric_for_best_model == "eval_nll"
    assert make().greater_is_better is False
    assert make(metric_for_best_model="eval_lookahead_accuracy").greater_is_better is True
    assert make(metric_for_best_model="loss").greater_is_better is False
    assert make(metric_for_best_model="eval_nll", greater_is_better=True).greater_is_better is True


@pytest.mark.parametrize(
    "kind", [IFTConfig, DFTSettings, DPOSettings, TDPOSettings, ORPOSettings, SimPOSettings]
)
def test_checkpointing_has_no_deprecated_name(kind):
    """Neither trl's default nor a value of the user makes transformers warn; the value counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert kind(output_dir="unused").gradient_checkpointing is True
        given = {"gradient_checkpointing": False, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
        config = kind(output_dir="unused", **given)
    assert {name: getattr(config, name) for name in given} == given
    assert kind(output_dir="unused", activation_checkpointing=False).gradient_checkpointing is False


RANGES = [
    ("residual_lambda", [0.0, 1.0], [-0.1, 1.1, float("nan")], r"\[0, 1\]"),
    ("residual_warmup_ratio", [0.0, 1.0], [-0.1, 1.1], r"\[0, 1\]"),
    ("propagation_gamma", [1e-6, 1.0], [0.0, -0.5, 1.01, float("nan")], "propagation='none'"),
    ("residual_noise_std", [0.0, 3.0], [-0.1, float("nan"), float("inf")], r"0 \(off\) or more"),
    ("lookahead_temperature", [0.01, 10.0], [0.0, -1.0, float("nan"), float("inf")], "lookahead='greedy'"),
    ("lookahead_top_k", [1, 100000], [0, -3], "1 or more"),
    ("lookahead", ["greedy", "sample", "expected"], ["argmax", ""], "greedy, sample, expected"),
    ("lookahead_prefix", ["auto", "shared", "full"], ["half"], "auto, shared, full"),
    ("propagation", ["bellman", "cumsum", "none"], ["left", None], "bellman, cumsum, none"),
    ("propagation_detach", ["scale", "none", "weights"], ["all", True], "scale, none, weights"),
    ("loss_reduction", ["sequence", "token"], ["mean"], "sequence, token"),
]


@pytest.mark.parametrize(("name", "good", "bad", "remedy"), RANGES, ids=[row[0] for row in RANGES])
def test_every_range(name, good, bad, remedy):
    for value in good:
        assert getattr(make(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{name} is .*{remedy}"):
            make(**{name: value})


@pytest.mark.parametrize("start", [-0.1, 1.5])
def test_the_start_of_the_warm_up_is_a_share_too(start):
    with pytest.raises(ValueError, match=r"residual_lambda_start is .*\[0, 1\], such as 0.4"):
        make(residual_lambda_start=start, residual_warmup_ratio=0.5)


def test_all_that_is_wrong_with_the_warm_up_is_said_at_once():
    with pytest.raises(
        ValueError, match=r"(?s)residual_lambda_start is 2; .*residual_warmup_ratio is -1; .*as 0.5"
    ):
        make(residual_lambda_start=2, residual_warmup_ratio=-1)


FALLING = {"residual_lambda_start": 0.4, "residual_lambda": 0.0, "residual_warmup_ratio": 1.0}
CONFLICTS = [
    ({"residual_lambda_start": 0.1}, "without a warm-up.*residual_warmup_ratio"),
    ({"residual_noise_std": 0.5, "residual_lambda": 0.0}, "no effect at lambda 0.*residual_lambda above 0"),
    ({"propagation_detach": "weights", "propagation": "none"}, "bellman weights only.*propagation='bellman'"),
    ({"propagation_detach": "weights", "propagation": "cumsum"}, "bellman weights only"),
    ({"loss_type": "dft"}, "own loss.*'nll'"),
    ({"label_smoothing_factor": 0.1}, "full logits.*Set it to 0"),
    ({"neftune_noise_alpha": 5.0}, "cannot be used together.*--method neftune"),
    ({"neftune_noise_alpha": 5.0, **FALLING}, "cannot be used together.*lambda 0 at every step"),
    ({"packing": True, "packing_strategy": "wrapped"}, "'wrapped' splits documents.*'bfd'"),
    ({"packing": True, "packing_strategy": "bfd_split"}, "'bfd_split' splits documents.*packing=False"),
    ({"eval_packing": True, "packing_strategy": "wrapped"}, "'wrapped' splits documents"),
    ({"average_tokens_across_devices": False}, "global batch.*at True"),
    ({"truncation_mode": "keep_end"}, "truncates prompts.*'keep_start'"),
]


@pytest.mark.parametrize(("options", "message"), CONFLICTS, ids=[",".join(row[0]) for row in CONFLICTS])
def test_every_conflict_names_its_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("kind", [IFTConfig, DFTSettings])
def test_the_answers_alone_are_trained_where_trl_would_train_every_token(kind):
    """Red when: False, which is trl's default, is taken without a word, and answers alone are trained."""
    with pytest.raises(
        ValueError, match=r"assistant_only_loss is false.*completion_only_loss: false to train every"
    ):
        kind(output_dir="unused", assistant_only_loss=False)
    for given in (
        {},
        {"assistant_only_loss": True},
        {"assistant_only_loss": False, "completion_only_loss": False},
    ):
        config = kind(output_dir="unused", **given)
        assert not config.assistant_only_loss  # trl would look for a template with marks
        assert not dataclasses.replace(config, seed=3).assistant_only_loss


ALLOWED = [
    {"residual_lambda_start": 0.0, "residual_warmup_ratio": 0.1},
    {"residual_warmup_ratio": 0.1},
    {"residual_noise_std": 0.5, **FALLING},
    {"neftune_noise_alpha": 5.0, "residual_lambda": 0.0},
    {"packing": True, "packing_strategy": "bfd"},
    {"packing": False, "packing_strategy": "wrapped"},
    {"propagation": "none", "residual_lambda": 0.0, "loss_reduction": "token"},
    {"propagation_detach": "scale", "propagation": "bellman"},
    {"propagation_detach": "scale", "propagation": "none"},  # the default
    {"propagation_detach": "scale", "propagation": "cumsum"},
    {"propagation_gamma": 0.5, "propagation": "none"},
]


@pytest.mark.parametrize("options", ALLOWED, ids=str)
def test_what_does_not_conflict_is_allowed(options):
    config = make(**options)
    assert {name: getattr(config, name) for name in options} == options
