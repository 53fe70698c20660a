"""Named settings for fine-tuning: which family, how many rows, how many of them with a wrong step."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ift.lab.testbed.families import FAMILIES, AnyProblem, family_problems
from ift.lab.testbed.noise import one_wrong_step

SIZES = {"small": 400, "large": 1600}  # rows
NOISES = {"clean": 0.0, "noisy": 0.3}  # share of rows whose solution takes one wrong step


@dataclass(frozen=True)
class Setting:
    """One data set for fine-tuning."""

    name: str  # `family-size-noise`, such as `relation-small-noisy`
    family: str  # `arithmetic` or `relation`
    n_rows: int  # rows for training
    noise: float  # share of rows, in 0..1, whose solution takes one wrong step and ends at a wrong answer


def settings() -> dict[str, Setting]:
    """All settings by name: each family, small and large, clean and noisy."""
    made = [
        Setting(f"{family}-{size}-{noise}", family, n_rows, share)
        for family in FAMILIES
        for size, n_rows in SIZES.items()
        for noise, share in NOISES.items()
    ]
    return {setting.name: setting for setting in made}


def right_problems(setting: Setting, seed: int = 0) -> list[AnyProblem]:
    """The setting's training problems with right solutions; the small data set is the beginning of the large one."""
    return family_problems(setting.family, "train", setting.n_rows, seed)


def setting_problems(setting: Setting, seed: int = 0) -> list[AnyProblem]:
    """The setting's training problems; exactly `round(noise * n_rows)` have one wrong step and a wrong answer.

    Settings that differ in noise alone have the same questions.
    """
    made = right_problems(setting, seed)
    rng = random.Random(f"setting/{setting.name}/{seed}")
    for index in sorted(rng.sample(range(len(made)), round(setting.noise * len(made)))):
        made[index] = one_wrong_step(made[index], rng)
    return made


def rows_hash(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 of rows as JSON lines (keys in their order, a line feed after each row), in hexadecimal digits."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()
