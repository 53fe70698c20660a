"""The settings of a step: one list of names, types and defaults; every value checked wherever it is given."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_type_hints

import pytest
import torch

import models
from ift import ift_loss
from ift.step.equations import propagation_weights
from ift.step.settings import CHOICES, SettingOverrides, StepSettings

IDS = torch.tensor([[5, 6, 7, 8, 9]])
BATCH = {"input_ids": IDS, "labels": IDS}


def test_the_keyword_arguments_are_the_fields():
    assert get_type_hints(SettingOverrides) == get_type_hints(StepSettings)
    assert tuple(get_type_hints(SettingOverrides)) == tuple(field.name for field in fields(StepSettings))


def test_the_weights_alone_have_the_same_defaults():
    parameters = inspect.signature(propagation_weights).parameters
    for name, setting in (
        ("kind", "propagation"),
        ("gamma", "propagation_gamma"),
        ("detach", "propagation_detach"),
    ):
        assert parameters[name].default == getattr(StepSettings(), setting)


def test_settings_and_keyword_arguments_are_one_and_the_same():
    model = models.tiny_model()
    settings = StepSettings(residual_lambda=0.5, lookahead="expected", loss_reduction="token")
    keywords = {"residual_lambda": 0.5, "lookahead": "expected", "loss_reduction": "token"}
    wanted = ift_loss(model, BATCH, settings).loss
    assert ift_loss(model, BATCH, **keywords).loss == wanted
    assert (
        ift_loss(
            model, BATCH, StepSettings(lookahead="expected", loss_reduction="token"), residual_lambda=0.5
        ).loss
        == wanted
    )
    assert ift_loss(model, BATCH).loss != wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({name: "left"}, rf"{name} is 'left'; choose one of {', '.join(values)}")
            for name, values in CHOICES.items()
        ),
        ({"residual_lambda": 1.5}, r"residual_lambda is 1.5; give a value in \[0, 1\]"),
        ({"propagation_gamma": 0.0}, "propagation_gamma is 0.0; .*propagation='none'"),
        ({"lookahead_temperature": 0.0}, "lookahead_temperature is 0.0; .*lookahead='greedy'"),
        ({"lookahead_top_k": 0}, "lookahead_top_k is 0; give 1 or more"),
        (
            {"propagation": "none", "propagation_detach": "weights"},
            "bellman weights only.*propagation='bellman'",
        ),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_in_a_plain_loop(options, message):
    with pytest.raises(ValueError, match=message):
        ift_loss(models.tiny_model(), BATCH, **options)


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="residual_lamda"):
        ift_loss(models.tiny_model(), BATCH, residual_lamda=0.3)
