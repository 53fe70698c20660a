"""pytest plugin: trl's own tests/test_sft_trainer.py with local models and rows, and with trl's trainer or IFTTrainer.

Loaded with `-p trl_sft_plugin` by `trl_sft.py`, never by the project's own tests. It reads two environment variables:
PEERS_TRAINER ("trl" or "ift") and PEERS_WEIGHTS (a folder that gets the weights after each `train()`).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
import torch
import trl
from trl import import_utils
from trl.trainer import sft_trainer
from trl.trainer.base_config import _BaseConfig

from ift import IFTConfig, IFTTrainer

TRAINER, WEIGHTS = os.environ["PEERS_TRAINER"], Path(os.environ["PEERS_WEIGHTS"])
running = {"test": "", "trainings": 0}


@dataclass
class SFTSetting(IFTConfig):
    """`IFTConfig` whose defaults are those of trl's SFT."""

    residual_lambda: float = 0.0
    propagation: str = "none"
    loss_reduction: str = "token"


class SFTSettingTrainer(IFTTrainer):
    """`IFTTrainer`, with `SFTSetting` where no settings are given."""

    def __init__(self, model, args=None, *positional, **kwargs):
        super().__init__(model, args or SFTSetting("tmp_trainer"), *positional, **kwargs)


TrainerClass = SFTSettingTrainer if TRAINER == "ift" else trl.SFTTrainer
_train, _post_init = TrainerClass.train, _BaseConfig.__post_init__


def train_and_keep(self, *args, **kwargs):
    """`train`, then stores the weights, a file for each call of a test."""
    result = _train(self, *args, **kwargs)
    running["trainings"] += 1
    name = "".join(one if one.isalnum() else "-" for one in running["test"])
    state = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
    torch.save(state, WEIGHTS / f"{name}.{running['trainings']}.pt")
    return result


def in_float32(self):
    """trl's tests run in bfloat16 autocast on a CPU; equal weights are looked for in float32."""
    self.bf16 = False
    _post_init(self)


def turns(question, answer):
    """A user's and an assistant's turn."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


PAIRS = [(f"What is {n} plus {n}?", f"It is {2 * n}, and that is all there is to say.") for n in range(19)]
ROWS = {
    "standard_language_modeling": [{"text": f"{question} {answer}"} for question, answer in PAIRS],
    "conversational_language_modeling": [{"messages": turns(*one)} for one in PAIRS],
    "standard_prompt_completion": [{"prompt": one[0], "completion": f" {one[1]}"} for one in PAIRS],
    "conversational_prompt_completion": [
        {"prompt": turns(*one)[:1], "completion": turns(*one)[1:]} for one in PAIRS
    ],
    "standard_implicit_prompt_preference": [
        {"chosen": f"{one[0]} {one[1]}", "rejected": f"{one[0]} No."} for one in PAIRS
    ],
}


def load_rows(path, name=None, split=None, streaming=False):
    """Rows of our own in the shapes of trl's test data sets; 17 for training, 2 for testing."""
    if path != "trl-internal-testing/zen" or name not in ROWS:
        pytest.skip(f"no local rows for {path} {name or ''}")
    parts = {
        "train": datasets.Dataset.from_list(ROWS[name][:17]),
        "test": datasets.Dataset.from_list(ROWS[name][17:]),
    }
    if split is None:
        found = datasets.DatasetDict(parts)
        return (
            datasets.IterableDatasetDict({k: v.to_iterable_dataset() for k, v in found.items()})
            if streaming
            else found
        )
    part, _, count = split.partition("[:")
    found = parts[part].select(range(int(count.rstrip("]")))) if count else parts[part]
    return found.to_iterable_dataset() if streaming else found


def absent(name):
    """Stands for a private function that the checkout's tests import and the installed trl has no more."""
    return lambda *args, **kwargs: pytest.skip(f"the installed trl has no {name}")


def never(name):
    """Stands for a test of an optional package that the installed trl no longer knows: not available."""
    if not name.startswith("is_"):
        raise AttributeError(name)
    return lambda: False


sft_trainer.__getattr__ = absent
import_utils.__getattr__ = never
TrainerClass.train = train_and_keep
_BaseConfig.__post_init__ = in_float32
datasets.load_dataset = load_rows
if TRAINER == "ift":
    trl.SFTTrainer, trl.SFTConfig = SFTSettingTrainer, SFTSetting


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Remembers which test runs."""
    running.update(test=item.name, trainings=0)
