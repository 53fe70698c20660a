"""What the other settings of a converted file say, under the names of any tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ift.runs.harmless_names import Same, is_harmless
from ift.training.other_tools import EXPLAINED, RENAMED

# without a counterpart here, and false changes what is trained
FALSE_CHANGES = ("peft_autocast_adapter_dtype", "enable_thinking", "preserve_thinking")
# without an explanation in the table, and false changes nothing
OFF = (
    "create_new_adapter", "efficient_eos", "is_falcon_derived_model", "is_llama_derived_model",
    "is_mistral_derived_model", "is_qwen_derived_model", "mean_resizing_embeddings", "s2_attention",
    "split_special_tokens", "upcast_layernorm", "upcast_lmhead_output", "vision_all_linear",
)  # fmt: skip


class KeysInside:
    """The keys inside one value of a file: what they become, and which are lost.

    Attributes:
        settings: For `ift train`.
        lost: The end of a key's full name -> why there is none here.
    """

    def __init__(self, written: Mapping[str, Any]) -> None:
        self.written = written
        self.settings: dict[str, Any] = {}
        self.lost: dict[str, str] = {}

    def take(self, key: str, here: str, value: Any) -> None:
        """Takes a value for the setting `here`, unless it is "auto" or the file around it sets that too."""
        said = said_elsewhere(self.written, here)
        if value == "auto":
            self.lost[key] = Same(f"auto: {here} of the run applies here too")
        elif said in (None, "auto"):
            self.settings[here] = value
        elif equal(said, value):
            self.lost[key] = Same(f"{here}: {said} says the same")
        else:
            self.lost[key] = (
                f"{value} differs from the file's own {here}: {said}, which is used; set the right one"
            )


def said_elsewhere(written: Mapping[str, Any], here: str) -> Any:
    """The value of ift's setting `here` in the settings of a file, under any name; None if it has none."""
    names = [here, *(name for name, ours in RENAMED.items() if ours == here)]
    return next((written[name] for name in names if written.get(name) is not None), None)


def equal(one: Any, other: Any) -> bool:
    """Whether two values are the same; YAML reads 2e-5 as text."""
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return bool(one == other)


def reason_of_lost(name: str, value: Any, tool: str) -> str:
    """Why a setting without a rule of its own is lost; a `Same` for a switch that is off."""
    if value is False and (name in OFF or (name in EXPLAINED and name not in FALSE_CHANGES)):
        return Same("it is off")
    unknown = "ift has no setting of this name"
    if not is_harmless(name, unknown):
        unknown += f": look up in {tool}'s documentation what it changes"
    return EXPLAINED.get(name, unknown)
