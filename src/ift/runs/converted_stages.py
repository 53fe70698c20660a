"""The stage of LLaMA-Factory and `rl` of Axolotl as a method, and the settings that belong to some stages only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ift.runs.converted_datasets import Settings, Translated
from ift.runs.harmless_names import Same

PAIRS = ("dpo", "orpo", "simpo")


def _method(value: Any, settings: Settings) -> Translated:
    """The stage of LLaMA-Factory, whose pref_loss says which method `dpo` is, or `rl` of Axolotl."""
    name = str(value).lower()
    if name == "dpo":
        name = str(settings.get("pref_loss") or name).lower()
    name = "dpo" if name == "sigmoid" else name
    if name in ("sft", "pt"):
        return {"method": "ift"}
    if name == "ipo":
        return "ipo is no method of ift: the result trains IFT; for pairs, --method dpo is the nearest"
    if name in PAIRS:
        return {"method": name}
    return (
        f"{name} is no method of ift: the result trains IFT, on answers. Stay with the other tool for {name}"
    )


def _of_stage(
    stages: tuple[str, ...], translate: Callable[[Any, Settings], Translated], *, default: str = ""
) -> Callable[[Any, Settings], Translated]:
    """The translation of a setting that LLaMA-Factory uses in some stages only; `default` is a file's without one."""

    def translated(value: Any, settings: Settings) -> Translated:
        stage = str(settings.get("stage") or default).lower()
        if stage and stage not in stages:
            return Same(
                f"it has no effect with stage {stage}: LLaMA-Factory uses it with {' or '.join(stages)} alone"
            )
        return translate(value, settings)

    return translated


STAGE_VALUES: Mapping[str, Callable[[Any, Settings], Translated]] = {
    "dpo_label_smoothing": _of_stage(("dpo",), lambda value, settings: {"label_smoothing": value}),
    "pref_beta": _of_stage(("dpo", "kto"), lambda value, settings: {"beta": value}, default="sft"),
    "pref_loss": _of_stage(("dpo",), lambda value, settings: _method("dpo", settings), default="sft"),
    "rl": _method,
    "simpo_gamma": _of_stage(("dpo",), lambda value, settings: {"simpo_gamma": value}),
    "stage": _method,
}
