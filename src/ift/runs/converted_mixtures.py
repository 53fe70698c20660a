"""Mixtures of alignment-handbook, and their splits."""

from __future__ import annotations

from typing import Any

from ift.runs.converted_datasets import (
    Settings,
    Translated,
    lost_of_entries,
    lost_share,
    part_of,
    translate_datasets,
)
from ift.runs.harmless_names import Same

HELD_OUT = (
    "a list of data sets has no evaluation split here. Unless eval_strategy is no, test_split_size of the training "
    "rows (5 % without it) are held out, and are not trained. With one data set, set dataset_name, dataset_train_split "
    "and dataset_test_split instead of datasets"
)


def translate_mixture(value: Any, settings: Settings) -> Translated:
    """`dataset_mixture` of alignment-handbook."""
    found = translate_datasets(value.get("datasets", []), settings)
    size = value.get("test_split_size")
    return {**found, **({"test_split_size": size} if size else {})}  # type: ignore[dict-item]


def lost_of_mixture(value: Any) -> dict[str, str]:
    """As `lost_of_entries`, for `dataset_mixture`."""
    others = [key for key in value if key not in ("datasets", "test_split_size") and value[key] is not None]
    reasons = {"seed": "the run's seed draws the rows that are held out: set seed"}
    return lost_of_entries(value.get("datasets"), "dataset_mixture.datasets") | {
        f"dataset_mixture.{key}": reasons.get(key, "ift has no such key in a mixture") for key in others
    }


def translate_mixer(value: Any, settings: Settings) -> Translated:
    """`dataset_mixer` of earlier versions of alignment-handbook: the share of each data set that is trained, by name.

    The names of splits are in `dataset_splits`, the configurations of the data sets in `dataset_configs`.
    """
    configs = [*(settings.get("dataset_configs") or []), *[None] * len(value)]
    if len(value) == 1:
        config = {"dataset_config": configs[0]} if configs[0] else {}
        return {"dataset_name": next(iter(value)), **config, **_splits_of_one(settings)}
    return {
        "datasets": [
            {"path": path, **({"name": config} if config else {}), "split": part_of(split, share)}
            for (path, share), config in zip(value.items(), configs, strict=False)
            for split in _splits(settings)[0]
        ]
    }


def lost_of_mixer(value: Any) -> dict[str, str]:
    """As `lost_of_entries`, for `dataset_mixer`."""
    return {
        f"dataset_mixer.{path}": reason for path, share in value.items() for _, reason in lost_share(share)
    }


def translate_splits(value: Any, settings: Settings) -> Translated:
    """`dataset_splits` of alignment-handbook: names with "train" are trained, the others are evaluated."""
    if len(settings.get("dataset_mixer") or ()) < 2 and not settings.get("dataset_mixture"):
        return _splits_of_one(settings)
    training, others = _splits(settings)
    used = f"datasets names {', '.join(training)}"
    if not others:
        return Same(used)
    return f"{used}; {', '.join(others)} is not used: {HELD_OUT}"


def translate_configs(value: Any, settings: Settings) -> Translated:
    """`dataset_configs` of alignment-handbook."""
    if len(settings.get("dataset_mixer") or ()) > 1:
        return Same("each entry of datasets has its own as name")
    return {"dataset_config": value[0] if isinstance(value, list) else value}


def _splits(settings: Settings) -> tuple[list[str], list[str]]:
    """The names of the training splits, and of the others."""
    value = settings.get("dataset_splits") or ["train"]
    names = [str(name) for name in (value if isinstance(value, list) else [value])]
    training = [name for name in names if "train" in name]
    return training or ["train"], [name for name in names if name not in training]


def _splits_of_one(settings: Settings) -> dict[str, Any]:
    """The splits of one data set; several are joined with +, as `datasets` reads them."""
    training, others = _splits(settings)
    share = next(iter((settings.get("dataset_mixer") or {"": None}).values()))
    found = {"dataset_train_split": "+".join(part_of(name, share) for name in training)}
    return {**found, **({"dataset_test_split": "+".join(others)} if others else {})}
