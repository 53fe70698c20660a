"""What a run writes, by hand: 870,656 parameters of the tiny base model."""

import shutil
from types import SimpleNamespace

import pytest

from ift.check.disk import Disk, disk_findings, disk_needs
from ift.check.engines import Engine
from ift.check.memory import step_needs
from ift.lab.testbed import tiny_base_path
from ift.runs.arguments import parse

N = 870_656
LORA = 4 * 4 * (128 + 128) * 2  # r (in + out) for q and v of four layers
GB = 10**9


def stage(*words):
    base = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "x", "--output_dir", "x"]
    return parse([*base, *words])


@pytest.mark.parametrize(
    ("engine", "words", "model", "checkpoint"),
    [
        ("ddp", ["--dtype=float32"], 4 * N, (4 + 8) * N),
        ("ddp", ["--dtype=bfloat16", "--bf16=true"], 2 * N, (2 + 4) * N),
        ("ddp", ["--dtype=float32", "--save_only_model=true"], 4 * N, 4 * N),
        # the weights for transformers and for the engine; under ZeRO the float32 copies beside the states
        ("fsdp2", ["--dtype=bfloat16", "--bf16=true"], 4 * N, (4 + 4 + 8) * N),
        ("zero2", ["--dtype=float32", "--bf16=true"], 2 * N, (2 + 2 + 4 + 8) * N),
        ("zero3", ["--dtype=float32", "--bf16=true"], 2 * N, (2 + 4 + 8) * N),
        ("ddp", ["--use_peft", "--lora_r=4"], 4 * LORA, (4 + 8) * LORA),
        (
            "ddp",
            ["--use_peft", "--lora_r=4", "--load_in_4bit"],
            2 * LORA,
            (2 + 4) * LORA,
        ),  # bfloat16, as trl makes it
        ("fsdp2", ["--use_peft", "--lora_r=4", "--bf16=true"], 4 * LORA, (4 + 4 + 8) * LORA),
    ],
)
def test_a_checkpoint_and_the_model(engine, words, model, checkpoint):
    run = stage(*words, "--save_steps=10")
    held = step_needs(run, 8, whole=engine == "ddp").held
    disk = disk_needs(run.config, held, Engine(engine, 4), run.model.use_peft, 25)
    assert (disk.model, disk.checkpoint, disk.most) == (model, checkpoint, 3)  # after steps 10, 20 and 25
    assert disk.total == model + 3 * checkpoint


@pytest.mark.parametrize(
    ("words", "steps", "most"),
    [
        (["--save_strategy=no"], 100, 0),
        (["--save_steps=10"], 100, 10),
        (["--save_steps=0.25"], 100, 4),
        (["--save_steps=10", "--save_total_limit=2"], 100, 3),
        (["--save_steps=100", "--save_total_limit=2"], 100, 1),
        (["--save_strategy=epoch", "--num_train_epochs=3"], 100, 3),
        (["--save_steps=10"], None, None),
        (["--save_steps=10", "--save_total_limit=2"], None, 3),
        (["--save_strategy=epoch", "--max_steps=100"], 100, None),
        (["--save_steps=10", "--eval_strategy=steps", "--eval_steps=10", "--load_best_model_at_end=true",
          "--save_total_limit=1"], 100, 3),
    ],
)  # fmt: skip
def test_the_number_of_checkpoints(words, steps, most):
    run = stage(*words)
    held = step_needs(run, 8).held
    disk = disk_needs(run.config, held, Engine(), False, steps)
    assert disk.most == most
    assert (disk.checkpoint == 0) == (most == 0)
    limit = run.config.save_total_limit
    assert disk.limited == (limit is not None and most > limit)


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        (Disk(0, 0, 16 * GB, False), "16.0 GB for the trained model"),
        (Disk(96 * GB, 3, 32 * GB, True), "about 320.0 GB in the output folder: 32.0 GB for the trained model, and up "
         "to 3 checkpoints of 96.0 GB (one more than save_total_limit while it is written)"),
        (Disk(96 * GB, 10, 32 * GB, False), "about 992.0 GB in the output folder: 32.0 GB for the trained model, and "
         "up to 10 checkpoints of 96.0 GB; save_total_limit bounds their number"),
        (Disk(10**6, 1, 10**6, False), "about 2.0 MB in the output folder: 1.0 MB for the trained model, and up to 1 "
         "checkpoint of 1.0 MB"),
        (Disk(96 * GB, None, 32 * GB, False), "32.0 GB for the trained model, and 96.0 GB for each checkpoint, whose "
         "number is not known"),
    ],
)  # fmt: skip
def test_the_words(disk, said):
    assert disk.line() == said


def test_a_full_disk_is_a_warning(monkeypatch, tmp_path):
    """Not for a run that is resumed, whose checkpoints are a part of what is used."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100 * GB))
    config = SimpleNamespace(output_dir=str(tmp_path / "new" / "out"), resume_from_checkpoint=None)
    (found,) = disk_findings(config, Disk(96 * GB, 10, 32 * GB, False))
    assert (found.level, found.about) == ("warning", "disk")
    assert found.text.endswith(
        "100.0 GB are free there. Fix: --save_total_limit 2, or an --output_dir on a larger disk"
    )
    (found,) = disk_findings(config, Disk(96 * GB, 3, 32 * GB, True))
    assert found.text.endswith("Fix: an --output_dir on a larger disk")
    assert disk_findings(config, Disk(30 * GB, 1, 32 * GB, False)) == []
    assert disk_findings(config, Disk(96 * GB, None, 32 * GB, False)) == []
    config.resume_from_checkpoint = "out/checkpoint-1"
    assert disk_findings(config, Disk(96 * GB, 10, 32 * GB, False)) == []
