"""Extends a study in its folder: decides which runs are kept and which are added, and refuses other changes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.lab.compare.own_weights import name_of, spec_of
from ift.lab.compare.study_args import time_flag

if TYPE_CHECKING:
    from ift.lab.compare.study import Study

Json = Mapping[str, Any]  # a plan as in plan.json
_WORDS = {
    "setting": "setting",
    "trials": "settings tried for each method",
    "validation_rows": "--validation_rows",
    "test_rows": "--test_rows",
    "metric": "metric that settings are chosen by",
    "pattern": "--answer_pattern",
    "max_new_tokens": "--max_new_tokens",
    "names": "--score",
    "database": "--score_db",
    "judge": "--judge",
}  # of keys of plan.json, in messages


def differences(earlier: Json, planned: Json, finished: Collection[str]) -> list[str]:
    """List the changes that would give the finished runs of the earlier plan another meaning.

    More seeds and further methods are no such changes, nor are other weights of a contender without a finished run.

    Args:
        earlier: The content of plan.json.
        planned: The content that a repeated command would write there.
        finished: The labels with a finished run.

    Returns:
        One text for each difference, such as "--max_steps (3, now 5)".
    """
    if earlier["experiment"] != planned["experiment"]:
        return [f"experiment (ift {earlier['experiment']}, now ift {planned['experiment']})"]
    found = [*_values(earlier, planned, ("setting", "trials", "validation_rows", "test_rows"))]
    for name, flag in (("answers", "--learning_rates"), ("pairs", "--pair_learning_rates")):
        one, other = (", ".join(map(str, plan["rates"][name])) for plan in (earlier, planned))
        found += [f"{flag} ({one}, now {other})"] if one != other else []
    found += _budget(earlier.get("time_budget"), planned.get("time_budget"))
    found += _entrants(earlier["entrants"], planned["entrants"], finished)
    if earlier["own"] and planned["own"]:
        found += _user_data(earlier["own"], planned["own"])
    elif earlier["own"] != planned["own"]:
        found.append("rows and model (the testbed's or your own)")
    return found


def merged(earlier: Json, planned: Json) -> dict[str, Any]:
    """Combine the earlier plan of a folder and the new plan."""
    entrants = {label_of(one): one for plan in (earlier, planned) for one in plan["entrants"]}
    found = {**planned, "entrants": [*entrants.values()]}
    found["seeds"] = max(earlier["seeds"], planned["seeds"])
    if planned["own"]:
        methods = dict.fromkeys([*earlier["own"]["methods"], *planned["own"]["methods"]])
        found["own"] = {**planned["own"], "methods": [*methods]}
    return found


def changed_weights(earlier: Json, planned: Json) -> list[str]:
    """The labels of contenders of both plans whose weights of the user's own are not the same."""
    known = {label_of(one): one.get("weights_sha256") for one in earlier["entrants"]}
    return [
        label
        for one in planned["entrants"]
        if (label := label_of(one)) in known and known[label] != one.get("weights_sha256")
    ]


def methods_in(folder: Path) -> list[str]:
    """The methods that the study in a folder trains on the user's rows; an empty list if there is no such study."""
    file = folder / "plan.json"
    own = json.loads(file.read_text())["own"] if file.exists() else None
    return list(own["methods"]) if own else []


def validation_rows_in(folder: Path) -> int | None:
    """The number of rows that the study in a folder holds out for choosing settings; None if there is no study."""
    file = folder / "plan.json"
    return int(json.loads(file.read_text())["validation_rows"]) if file.exists() else None


def kept_and_new(study: Study) -> list[str]:
    """Lines on the finished runs, the runs to train now, and the runs that the command does not name.

    The list is empty if no run is finished.
    """
    finished = study.finished()
    asked = {one.label: [*range(study.plan.seeds)] for one in study.plan.entrants}
    kept = {
        label: [seed for seed in seeds if seed in finished.get(label, [])] for label, seeds in asked.items()
    }
    new = {label: [seed for seed in seeds if seed not in kept[label]] for label, seeds in asked.items()}
    others = {
        label: [seed for seed in seeds if seed not in asked.get(label, [])]
        for label, seeds in finished.items()
    }
    found = []
    if any(kept.values()):
        found.append(f"kept: {_runs(kept)}")
        found.append(
            f"new: {_runs(new)}" if any(new.values()) else "new: nothing; the report is written again"
        )
    if any(others.values()):
        found.append(
            f"finished in this folder and part of the report, but not named in this command: {_runs(others)}"
        )
    return found


def names_to_type(study: Study) -> list[str]:
    """The names that `--methods` or `--variants` needs to include all entrants of a folder."""
    entrants = json.loads((study.folder / "plan.json").read_text())["entrants"]
    added = ("sft", "ift") if study.plan.experiment == "ablate" else ()
    return [
        name_of(one["method"], one["settings"]) or label_of(one)
        for one in entrants
        if label_of(one) not in added
    ]


def label_of(entrant: Json) -> str:
    """The label of an entrant in plan.json."""
    return f"{entrant['method']} {entrant['variant']}".strip()


def _runs(seeds: Mapping[str, Sequence[int]]) -> str:
    """List labels with their seeds; labels with the same seeds are grouped, as in "sft, ift (seeds 0 to 2)"."""
    groups: dict[str, list[str]] = {}
    for label, found in seeds.items():
        if found:
            whole = len(found) > 2 and [*found] == [*range(found[0], found[-1] + 1)]
            shown = f"{found[0]} to {found[-1]}" if whole else ", ".join(map(str, found))
            groups.setdefault(f"seed{'s' if len(found) > 1 else ''} {shown}", []).append(label)
    return "; ".join(f"{', '.join(labels)} ({shown})" for shown, labels in groups.items())


def _values(earlier: Json, planned: Json, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        one, other = earlier.get(name), planned.get(name)
        if one != other:
            yield f"{_WORDS.get(name, name)} ({_shown(one)}, now {_shown(other)})"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "not given" if value is None else str(value)


def _budget(earlier: Json | None, planned: Json | None) -> Iterator[str]:
    """Differences between the time budgets: a study stays with or without one, and its time is read only once."""
    if earlier is not None and planned is not None:
        yield from _values(earlier, planned, ("trials", "validation_rows", "test_rows"))
    elif earlier is not None:
        time = time_flag(earlier["seconds"])
        yield (
            f"--budget ({time}, now no time; repeat the command with --budget {time}; you may raise --seeds "
            "and add methods)"
        )
    elif planned is not None:
        time = time_flag(planned["seconds"])
        yield (
            f"--budget (no time, now {time}; repeat the command without --budget; you may raise --seeds and add "
            "methods)"
        )


def _entrants(earlier: Sequence[Json], planned: Sequence[Json], finished: Collection[str]) -> Iterator[str]:
    known = {label_of(one): one for one in earlier}
    for one in planned:
        before = known.get(label_of(one))
        if before is None:
            continue
        other = before.get("weights_sha256") != one.get("weights_sha256")
        if other and label_of(one) in finished:
            file = Path(str(spec_of(one["settings"])).rpartition(":")[0]).name
            yield (
                f"content of {file}, the weights of {label_of(one)} (finished runs used the other; put it back; or "
                "write the changed function under a new name, in a file of its own, and add it to --methods)"
            )
        elif _without_folder(before) != _without_folder(one):
            yield f"settings of {label_of(one)}"


def _without_folder(entrant: Json) -> dict[str, Any]:
    """The entrant with `token_weights` reduced to the name of the function, because its file may have been moved."""
    settings = {
        name: str(value).rpartition(":")[2] if name.endswith("token_weights") else value
        for name, value in entrant["settings"].items()
    }
    return {**entrant, "settings": settings, "weights_sha256": None}


def _user_data(earlier: Json, planned: Json) -> Iterator[str]:
    before, now = earlier["sha256"], planned["sha256"]
    if parts := [name for name in now if before.get(name) != now[name]]:
        yield f"rows, or their order ({', '.join(parts)})"
    one, other = _flags(earlier["words"]), _flags(planned["words"])
    if all("file_settings" in plan or "--config" not in plan["words"] for plan in (earlier, planned)):
        # what the file says counts, not where it is; plans of earlier versions do not have its content
        one, other = _with_file(earlier, one), _with_file(planned, other)
    yield from _values(one, other, dict.fromkeys([*one, *other]))
    yield from _files(earlier.get("files", {}), planned.get("files", {}))
    yield from _values(earlier, planned, ("metric", "pattern", "max_new_tokens"))
    scoring, other_scoring = (one.get("scoring") or {} for one in (earlier, planned))
    yield from _values(scoring, other_scoring, ("names", "database", "judge"))
    yield from _files(scoring.get("sha256", {}), other_scoring.get("sha256", {}))


def _with_file(plan: Json, flags: Json) -> dict[str, str]:
    """The flags, together with the settings of the file of --config."""
    file = {f"--{name}": text for name, text in plan.get("file_settings", {}).items()}
    return {name: text for name, text in {**file, **flags}.items() if name != "--config"}


def _files(earlier: Json, planned: Json) -> Iterator[str]:
    """Files, or flags that name a file, whose content has changed; a changed name is reported elsewhere."""
    for name, digest in planned.items():
        if earlier.get(name, digest) != digest:
            yield f"content of {name if not name.startswith('--') else f'the file of {name}'}"


def _flags(words: Sequence[str]) -> dict[str, str]:
    """The values of flags by name; several values are joined with spaces."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word
            found[name] = []
        elif name:
            found[name].append(word)
    return {name: " ".join(values) for name, values in found.items()}
