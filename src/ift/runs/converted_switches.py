"""Switches and choices of other tools of which one value asks for what ift does anyway."""

from __future__ import annotations

from typing import Any

from ift.runs.converted_datasets import Settings, Translated
from ift.runs.harmless_names import Same
from ift.training.other_tools import EXPLAINED

ANSWERS = "ift also trains only answers"


def mask_history(value: Any, settings: Settings) -> Translated:
    """mask_history of LLaMA-Factory: whether only the last answer is trained."""
    return EXPLAINED["mask_history"] if value else Same("ift also trains every assistant turn")


def neat_packing(value: Any, settings: Settings) -> Translated:
    """neat_packing of LLaMA-Factory: whether the rows of a sequence are kept apart."""
    if value:
        apart = Same("ift's packing always keeps the rows of a sequence apart")
        return apart if settings.get("packing") else {"packing": True}
    if not settings.get("packing"):
        return Same("it is off")
    return "ift always keeps the rows of a sequence apart; with false they attend to earlier ones in the other tool"


def train_on_eos(value: Any, settings: Settings) -> Translated:
    """Which tokens that end turns are trained."""
    if value in ("turn", "all") or value is True:
        return Same("ift also trains the token that ends an answer")
    return "ift trains the token that ends each trained turn; rows with input_ids and labels can train others"


def answers_only(value: Any, settings: Settings) -> Translated:
    """train_on_responses_only of unsloth."""
    return Same(ANSWERS) if value else {"completion_only_loss": False}


def mix_strategy(value: Any, settings: Settings) -> Translated:
    """How LLaMA-Factory joins data sets."""
    same = Same("ift also trains all rows of all data sets")
    return same if value == "concat" else EXPLAINED["mix_strategy"]


def copies(value: Any, settings: Settings) -> Translated:
    """dataset_exact_deduplication of Axolotl."""
    return (
        "remove the copies from the rows: ift check reports them, and trains them"
        if value
        else Same("it is off")
    )


def bias(value: Any, settings: Settings) -> Translated:
    """Biases that LoRA trains too."""
    same = Same("peft trains no bias here either")
    return (
        same if value in ("none", False) else "has no counterpart: ift trains no bias beside LoRA's weights"
    )
