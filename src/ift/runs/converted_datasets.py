"""The data of other tools' configurations: entries of `datasets:` (mixtures: converted_mixtures.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ift.data.known_names import OTHER_ROLES, ROLES, TURN_KEYS, find, names
from ift.runs.harmless_names import Same

Settings = Mapping[str, Any]
# the settings here, or why there are none
Translated = dict[str, Any] | str

ENTRY = {"path": "path", "id": "path", "name": "name", "config": "name", "split": "split", "data_files": "data_files",
         "data_dir": "data_dir", "columns": "columns", "fraction": "fraction"}  # fmt: skip
# keys that name a column in Axolotl's entries, and in those of converted_registry.py; what it is called here
COLUMNS = {"field_messages": "messages", "field": "text", "text_column": "text", "field_instruction": "instruction",
           "field_input": "input", "field_output": "output", "field_history": "history", "field_system": "system",
           "field_tools": "tools", "field_label": "kto_tag", "field_prompt": "prompt",
           "field_completion": "completion", "field_chosen": "chosen", "field_rejected": "rejected"}  # fmt: skip
FOUND = ("messages", "conversations")  # columns that are found without being named
# types whose rows are recognised by their columns, without a text that Axolotl adds to the prompt
DETECTED = ("chat_template", "chat_template.default", "sharegpt", "completion", "pretrain")
TURN = {
    "role": ("role", "from"),
    "content": ("content", "value"),
}  # keys of a turn that are read without being named


def translate_datasets(value: Any, settings: Settings) -> Translated:
    """Entries of Axolotl and alignment-handbook, or LLaMA-Factory's names; `max_samples` goes into the split."""
    if isinstance(value, str):
        value = [{"path": name.strip()} for name in value.split(",")]
    entries = []
    for one in value:
        one = one if isinstance(one, Mapping) else {"path": str(one)}
        entry = {ENTRY[key]: found for key, found in one.items() if key in ENTRY and found is not None}
        entry["split"] = entry.get("split") or "train"
        entry["split"] = part_of(entry["split"], one.get("weight"))
        if counts := [count for count in (settings.get("max_samples"), one.get("num_samples")) if count]:
            entry["split"] += f"[:{min(counts)}]"
        if str(entry.get("path")) in ("json", "parquet", "csv") and isinstance(entry.get("data_files"), str):
            entry["path"] = entry.pop("data_files")
        if renamed := _renamed(one):
            entry["dataset_columns"] = renamed
        entries.append(entry)
    return {"datasets": entries}


def _renamed(entry: Mapping[str, Any]) -> dict[str, str]:
    """The columns that an entry names and that have other names here: their names there, and here."""
    kind = entry.get("type")
    named = {**entry, **(kind if isinstance(kind, Mapping) else {})}
    columns = {str(named[key]): here for key, here in COLUMNS.items() if named.get(key)}
    return {column: here for column, here in columns.items() if _is_needed(column, here)}


def part_of(split: str, share: Any) -> str:
    """A split cut to a share of its rows, as alignment-handbook takes one: of each data set, in whole percent here."""
    return split if share is None or float(share) >= 1 else f"{split}[:{_percent(share)}%]"


def _percent(share: Any) -> int:
    return max(1, round(100 * float(share)))


def lost_share(value: Any) -> Inside:
    """What is lost of a share of the rows."""
    if float(value) >= 1:
        yield "", Same("ift also trains all rows")
        return
    rounded = "" if 100 * float(value) == _percent(value) else f", rounded from {100 * float(value):g}"
    yield (
        "",
        f"ift trains the first {_percent(value)} % of the rows, in the order of the file{rounded}; the other tool "
        "draws them at random",
    )


def _is_needed(column: str, here: str) -> bool:
    return column != here and not (here == "messages" and column in FOUND)


def lost_of_entries(value: Any, prefix: str = "datasets") -> dict[str, str]:
    """Every key of the entries of `datasets` that does not become a setting, by its full name, and why.

    The reasons of several entries are joined; the result is a `Same` if all of them are.
    """
    found: dict[str, list[str]] = {}
    for one in value if isinstance(value, list) else []:
        for key, inner in one.items() if isinstance(one, Mapping) else ():
            for name, reason in _lost_of_key(key, inner):
                found.setdefault(f"{prefix}.{key}{name}", []).append(reason)
    return {name: _joined(reasons) for name, reasons in found.items()}


def _lost_of_key(key: str, value: Any) -> Inside:
    if key in COLUMNS:
        yield from _column(key, value)
    elif value is None or (value == "" and key != "roles_to_train"):
        yield "", EMPTY
    elif key not in ENTRY:
        yield from INSIDE.get(key, _unknown)(value)


def _column(key: str, column: Any) -> Inside:
    """A key that names a column, where it does not become an entry of `dataset_columns`."""
    if not column:
        yield "", EMPTY
    elif not _is_needed(str(column), COLUMNS[key]):
        yield "", Same(f"the column {column} is found without being named")


def _joined(reasons: list[str]) -> str:
    lost = [one for one in reasons if not isinstance(one, Same)]
    return "; ".join(dict.fromkeys(lost)) if lost else Same("; ".join(dict.fromkeys(reasons)))


EMPTY = Same("it has no value")
WRITE_IT = "write that text into the rows (docs/data.md, Prompts with a text around them)"
BUILT = f"ift does not build prompts: {WRITE_IT}"
Inside = Iterator[tuple[str, str]]  # the end of a key's name ("" or ".inner"), and the reason


def _unknown(value: Any) -> Inside:
    yield "", "ift has no such key in an entry (docs/data.md)"


def _fixed(reason: str, same: tuple[Any, ...] = (), why: str = "ift does the same") -> Any:
    """One reason, but for the values `same`, which ask for what happens here anyway."""

    def inside(value: Any) -> Inside:
        yield "", Same(why) if value in same else reason

    return inside


def _type(value: Any) -> Inside:
    if isinstance(value, Mapping):
        for inner, found in value.items():
            if inner in COLUMNS:
                yield from ((f".{inner}", reason) for _, reason in _column(inner, found))
            else:
                yield f".{inner}", BUILT if found not in (None, "") else EMPTY
        return
    if value in DETECTED:
        yield "", Same(f"{value}: ift detects the format from the columns")
        return
    added = f"if {value} adds text to a prompt, {WRITE_IT}"
    yield "", f"ift detects the format from the columns and applies the chat template; {added}"


def _mappings(value: Any) -> Inside:
    for turn_key, theirs in value.items():
        if theirs in TURN.get(str(turn_key), (turn_key,)):
            yield f".{turn_key}", Same(f"{theirs} is read without being named")
        else:
            yield f".{turn_key}", f"write {turn_key} in the rows in place of {theirs} (docs/data.md)"


def _turn_key(name: str) -> Callable[[Any], Inside]:
    def inside(value: Any) -> Inside:
        same = Same(f"{value} is read without being named")
        yield "", same if value in TURN[name] else f"write {name} in the rows in place of {value}"

    return inside


def _thinking(value: Any) -> Inside:
    known = find(TURN_KEYS, "reasoning_content").names
    if value in known:
        yield "", Same(f"{value} of a turn is given to the chat template")
    else:
        yield "", f"write {known[0]} in the turns in place of {value}"


def _training_mark(value: Any) -> Inside:
    if value in names(TURN_KEYS, "mark"):
        yield "", Same(f"the mark {value} of a turn is read")
    else:
        yield "", f"write train in the rows in place of {value} (docs/data.md)"


def _roles_to_train(value: Any) -> Inside:
    roles = value if isinstance(value, list) else [value] if value else []
    others = [str(role) for role in roles if OTHER_ROLES.get(str(role), str(role)) != "assistant"]
    if others:
        yield "", f"ift trains only assistant turns, not those of {', '.join(others)}"
    elif not roles:
        yield (
            "",
            "ift trains every assistant turn without a mark: write train: false into turns that it should not train",
        )
    else:
        yield "", Same("ift also trains assistant turns")


def _roles(value: Any) -> Inside:
    for role, theirs in value.items():
        theirs = theirs if isinstance(theirs, list) else [theirs]
        unknown = [str(one) for one in theirs if one not in ROLES and OTHER_ROLES.get(one) != role]
        if unknown:
            yield f".{role}", f"write {role} in the rows in place of {', '.join(unknown)}"
        else:
            yield f".{role}", Same(f"{', '.join(map(str, theirs))}: read as {role}")


_END = _fixed(
    "the token that ends each trained turn is trained; rows with input_ids and labels can train others (docs/data.md)",
    ("turn",),
    "ift also trains the token that ends each trained turn",
)
_TEMPLATE = _fixed(
    "ift uses one chat template for all data: name a Jinja file in chat_template_path",
    ("tokenizer_default",),
    "ift also uses the model's own chat template",
)
_MEDIA = _fixed("ift trains only on text")
INSIDE: Mapping[str, Callable[[Any], Inside]] = {
    "audios": _MEDIA,
    "chat_template": _TEMPLATE,
    "chat_template_jinja": _TEMPLATE,
    "conversation": _TEMPLATE,
    "drop_system_message": _fixed("remove the system turns from the rows", (False,)),
    "ds_type": _fixed(Same("the kind of a file is found from its name")),
    "field_thinking": _thinking,
    "images": _MEDIA,
    "message_field_content": _turn_key("content"),
    "message_field_role": _turn_key("role"),
    "message_field_training": _training_mark,
    "message_field_training_detail": _fixed(
        "marks within a turn are refused: write rows of input_ids and labels"
    ),
    "message_property_mappings": _mappings,
    "num_samples": _fixed("ift trains the first rows of the file; the other tool draws them at random"),
    "preprocess_shards": _fixed(Same("rows are prepared one by one")),
    "revision": _fixed("the newest revision is loaded: download this one, and name its folder as path"),
    "roles": _roles,
    "roles_to_train": _roles_to_train,
    "shards": _fixed("a part of the rows is a split such as train[:10%]"),
    "shards_idx": _fixed("a part of the rows is a split such as train[10%:20%]"),
    "split_thinking": _fixed("write the thoughts as reasoning_content in the turns", (False,)),
    "template_thinking_key": _fixed(
        "ift passes the keys of a turn to the chat template unchanged: rename the key of the thoughts in the rows",
        find(TURN_KEYS, "reasoning_content").names,
        "ift passes the keys of a turn to the chat template unchanged",
    ),
    "train_on_eos": _END,
    "train_on_eot": _END,
    "trust_remote_code": _fixed(
        "code of a data set is never run: save its rows as JSON lines or Parquet", (False,)
    ),
    "type": _type,
    "videos": _MEDIA,
    "weight": lost_share,
}
