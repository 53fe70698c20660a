"""Trainers of pairs on tiny models, for the tests and for the processes of the distributed one."""

from __future__ import annotations

from datasets import Dataset
from peft import LoraConfig

import models
from ift.methods import METHODS

PROMPTS = (2, 5, 1, 3)
LENGTHS = ((7, 9), (12, 8), (4, 11), (9, 6))  # of chosen and rejected, prompt included
TDPO_CASES = {
    "whole": {},
    "checkpointed": {"gradient_checkpointing": True},
    "accumulated": {"gradient_accumulation_steps": 2},
    "adapter": {"adapter": True},
}


def pairs_of(model, seed=0):
    """Pairs as (chosen, rejected), a side (ids, labels); prompts are shared, and one response has a hole."""
    found = []
    for number, (prompt, lengths) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        rows = models.likely_rows(model, list(lengths), seed=seed + number)
        rows[1][:prompt] = rows[0][:prompt]
        labels = models.masked_labels(rows, [prompt, prompt])
        found.append(tuple((row.tolist(), label.tolist()) for row, label in zip(rows, labels, strict=True)))
    found[1][0][1][7:9] = [-100, -100]
    return found


def dataset(pairs):
    rows = []
    for pair in pairs:
        row = {}
        for name, (ids, labels) in zip(("chosen", "rejected"), pair, strict=True):
            row |= {
                f"{name}_input_ids": ids,
                f"{name}_attention_mask": [1] * len(ids),
                f"{name}_labels": labels,
            }
        rows.append(row)
    return Dataset.from_list(rows)


SETTINGS = {name: value for name, value in models.SETTINGS.items() if name != "shuffle_dataset"}


def trainer_of(method, folder, model, pairs, reference=None, peft_config=None, **changes):
    """The trainer that the table gives, on prepared pairs."""
    row = METHODS[method]
    trainer_class, config_class = row.load()
    options = {**SETTINGS, "per_device_train_batch_size": len(pairs), **row.settings, **changes}
    extra = {} if reference is None else {"ref_model": reference}
    return trainer_class(
        model,
        config_class(output_dir=str(folder), **options),
        train_dataset=dataset(pairs),
        processing_class=models.tiny_tokenizer(),
        peft_config=peft_config,
        **extra,
    )


def step(trainer):
    """Loss of the one batch, with the gradients left in the model."""
    trainer.model.train()
    trainer.model.zero_grad()
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item()


def run_tdpo(name, folder, share):
    """Gradients and log entry of one optimiser step of TDPO on four pairs, with `share` of eight sides here."""
    options = dict(TDPO_CASES[name])
    model, reference, lora = models.tiny_model(), models.tiny_model(seed=1), None
    if options.pop("adapter", False):
        reference = None
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False
        )
    steps = options.get("gradient_accumulation_steps", 1)
    trainer = trainer_of(
        "tdpo2", folder, model, pairs_of(model), reference, lora,
        per_device_train_batch_size=share // 2 // steps, **options,
    )  # fmt: skip
    recorder = models.gradient_recorder()
    trainer.add_callback(recorder)
    trainer.train()
    gradients = {name.removeprefix("module."): g for name, g in recorder.steps[0].items()}
    return {"gradients": gradients, "log": trainer.state.log_history[0]}
