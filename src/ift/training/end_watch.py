"""Monitors whether the model learns to stop, by the likelihood of the end tokens of a few fixed training rows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from ift.data.samples import ids_and_labels, sample_rows
from ift.labels import IGNORED
from ift.step.model import evaluating, unwrapped
from ift.text import counted
from ift.training.best_step import best_step_number
from ift.training.config import IFTConfig

ROWS = 32  # at most
ROWS_PER_PASS = 8
CANDIDATES = 8  # rows read per row wanted, because some have no trained end token
MEASURED_AT = (0.25, 0.5)  # shares of the run; also measured before the first step and at the end
LIKELY = math.log(2)  # nats, which is a probability of one half
WORSE = 0.05  # nats; a larger increase gives a warning
NAME = "end_nll"


class EndWatch(TrainerCallback):
    """Logs `end_nll` before the first step, after a quarter and half of the run, and at its end; warns if it rises.

    `end_nll` is the mean negative log-likelihood, in nats, of the trained tokens that end an answer, teacher-forced, in
    at most `ROWS` fixed training rows. Training is unaffected: no gradient, no dropout, no random numbers. Every
    process computes it, so that sharded weights can be gathered.

    With an `IFTTrainer`: `trainer.add_callback(EndWatch(trainer, trainer.train_dataset, end_ids))`, where
    `end_ids = ift.data.end_of_turn_ids(trainer.processing_class)` are the tokens that end an answer.

    Attributes:
        measured: Step -> `end_nll`, including the part of the run before it was resumed.
        rows: Number of rows measured; 0, and nothing is measured, if no training row has a trained end token.
    """

    def __init__(
        self,
        trainer: Any,
        rows: Any,
        end_ids: Collection[int],
        report: Callable[[str], None] = print,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Selects rows from the training set with the run's seed; for pairs, the chosen side is measured.

        `end_ids` are the tokens that end an answer: `ift.data.end_of_turn_ids(tokenizer)`.
        `report` shows a line, and is called on the main process only. If `interrupted()` is true at the end of the run,
        the final model is not measured.
        """
        self.trainer, self.report, self.interrupted = trainer, report, interrupted
        self._rows = rows_that_end(rows, end_ids, _row_count(trainer.args, rows), trainer.args.seed)
        self._end_ids = torch.tensor(sorted(end_ids), dtype=torch.int64)
        self._due: list[int] = []
        self.measured: dict[int, float] = {}
        # the step whose weights the last measurement is of, if they are not those of the last step
        self._saved_step: int | None = None

    @property
    def rows(self) -> int:
        """Number of rows measured."""
        return len(self._rows)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures the initial model; a resumed run reads the earlier measurements from the log instead."""
        self.measured = {entry["step"]: entry[NAME] for entry in state.log_history if NAME in entry}
        self._due = [math.ceil(share * state.max_steps) for share in MEASURED_AT]
        if self._rows and state.global_step == 0:
            value = self._measure(state)
            self._report(
                state,
                f"before the first step the end of an answer has a probability of {percent(-value)} ({NAME} "
                f"{value:.3g}, on {counted(self.rows, 'training row')})",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures at the steps in `MEASURED_AT`, and warns if the end has become less likely."""
        if self._rows and state.global_step in self._due and state.global_step < state.max_steps:
            self._measure(state)
            if warning := self.less_likely():
                self._report(state, f"warning: {warning}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures the final model: with `load_best_model_at_end` that of the best step, which is not logged."""
        if self._rows and not self.interrupted() and state.global_step not in self.measured:
            best = best_step_number(self.trainer)
            self._saved_step = None if best == state.global_step else best
            value = self._measure(state, log=self._saved_step is None)
            if self._saved_step is not None:
                self._report(state, f"{NAME} of the saved weights, those of step {best}: {value:.3g}")

    def less_likely(self) -> str | None:
        """The warning if the end is less likely than before the first step; otherwise None."""
        start, (step, last) = self.measured.get(0), max(self.measured.items(), default=(0, 0.0))
        if start is None or step == 0 or last <= start + WORSE:
            return None
        return (
            f"the end of an answer has become less likely: its probability was {percent(-start)} before the first "
            f"step and is {percent(-last)} after step {self._saved_step or step} ({NAME} {start:.3g} -> "
            f"{last:.3g}, on the same {counted(self.rows, 'training row')}). {self._remedy()}"
        )

    def unlikely(self, stopped: int = 0, answers: int = 0) -> str | None:
        """The warning if the end has a probability below one half at the last measurement; otherwise None.

        Args:
            stopped: How many of the greedy answers after the training stop with their end token.
            answers: How many there are; 0 if they were not requested or could not be written.
        """
        step, last = max(self.measured.items(), default=(0, 0.0))
        if step == 0 or last <= LIKELY:
            return None
        measured = (
            f"after step {self._saved_step or step} the end token has a probability of {percent(-last)} where an "
            f"answer of a training row ends ({NAME} {last:.3g}, the mean of {counted(self.rows, 'row')})"
        )
        if stopped:
            stop = "stops with its" if stopped == 1 else "stop with their"
            of_all = f"{stopped} of {counted(answers, 'greedy answer')} {stop} end token"
            text = f"{of_all}, at the end of the model's own text; sampled ones may run on: {measured}"
        elif answers:
            none = (
                "the greedy answer does not stop"
                if answers == 1
                else f"none of {counted(answers, 'greedy answer')} stops"
            )
            text = f"{none} with its end token: {measured}"
        else:
            text = f"answers may not stop: {measured}"
        return f"{text}. {self._remedy()}"

    def _remedy(self) -> str:
        args = self.trainer.args
        if isinstance(args, IFTConfig):
            if args.propagation == "bellman" and args.propagation_detach == "none":
                return (
                    "--propagation_detach none, the released code, makes the end token less likely (docs/footguns.md): "
                    "leave it out."
                )
            more = ", or give the last token of an answer more weight in --token_weights"
            own = more if args.token_weights is not None else ""
            return f"Train longer, or at a higher learning rate (docs/footguns.md){own}."
        return (
            "Train on the chosen answers first (--method sft+...), longer if that was done, or at a lower learning "
            "rate (docs/footguns.md)."
        )

    def _measure(self, state: Any, log: bool = True) -> float:
        with self.trainer.compute_loss_context_manager():  # the precision of the training
            value = end_nll(self.trainer.model_wrapped, self._rows, self._end_ids, self.trainer.args.device)
        self.measured[state.global_step] = value
        if not log:
            return value
        control = self.trainer.control
        wanted = control.should_log
        Trainer.log(self.trainer, {NAME: value})  # not self.trainer.log, which would reset its running means
        control.should_log = wanted  # `log` resets it, and the step's regular log entry follows
        return value

    def _report(self, state: Any, text: str) -> None:
        if state.is_world_process_zero:
            self.report(text)


def percent(log_probability: float) -> str:
    """A probability in percent, with two digits where one decimal place would show 0."""
    value = 100 * math.exp(log_probability)
    return f"{value:.1f}%" if value >= 0.1 else f"{value:.2g}%"


def _row_count(args: Any, rows: Any) -> int:
    """5 % of the rows of the run, at least 8 and at most `ROWS`, so that a short run is not slowed down."""
    planned = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.max_steps <= 0:
        planned = args.num_train_epochs * len(rows) if hasattr(rows, "__len__") else math.inf
    return int(min(ROWS, max(8, planned / 20)))


def rows_that_end(
    rows: Any, end_ids: Collection[int], count: int, seed: int
) -> list[tuple[list[int], list[int]]]:
    """Up to `count` rows in which an end token is trained, as (ids, labels) up to the last such token.

    They are chosen from `CANDIDATES` times as many sampled rows (of a stream, the first ones).
    """
    found: list[tuple[list[int], list[int]]] = []
    for _, row in sample_rows(rows, CANDIDATES * count, seed):
        ids, labels = ids_and_labels(row)
        ends = [place for place, label in enumerate(labels) if place and label in end_ids]
        if ends and len(found) < count:
            found.append((ids[: ends[-1] + 1], labels[: ends[-1] + 1]))
    return sorted(found, key=lambda one: len(one[0]))


@torch.no_grad()
def end_nll(
    model: Any, rows: Sequence[tuple[list[int], list[int]]], end_ids: torch.Tensor, device: torch.device
) -> float:
    """Mean teacher-forced negative log-likelihood, in nats, of the labels in `end_ids` over `rows`.

    Args:
        model: A causal language model, wrapped or not; its mode is restored.
        rows: (ids, labels) each, at least one with such a label.
        end_ids: (E,) int64.
        device: Device of the batches.
    """
    total, count = 0.0, 0
    keeps = "logits_to_keep" in inspect.signature(type(unwrapped(model)).forward).parameters
    per_pass = ROWS_PER_PASS if keeps else 1  # without it, the logits of all positions are in memory
    with evaluating(model), torch.compiler.set_stance("force_eager"):
        for start in range(0, len(rows), per_pass):
            some = rows[start : start + per_pass]
            longest = max(len(ids) for ids, _ in some)
            ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in some])  # (B, T)
            mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in some])
            labels = torch.tensor([one + [IGNORED] * (longest - len(one)) for _, one in some])
            ends = torch.isin(labels, end_ids)
            ends[:, 0] = False
            places = ends.any(0).nonzero()[:, 0]  # (P,) target positions at which some row ends
            how = {"logits_to_keep": (places - 1).to(device)} if keeps else {}
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), **how).logits.cpu()
            logits = logits if keeps else logits[:, places - 1]  # (B, P, V)
            log_probs = logits.float().log_softmax(-1)
            chosen = log_probs.gather(-1, labels[:, places].clamp(min=0)[..., None])[..., 0]  # (B, P)
            total -= chosen[ends[:, places]].double().sum().item()
            count += int(ends.sum())
    return total / count
