"""One of two gloo processes: each case in this rank, in copies (DDP) and in shards (FSDP2); writes what rank 0 saw."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig

import pair_runs
import sharded_cases
import two_processes
from ift.step.shared_prefix.work import LEAST_WORK
from models import dataset_of, tiny_model, trained

LEAST_WORK["cpu"] = 0.0  # as tests/conftest.py does

# a low rate: rounding moves the weights apart, and a step later the gradients, the more the higher it is
EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "learning_rate": 0.001}
CASES = {
    "sequence": {"evaluation": True},
    "token, sampled": {"loss_reduction": "token", "lookahead": "sample", "residual_lambda": 0.6},
    "a rank without trained tokens": {"untrained": True},
    "accumulated, checkpointed": {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
    "adapter, noisy lambda": {"peft": True, "residual_noise_std": 0.5},
    "packed": {"packing": True, "max_length": 64, "rows_together": 4},
    "an uneven last batch": {**EPOCHS, "count": 11},
    "an uneven end, accumulated": {**EPOCHS, "count": 13, "gradient_accumulation_steps": 2},
}  # fmt: skip
KINDS = {"DDP": CASES, "FSDP2": sharded_cases.CASES, "TP": sharded_cases.TENSOR_CASES}
NAMES = [f"{kind}, {name}" for kind, cases in KINDS.items() for name in cases]
PAIRS = [f"TDPO, {name}" for name in pair_runs.TDPO_CASES]


def run_case(name: str, folder: Path, share: int):
    """What the kind's function finds with `share` of every eight rows in this process."""
    kind, _, case = name.partition(", ")
    run = {
        "DDP": run_copies,
        "FSDP2": sharded_cases.run_shards,
        "TP": sharded_cases.run_tensor_parallel,
        "TDPO": pair_runs.run_tdpo,
    }
    return run[kind](case, folder, share)


def run_copies(name: str, folder: Path, share: int):
    """Gradients of every step, log entries and evaluation of a case, whose global batch is eight rows."""
    options = dict(CASES[name])
    rows, labels = sharded_cases.drawn_rows(options.pop("count", 8))
    if options.pop("untrained", False):
        for label in labels[4:]:  # those of the second rank
            label[:] = -100
    if options.pop("peft", False):
        options["peft_config"] = LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False
        )
    evaluated = options.pop("evaluation", False)
    evaluation = dataset_of(*sharded_cases.drawn_rows(11, seed=5)) if evaluated else None
    together = options.pop("rows_together", 8) * share // 8
    run = trained(
        folder,
        tiny_model(),
        (rows, labels),
        evaluation=evaluation,
        per_device_train_batch_size=together // options.get("gradient_accumulation_steps", 1),
        per_device_eval_batch_size=2,
        **options,
    )
    gradients = [{n.removeprefix("module."): g for n, g in step.items()} for step in run.gradients]
    metrics = run.evaluate() if evaluated else {}
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    return {"gradients": gradients, "logs": logs, "metrics": metrics}


if __name__ == "__main__":
    two_processes.save_what_rank_0_found(run_case, NAMES + PAIRS, 4)
