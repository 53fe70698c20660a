"""LLaMA-Factory's names of data sets, which its `dataset_info.json` explains, as entries of `datasets`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ift.runs.converted_datasets import Settings, lost_of_entries
from ift.text import quoted

INFO = "dataset_info.json"
DEFAULT_FOLDER = "data"  # of LLaMA-Factory's dataset_dir
# what a description calls a column, and the key of an entry that names it (converted_datasets.COLUMNS)
FIELDS = {
    "prompt": "field_instruction", "query": "field_input", "response": "field_output", "history": "field_history",
    "messages": "field_messages", "system": "field_system", "tools": "field_tools", "chosen": "field_chosen",
    "rejected": "field_rejected", "kto_tag": "field_label",
}  # fmt: skip
TURNS = {"role_tag": "message_field_role", "content_tag": "message_field_content"}
ROLES = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "assistant",
         "system_tag": "system"}  # fmt: skip
PLAIN = {
    "hf_hub_url": "path",
    "subset": "name",
    "split": "split",
    "folder": "data_dir",
    "num_samples": "num_samples",
}
ELSEWHERE = {
    "ms_hub_url": "it is on ModelScope",
    "om_hub_url": "it is on openMind",
    "script_url": "a script loads it, and code of a data set is never run",
    "cloud_file_name": "it is in a cloud",
}
# keys of an entry that are lost, and where dataset_info.json has them
NAMES = {
    f"{INFO}.{here}": f"{INFO}.{there}"
    for here, there in (
        *((f"roles.{role}", f"tags.{key}") for key, role in reversed(ROLES.items())),
        *((here, f"tags.{key}") for key, here in TURNS.items()),
        *((key, f"columns.{key}") for key in ("images", "videos", "audios")),
    )
}
NOTES = {
    "alpaca": "prompts of Alpaca rows with an input: LLaMA-Factory joins instruction and input with one newline; ift, "
    "like Alpaca itself and Axolotl, with an empty line. To keep LLaMA-Factory's prompts, write the joined text as "
    "instruction, without input",
    "sharegpt": "ShareGPT rows: LLaMA-Factory skips a row whose turns do not alternate between user and assistant, or "
    "whose number is odd; ift trains the assistant's turns of such rows too. Remove these rows to train as there",
}
NOT_KEYS = ("formatting", "ranking", "columns", "tags", "file_name", *ELSEWHERE)


def resolve_names(written: Settings, file: Path) -> tuple[list[dict[str, Any]], dict[str, str], list[str]]:
    """The data sets that `dataset` of a LLaMA-Factory file names.

    Its `dataset_info.json` is looked for in `dataset_dir`, as seen from here and from the file's folder, and beside the
    file.

    Args:
        written: The settings of the file.
        file: The file.

    Returns:
        An entry for each name, in the keys of `converted_datasets`; and for each entry whose rows are not found its
        path, which is to be filled in, with the reason; and what LLaMA-Factory does otherwise with such rows.
    """
    value = written["dataset"]
    names = value if isinstance(value, list) else str(value).split(",")
    names = [str(name).strip() for name in names]
    place = written.get("dataset_dir") or DEFAULT_FOLDER
    if place == "ONLINE":
        return [{"path": name} for name in names], {}, _format_notes(names, {})
    folder, known, problem = _read_info(place, file)
    entries, missing = [], {}
    for name in names:
        one = known.get(name)
        entry = _entry(one, folder) if isinstance(one, Mapping) else f"{folder / INFO} has no entry {name}"
        if isinstance(entry, str):
            path = f"ROWS_OF_{name}.jsonl"
            entries.append({"path": path})
            why = f"a name of LLaMA-Factory, not a path: {problem or entry}"
            missing[path] = f"the file or Hub id of {name} ({why})"
        else:
            entries.append(entry)
    return entries, missing, _format_notes(names, known)


def _format_notes(names: list[str], known: Mapping[str, Any]) -> list[str]:
    """What LLaMA-Factory does otherwise with the rows of these names, by the formats of their descriptions."""
    found: dict[str, list[str]] = {"alpaca": [], "sharegpt": []}
    for name in names:
        one = known.get(name)
        if not isinstance(one, Mapping):  # either
            for named in found.values():
                named.append(f"{name}, whose format is not known")
            continue
        kind, columns = one.get("formatting") or "alpaca", one.get("columns")
        if kind == "sharegpt" or (kind == "alpaca" and (not columns or columns.get("query"))):
            found[kind].append(name)
    return [f"{text} ({', '.join(found[kind])})" for kind, text in NOTES.items() if found[kind]]


def lost_of_names(value: Any) -> dict[str, str]:
    """As `lost_of_entries`, for the entries of `resolve_names`, by the names of `dataset_info.json`."""
    return {NAMES.get(name, name): reason for name, reason in lost_of_entries(value, INFO).items()}


def _read_info(place: Any, file: Path) -> tuple[Path, Mapping[str, Any], str]:
    """The folder and content of `dataset_info.json`, and the reason if it was not found."""
    if isinstance(place, Mapping):  # it stands in the file itself
        return Path(), place, ""
    if str(place).startswith("REMOTE:"):
        return Path(), {}, f"its {INFO} is on the Hub ({str(place)[7:]})"
    folders = dict.fromkeys([Path(place).expanduser(), file.parent / place, file.parent])
    for folder in folders:
        try:
            found = json.loads((folder / INFO).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            return folder, {}, f"{folder / INFO} cannot be read: {quoted(error)}"
        if not isinstance(found, dict):
            return folder, {}, f"{folder / INFO} is no object of names"
        return folder, found, ""
    looked = ", ".join(str(folder) for folder in folders)
    return Path(), {}, f"found no {INFO} in {looked}"


def _entry(one: Mapping[str, Any], folder: Path) -> dict[str, Any] | str:
    """A description as an entry, or why its rows cannot be loaded from here."""
    if not one.get("hf_hub_url"):
        if found := [f"{why} ({key}: {one[key]})" for key, why in ELSEWHERE.items() if one.get(key)]:
            return found[0]
        if not one.get("file_name"):
            return "its entry has neither file_name nor hf_hub_url"
    entry = {here: one[key] for key, here in PLAIN.items() if one.get(key)}
    entry = {"path": str(folder / str(one.get("file_name"))), **entry}
    columns = one.get("columns") or {}
    named = {key: column for key, column in columns.items() if column}
    fields = dict(FIELDS)
    if one.get("ranking"):  # the prompt of a pair, as text or as turns
        fields |= dict.fromkeys(("prompt", "messages"), "field_prompt")
    elif "prompt" in named and not named.keys() & {"response", "messages"}:
        fields["prompt"] = "field"  # texts of a pre-training
    entry |= {fields.get(key, key): column for key, column in named.items()}
    if kept := [column for key, column in named.items() if key in FIELDS]:
        entry["columns"] = kept  # others are not read there
    for key, text in (one.get("tags") or {}).items():
        if key in ROLES:
            entry.setdefault("roles", {}).setdefault(ROLES[key], []).append(text)
        else:
            entry[TURNS.get(key, key)] = text
    return {**entry, **{key: found for key, found in one.items() if key not in (*NOT_KEYS, *PLAIN)}}
