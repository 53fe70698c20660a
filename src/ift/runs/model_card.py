"""README.md of a trained model: what it is, how to load it, what it was trained on, by which method and versions."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import TrainingArguments

from ift.methods.stage import Stage
from ift.models.adapters import adapter_config
from ift.models.model_folder import SHIPPED, local_path, looks_local
from ift.models.record import find_file, read_record
from ift.text import counted
from ift.training.best_step import best_step
from ift.training.model_card import card_settings
from ift.training.trainer import IFTTrainer

# settings of a run that are named, if the method has them
_SETTINGS = ("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps",
             "per_device_train_batch_size", "gradient_accumulation_steps", "optim", "weight_decay", "max_grad_norm",
             "max_length", "packing", "loss_reduction", "beta", "simpo_gamma", "seed")  # fmt: skip
_IF_CHANGED = ("lr_scheduler_kwargs", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon")
_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_modules_to_save", "use_dora",
         "use_rslora", "load_in_4bit", "load_in_8bit")  # fmt: skip
_PACKAGES = ("intuitive-fine-tuning", "torch", "transformers", "trl", "peft", "datasets", "accelerate")
_CHAT = """messages = [{"role": "user", "content": "Hello"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)"""
_LOADING = "How to load it"
_OF_THE_TRAINING = ("Data", "Method", "Versions", "License", "Citation")  # sections that a merged model keeps
_PLAIN = """inputs = tokenizer("Hello", return_tensors="pt")"""


def write_model_card(trainer: Any, stage: Stage) -> None:
    """Writes README.md into the folder of a trained model, on the first process.

    Its metadata has the base, its licence if the base's card names one, the data sets of the Hub, and tags.
    """
    if not trainer.is_world_process_zero():
        return
    folder = Path(stage.config.output_dir)
    name, base = folder.resolve().name, stage.model.model_name_or_path
    adapter = (folder / "adapter_config.json").exists()
    licence, base_id = _licence(base), None if looks_local(base) else base
    hub_sets = [one for one in _data_names(stage) if not looks_local(one) and "/" in one]
    data = ModelCardData(
        model_name=name,
        base_model=base_id,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        license=licence or None,
        datasets=hub_sets or None,
        tags=sorted({stage.method.name, "ift", "trl", *(["lora"] if adapter else [])}),
    )
    parts = {
        _LOADING: _loading(
            name,
            bool(getattr(trainer.processing_class, "chat_template", None)),
            adapter,
            _stops(trainer.model),
        ),
        "Data": _data(trainer, stage),
        "Method": _method(trainer, stage, adapter),
        "Versions": "\n".join(f"* {package} {found}" for package, found in _versions().items()),
        "License": _licence_words(licence, base),
        "Citation": _citation(trainer),
    }
    shown = shown_base(base, base_id)
    what = f"A LoRA adapter for {shown}" if adapter else f"{shown}, fine-tuned"
    _save(folder, data, f"{what}. Method: {stage.method.description}.", parts)


def write_merged_card(adapter: str, folder: Path) -> None:
    """Writes README.md into the folder of a merged model, with what the card of its adapter says about the training.

    Of the adapter's card the metadata are kept, and the sections that `write_model_card` writes.
    """
    file, name = find_file(adapter, "README.md"), folder.resolve().name
    card = ModelCard.load(file) if file else ModelCard("---\n{}\n---\n")
    known, found = card.data.to_dict(), re.split(r"^## (.+)\n", card.text, flags=re.MULTILINE)[1:]
    sections = dict(zip(found[::2], map(str.strip, found[1::2]), strict=True))
    base = str(getattr(adapter_config(local_path(adapter)), "base_model_name_or_path", None) or "")
    base_id = known.get("base_model") or (None if looks_local(base) else base or None)
    data = ModelCardData(
        model_name=name,
        base_model=base_id,
        library_name="transformers",
        pipeline_tag="text-generation",
        license=known.get("license"),
        datasets=known.get("datasets"),
        tags=[one for one in known.get("tags") or ["ift"] if one != "lora"],
    )
    shown = Path(adapter).name if looks_local(adapter) else adapter
    chat = (folder / "chat_template.jinja").exists()
    parts = {_LOADING: _loading(name, chat, adapter=False)}
    parts |= {heading: sections[heading] for heading in _OF_THE_TRAINING if heading in sections}
    what = f"The adapter `{shown}`, merged by `ift merge` into its base, {shown_base(base, base_id)}"
    _save(folder, data, f"{what}. The weights are in {_dtype(folder)}.", parts)


def shown_base(base: str, base_id: str | None) -> str:
    """The base in the words of a card."""
    if Path(base).name in SHIPPED and local_path(Path(base).name) == local_path(base):
        return f"`{Path(base).name}`, a tiny model in the package `intuitive-fine-tuning`"
    if base_id:
        return base_id
    first = read_record(local_path(base)).trained_from if Path(base).is_dir() else ""
    origin = f", trained from `{first}`" if first else ""
    return f"`{Path(base).name}` (a local folder{origin}: write its Hub id as `base_model` into the metadata above)"


def _dtype(folder: Path) -> str:
    """The dtype that a saved model's configuration names."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _save(folder: Path, data: ModelCardData, what: str, parts: Mapping[str, str]) -> None:
    text = "\n\n".join(f"## {heading}\n\n{part}" for heading, part in parts.items() if part)
    content = f"---\n{data.to_yaml()}\n---\n\n# {data.model_name}\n\n{what}\n\n{text}\n"
    ModelCard(content).save(folder / "README.md")


def _loading(name: str, chat: bool, adapter: bool, stops: Sequence[int] = ()) -> str:
    """Python that loads the model and prints an answer, and the command of ift."""
    loader = "AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM"
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if adapter:
        imports = f"from peft import {loader}\nfrom transformers import AutoTokenizer"
    prompt = _CHAT if chat else _PLAIN
    # peft saves no generation config beside an adapter, and that of the base may lack the token that ends a turn
    end = f", eos_token_id={[*stops]}" if adapter and stops else ""
    return (
        f"```python\n{imports}\n\n"
        f'folder = "{name}"  # the path of this folder, or its id on the Hub\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"model = {loader}.from_pretrained(folder)\n{prompt}\n"
        f'answer = model.generate(**inputs, max_new_tokens=64{end})[0, inputs["input_ids"].shape[1] :]\n'
        "print(tokenizer.decode(answer, skip_special_tokens=True))\n```\n\n"
        f"In a terminal: `ift chat {name}`."
    )


def _stops(model: Any) -> list[int]:
    """The tokens that end an answer, from the model's generation config."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [] if found is None else [found] if isinstance(found, int) else list(found)


def _data_names(stage: Stage) -> list[str]:
    entries = getattr(getattr(stage, "mixture", None), "datasets", None) or []
    names = [stage.script.dataset_name, *(getattr(one, "path", None) for one in entries)]
    return [str(one) for one in names if one]


def _data(trainer: Any, stage: Stage) -> str:
    """The data sets by name (of files only the name), and how many rows and tokens were trained."""
    names = [f"`{Path(one).name if looks_local(one) else one}`" for one in _data_names(stage)]
    report = getattr(trainer, "data_reports", {}).get("train")
    rows = (
        ""
        if report is None
        else f" {counted(report.rows_kept, 'row')}, {counted(report.trained_tokens, 'trained token')}."
    )
    return f"{', '.join(names)}.{rows}" if names else rows.strip()


def _method(trainer: Any, stage: Stage, adapter: bool) -> str:
    """The name of the method and a table of its settings and those of the run."""
    found = {name: getattr(stage.config, name, None) for name in _SETTINGS} | {"dtype": stage.model.dtype}
    del found["max_steps" if stage.config.max_steps <= 0 else "num_train_epochs"]  # the other one decided
    usual = {one.name: one.default for one in fields(TrainingArguments)}
    for name in _IF_CHANGED:
        if (value := getattr(stage.config, name)) not in (usual[name], {}):
            found[name] = value
    if adapter:
        found |= {name: getattr(stage.model, name, None) for name in _LORA}
    if isinstance(trainer, IFTTrainer):
        found |= card_settings(trainer)
    lines = [
        f"| `{name}` | {getattr(value, 'value', value)} |"
        for name, value in found.items()
        if value is not None and value is not False  # 0 is a setting
    ]
    steps = f"{counted(trainer.state.global_step, 'step')}, {counted(trainer.args.world_size, 'process', 'processes')}"
    saved = f" The weights are those of {best}." if (best := best_step(trainer)) else ""
    return f"`{stage.method.name}`, {steps}.{saved}\n\n| setting | value |\n| --- | --- |\n" + "\n".join(
        lines
    )


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _licence(base: str) -> str:
    """The licence in the metadata of the base's README.md; "" if there is none."""
    try:
        card = find_file(base, "README.md")
        found = ModelCard.load(card).data.license if card else None
    except (OSError, ValueError):  # not reachable, or metadata that are not YAML
        return ""
    return str(found[0] if isinstance(found, list) else found) if found else ""


def _licence_words(licence: str, base: str) -> str:
    if licence:
        return (
            f"The base's card names `{licence}`. Check that it allows what you do, and that the data do too."
        )
    return (
        f"To be filled in: no licence was found in the card of `{Path(base).name}`. Write `license:` into the metadata "
        "above before you share the model."
    )


def _citation(trainer: Any) -> str:
    """The citation of the method's paper, if its trainer has one."""
    citation = (getattr(trainer, "_paper", None) or {}).get("citation", "")
    return f"```bibtex\n{citation.strip()}\n```" if citation else ""
