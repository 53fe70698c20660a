"""The checks before a run: rows, token ids and answer ends as the model will see them, each problem with its fix."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ift.check.disk import disk_findings, disk_needs
from ift.check.engines import ONE_DEVICE, Engine
from ift.check.finding import Finding
from ift.check.flops import run_flops
from ift.check.memory import available_memory, empty_model, loaded_dtype
from ift.check.memory_words import TIGHT, batch_words, memory_findings
from ift.check.needs import MemoryEstimate
from ift.check.planned_gpu import on_planned_gpu
from ift.check.positions import position_problem
from ift.check.result import Preflight
from ift.check.rounding import lost_updates
from ift.check.row_findings import data_findings
from ift.check.rows import RowScan, scan_rows
from ift.check.sizes import FEW_BITS_ENGINES, Sizes
from ift.check.steps import PACKS_NOTHING, Work, packs_nothing, rows_of_pass, rows_of_steps, work_of
from ift.check.trainer_build import build_errors
from ift.data import DataError, DataReport, Prepared, end_of_turn_ids
from ift.methods.engines import problem_of_engine
from ift.methods.stage import longest_row
from ift.methods.start import explain_saved_modules, explain_too_long, start_options
from ift.models.limits import explain_ids_outside, special_ids
from ift.models.loading import load_config
from ift.text import counted, quoted

ESTIMATES = 5  # of a step with other settings, where it does not fit; as a rule
FEW_TO_EVALUATE = 8  # different rows
SMALL_TOKENIZER = 0.5  # of the embeddings; models have some more embeddings than tokens


def preflight(
    stage: Any,
    prepared: Any,
    *,
    allow_truncation: bool = False,
    engine: Engine = ONE_DEVICE,
    gpu_memory: float | None = None,
    plan_length: int | None = None,
    plan_rows: int | None = None,
    operations: bool = False,
    progress: Callable[[int], object] = lambda rows: None,
    working: Callable[[str, float], object] = lambda text, seconds: None,
) -> Preflight:
    """Check everything that one stage will train, without loading its weights.

    Args:
        stage: An `ift.methods.stage.Stage`.
        prepared: What `ift.methods.stage.prepare_stage` gave.
        allow_truncation: See `data_findings`.
        engine: The engine of the run and its processes.
        gpu_memory: GiB of the GPU that the run is planned for, as in "a 24 GB card"; None: this machine's device.
        plan_length: Tokens of the rows that memory is estimated for; None: the longest row.
        plan_rows: Rows of the full data, of which those here are a sample; None: those here.
        operations: Whether the floating-point operations of the run are counted too.
        progress: See `scan`.
        working: Called before the memory is estimated: what is computed, and about how many seconds it takes.
    """
    config, sets = stage.config, prepared.sets
    ends = end_of_turn_ids(prepared.tokenizer)
    scans = {name: scan_rows(one, prepared.tokenizer, ends, progress) for name, one in sets.items()}
    work, report = work_of(stage, prepared, engine, plan_rows), sets["train"].report
    longest = longest_row(report, config)
    of_memory, answer = (plan_length, None) if plan_length else (longest, report.answer_lengths[2] or None)
    planned, device, assumed = on_planned_gpu(stage) if gpu_memory is not None else (stage, None, "")
    sizes, began = Sizes(planned, of_memory, engine, device, answer), time.monotonic()
    working("estimating the memory of a step", 1)
    memory, unknown = _estimate(sizes)
    flops = _operations(sizes, report, work) if operations and memory is not None else None
    seconds = ESTIMATES * (time.monotonic() - began)
    findings = data_findings(
        sets, scans, prepared.tokenizer, vocabulary=memory.vocabulary if memory else None,
        rows_per_step=work.rows_per_step, rows=work.rows, allow_truncation=allow_truncation,
    )  # fmt: skip
    findings += [*([Finding("note", "memory", assumed)] if assumed else []), *unknown]
    findings += _batch_findings(stage, prepared, work) + _few_to_evaluate(sets, scans)
    findings += _few_to_answer(stage, sets) + _answers_pushed(stage) + _path_pushed(stage)
    findings += _model_findings(stage, prepared, memory, longest, engine, gpu_memory is not None)
    findings += _many_workers(config, gpu_memory is not None)
    available, disk = available_memory(gpu_memory), None
    if memory is not None:
        disk = disk_needs(config, sizes.needs().held, engine, bool(stage.model.use_peft), work.steps)
        findings += [*_precision_findings(sizes), *_few_bits_findings(sizes)]
        findings += disk_findings(config, disk) if gpu_memory is None else []
        if memory.total > TIGHT * available:
            working("the step hardly fits: estimating other settings", seconds)
        findings += memory_findings(sizes, memory, available)
    findings = list(dict.fromkeys(findings))  # two checks may find the same
    batch = batch_words(planned, of_memory, bool(plan_length))
    return Preflight(findings, scans, memory, available, engine, work, gpu_memory, batch, disk, flops=flops)


NO_WARMUP = ("constant", "reduce_lr_on_plateau")  # schedules without a warm-up
DROPS_EVERYTHING = (
    "all rows are fewer than one batch of all processes, which dataloader_drop_last drops, so nothing would be trained"
    ". Fix: leave dataloader_drop_last out, or lower per_device_train_batch_size"
)


def _batch_findings(stage: Any, prepared: Any, work: Work) -> list[Finding]:
    """What dropping the last batch and packing make of the rows, and a warm-up without an end."""
    config, report, found = stage.config, prepared.sets["train"].report, []
    if work.rows and not rows_of_pass(config, work.rows, work.rows_per_step):
        found.append(Finding("refused", "train", DROPS_EVERYTHING))
    warms_up = getattr(config.lr_scheduler_type, "value", config.lr_scheduler_type) not in NO_WARMUP
    if work.steps and warms_up and (warmup := config.get_warmup_steps(work.steps)) >= work.steps:
        text = (
            f"is {warmup} of {counted(work.steps, 'step')}, so the learning rate is never reached. Fix: fewer of them, "
            "such as --warmup_steps 0.1 (a tenth)"
        )
        found.append(Finding("warning", "warmup_steps", text))
    shares = _packed_in_shares(stage, prepared, work)
    if not shares and work.found is not None and packs_nothing(config, report, work.found):
        found.append(Finding("note", "train", PACKS_NOTHING))
    return [*found, *shares]


def _operations(sizes: Sizes, report: DataReport, work: Work) -> float | None:
    """The floating-point operations of the run; None if they cannot be counted."""
    with suppress(Exception):  # the model's code may raise anything, and the run may still work
        return run_flops(sizes.needs(), report, work, sizes.stage)
    return None


def _precision_findings(sizes: Sizes) -> list[Finding]:
    """A warning where the learning rate is 0, or too small for weights in 16 bits."""
    stage = sizes.stage
    if stage.config.learning_rate == 0:
        return [Finding("warning", "learning_rate", "is 0: no weight will change. Fix: give more than 0")]
    read = load_config(stage.model.model_name_or_path, start_options(stage))
    problem = lost_updates(stage.config, sizes.needs().held, sizes.engine, read, loaded_dtype(stage, read))
    return [Finding("warning", "learning_rate", problem)] if problem else []


def _few_bits_findings(sizes: Sizes) -> list[Finding]:
    """A warning where a base in 4 or 8 bits would run under an engine with which it was never run."""
    if not sizes.needs().held.unsharded or sizes.engine.name in FEW_BITS_ENGINES:
        return []
    text = (
        f"a base in 4 or 8 bits was never run with ift under {sizes.engine.name}, and the memory is not known there. "
        f"Fix: --accelerate_config {' or '.join(FEW_BITS_ENGINES)}"
    )
    return [Finding("warning", "memory", text)]


def _estimate(sizes: Sizes) -> tuple[MemoryEstimate | None, list[Finding]]:
    """What a step needs on one device; without an estimate the reason."""
    try:
        return sizes.needs().divided(sizes.engine), []
    except DataError as error:
        return None, [Finding("refused", "model", str(error), forcible=False)]
    except Exception as error:  # the model's code may raise anything, and the run may still work
        return None, [Finding("note", "memory", f"no estimate: {type(error).__name__}: {quoted(error)}")]


def _few_to_answer(stage: Any, sets: Mapping[str, Prepared]) -> list[Finding]:
    """A warning if a run is to answer more evaluation rows than there are."""
    wanted = getattr(getattr(stage, "answers", None), "eval_generate", 0)
    if (
        "eval" not in sets
        or sets["eval"].report.streaming
        or wanted <= (there := sets["eval"].report.rows_kept)
    ):
        return []
    rows = f"there {'is' if there == 1 else 'are'} {counted(there, 'evaluation row')}"
    text = f"eval_generate is {wanted:,}, and {rows}: all of them are answered"
    return [Finding("warning", "eval", text)]


def _few_to_evaluate(sets: Mapping[str, Prepared], scans: Mapping[str, RowScan]) -> list[Finding]:
    """A warning if the evaluation rows are so few that their measures say little."""
    if "eval" not in sets or sets["eval"].report.streaming:
        return []
    rows = sets["eval"].report.rows_kept
    different = rows - len(scans["eval"].duplicates)
    if different >= FEW_TO_EVALUATE:
        return []
    copies = f" ({different} without copies)" if different < rows else ""
    text = (
        f"{counted(rows, 'evaluation row')}{copies}: what is measured on so few says little. Fix: give more "
        f"(--test_split_size {FEW_TO_EVALUATE} holds out so many training rows)"
    )
    return [Finding("warning", "eval", text)]


def _path_pushed(stage: Any) -> list[Finding]:
    """A warning if an adapter would be published with the path of its base on this machine."""
    name = str(stage.model.model_name_or_path)
    if not (stage.config.push_to_hub and stage.model.use_peft and Path(name).expanduser().is_dir()):
        return []
    text = (
        f"push_to_hub uploads adapter_config.json, which names the base by its path here, {name}. Fix: give the base's "
        "Hub id in model_name_or_path, or upload later (docs/serving.md)"
    )
    return [Finding("warning", "model", text)]


def _answers_pushed(stage: Any) -> list[Finding]:
    """A warning if the texts of evaluation rows would be published with the model."""
    if not (stage.config.push_to_hub and getattr(getattr(stage, "answers", None), "eval_generate", 0)):
        return []
    text = (
        "push_to_hub uploads the output folder with answers.jsonl, in which eval_generate writes texts of evaluation "
        "rows. Fix: leave one of them out, or set hub_private_repo if the texts may be there"
    )
    return [Finding("warning", "eval", text)]


def _packed_in_shares(stage: Any, prepared: Any, work: Work) -> list[Finding]:
    """A note if the workers of `dataset_num_proc`, each with a share of the rows, pack them into more sequences."""
    workers = getattr(stage.config, "dataset_num_proc", None) or 1
    if workers == 1 or work.found is None or not getattr(stage.config, "packing", False):
        return []
    alone = copy.copy(stage)
    alone.config = copy.copy(stage.config)
    alone.config.dataset_num_proc = None
    if (whole := rows_of_steps(alone, prepared)) is None or whole >= work.found:
        return []
    text = (
        f"dataset_num_proc is {workers:,}, and each worker packs its own share of the rows: "
        f"{counted(work.found, 'sequence')}, where one worker packs {whole:,}. Fix: leave dataset_num_proc out"
    )
    return [Finding("note", "train", text)]


def _many_workers(config: Any, planned: bool = False) -> list[Finding]:
    """Notes on more worker processes than this machine has cores, as in a file that was written for another machine.

    `planned`: the run is planned for another machine, which may have more; the rows are prepared here for the plan.
    """
    cores = os.cpu_count() or 1
    here = "; the machine of the run may have more" if planned else ""
    return [
        Finding(
            "note",
            "settings",
            f"{name} is {workers:,}, and this machine has {counted(cores, 'core')}: more processes than cores are no "
            f"faster, and each needs memory of its own{here}. Fix: --{name} {cores}",
        )
        for name in ("dataset_num_proc", *(() if planned else ("dataloader_num_workers",)))
        if (workers := getattr(config, name, None) or 0) > cores
    ]


def _model_findings(
    stage: Any, prepared: Any, memory: MemoryEstimate | None, longest_row: int, engine: Engine, planned: bool
) -> list[Finding]:
    """What the model's vocabulary and positions do not hold, and settings that its trainer cannot be built with."""
    found, report = [], prepared.sets["train"].report
    if memory is not None:
        outside = explain_ids_outside(special_ids(prepared.tokenizer), memory.vocabulary)
        reported = report.limit.of_model and report.too_long  # by `data_findings`
        problems = (outside, "" if reported else explain_too_long(longest_row, memory.positions))
        found += [Finding("refused", "model", problem, forcible=False) for problem in problems if problem]
        if (tokens := len(prepared.tokenizer)) < SMALL_TOKENIZER * memory.vocabulary:
            text = (
                f"the tokenizer has {tokens:,} tokens and the model {memory.vocabulary:,} embeddings, so it is hardly "
                "the model's own, and lengths, steps and tokens here are not those of the run. Fix: the tokenizer that "
                "the model was trained with"
            )
            found.append(Finding("warning", "model", text))
    if problem := position_problem(stage, report):
        found.append(Finding("warning", "train", problem))
    here = engine.name if torch.accelerator.is_available() else "ddp"
    wrong = build_errors(stage, prepared, here, elsewhere=planned)
    if planned or here != "ddp":
        problem = problem_of_engine(stage, engine.full_name)
        wrong += [problem] if problem and problem not in wrong else []
    found += [Finding("refused", "settings", one, forcible=False) for one in wrong]
    if (
        memory is not None
        and not wrong
        and (note := explain_saved_modules(stage, empty_model(stage, "eager")))
    ):
        found.append(Finding("warning", "model", note))
    return found
