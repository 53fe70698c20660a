"""How often a step makes the host wait for a GPU, through the trainers; counted on a CPU."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from host_waits import HostWaits
from models import padded, tiny_model, trained, uneven_rows

OWN = {"tolist in ift.step.rows.facts": 1, "tolist in ift.training.non_finite._as_numbers": 1}


def waits_of_a_step(folder, **options):
    """Of the third optimiser step of a run that logs and saves nothing then."""
    waits, starts = HostWaits(), []

    class AtStart(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            starts.append(waits.counts.copy())

    options = {"max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 100} | options
    trainer = trained(
        folder, tiny_model(), uneven_rows(tiny_model(), 16), run=False, max_grad_norm=1.0, **options
    )
    trainer.add_callback(AtStart())
    with waits:
        trainer.train()
    waits.counts = Counter(starts[3] - starts[2])
    return waits


@pytest.mark.parametrize(
    ("options", "of_the_step", "every"),
    [
        ({"lookahead_prefix": "full"}, {}, 8),
        (
            {"lookahead_prefix": "full", "gradient_accumulation_steps": 2},
            {"tolist in ift.step.rows.facts": 2},
            15,
        ),
        ({"residual_lambda": 0.0}, {}, 6),
        ({"lookahead_prefix": "shared"}, {"tolist in ift.step.shared_prefix.prefix.shared_prefix": 1}, 7),
    ],
    ids=["full rows", "two micro-batches", "lambda 0", "shared prefix"],
)
def test_the_step_waits_for_its_number_of_tokens_and_for_the_check_of_its_loss(
    tmp_path, options, of_the_step, every
):
    """What is logged is read when it is logged. Red when: a metric, a count or an index is read at every step."""
    waits = waits_of_a_step(tmp_path, **options)
    assert waits.of("ift") == OWN | of_the_step
    assert waits.counts.total() == every


def test_a_step_of_trls_sft_waits_more_often(tmp_path):
    """For its metrics. Red when: trl mends that, and the documentation must say so."""
    waits = waits_of_a_step(tmp_path, trainer_class=SFTTrainer, config_class=SFTConfig)
    assert sum(waits.of("trl").values()) == 5
    assert sum(waits.of("transformers").values()) == 4


def test_the_naive_step_waits_in_transformers_alone(monkeypatch):
    """Its loop checks and logs nothing."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    from naive_ift import NaiveIFT

    model = tiny_model()
    naive, batch = NaiveIFT(model, 0), padded(*uneven_rows(model))
    naive.max_length = 64
    with HostWaits() as waits:
        naive.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert waits.counts == {"_local_scalar_dense in transformers.masking_utils._ignore_causal_mask_sdpa": 4}
