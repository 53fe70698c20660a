"""Mappings in other tools' configurations (LoRA, quantisation, special tokens, trl): a translation, and what is lost.

The keys that `lost_of_keys` names are those that no translation here reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ift.runs.converted_datasets import Settings, Translated
from ift.runs.harmless_names import Same
from ift.training.other_tools import EXPLAINED, RENAMED

LORA = {"r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
BNB = {"bnb_4bit_quant_type": "bnb_4bit_quant_type", "bnb_4bit_use_double_quant": "use_bnb_nested_quant"}
WITH_BETA = ("dpo", "orpo", "simpo")
PADDING = Same(
    "is not needed: padding is masked out of the attention and of the loss, whichever token pads. The saved tokenizer "
    "keeps the base's padding token, or gets its end token; pad_token: sets another"
)
TOKENS = "it is that of the tokenizer: change it in the model's folder (tokenizer_config.json) if it differs"


def targets(value: Any, settings: Settings) -> Translated:
    """Names of the layers that LoRA adapts."""
    names = [one.strip() for one in value.split(",")] if isinstance(value, str) else list(value)
    return {"lora_target_modules": "all-linear" if names in (["all"], ["all-linear"]) else names}


def bits(value: Any, settings: Settings) -> Translated:
    """The bits that the weights are loaded in."""
    return {f"load_in_{value}bit": True} if value in (4, 8) else f"{value} bits: ift loads 4 or 8"


def peft_config(value: Any, settings: Settings) -> Translated:
    """The nested section of LLaMA-Factory's newer files."""
    if not isinstance(value, Mapping) or value.get("name") != "lora":
        return "all weights would be trained: set use_peft: true for LoRA"
    found = {"use_peft": True, **{LORA[key]: one for key, one in value.items() if key in LORA}}
    named = targets(value["target_modules"], settings) if value.get("target_modules") else {}
    return {**found, **named}  # type: ignore[dict-item]


def quant_config(value: Any, settings: Settings) -> Translated:
    """Quantisation of LLaMA-Factory's newer files."""
    return bits(value.get("quantization_bit"), settings)


def bnb_config(value: Any, settings: Settings) -> Translated:
    """bnb_config_kwargs of Axolotl."""
    return {BNB[name]: one for name, one in value.items() if name in BNB}


def special_tokens(value: Any, settings: Settings) -> Translated:
    """special_tokens of Axolotl."""
    return {"eos_token": value["eos_token"]} if value.get("eos_token") else {}


def trl_section(value: Any, settings: Settings) -> Translated:
    """`trl:` of Axolotl, whose beta is that of a method on pairs."""
    if isinstance(value, Mapping) and value.get("beta") is not None and settings.get("rl") in WITH_BETA:
        return {"beta": value["beta"]}
    return {} if isinstance(value, Mapping) else EXPLAINED["trl"]


def lost_of_keys(
    name: str, used: Callable[[Settings], tuple[str, ...]], reasons: Mapping[str, str], other: str
) -> Callable[[Any, Settings], dict[str, str]]:
    """The keys of a mapping that are lost, by their full names.

    Args:
        name: Of the mapping.
        used: The keys that the translation reads, from the settings of the file.
        reasons: Of single keys.
        other: The reason of all others.
    """

    def lost(value: Any, settings: Settings) -> dict[str, str]:
        keys = value.items() if isinstance(value, Mapping) else ()
        return {
            f"{name}.{key}": _reason(str(key), one, reasons, other)
            for key, one in keys
            if key not in used(settings) and one not in (None, "")
        }

    return lost


def _reason(key: str, value: Any, reasons: Mapping[str, str], other: str) -> str:
    if key not in reasons and value is False:
        return Same("it is off")
    known = f"set {RENAMED[key]}" if key in RENAMED else EXPLAINED.get(key, other)
    return reasons.get(key, known)


_UNKNOWN = "ift has no setting of this name"
LOST_OF_MAPPINGS: Mapping[str, Callable[[Any, Settings], dict[str, str]]] = {
    "bnb_config_kwargs": lost_of_keys("bnb_config_kwargs", lambda settings: tuple(BNB), {}, _UNKNOWN),
    "peft_config": lost_of_keys(
        "peft_config", lambda settings: (*LORA, "name", "target_modules"), {}, _UNKNOWN
    ),
    "quant_config": lost_of_keys(
        "quant_config",
        lambda settings: ("quantization_bit",),
        {"name": Same("bitsandbytes is the only supported method")},
        _UNKNOWN,
    ),
    "special_tokens": lost_of_keys(
        "special_tokens", lambda settings: ("eos_token",), {"pad_token": PADDING}, TOKENS
    ),
    "trl": lost_of_keys(
        "trl",
        lambda settings: ("beta",) if settings.get("rl") in WITH_BETA else (),
        {},
        EXPLAINED["trl"],
    ),
}
