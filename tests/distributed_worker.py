"""One of two gloo processes: trains each case of `CASES` for one step and writes what rank 0 saw."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig

import two_processes
from models import dataset_of, tiny_model, trained, uneven_rows

CASES = {
    "sequence": {"loss_reduction": "sequence"},
    "token, sampled": {"loss_reduction": "token", "lookahead": "sample", "residual_lambda": 0.6},
    "accumulated, checkpointed": {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
    "adapter": {"peft": True, "residual_noise_std": 0.5},
    "evaluation": {"evaluation": True},
}


def run_case(name: str, folder: Path, batch_size: int):
    """Gradients, log entries and evaluation of a case, whose global batch is eight rows."""
    options = dict(CASES[name])
    rows = uneven_rows(tiny_model())
    more = uneven_rows(tiny_model(), 11, seed=5)
    if options.pop("peft", False):
        options["peft_config"] = LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False
        )
    evaluation = dataset_of(*more) if options.pop("evaluation", False) else None
    steps = options.get("gradient_accumulation_steps", 1)
    run = trained(
        folder,
        tiny_model(),
        rows,
        evaluation=evaluation,
        per_device_train_batch_size=batch_size // steps,
        per_device_eval_batch_size=2,
        **options,
    )
    metrics = run.evaluate() if evaluation is not None else {}
    gradients = {name.removeprefix("module."): gradient for name, gradient in run.gradients[0].items()}
    return {"gradients": gradients, "log": run.state.log_history[0], "metrics": metrics}


if __name__ == "__main__":
    two_processes.save_what_rank_0_found(run_case, CASES, 4)
