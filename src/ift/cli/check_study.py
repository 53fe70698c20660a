"""`ift check` with the flags or the YAML file of `ift compare` or `ift ablate`: the checks of the whole study."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ift.lab.compare.study_args import StudyArgs
from ift.runs.argv import UsageError, value_of
from ift.runs.known_flags import known_names
from ift.runs.yaml_file import parse_yaml_file


def study_names(words: Sequence[str]) -> list[str]:
    """The flags and keys of a command line and its YAML file that only `ift compare` or `ift ablate` has."""
    file = value_of([*words], "--config")
    keys = [*(parse_yaml_file(Path(file)) if file else {})]
    given = [word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")]
    return [name for name in [*given, *keys] if name in StudyArgs.keys() - known_names()]


def check_study(words: Sequence[str], names: Sequence[str], options: argparse.Namespace) -> int:
    """Makes the checks of a study before its first training; writes nothing to its folder.

    The rows are checked and split, every method's flags are parsed, and each score is called with the right answers.

    Returns:
        0; what would be refused is raised, as by `ift compare`.

    Raises:
        UsageError: a flag of `ift check` that is for one training, or a study on the testbed.
    """
    for flag in ("show", "time", "gpu_memory", "gpu_tflops", "plan_length", "plan_rows", "json"):
        if getattr(options, flag):
            raise UsageError(
                f"--{flag} works for a single training only, and {names[0]} is a setting of ift compare; leave one out"
            )
    from ift.cli.compare import parse
    from ift.lab.compare.estimate import prospect
    from ift.lab.compare.user_study import user_study

    verb = "ablate" if "variants" in names else "compare"
    args, train_words = parse(verb, words)
    if not train_words:
        raise UsageError(f"a study on the testbed has no rows to check; start it with ift {verb}")
    study = user_study(args, train_words, print, write=False)
    labels = ", ".join(entrant.label for entrant in study.plan.entrants)
    for line in prospect(study.plan):
        print(line)
    print(f"{labels}: {study.plan.seeds} seeds each\nok: ift {verb} would start with the same arguments")
    return 0
