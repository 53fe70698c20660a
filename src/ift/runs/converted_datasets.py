"""The data of other tools' configurations: entries of `datasets:`, mixtures, and LLaMA-Factory's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ift.data.known_names import OTHER_ROLES, ROLES, TURN_KEYS, names

Settings = Mapping[str, Any]
# the settings here, or why there are none
Translated = dict[str, Any] | str

ENTRY = {"path": "path", "id": "path", "name": "name", "config": "name", "split": "split", "data_files": "data_files",
         "data_dir": "data_dir", "columns": "columns", "weight": "fraction", "fraction": "fraction"}  # fmt: skip
# columns that Axolotl names, and what they are called here
COLUMNS = {"field_messages": "messages", "field": "text", "field_instruction": "instruction", "field_input": "input",
           "field_output": "output", "field_system": "system", "field_tools": "tools",
           "field_chosen": "chosen", "field_rejected": "rejected"}  # fmt: skip
FOUND = ("messages", "conversations")  # columns that are found without being named
DETECTED = (
    "chat_template",
    "sharegpt",
    "alpaca",
    "completion",
)  # types whose rows are recognised by their columns
TURN = {
    "role": ("role", "from"),
    "content": ("content", "value"),
}  # keys of a turn that are read without being named


def translate_datasets(value: Any, settings: Settings) -> Translated:
    """Entries of Axolotl and alignment-handbook, or LLaMA-Factory's names; `max_samples` goes into the split."""
    if isinstance(value, str):
        value = [{"path": name.strip()} for name in value.split(",")]
    entries, columns = [], []
    for one in value:
        one = one if isinstance(one, Mapping) else {"path": str(one)}
        entry = {ENTRY[key]: found for key, found in one.items() if key in ENTRY and found is not None}
        entry["split"] = entry.get("split") or "train"
        if count := settings.get("max_samples"):
            entry["split"] += f"[:{count}]"
        if str(entry.get("path")) in ("json", "parquet", "csv") and isinstance(entry.get("data_files"), str):
            entry["path"] = entry.pop("data_files")
        kind = one.get("type")
        named = {**one, **(kind if isinstance(kind, Mapping) else {})}
        columns += [f"{named[key]}={here}" for key, here in COLUMNS.items() if named.get(key)]
        entries.append(entry)
    renamed = [one for one in dict.fromkeys(columns) if _is_needed(*one.split("=", 1))]
    return {"datasets": entries, **({"dataset_columns": renamed} if renamed else {})}


def _is_needed(column: str, here: str) -> bool:
    return column != here and not (here == "messages" and column in FOUND)


def lost_of_entries(value: Any) -> dict[str, str]:
    """Keys of the entries of `datasets` that have no counterpart, by their full names, and why."""
    entries = value if isinstance(value, list) else []
    return dict(
        found for one in entries if isinstance(one, Mapping) for key in one for found in _lost(one, key)
    )


def _lost(entry: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    value, name = entry[key], f"datasets.{key}"
    if value in (None, "", [], {}) or key in ENTRY or key in COLUMNS or key == "ds_type":
        return
    if key == "message_property_mappings" and isinstance(value, Mapping):
        for turn_key, theirs in value.items():
            if theirs not in TURN.get(str(turn_key), (turn_key,)):
                yield (
                    f"{name}.{turn_key}",
                    f"write {turn_key} in the rows in place of {theirs} (docs/data.md)",
                )
    elif key in ("message_field_role", "message_field_content"):
        if value not in TURN[key.rpartition("_")[2]]:
            yield name, f"write {key.rpartition('_')[2]} in the rows in place of {value} (docs/data.md)"
    elif key == "message_field_training":
        if value not in names(TURN_KEYS, "mark"):
            yield name, f"write train in the rows in place of {value} (docs/data.md)"
    elif key == "roles_to_train":
        roles = value if isinstance(value, list) else [value]
        others = [str(role) for role in roles if OTHER_ROLES.get(str(role), str(role)) != "assistant"]
        if others:
            yield name, f"only assistant turns are trained here, not those of {', '.join(others)}"
    elif key == "roles" and isinstance(value, Mapping):
        for role, theirs in value.items():
            theirs = theirs if isinstance(theirs, list) else [theirs]
            unknown = [str(one) for one in theirs if one not in ROLES and OTHER_ROLES.get(one) != role]
            if unknown:
                yield f"{name}.{role}", f"write {role} in the rows in place of {', '.join(unknown)}"
    elif key == "type" and isinstance(value, Mapping):
        for inner, found in value.items():
            if found not in (None, "") and inner not in COLUMNS:
                yield f"{name}.{inner}", "a prompt is not built here: write it into the rows (docs/data.md)"
    elif key == "type":
        if value not in DETECTED:
            yield (
                name,
                f"the format is found from the columns, and what {value} adds to a prompt is not added",
            )
    else:
        yield name, "an entry has no such key here (docs/data.md)"


def translate_mixture(value: Any, settings: Settings) -> Translated:
    """`dataset_mixture` of alignment-handbook."""
    found = translate_datasets(value.get("datasets", []), settings)
    size = value.get("test_split_size")
    return {**found, **({"test_split_size": size} if size else {})}  # type: ignore[dict-item]


def lost_of_mixture(value: Any) -> dict[str, str]:
    """As `lost_of_entries`, for `dataset_mixture`."""
    inner = lost_of_entries(value.get("datasets"))
    others = [key for key in value if key not in ("datasets", "test_split_size") and value[key] is not None]
    reasons = {"seed": "the run's seed draws the rows that are held out"}
    lost = {f"dataset_mixture.{name}": reason for name, reason in inner.items()}
    return lost | {
        f"dataset_mixture.{key}": reasons.get(key, "a mixture has no such key here") for key in others
    }


def translate_mixer(value: Any, settings: Settings) -> Translated:
    """`dataset_mixer` of earlier versions of alignment-handbook: shares by name."""
    splits = settings.get("dataset_splits") or ["train"]
    training = [name for name in splits if "train" in str(name)] or ["train"]
    if len(value) == 1 and float(next(iter(value.values()))) == 1 and len(training) == 1:
        test = [name for name in splits if name not in training]
        found = {"dataset_name": next(iter(value)), "dataset_train_split": training[0]}
        return {**found, **({"dataset_test_split": test[0]} if test else {})}
    return {
        "datasets": [
            {"path": path, "split": split, "fraction": float(share)}
            for path, share in value.items()
            for split in training
        ]
    }
