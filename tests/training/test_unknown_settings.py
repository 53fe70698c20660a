"""`IFTConfig(...)` with a name that it does not have: the right name, and everything else of a dataclass as before."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest
from transformers import HfArgumentParser

from ift import IFTConfig
from ift.methods.controls import ControlSettings

ANSWERS = {
    "warmup_ratio": "in ift it is warmup_steps, where below 1 is a share of the steps.",
    "max_seq_length": "in ift it is max_length.",
    "evaluation_strategy": "in ift it is eval_strategy.",
    "residual_lamda": "did you mean residual_lambda?",
    "group_by_length": "it is now train_sampling_strategy: group_by_length.",
    "tokenizer": "give it to IFTTrainer as processing_class.",
    "model_name": "give it to IFTTrainer as model.",
    "peft_config": "it is an argument of IFTTrainer, peft_config=...",
    "lora_rank": "IFTTrainer takes LoRA's settings as peft_config, a LoraConfig of peft.",
    "torch_dtype": "dtype belongs to the model: load the model with it, or give it in model_init_kwargs.",
    "dataset_name": "IFTTrainer takes rows as train_dataset and eval_dataset; ift.data.load_rows reads files.",
    "overwrite_output_dir": "it belongs to ift train; IFTTrainer writes into an existing folder, as trl's does.",
    "zzz": "docs/configuration.md and trl's SFTConfig list the settings.",
}


@pytest.mark.parametrize(("name", "answer"), ANSWERS.items(), ids=ANSWERS)
def test_an_unknown_name_is_answered_with_the_right_one(name, answer):
    with pytest.raises(TypeError) as caught:
        IFTConfig(output_dir="unused", **{name: 1})
    assert str(caught.value) == f"IFTConfig: unknown setting {name!r}; {answer}"


def test_all_unknown_names_are_in_one_message_also_of_a_derived_class():
    with pytest.raises(TypeError) as caught:
        ControlSettings(output_dir="unused", max_seq_length=3, dropuot=0.1)
    assert str(caught.value).splitlines() == [
        "ControlSettings: unknown setting 'max_seq_length'; in ift it is max_length.",
        "ControlSettings: unknown setting 'dropuot'; did you mean dropout?",
    ]


def test_a_derived_class_may_take_names_of_its_own():
    class Own(IFTConfig):
        def __init__(self, *args, mine=0, **settings):
            super().__init__(*args, **settings)
            self.mine = mine

    assert Own(output_dir="unused", mine=3).mine == 3


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_are_equal(copied):
    config = IFTConfig(output_dir="unused", residual_lambda=0.3, assistant_only_loss=True)
    assert copied(config) == config


def test_replace_and_the_parser_work():
    config = IFTConfig(
        output_dir="unused", residual_lambda=0.3, completion_only_loss=False, assistant_only_loss=False
    )
    changed = dataclasses.replace(config, seed=7, completion_only_loss=None)
    assert (changed.residual_lambda, changed.seed) == (0.3, 7)
    (parsed,) = HfArgumentParser(IFTConfig).parse_args_into_dataclasses(
        ["--output_dir", "unused", "--seed", "7"]
    )
    assert parsed == IFTConfig(output_dir="unused", seed=7)


def test_the_signature_is_that_of_the_dataclass():
    """Red when: help and editors show (*args, **settings)."""
    for kind in (IFTConfig, ControlSettings):
        assert list(inspect.signature(kind).parameters) == [
            one.name for one in dataclasses.fields(kind) if one.init
        ]
