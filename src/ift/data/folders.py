"""Finds the data files of a local folder and their splits; files that are not read are reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ift.data.errors import DataError

# Supported file endings
ENDINGS = (".jsonl", ".json", ".parquet", ".csv", ".tsv")

# Words in file and folder names that indicate the split, as in `datasets`
KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}.*")
_DESCRIPTIONS = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
_SHOWN = 5  # names of ignored files that are shown


@dataclass
class DataFiles:
    """The data files of a folder.

    Attributes:
        splits: Name of each split -> its files, sorted by name.
        ignored: Files that are not read: of another type, or of no split although others have one.
    """

    splits: dict[str, list[Path]] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)

    def note(self) -> list[str]:
        """One line that names the ignored files; an empty list without any."""
        if not self.ignored:
            return []
        names = ", ".join(path.name for path in self.ignored[:_SHOWN])
        more = f" and {len(self.ignored) - _SHOWN} more" if len(self.ignored) > _SHOWN else ""
        return [
            f"not read: {names}{more} ({', '.join(ENDINGS)} are read; splits found: {', '.join(self.splits)})"
        ]


def list_data_files(folder: Path, config: str | None = None) -> DataFiles:
    """Groups the data files of a folder, searched recursively without hidden files, into splits.

    If README.md has `configs`, they decide, as on the Hub. Otherwise the names of folders and files do (train, test,
    `train_sft-00000-of-00002`). If no name indicates a split, all files belong to "train".

    Raises:
        DataError: The folder has no data files, or `config` is not one of the configurations in README.md.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path, folder)]
    described = _configs(folder)
    if described:
        found = DataFiles(_splits_of_config(folder, described, config))
    elif config is not None:
        raise DataError(
            f"{folder}: found no configuration {config!r}: no README.md names any. Fix: leave --dataset_config out"
        )
    else:
        found = DataFiles(
            _splits_of_names(folder, [path for path in files if path.suffix.lower() in ENDINGS])
        )
    if not found.splits:
        raise DataError(
            f"{folder}: found nothing that ends in {', '.join(ENDINGS)}. Fix: name a folder with rows"
        )
    used = {path for paths in found.splits.values() for path in paths}
    found.ignored = [path for path in files if path not in used and path.suffix.lower() != ".md"]
    return found


def _hidden(path: Path, folder: Path) -> bool:
    return path.name in _DESCRIPTIONS or any(
        part.startswith((".", "__")) for part in path.relative_to(folder).parts
    )


def _splits_of_names(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in files:
        split = _split_of(path.relative_to(folder))
        if split is not None:
            found.setdefault(split, []).append(path)
    if not found and files:
        return {"train": list(files)}
    return {name: found[name] for name in sorted(found, key=lambda name: [*KEYWORDS, name].index(name))}


def _split_of(path: Path) -> str | None:
    """The split that the names of a file and its folders indicate; None if they indicate none."""
    if shard := _SHARD.fullmatch(path.stem):
        return shard[1]
    for name in (*path.parts[:-1], path.stem):
        words = re.split(r"[-._ 0-9]+", name)
        for split, keywords in KEYWORDS.items():
            if any(word in keywords for word in words):
                return split
    return None


def _configs(folder: Path) -> list[dict[str, Any]]:
    """The configurations in the metadata of README.md that list files."""
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    metadata = metadata_load(card) if card.is_file() else None
    return [one for one in (metadata or {}).get("configs") or [] if one.get("data_files")]


def _splits_of_config(
    folder: Path, configs: Sequence[dict[str, Any]], name: str | None
) -> dict[str, list[Path]]:
    default = [one for one in configs if one.get("default") or one.get("config_name") == "default"]
    chosen = [one for one in configs if one.get("config_name") == name] if name else default or configs
    if len(chosen) != 1:
        names = ", ".join(str(one.get("config_name")) for one in configs)
        raise DataError(f"{folder}: found the configurations {names}. Fix: name one with --dataset_config")
    base = folder / str(chosen[0].get("data_dir", ""))
    return resolve_data_files(chosen[0]["data_files"], base)


def resolve_data_files(wanted: Any, base: Path) -> dict[str, list[Path]]:
    """Resolves a `data_files` entry to files per split; the split is "train" if the entry names none.

    Args:
        wanted: A path, a list of paths, a mapping of splits to paths, or a list of `{split, path}`. A path that does
            not exist is a pattern with `*`, `?` and `[ ]`.
        base: Folder that relative paths start from.

    Raises:
        DataError: A path matches no file.
    """
    if isinstance(wanted, dict):
        pairs = list(wanted.items())
    elif isinstance(wanted, list) and any(isinstance(one, dict) for one in wanted):
        pairs = [(one["split"], one["path"]) for one in wanted]
    else:
        pairs = [("train", wanted)]
    found: dict[str, list[Path]] = {}
    for split, paths in pairs:
        for path in [paths] if isinstance(paths, str) else paths:
            found.setdefault(str(split), []).extend(_matching(base, path))
    return found


def _matching(base: Path, pattern: str) -> list[Path]:
    path = base / Path(pattern).expanduser()
    if path.is_file():
        return [path]
    top = Path(path.anchor) if Path(pattern).is_absolute() else base
    found = [one for one in sorted(top.glob(str(path.relative_to(top)))) if one.is_file()]
    if not found:
        raise DataError(f"{path}: no such file. Fix: correct the path")
    return found
