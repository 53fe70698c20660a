"""A study on the user's model and rows: from the flags of `ift train` to the plan, the split and the open folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ift.lab.compare.growth import methods_in, validation_rows_in
from ift.lab.compare.plan import CONTENDERS, Entrant, Plan, Rates
from ift.lab.compare.study import Study
from ift.lab.compare.study_args import StudyArgs, try_contenders
from ift.lab.compare.user_flags import (
    is_named,
    named_files,
    refuse_decided_flags,
    refuse_sft_twice,
    refuse_unused_flags,
    usual_rate,
)
from ift.lab.scores import Answer, ScoreError, load_scores, parse_names, target_scores
from ift.lab.scores.judged import JUDGE, check_endpoint, prompt_tokens
from ift.lab.scores.table import FINAL_ANSWER, file_hashes
from ift.runs.argv import UsageError

ANSWER_GROWTH = 1.25  # a generated answer may be so much longer than the longest target
UNUSED = "unused"  # output folder of stages that are parsed and not trained

Say = Callable[[str], object]


@dataclass(frozen=True)
class CheckedRows:
    """The rows as loaded, and their split.

    Attributes:
        train: The training rows as loaded.
        split: The rows that are trained on, and the rows that are held out.
        tokenizer: The tokenizer of the model.
    """

    train: Sequence[Any]
    split: Any
    tokenizer: Any


def user_study(args: StudyArgs, words: list[str], say: Say, write: bool = True) -> Study:
    """Parse the flags of `ift train`, check and split the rows, and open the study's folder.

    Args:
        args: The arguments of the study.
        words: The flags of `ift train`.
        say: Called with each note for the user.
        write: Whether the folder is opened; otherwise it is only read, to refuse what opening it would refuse.

    Raises:
        UsageError: Flags that cannot be parsed or that the study sets itself, or methods that the rows cannot train.
        DataError: Rows that cannot be read, trained or split.
        ScoreError: Held-out rows that `--score` cannot score.
        StudyError: The folder contains another study.
    """
    from ift.lab.compare.user_data import UserData

    names = parse_names(args.score, args.score_db, args.judge) if args.score is not None else []
    if JUDGE in names:
        check_endpoint(str(args.judge))
    refuse_unused_flags(args, names)
    refuse_decided_flags(words, say)
    draft = args.plan("unnamed")
    methods = list(
        dict.fromkeys([*_methods(draft), *methods_in(args.output_dir)])
    )  # whose flags may be given
    user_data = UserData(words, methods, {}, args.metric or "", None, 0, **named_files(words))
    try_contenders(draft)
    sft = _parse_stages(user_data, draft)
    rows = _load_rows(sft, args, draft, say)
    user_data = _choose_scoring(user_data, args, names, rows, say)
    plan = _plan(args, user_data, sft, rows, say)
    say(_chosen_by(plan))
    study = Study(plan, args.output_dir, sft.model.model_name_or_path, 1, args.command)
    if write:
        study.open()
        rows.split.save(study.rows)
    else:
        study.joined()
    return study


def _methods(plan: Plan) -> list[str]:
    return list(dict.fromkeys(entrant.method for entrant in plan.entrants))


def _parse_stages(user_data: Any, plan: Plan) -> Any:
    """Parse the flags for every entrant, so that wrong flags are refused before any training; returns SFT's stage."""
    from ift.runs.check_run import check_token_weights

    for entrant in plan.entrants:
        for stage in user_data.stages(entrant.method, entrant.settings, UNUSED):
            if stage.launch:
                raise UsageError(
                    f"{stage.launch[0]}: each training runs in one process; --jobs trains several side by side"
                )
            refuse_sft_twice(entrant, stage)
            check_token_weights(stage)
    (sft,) = user_data.stages("sft", {}, UNUSED)
    return sft


def _load_rows(sft: Any, args: StudyArgs, draft: Plan, say: Say) -> CheckedRows:
    """Load the rows, check them as `ift train` does, and split them."""
    from ift.data.pairs import prepare_pairs
    from ift.data.training_sets import load_splits
    from ift.generation.plain_decoding import unused_rules
    from ift.lab.compare.user_rows import has_pairs, split_rows
    from ift.methods.stage import load_tokenizer, prepare_stage
    from ift.methods.start import start_options
    from ift.models.loading import load_generation_config
    from ift.runs.check_run import check_model, refuse_or_warn
    from ift.training.config import preparation

    check_model(sft)
    pairs = any(entrant.needs_pairs for entrant in draft.entrants)
    loaded = load_splits(sft.script, sft.mixture, evaluation=True, columns=sft.columns, pairs=pairs)
    _refuse_pair_methods(args, draft, loaded.train)
    say("preparing, checking and splitting the rows")
    if pairs and has_pairs(loaded.train):
        prepare_pairs(loaded.train, load_tokenizer(sft))  # refuses malformed pairs before any training
    prepared = prepare_stage(sft, replace(loaded, evaluation=None))
    refuse_or_warn(sft, prepared, more="ift check with the flags of ift train alone shows more")
    how = preparation(sft.config)
    split = split_rows(
        loaded.train,
        loaded.evaluation,
        prepared.tokenizer,
        max_length=how["max_length"],
        train_on=how["train_on"],
        text_field=how["text_field"],
        train_rows=args.train_rows,
        validation_rows=_validation_rows(args, draft),
        test_rows=args.test_rows,
        keep_columns=args.score is not None,
    )
    rules = unused_rules(load_generation_config(sft.model.model_name_or_path, start_options(sft)))
    for note in [*loaded.notes, *split.notes, *filter(None, [rules])]:
        say(note)
    return CheckedRows(loaded.train, split, prepared.tokenizer)


def _validation_rows(args: StudyArgs, draft: Plan) -> int | None:
    """The argument of `split_rows`: 0 if no settings are chosen, unless the study in the folder holds rows out."""
    if args.validation_rows or validation_rows_in(args.output_dir) or _chooses(draft):
        return args.validation_rows
    return 0


def _chooses(plan: Plan) -> bool:
    """Whether settings are chosen on validation rows, or may be if a time budget leaves room for it."""
    by_time = plan.time_budget is not None and not plan.time_budget["trials"]
    return by_time or bool(plan.searched()) or any(one.rate_factors for one in plan.entrants)


def _untrainable(plan: Plan, train: Sequence[Any]) -> list[str]:
    """The methods that need pairs, if the rows are no pairs; otherwise an empty list."""
    from ift.lab.compare.user_rows import has_pairs

    needing = [entrant.method for entrant in plan.entrants if entrant.needs_pairs]
    return [] if has_pairs(train) else list(dict.fromkeys(needing))


def _refuse_pair_methods(args: StudyArgs, draft: Plan, train: Sequence[Any]) -> None:
    if args.methods and (needing := _untrainable(draft, train)):
        columns = ", ".join(train[0].rows.column_names or [])
        raise UsageError(
            f"{', '.join(needing)}: learns from pairs, and the rows have none (columns: {columns}). "
            "Leave it out, or give rows with chosen and rejected"
        )


def _choose_scoring(
    user_data: Any, args: StudyArgs, names: Sequence[str], rows: CheckedRows, say: Say
) -> Any:
    """Set the scores, the metric, the pattern of final answers and the token limit from the held-out rows."""
    from ift.generation.final_answer import final_answer_of, last_answer
    from ift.lab.compare.scoring import decode_turns, scored_answer
    from ift.lab.compare.user_rows import name_promptless
    from ift.lab.report.wording import PER_TOKEN

    split = rows.split
    held_out = [row for part in (split.validation, split.test) for row in part]
    asked = [last_answer(row["input_ids"], row["labels"]) for row in held_out]
    targets = [rows.tokenizer.decode(target, skip_special_tokens=True) for _, target in asked]
    promptless = name_promptless(held_out, [prompt for prompt, _ in asked])
    pattern = args.answer_pattern if not promptless and (not names or FINAL_ANSWER in names) else "none"
    try:
        final = final_answer_of(targets, pattern)
    except ValueError as problem:
        raise UsageError(str(problem)) from problem
    longest = max(len(target) for _, target in asked)
    user_data = replace(
        user_data,
        sha256=split.sha256,
        pattern=final.pattern if final else None,
        max_new_tokens=args.max_new_tokens or math.ceil(longest * ANSWER_GROWTH),
    )
    if names:
        if promptless:
            raise ScoreError(f"--score: {promptless}. Fix: write prompts, or leave the rows or --score out")
        texts = [decode_turns(rows.tokenizer, prompt) for prompt, _ in asked]
        answers = [scored_answer(*one) for one in zip(held_out, texts, targets, targets, strict=True)]
        user_data, metric = _with_scores(user_data, args, names, answers, say)
    else:
        if promptless:
            say(f"no answers are generated: {promptless}")
        metric = args.metric or ("exact_match" if final else PER_TOKEN)
        _check_metric(metric, has_final=final is not None, has_pairs=bool(split.pairs))
    return replace(user_data, metric=metric)


def _chosen_by(plan: Plan) -> str:
    """One line that says by what score settings are chosen, or that none are chosen."""
    from ift.lab.report.wording import PER_TOKEN

    shown = {"exact_match": "exact match", PER_TOKEN: "log-likelihood per token of the target answers"}
    metric = (plan.user_data or {})["metric"]
    chosen = f"chosen by {shown.get(metric, metric)} on the validation rows"
    if plan.time_budget is not None and not plan.time_budget["trials"]:
        return f"if the time allows several settings per method, they are {chosen}"
    if _chooses(plan):
        return f"settings are {chosen}"
    compared = shown.get(plan.metric, plan.metric)
    return (
        f"methods are compared by {compared}; no settings are chosen, because each method has one candidate"
    )


def _with_scores(
    user_data: Any, args: StudyArgs, names: Sequence[str], answers: Sequence[Answer], say: Say
) -> tuple[Any, str]:
    """The user data with the scores of `--score`, checked on the target answers, and the name of the first score."""
    if FINAL_ANSWER in names and user_data.pattern is None:
        raise UsageError(
            f"--score {FINAL_ANSWER}: no kind of final answer is in all target answers; give --answer_pattern"
        )
    given: dict[str, Any] = {"names": [*names], "database": args.score_db}
    if args.judge is not None:
        given |= {"judge": args.judge, "prompt_tokens": prompt_tokens(answers)}
    scores = load_scores([name for name in names if name != JUDGE], args.score_db, user_data.pattern)
    if totals := target_scores(scores, answers):
        say(
            "the target answers themselves score "
            + ", ".join(f"{name} {one:g}" for name, one in totals.items())
        )
    given["sha256"] = file_hashes(names, args.score_db)
    return replace(user_data, scoring=given), JUDGE if names[0] == JUDGE else next(iter(totals))


def _check_metric(metric: str, *, has_final: bool, has_pairs: bool) -> None:
    from ift.lab.compare.user_data import METRICS

    reason = None
    if metric not in METRICS:
        reason = f"choose from {', '.join(METRICS)}"
    elif metric == "exact_match" and not has_final:
        reason = "no kind of final answer is in all target answers; give --answer_pattern"
    elif metric == "choice_accuracy" and not has_pairs:
        reason = "the rows are not preference pairs"
    if reason:
        raise UsageError(f"--metric {metric}: {reason}")


def _plan(args: StudyArgs, user_data: Any, sft: Any, rows: CheckedRows, say: Say) -> Plan:
    """The plan, without the methods of the budget that need pairs if the rows are no pairs."""
    rates = Rates.around(usual_rate(user_data.words, sft))
    rates = Rates(args.learning_rates or rates.answers, args.pair_learning_rates or rates.pairs)
    data = Path(sft.script.dataset_name).name if sft.script.dataset_name else "a mixture"
    setting = f"{data} on {Path(sft.model.model_name_or_path).name}"
    sizes = {"validation_rows": len(rows.split.validation), "test_rows": len(rows.split.test)}
    needing = _untrainable(args.plan(setting), rows.train)
    if needing:
        say(f"the rows are not preference pairs; left out: {', '.join(needing)}")
    methods = [
        name
        for name in args.method_names
        if not needing or name in CONTENDERS or ".py:" in name or not Entrant(name).needs_pairs
    ]
    plan = args.plan(setting, methods, rates=rates, **sizes)
    if plan.time_budget is not None:
        length = any(is_named(user_data.words, name) for name in ("max_steps", "num_train_epochs"))
        plan = replace(plan, time_budget={**plan.time_budget, "training": length})
    methods = list(dict.fromkeys([*_methods(plan), *methods_in(args.output_dir)]))
    return replace(plan, user_data=replace(user_data, methods=methods).to_json())
