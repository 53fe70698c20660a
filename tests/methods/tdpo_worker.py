"""One of two gloo processes: one TDPO step on half the pairs; writes what rank 0 saw."""

from __future__ import annotations

import pair_runs
from peft import LoraConfig

import models
import two_processes

CASES = {
    "whole": {},
    "checkpointed": {"gradient_checkpointing": True},
    "accumulated": {"gradient_accumulation_steps": 2},
    "adapter": {"adapter": True},
}


def run_case(name, folder, batch_size):
    """Gradients and log entry of one optimiser step on four pairs."""
    options = dict(CASES[name])
    model, reference, lora = models.tiny_model(), models.tiny_model(seed=1), None
    if options.pop("adapter", False):
        reference = None
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False
        )
    steps = options.get("gradient_accumulation_steps", 1)
    trainer = pair_runs.trainer_of(
        "tdpo2", folder, model, pair_runs.pairs_of(model), reference, lora,
        per_device_train_batch_size=batch_size // steps, **options,
    )  # fmt: skip
    recorder = models.gradient_recorder()
    trainer.add_callback(recorder)
    trainer.train()
    gradients = {name.removeprefix("module."): g for name, g in recorder.steps[0].items()}
    return {"gradients": gradients, "log": trainer.state.log_history[0]}


if __name__ == "__main__":
    two_processes.save_what_rank_0_found(run_case, CASES, 2)
