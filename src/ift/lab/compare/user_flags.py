"""Flags of `ift train` in a study: those that the study sets itself, those without effect, those that name files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ift.lab.compare.study_args import StudyArgs
from ift.runs.argv import UsageError, value_of
from ift.runs.yaml_file import parse_yaml_file, text_as_written
from ift.user_code import file_sha256

LORA_FACTOR = 10  # adapters learn at rates about ten times higher (trl's own advice)
FILE_FLAGS = ("token_weights", "chat_template_path", "deepspeed")  # with a file, or FILE.py:function
FORCED: Mapping[str, Any] = {  # a trial is not evaluated or saved on the way, and its model is not kept
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "report_to": "none",
    "disable_tqdm": True,
}
DECIDED = (  # flags of `ift train` that the study sets itself
    "method", "output_dir", "seed", "data_seed", "beta", "simpo_gamma", "resume_from_checkpoint", "resume", "hub_token",
    "test_split_size", *FORCED,
)  # fmt: skip
WITHOUT_EFFECT = (  # nothing is evaluated, answered or saved during a trial
    "eval_steps", "eval_delay", "eval_on_start", "metric_for_best_model", "greater_is_better", "save_steps",
    "save_total_limit", "save_only_model", "eval_generate", "eval_generate_max_new_tokens",
    "eval_generate_temperature", "eval_score", "eval_score_db", "final_answers",
)  # fmt: skip


def unused_keys() -> set[str]:
    """Keys of the YAML file that no trial reads: the study's own flags, and the flags that the study decides."""
    return {*StudyArgs.keys(), *DECIDED, *WITHOUT_EFFECT}


def refuse_decided_flags(words: list[str], say: Callable[[str], object]) -> None:
    """Refuse flags that the study decides, and name through `say` the keys of the YAML file that it does not use.

    Raises:
        UsageError: The command line has a flag that the study decides.
    """
    hints = {
        "hub_token": " and would be written to its plan; set HF_TOKEN instead",
        "method": "; use --methods",
        "seed": "; use --seeds",
        "data_seed": "; each seed of --seeds draws the order of the rows too",
        "eval_strategy": "; rows are held out anyway",
        "test_split_size": "; use --validation_rows and --test_rows",
    }
    for word in words:
        name = word.removeprefix("--").rpartition(".")[2] if word.startswith("--") else ""
        if name in DECIDED:
            raise UsageError(f"{word} is set by the study itself{hints.get(name, '')}; leave it out")
        if name in WITHOUT_EFFECT:
            hint = " (--score names the scores)" if name.startswith("eval_score") else ""
            raise UsageError(
                f"{word} has no effect in a study, which scores after each training{hint} and saves no checkpoint; "
                "leave it out"
            )
    file = value_of(words, "--config")
    keys = [*(parse_yaml_file(Path(file)) if file else {})]
    if "resume_from_checkpoint" in keys:
        raise UsageError(f"{file}: resume_from_checkpoint belongs to one training; take it out")
    if unused := [key for key in keys if key in (*DECIDED, *WITHOUT_EFFECT)]:
        say(
            f"{file}: not used in a study: {', '.join(unused)}. It saves no checkpoint and scores "
            "held-out rows after each training, by what --score or `score` names; its folder is --output_dir on the "
            "command line."
        )


def refuse_unused_flags(args: StudyArgs, names: Sequence[str]) -> None:
    """Refuse flags that have no effect with the given scores."""
    from ift.lab.scores.table import FINAL_ANSWER  # imports numpy

    if args.score is None and args.score_db is not None:
        raise UsageError("--score_db is for --score sql: give both, or neither")
    if args.judge is None and (args.prices is not None or args.yes):
        raise UsageError("--prices and --yes are for --score judge: give --judge too, or leave them out")
    if args.score is None and args.judge is not None:
        raise UsageError("--judge is for --score judge: give both, or neither")
    if names and args.metric is not None:
        raise UsageError("--metric: settings are chosen by the first name in --score; leave it out")
    if names and FINAL_ANSWER not in names and args.answer_pattern is not None:
        raise UsageError(
            f"--answer_pattern is for --score {FINAL_ANSWER}: name it too, or leave the pattern out"
        )


def named_files(words: list[str]) -> dict[str, Any]:
    """The fields of `UserData` about the file of --config and about files that flags or keys name."""
    config = value_of(words, "--config")
    unused = unused_keys()
    nodes = parse_yaml_file(Path(config)) if config else {}
    settings = {
        key: str(text_as_written(node, yaml.SafeLoader("").construct_document(node)))
        for key, node in nodes.items()
        if key not in unused
    }
    found: dict[str, str] = {}
    for name in FILE_FLAGS:
        text = value_of(words, f"--{name}") or settings.get(name, "")
        if digest := file_sha256(text):
            found[f"--{name}"] = digest
    return {"files": found or None, "file_settings": settings or None}


def is_named(words: list[str], name: str) -> bool:
    """Whether the command line or the file of --config names a setting."""
    file = value_of(words, "--config")
    given = (
        word[2:].rpartition(".")[2] for word in words if word.startswith("--")
    )  # also of one stage: --2.NAME
    return name in given or (file is not None and name in parse_yaml_file(Path(file)))


def usual_rate(words: list[str], sft: Any) -> float:
    """The user's learning rate, otherwise trl's default; for adapters ten times the default."""
    factor = LORA_FACTOR if sft.model.use_peft and not is_named(words, "learning_rate") else 1
    return float(sft.config.learning_rate * factor)


def refuse_sft_twice(entrant: Any, stage: Any) -> None:
    """Raise UsageError if flags disable both the residual and the weights of a contender, which makes it SFT."""
    config, own = stage.config, {key.rpartition(".")[2] for key in entrant.settings}
    if (
        stage.method.name != "ift"
        or config.has_lambda
        or config.propagation != "none"
        or config.token_weights
    ):
        return
    if not own >= {"residual_lambda", "propagation"}:
        raise UsageError(
            f"{entrant.label}: with residual_lambda 0 and propagation none it is SFT, which is a contender already. "
            "Leave it out, or change --residual_lambda or --propagation"
        )
