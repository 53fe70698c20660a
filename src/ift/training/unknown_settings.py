"""What a settings class of ours answers to a name that it does not have."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Self

from ift.text import did_you_mean
from ift.training.other_tools import RENAMED, suggest_equivalent

_OF_THE_TRAINER = {  # names of earlier versions of trl, and those of `ift train` alone -> what takes their place
    "tokenizer": "give it to IFTTrainer as processing_class",
    "model_name_or_path": "give it to IFTTrainer as model",
    "overwrite_output_dir": "it belongs to ift train; IFTTrainer writes into an existing folder, as trl's does",
    "method": "it belongs to ift train and ift.train_method",
}
_OF_LORA = ("lora_", "use_peft", "use_rslora", "use_dora")


class _SignatureOfInit:
    """The signature of a class that has a `__new__` for all arguments: that of its `__init__`, as without it."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        of_init = inspect.signature(owner.__init__)  # type: ignore[misc]
        return of_init.replace(parameters=list(of_init.parameters.values())[1:])


class RefusesUnknownNames:
    """Base of a dataclass of settings: a name that it does not have is answered with the right one.

    `__new__` looks at the names before the dataclass's own `__init__` does, so also in a derived class. Copying,
    pickling and `dataclasses.replace` are unchanged.

    Raises:
        TypeError: Unknown names; the message has a line for each, with the name here, or where else it belongs.
    """

    __signature__ = _SignatureOfInit()

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Checks the names of the settings."""
        parameters = inspect.signature(cls.__init__).parameters
        if all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
            unknown = [name for name in settings if name not in parameters]
            if unknown:
                raise TypeError("\n".join(_message(cls.__name__, name, parameters) for name in unknown))
        return super().__new__(cls)


def _message(kind: str, name: str, known: Iterable[str]) -> str:
    hint = _elsewhere(name, set(known)) or suggest_equivalent(name) or did_you_mean(name, sorted(known))
    return f"{kind}: unknown setting {name!r}" + (
        hint or "; docs/configuration.md and trl's SFTConfig list the settings."
    )


def _elsewhere(name: str, known: set[str]) -> str:
    """The end of a message for a setting of `ift train` or trl that is no setting of the trainer; "" for others."""
    from trl import ModelConfig, ScriptArguments, SFTTrainer

    here = RENAMED.get(name, name)
    if here in known:
        return ""
    for one in (name, here):
        if one in _OF_THE_TRAINER:
            return f"; {_OF_THE_TRAINER[one]}."
    if name in inspect.signature(SFTTrainer.__init__).parameters:
        return f"; it is an argument of IFTTrainer, {name}=..."
    if here.startswith(_OF_LORA):
        return "; IFTTrainer takes LoRA's settings as peft_config, a LoraConfig of peft."
    if here in {one.name for one in fields(ModelConfig)}:
        return f"; {here} belongs to the model: load the model with it, or give it in model_init_kwargs."
    if here in {one.name for one in fields(ScriptArguments)}:
        return "; IFTTrainer takes rows as train_dataset and eval_dataset; ift.data.load_rows reads files."
    return ""
