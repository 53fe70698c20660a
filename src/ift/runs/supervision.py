"""What `ift train` adds to a training run: a check before it, checkpoints with manifests, `end_nll`, and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ift.data import DataError, end_of_turn_ids
from ift.generation.after_training import FinalAnswers, write_final_answers
from ift.generation.during_training import EvaluationAnswers
from ift.generation.plain_decoding import unused_rules
from ift.methods.stage import PreparedRows
from ift.runs.check_run import refuse_or_warn
from ift.runs.launch import is_first_process
from ift.runs.output_folder import mark_run_started
from ift.runs.progress import Reporter
from ift.runs.resource_errors import is_out_of_memory
from ift.runs.run_facts import check_unchanged, hashes_of_data, run_facts
from ift.text import counted
from ift.training.checkpoints import SealedCheckpoints
from ift.training.end_watch import EndWatch
from ift.training.metrics import LogsBothEnds

EMPTY = (
    "{} of {} answers after the training have no text (final_answers.jsonl). Fix: train longer or at another learning "
    "rate, and look at the target answers (ift check --show)"
)
NO_END = "no training row ends with an end token: the model is not taught to stop (see ift check)"
NO_STOP = (
    "no answer after the training stops with its end token (final_answers.jsonl), although where the answers of "
    "training rows end it is likely: the model's own text does not come to an end. Fix: more rows, or fewer epochs"
)


@dataclass(frozen=True)
class Supervision:
    """The callbacks of a supervised run (see `train_run`); all None for other runs.

    Attributes:
        checkpoints: Adds a manifest to every checkpoint, and saves one when a signal stops the run.
        watch: Logs `end_nll`, the likelihood of end tokens.
        answers: Writes answers at each evaluation; None if not requested.
        log: Has the first and the last step logged.
    """

    checkpoints: SealedCheckpoints | None = None
    watch: EndWatch | None = None
    answers: EvaluationAnswers | None = None
    log: LogsBothEnds | None = None

    @property
    def callbacks(self) -> list[Any]:
        """The callbacks; the checkpoints come first, so that signals are handled while the others run."""
        return [one for one in (self.checkpoints, self.watch, self.answers, self.log) if one is not None]

    @property
    def resumed_at(self) -> int:
        """The step that the run was resumed at; 0 if it was not."""
        return 0 if self.checkpoints is None else self.checkpoints.resumed_at

    @property
    def training_seconds(self) -> float | None:
        """Time of all steps of the run; None if it is not known."""
        return None if self.checkpoints is None else self.checkpoints.seconds

    def warnings(self, answers: FinalAnswers | None = None) -> tuple[str, ...]:
        """Warnings on the answers: some have no text, or the end token has become less likely or is unlikely.

        `answers` are those of the trained model, so that the warning says what they show.
        """
        shown = answers or FinalAnswers()
        empty = EMPTY.format(shown.empty, shown.asked) if shown.empty else None
        if self.watch is None:
            return (empty,) if empty else ()
        if not self.watch.rows:
            return (NO_END, empty) if empty else (NO_END,)
        less, unlikely = self.watch.less_likely(), self.watch.unlikely(shown.stopped, shown.asked)
        endless = NO_STOP if shown.asked and not (shown.stopped or less or unlikely) else None
        return tuple(warning for warning in (empty, less, unlikely, endless) if warning)


NOT_SUPERVISED = Supervision()


def check_before_training(run_args: Any, rows: PreparedRows, reporter: Reporter) -> dict[str, Any]:
    """Checks a run before its model is loaded; returns its `run_facts`, which must not change when it is resumed.

    Only the first process checks; the others return an empty dictionary.

    Raises:
        DataError: The check refuses the run, or the settings of a resumed run have changed.
    """
    if run_args.answers.eval_generate and "eval" not in rows.sets:
        raise DataError(
            "eval_generate: there are no evaluation rows. Fix: give a test split, or leave it out"
        )
    if not is_first_process():
        return {}
    findings = refuse_or_warn(run_args, rows, reporter)
    facts = run_facts(run_args, findings.data_sha256, hashes_of_data(rows.sets["train"]))
    if run_args.config.resume_from_checkpoint:
        for line in check_unchanged(run_args, facts):
            reporter.message(line)
    return facts


def supervise(
    trainer: Any, run_args: Any, rows: PreparedRows, facts: dict[str, Any], reporter: Reporter
) -> Supervision:
    """Creates the callbacks and marks the output folder as a started run; `facts` are from `check_before_training`."""
    checkpoints = SealedCheckpoints(facts)
    watch = EndWatch(
        trainer,
        rows.sets["train"].dataset,
        end_of_turn_ids(rows.tokenizer),
        reporter.message,
        lambda: checkpoints.stopped is not None,
    )
    answers = None
    if run_args.answers.eval_generate:
        answers = EvaluationAnswers(trainer, rows.sets["eval"], run_args.answers)
        if answers.left_out:
            reporter.message(answers.left_out)
    if is_first_process():
        mark_run_started(run_args)
    return Supervision(checkpoints, watch, answers, LogsBothEnds())


def final_answers(trainer: Any, run_args: Any, rows: PreparedRows, reporter: Reporter) -> FinalAnswers | None:
    """Answers some evaluation rows, or else training rows; None if not requested, and on other processes.

    The model is saved already, so running out of memory here does not fail the run.
    """
    count = run_args.answers.final_answers
    if not count or not trainer.is_world_process_zero():
        return None
    name = "eval" if "eval" in rows.sets else "train"
    report = rows.sets[name].report
    count = count if report.streaming else min(count, report.rows_kept)
    reporter.message(f"answering {counted(count, 'row')} with the trained model (each prompt once)")
    network = trainer.accelerator.unwrap_model(trainer.model)
    if rules := unused_rules(getattr(network, "generation_config", None)):
        reporter.message(rules)
    try:
        return write_final_answers(trainer, rows.sets[name], name, count)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return FinalAnswers(note="out of memory; run ift generate on the saved model")
