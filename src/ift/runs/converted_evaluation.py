"""Rows for evaluation beside a list of data sets: `test_datasets` of Axolotl, `eval_dataset` of LLaMA-Factory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ift.data import DataError
from ift.data.folders import list_data_files
from ift.runs.converted import Converted
from ift.runs.converted_datasets import Settings, Translated, lost_of_entries, translate_datasets
from ift.runs.converted_mixtures import HELD_OUT
from ift.runs.harmless_names import Same

ASKING = ("eval_strategy", "evaluation_strategy", "evals_per_epoch", "eval_steps")
HOLDING_OUT = ("val_size", "val_set_size")
OF_ONE_SET = {"path", "name", "split", "dataset_columns"}  # what a run has beside `datasets`
NOT_EVALUATED = Same(
    "its rows are not evaluated; eval_strategy is no, so that no training rows are held out in their place. ift takes "
    "evaluation rows from a split of a single data set: put the files into one folder as train.jsonl and test.jsonl, "
    "and set dataset_name: FOLDER, dataset_test_split: test and eval_strategy in place of datasets"
)


def datasets(value: Any, settings: Settings) -> Translated:
    """The training rows: one data set with its splits if the evaluation rows are one of these, else a list."""
    return _one_set(settings) or translate_datasets(value, settings)


def evaluation_rows(name: str) -> Callable[[Any, Settings], Translated]:
    """The translation of `test_datasets` or `eval_dataset`."""

    def translate(value: Any, settings: Settings) -> Translated:
        if any(settings.get(one) for one in HOLDING_OUT):
            return HELD_OUT
        asks = any(settings.get(one) not in (None, False, 0, "no") for one in ASKING)
        if name == "eval_dataset" and not asks:
            return Same("the file asks for no evaluation")
        if (one := _one_set(settings)) is None:
            return NOT_EVALUATED
        return {"dataset_test_split": one["dataset_test_split"], **_when(settings)}

    return translate


def _when(settings: Settings) -> dict[str, Any]:
    """The strategy of a file that has evaluation rows and names none: each `eval_steps`, or each epoch without them."""
    if any(settings.get(asking) is not None for asking in ASKING if asking != "eval_steps"):
        return {}
    return {"eval_strategy": "steps" if settings.get("eval_steps") else "epoch"}


def lost_of_evaluation(name: str) -> Callable[[Any, Settings], dict[str, str]]:
    """The lost keys of the entries of evaluation rows that are translated."""
    return lambda value, settings: lost_of_entries(value, name) if _one_set(settings) else {}


def held_out(value: Any, settings: Settings) -> Translated:
    """The share of the training rows that is held out; nothing may be held out beside evaluation rows of the file."""
    if value:
        return {"test_split_size": value, **_when(settings)}
    return Same("ift also holds out nothing") if _given(settings) else {"eval_strategy": "no"}


def switch_off(found: Converted, settings: Settings) -> None:
    """Switches evaluation off where its rows are not found here; training rows would be held out for it."""
    if NOT_EVALUATED not in found.lost.values():
        return
    found.settings = {name: one for name, one in found.settings.items() if name not in ASKING}
    found.settings["eval_strategy"] = "no"
    name = "test_datasets" if settings.get("test_datasets") else "eval_dataset"
    for asking in ASKING:
        if settings.get(asking) not in (None, "no"):
            found.kept = [kept for kept in found.kept if kept != asking]
            found.translated.pop(asking, None)
            found.lost[asking] = Same(f"there are no evaluation rows: see {name}")


def _given(settings: Settings) -> Any:
    """The evaluation rows of a file, as entries; a split that Axolotl leaves unsaid is "test"."""
    if value := settings.get("test_datasets"):
        entries = value if isinstance(value, list) else [value]
        return [{"split": "test", **one} if isinstance(one, dict) else one for one in entries]
    return settings.get("eval_dataset")


def _one_set(settings: Settings) -> dict[str, Any] | None:
    """The data set that has training and evaluation rows as splits, as settings; None if they are no such splits."""
    rows = settings.get("datasets") or settings.get("dataset")
    if not (theirs := _given(settings)) or not rows or any(settings.get(one) for one in HOLDING_OUT):
        return None
    parts = [translate_datasets(one, settings) for one in (rows, theirs)]
    entries = [part["datasets"] for part in parts if isinstance(part, dict)]
    if [len(one) for one in entries] != [1, 1] or any({*one[0]} - OF_ONE_SET for one in entries):
        return None
    train, test = entries[0][0], entries[1][0]
    columns = train.get("dataset_columns")
    if (train.get("name"), columns) != (test.get("name"), test.get("dataset_columns")):
        return None
    paths = _splits_of_folder(train, test)
    if train["path"] == test["path"]:
        paths = str(train["path"]), str(train["split"]), str(test["split"])
    if paths is None or paths[1] == paths[2]:
        return None
    name, first, second = paths
    found = {"dataset_name": name, "dataset_train_split": first, "dataset_test_split": second}
    found |= {"dataset_config": train["name"]} if train.get("name") else {}
    return {**found, **({"dataset_columns": columns} if columns else {})}


def _splits_of_folder(train: dict[str, Any], test: dict[str, Any]) -> tuple[str, str, str] | None:
    """The folder of two files and their splits in it, if it has no other files of these splits."""
    files = [Path(str(one["path"])).expanduser() for one in (train, test)]
    if files[0].parent != files[1].parent or not all(file.is_file() for file in files):
        return None
    try:
        splits = list_data_files(files[0].parent).splits
    except DataError:
        return None
    names = [next((name for name, paths in splits.items() if paths == [file]), "") for file in files]
    if not all(names):
        return None
    parts = [str(one["split"]).partition("[") for one in (train, test)]  # a part of the rows
    first, second = (f"{name}{bracket}{rest}" for name, (_, bracket, rest) in zip(names, parts, strict=True))
    return str(files[0].parent), first, second
