"""Arguments that an `IFTTrainer` refuses, and what takes their place."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from trl import SFTTrainer

from ift.text import did_you_mean
from ift.training.config import IFTConfig
from ift.training.other_tools import RENAMED

_SCORES = (
    "To score answers during training, use `ift train --eval_generate N --eval_score NAME`, or a TrainerCallback that "
    "generates in on_evaluate (docs/coming_from.md has one)."
)
INSTEAD = {
    "compute_metrics": _SCORES,
    "preprocess_logits_for_metrics": _SCORES,
    "compute_loss_func": "IFT has its own loss; `token_weights` takes a function that weighs its tokens.",
}


def refuse_arguments(given: Mapping[str, Any]) -> None:
    """Checks the keyword arguments of an `IFTTrainer`, which are those of `SFTTrainer` and `data_reports`.

    Raises:
        ValueError: An argument is not None and needs the full logits.
        TypeError: Unknown names, such as settings, which earlier versions of trl took here; one a line.
    """
    for name, instead in INSTEAD.items():
        if given.get(name) is not None:
            raise ValueError(f"{name} needs the full logits, which IFT never builds. {instead}")
    known = [*inspect.signature(SFTTrainer.__init__).parameters, "data_reports"]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(
            "\n".join(f"IFTTrainer: unknown argument {name!r}{_hint(name, known)}" for name in unknown)
        )


def _hint(name: str, known: Iterable[str]) -> str:
    setting = RENAMED.get(name, name)
    if name == "tokenizer":
        return "; it is now processing_class."
    if setting in {one.name for one in fields(IFTConfig)}:
        return f"; it is a setting, args=IFTConfig({setting}=...)."
    return did_you_mean(name, known) or "; it takes the arguments of trl's SFTTrainer."
