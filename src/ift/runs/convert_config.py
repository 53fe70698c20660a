"""Converts the YAML of Axolotl, LLaMA-Factory, alignment-handbook (trl) and unsloth to a file for `ift train --config`.

Every key of the file is kept, translated, or lost with a reason; those that change what is trained come first.
Defaults of the other tool that differ from ift's are written out (`converted_defaults`). Names are those of
`other_tools`, values those of `converted_values`; what is left is parsed as `ift train` parses it, and a setting that
it refuses is lost too.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ift.methods.engines import problem_of_engine
from ift.methods.table import METHODS
from ift.runs.arguments import make_parser, parse_stages
from ift.runs.argv import UsageError
from ift.runs.converted import Converted
from ift.runs.converted_deepspeed import UNKNOWN_STAGE, read_named
from ift.runs.converted_defaults import differences, implied
from ift.runs.converted_engines import missing_engine
from ift.runs.converted_evaluation import switch_off
from ift.runs.converted_names import equal, reason_of_lost
from ift.runs.converted_registry import resolve_names
from ift.runs.converted_values import LOST_INSIDE, USED_BY, VALUES
from ift.runs.foreign_files import SIGNS
from ift.runs.harmless_names import Same
from ift.runs.yaml_file import parse_yaml_file
from ift.training.other_tools import EXPLAINED, RENAMED

SECTIONS = ("training", "lora", "logging", "data")  # of unsloth's file: settings one level deeper
OF_THE_DEVICE = ("tf32",)  # refused where the device of the conversion lacks it
# keys of files that configure no training, and what does their work here
NO_TRAINING = {
    "compute_environment": "give this file to ift train with --accelerate_config",
    "export_dir": "ift merge ADAPTER merges an adapter into its base",
    "infer_backend": "ift chat MODEL, or ift generate",
    "sample_backend": "ift chat MODEL, or ift generate",
}
FILL_IN = {"model_name_or_path": "MODEL", "dataset_name": "ROWS.jsonl", "output_dir": "aligned"}


def convert_file(path: Path, method: str | None = None) -> Converted:
    """Converts a file of another tool; `method` replaces the method that it names.

    Raises:
        UsageError: The file cannot be read, is not a flat YAML file, or its result is refused for another reason
            than a setting of the file.
    """
    parse_yaml_file(path)  # refuses what is not a mapping, repeated keys and tags
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    _refuse_other_files(path, read)
    written = _flat(read)
    found = Converted(_tool(read))
    notes = _read_what_is_named(written, found, path)
    known = {
        option.lstrip("-")
        for one in METHODS.values()
        for option in make_parser(one)._option_string_actions
        if option.startswith("--")
    }
    for name, value in written.items():
        if value is None or value in ("", []):
            found.empty.append(str(name))
        else:
            _convert(str(name), value, written, known, found)
    switch_off(found, written)
    for source, used in USED_BY.items():
        for name in used:
            if source in found.translated and found.lost.pop(name, ""):
                found.translated[name] = found.translated[source]
    if found.tool == "unsloth" and "lora_r" in found.settings and "training_type" not in written:
        found.settings["use_peft"] = True  # its default
        found.translated["lora"] = {"use_peft": True}
    if not found.kept and not found.translated:
        raise UsageError(
            f"{path}: found no training settings, only {', '.join(map(str, list(read)[:5]))}. "
            "Fix: give the file that configures the other tool's training"
        )
    if method is not None or "method" not in found.settings:
        found.settings = {**{"method": "ift"}, **found.settings, **({"method": method} if method else {})}
    if found.settings.get("accelerate_config") == "zero3" and METHODS[found.settings["method"]].needs_pairs:
        found.settings["accelerate_config"] = "fsdp2"  # trl's methods on pairs are refused under ZeRO-3
        for result in found.translated.values():
            result |= {"accelerate_config": "fsdp2"} if "accelerate_config" in result else {}
    found.implied = implied(found.tool, written, found.settings)
    found.settings |= {name: value for name, (value, _) in found.implied.items()}
    _fill_in(found)
    if found.settings.get("accelerate_config") == UNKNOWN_STAGE:
        found.missing["accelerate_config"] = missing_engine(
            written.get("deepspeed", written.get("dist_config"))
        )
    _drop_refused(found)
    found.differences = [*differences(found.tool, written, found.settings), *notes]
    return found


def _read_what_is_named(written: dict[str, Any], found: Converted, path: Path) -> list[str]:
    """Replaces names of data sets and of DeepSpeed's files by what they stand for; returns notes on the data sets."""
    notes: list[str] = []
    if found.tool == "unsloth" and "batch_size" in written:  # rows of one device there
        written["micro_batch_size"] = written.pop("batch_size")
    if found.tool == "LLaMA-Factory" and written.get("dataset"):
        written["dataset"], missing, notes = resolve_names(written, path)
        found.missing |= {f"{name} in datasets": reason for name, reason in missing.items()}
        if written.get("eval_dataset"):
            written["eval_dataset"], *_ = resolve_names({**written, "dataset": written["eval_dataset"]}, path)
    for name in ("deepspeed", "dist_config"):
        if name in written:
            written[name] = read_named(written[name], path)
    return notes


def _refuse_other_files(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuses the files of other tools that configure no training.

    Raises:
        UsageError: The file configures accelerate, an export or a chat; the message names the command for it.
    """
    for sign, fix in NO_TRAINING.items():
        if sign in settings and not any(
            one in settings for one in ("stage", "datasets", "train_dataset", "dataset")
        ):
            raise UsageError(f"{path}: this file does not configure a training (it sets {sign}). Fix: {fix}")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of unsloth's sections, as those of a flat file."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if name in SECTIONS and isinstance(value, Mapping) else {name: value}
    return flat


def _tool(settings: Mapping[str, Any]) -> str:
    """The tool with most of its signs in a file."""
    return max(SIGNS, key=lambda tool: sum(sign in settings for sign in SIGNS[tool]))


def _convert(name: str, value: Any, written: Mapping[str, Any], known: set[str], found: Converted) -> None:
    """Sorts one setting into `found`."""
    if name in VALUES:
        result = VALUES[name](value, written)
        inside: dict[str, str] = {}
        if name in LOST_INSIDE:
            inside = LOST_INSIDE[name](value, written)
        if isinstance(result, str):
            found.lost |= {name: result, **inside}
            return
        found.lost |= inside
        if not result and inside:
            return  # all its keys are lost
        variables = result.pop("env", None)
        asked, result = (
            result,
            {here: one for here, one in result.items() if here not in found.settings or here == name},
        )
        if variables:
            result["env"] = {**found.settings.get("env", {}), **variables}
        found.settings |= result
        if result == {name: value}:
            found.kept.append(name)
        elif result or asked == {
            here: found.settings[here] for here in asked
        }:  # or another name says the same
            found.translated[name] = result or asked
        else:
            found.lost[name] = EXPLAINED.get(name, "another setting of the file has the same effect")
    elif name in known:
        found.settings[name] = value
        found.kept.append(name)
    elif (here := RENAMED.get(name)) is not None:
        said = found.settings.get(here) if written.get(here) is None else written[here]
        if said is not None:
            same = Same(f"{here}: {said} says the same")
            found.lost[name] = same if equal(said, value) else f"{here}: {said} is set too, and is used"
            return
        found.settings[here] = value
        found.translated[name] = {here: value}
    else:
        found.lost[name] = reason_of_lost(name, value, found.tool)


def _fill_in(found: Converted) -> None:
    for name, value in FILL_IN.items():
        if name not in found.settings and not (name == "dataset_name" and found.settings.get("datasets")):
            found.settings[name] = value
            found.missing |= {name: "which the file does not contain"} if name != "output_dir" else {}


def _drop_refused(found: Converted) -> None:
    """Moves every setting that `ift train` refuses to `lost`, with its message.

    Raises:
        UsageError: The message names no setting of the file.
    """
    while message := _refusal(found.settings):
        sources = {here: name for name, result in found.translated.items() for here in result}
        places = {
            name: match.start()
            for name in found.settings
            if name != "method" and (match := re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", message))
        }
        if not places:
            raise UsageError(f"the converted settings are refused: {message}")
        here = min(places, key=lambda name: places[name])
        message = _line_at(message, places[here])
        source = sources.get(here, here)
        for name in [*found.translated.pop(source, {}), here]:
            found.settings.pop(name, None)
        found.kept = [name for name in found.kept if name != here]
        if found.implied.pop(here, None) is None:
            other = message.startswith("unknown key")
            found.lost[source] = _without(found.settings["method"], here) if other else message
        _fill_in(found)


def _line_at(message: str, place: int) -> str:
    """The line of a message at a place in it: a message has a line for each refused setting."""
    return message[: place + len(message[place:].partition("\n")[0])].rpartition("\n")[2]


def _without(method: str, name: str) -> str:
    """That `method` has no setting `name`, and which methods have it."""
    having = [one for one, table in METHODS.items() if name in table.load_config().__dataclass_fields__]
    return f"{method} has no such setting" + (f"; --method {', '.join(having)} has" if having else "")


def _refusal(settings: Mapping[str, Any]) -> str:
    """The message with which `ift train` refuses the settings; "" if it takes them."""
    elsewhere = (*OF_THE_DEVICE, "env")  # parsing would set the variables in this process
    settings = {name: value for name, value in settings.items() if name not in elsewhere}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "converted.yaml"
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of trl, about settings that the run warns of
                stages = parse_stages(["--config", str(file)])
        except UsageError as error:
            return re.sub(rf"{re.escape(str(file))}, line \d+: ", "", str(error))
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            return str(error)
    engine = str(settings.get("accelerate_config", "ddp"))
    return next((problem for stage in stages if (problem := problem_of_engine(stage, engine))), "")
