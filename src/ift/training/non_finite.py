"""Stops a run at the first non-finite loss or gradient, before the optimiser step that would corrupt the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ift.text import counted
from ift.training.checkpoints import newest_complete

KEPT_INPUTS: tuple[str, ...] = ("input_ids", "attention_mask", "position_ids")
REPORT = "non_finite.jsonl"


class NonFiniteError(RuntimeError):
    """A loss or gradient is not finite; the message says where, and what to try.

    Attributes:
        report: File with the rows of the step; None if it could not be written.
    """

    def __init__(self, message: str, report: Path | None) -> None:
        super().__init__(message)
        self.report = report


class StopsAtNonFinite:
    """Mixin for a `transformers.Trainer`: the first non-finite loss or gradient norm stops the run.

    The optimiser has then not taken the step. The first line of `non_finite.jsonl` in the output folder describes the
    step; the other lines are the rows of all micro-batches and processes. Under fp16 loss scaling an overflowing
    gradient is expected, so only losses are checked; under DeepSpeed the engine may have taken the step.

    Raises:
        NonFiniteError: From `train`.
    """

    # the number of the current step, and its micro-batches with their losses
    _seen: tuple[int, list[tuple[dict[str, Any], Tensor]]] = (-1, [])

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; forgets the batches of a run that ended within a step."""
        self._seen = (-1, [])
        return super().train(*args, **kwargs)  # type: ignore[misc]

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As in transformers; also keeps the batch until the optimiser step."""
        step = self.state.global_step  # type: ignore[attr-defined]
        if self._seen[0] != step:
            self._seen = (step, [])
        batch: dict[str, Any] = {name: inputs[name] for name in KEPT_INPUTS if name in inputs}
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self._seen[1].append((batch, loss))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """As in transformers, which calls it once before every optimiser step; raises if a value is not finite."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        losses, value = _as_numbers([loss for _, loss in self._seen[1]], norm)
        scaled = self.accelerator.scaler is not None  # type: ignore[attr-defined]
        checked = losses if scaled or value is None else [*losses, value]
        error = None
        if not all(map(math.isfinite, checked)):
            error = _make_error(self, losses, value, local=scaled)
        self._seen = (-1, [])
        if error is not None:
            raise error
        return norm


def _as_numbers(losses: Sequence[Tensor], norm: Tensor | float | None) -> tuple[list[float], float | None]:
    """The losses of a step and its gradient norm. Read together: one GPU synchronisation."""
    values = [loss.float() for loss in losses]
    if isinstance(norm, Tensor):
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        values.append(whole.float().to(values[0].device if values else whole.device))
    numbers: list[float] = torch.stack(values).tolist() if values else []
    if isinstance(norm, Tensor):
        return numbers[:-1], numbers[-1]
    return numbers, norm


def _make_error(trainer: Any, losses: list[float], norm: float | None, *, local: bool) -> NonFiniteError:
    """Writes the report and returns the error; if `local`, other processes may not have reached this point."""
    args = trainer.args
    numbers = _row_numbers(trainer)
    rows = [
        {"process": args.process_index, "micro_batch": number, "loss": _json_number(loss), **row}
        for number, ((batch, _), loss) in enumerate(zip(trainer._seen[1], losses, strict=True), start=1)
        for row in _rows(trainer.processing_class, batch, numbers)
    ]
    many = args.world_size > 1 and not local
    if many:
        gathered: list[Any] = [None] * args.world_size
        torch.distributed.all_gather_object(gathered, rows)
        rows = [row for part in gathered for row in part]
    good, _ = newest_complete(Path(args.output_dir))
    facts = {
        "step": trainer.state.global_step + 1,
        "gradient_norm": _json_number(norm),
        "lambda": trainer._residual_lambda("train") if hasattr(trainer, "_residual_lambda") else None,
        "dtype": str(next(trainer.model.parameters()).dtype).removeprefix("torch."),
        "autocast": "bf16" if args.bf16 else "fp16" if args.fp16 else None,
        "learning_rate": trainer._get_learning_rate(),
        "weights_not_finite": [
            n for n, p in trainer.model.named_parameters() if not bool(p.isfinite().all())
        ],
        "last_good_checkpoint": None if good is None else str(good),
    }
    file: Path | None = Path(args.output_dir) / REPORT
    if trainer.is_world_process_zero() or local:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
            file.write_text("".join(json.dumps(one) + "\n" for one in (facts, *rows)))  # type: ignore[union-attr]
        except OSError:
            file = None
    if many:
        torch.distributed.barrier()  # a launcher stops all processes, the writer too, when the first one exits
    return NonFiniteError(_message(facts, rows, file), file)


def _json_number(value: float | None) -> float | str | None:
    """A JSON value; a number that is not finite becomes a string."""
    return value if value is None or math.isfinite(value) else str(value)


def _message(facts: dict[str, Any], rows: Sequence[dict[str, Any]], file: Path | None) -> str:
    bad = [row["loss"] for row in rows if isinstance(row["loss"], str)]
    what = (
        f"the loss is {bad[0]}"
        if bad
        else f"the loss is finite and the gradient norm is {facts['gradient_norm']}"
    )
    known = [str(row["row"]) for row in rows if row["row"] is not None]
    shown = (
        f" (of the kept rows, numbers {', '.join(known[:8])}{', ...' if len(known) > 8 else ''})"
        if known
        else ""
    )
    mixed = "" if facts["lambda"] is None else f", lambda {facts['lambda']:g}"
    autocast = f" under {facts['autocast']} autocast" if facts["autocast"] else ""
    good = facts["last_good_checkpoint"]
    lines = [
        f"stopped at step {facts['step']}: {what}. The optimiser has not taken the step.",
        f"  batch: {counted(len(rows), 'row')}{shown}; "
        f"{f'written to {file}' if file else 'they could not be written to a file'}",
        f"  run: weights {facts['dtype']}{autocast}{mixed}, learning rate {facts['learning_rate']:g}",
        f"  last good checkpoint: {good or 'none yet'}",
    ]
    if facts["weights_not_finite"]:
        bad_weights = facts["weights_not_finite"]
        lines.append(
            f"  weights: {len(bad_weights)} tensors were not finite before this step ({bad_weights[0]} first). "
            "Fix: start from another model or an earlier checkpoint"
        )
    else:
        tries = [
            "read the rows in the file",
            f"--learning_rate {facts['learning_rate'] / 10:g} or a longer warm-up",
        ]
        if facts["autocast"] == "fp16" or facts["dtype"] == "float16":
            tries.insert(0, "--bf16 true --fp16 false, or float32: float16 overflows above 65,504")
        if facts["lambda"]:
            tries.append("--residual_lambda 0 (does plain SFT stop here too?)")
        lines.append(f"  try: {'; '.join(tries)}")
    return "\n".join(lines)


def _rows(
    tokenizer: Any, batch: dict[str, Any], numbers: dict[tuple[int, ...], int]
) -> Iterator[dict[str, Any]]:
    """Every document of a batch: its row number if known, its text and its ids."""
    for ids in _documents(batch):
        yield {"row": numbers.get(tuple(ids)), "text": tokenizer.decode(ids), "input_ids": ids}


def _documents(batch: dict[str, Any]) -> Iterator[list[int]]:
    """Token ids of each row without padding; for packed rows, of each document."""
    for number, ids in enumerate(batch["input_ids"].cpu()):
        places = batch.get("position_ids")
        if batch.get("attention_mask") is not None:
            yield ids[batch["attention_mask"][number].cpu().bool()].tolist()
        elif places is not None:
            starts = (places[number].cpu() == 0).nonzero().flatten().tolist()
            yield from (part.tolist() for part in torch.tensor_split(ids, starts[1:]))
        else:
            yield ids.tolist()


def _row_numbers(trainer: Any) -> dict[tuple[int, ...], int]:
    """Token ids -> number (from 1) of the first such row; empty for streamed, shuffled or packed rows."""
    dataset, names = trainer.train_dataset, getattr(trainer.train_dataset, "column_names", None) or []
    if (
        not hasattr(dataset, "__len__")
        or "seq_lengths" in names
        or getattr(trainer.args, "shuffle_dataset", False)
    ):
        return {}
    found: dict[tuple[int, ...], int] = {}
    for name in (name for name in names if name.endswith("input_ids")):
        for number, ids in enumerate(dataset[name], start=1):
            found.setdefault(tuple(ids), number)
    return found
