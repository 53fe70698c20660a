"""The number of steps is that of the trainer."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer

from ift.check.engines import ONE_DEVICE, Engine
from ift.check.findings import preflight
from ift.check.steps import count_steps, rows_of_steps, work_of
from ift.data import DataReport, Prepared
from ift.lab.testbed import problems, tiny_base_path
from ift.methods.stage import build_trainer, load_data, prepare_stage
from ift.runs.arguments import parse


@pytest.mark.parametrize("packing", ["false", "true"])
def test_rows_of_steps_are_those_of_the_trainer(packing, tmp_path):
    """Above a thousand rows packing depends on their order."""
    rows = [problem.row for problem in problems("train", 1100)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "model_name_or_path": tiny_base_path(), "dataset_name": tmp_path / "rows.jsonl", "output_dir": tmp_path / "out",
        "packing": packing, "max_length": 300, "report_to": "none", "num_train_epochs": 1.5,
    }  # fmt: skip
    stage = parse([f"--{name}={value}" for name, value in flags.items()])
    prepared = prepare_stage(stage, load_data(stage))
    found = rows_of_steps(stage, prepared)
    trainer = build_trainer(stage, prepared)
    assert found == len(trainer.train_dataset)
    assert (found < 600) == (packing == "true")
    batches = len(trainer.get_train_dataloader())
    wanted = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert count_steps(stage.config, found, trainer.args.train_batch_size) in wanted, (batches, wanted)


def test_steps_by_hand():
    stage = parse(["--model_name_or_path=x", "--dataset_name=x", "--output_dir=x", "--num_train_epochs=1.5"])
    assert count_steps(stage.config, 10, 4) == 5  # 3 in a pass, 1.5 passes
    assert count_steps(stage.config, None, 4) is None
    stage.config.max_steps = 7
    assert count_steps(stage.config, None, 4) == 7


@pytest.mark.parametrize("rows", [100, 23, 7])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("drop_last", ["false", "true"])
def test_steps_are_those_of_the_trainer_where_the_last_batch_is_dropped(
    tmp_path, drop_last, processes, accumulation, rows
):
    """transformers' own number, from the batches of accelerate's sampler; batches of 4."""
    words = [f"--dataloader_drop_last={drop_last}", f"--gradient_accumulation_steps={accumulation}"]
    stage = parse([
        "--model_name_or_path=x", "--dataset_name=x", "--output_dir=x", "--per_device_train_batch_size=4",
        "--num_train_epochs=3", *words,
    ])  # fmt: skip
    batches = BatchSampler(range(rows), 4, drop_last == "true")
    loader = DataLoader(range(rows), batch_sampler=BatchSamplerShard(batches, processes))
    trainer = SimpleNamespace(
        num_examples=lambda loader: rows,
        get_total_train_batch_size=lambda args: 4 * accumulation * processes,
        get_sp_size=lambda: 1,
    )
    if len(loader):
        *_, wanted = Trainer.set_initial_training_values(trainer, stage.config, loader)
    else:
        wanted = 0  # transformers refuses to train; ift check says why
    assert count_steps(stage.config, rows, 4 * accumulation * processes) == wanted


def test_rows_of_a_dropped_batch_are_not_counted():
    """10 rows in batches of 4: two whole ones in each of the three passes, 24 rows of 7 tokens."""
    found = work("--per_device_train_batch_size=4", "--dataloader_drop_last=true")
    assert (found.steps, found.seen, found.tokens) == (6, 24, 168)


def work(*words, engine=ONE_DEVICE, rows=None, **report):
    """Of 10 rows with 70 trained tokens."""
    stage = parse(["--model_name_or_path=x", "--dataset_name=x", "--output_dir=x", *words])
    report = DataReport(
        "train", "text", "", **{"rows_read": 10, "rows_kept": 10, "trained_tokens": 70, **report}
    )
    prepared = SimpleNamespace(sets={"train": Prepared(None, report)})
    return work_of(stage, prepared, engine, rows)


def test_rows_and_tokens_of_steps_by_hand():
    """Seven tokens a row; 2 rows, 3 accumulated, 4 processes: 24 rows a step, of which there are 10: 70 tokens."""
    flags = ["--per_device_train_batch_size=2", "--gradient_accumulation_steps=3", "--num_train_epochs=2"]
    found = work(*flags, engine=Engine("fsdp2", 4))
    assert (found.rows_per_step, found.steps, found.tokens_per_step, found.tokens) == (24, 2, 70, 140)
    assert found.line() == (
        "2 of 24 rows (2 per device x 3 gradient accumulation x 4 processes); about 70 trained tokens a step, "
        "140 in all"
    )
    assert work(*flags, "--max_steps=5").line() == (
        "5 of 6 rows (2 per device x 3 gradient accumulation x 1 process); about 42 trained tokens a "
        "step, 210 in all"
    )


def test_more_rows_are_planned_than_are_here():
    """1,000 rows of two passes: 125 batches of 8 each."""
    found = work("--per_device_train_batch_size=8", "--num_train_epochs=2", rows=1000)
    assert (found.rows, found.steps, found.tokens) == (1000, 250, 14_000)
    assert (
        "(8 per device x 1 gradient accumulation x 1 process) (number of rows from --plan_rows); about 56"
        in found.line()
    )


def test_a_plan_from_few_packed_sequences_says_how_far_it_may_be_off():
    few = replace(work("--max_length=64", rows=1000), packed=True, found=4)
    assert (
        "; the rows here fill 4 sequences, the last in part, so the steps may be up to 25% fewer);"
        in few.line()
    )
    assert "fewer)" not in replace(few, found=20).line()
    assert "fewer)" not in replace(few, planned=False).line()


def test_the_tokens_of_a_stream_are_not_known():
    stream = {"streaming": True, "rows_kept": 0, "trained_tokens": 0}
    assert (
        work(**stream)
        .line()
        .startswith("not known, because the rows of a stream are not counted (set --max_steps")
    )
    assert (
        work("--max_steps=5", **stream)
        .line()
        .endswith("; trained tokens are not known: those of a stream are not counted")
    )
    assert work(rows=80, **stream).steps == 30  # three passes of 10 batches


def test_processes_of_tensor_parallelism_have_the_same_rows():
    split = work('--model_init_kwargs={"tp_plan": "auto"}', engine=Engine("ddp", 8))
    assert split.rows_per_step == 8
    assert "x 1 process with rows of their own)" in split.words
    both = work('--model_init_kwargs={"tp_plan": "auto", "tp_size": 4}', engine=Engine("ddp", 8))
    assert both.rows_per_step == 16


@pytest.mark.parametrize("batch", [3, 4])
def test_a_run_all_of_whose_rows_are_dropped_is_refused(tmp_path, batch):
    """transformers would end with a message about max_steps, or train no step."""
    rows = [problem.row for problem in problems("train", 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "model_name_or_path": tiny_base_path(), "dataset_name": tmp_path / "rows.jsonl", "output_dir": tmp_path / "out",
        "dataloader_drop_last": "true", "per_device_train_batch_size": batch,
    }  # fmt: skip
    stage = parse([f"--{name}={value}" for name, value in flags.items()])
    found = preflight(stage, prepare_stage(stage, load_data(stage)))
    refused = [one.text for one in found.findings if one.level == "refused"]
    assert [text.startswith("all rows are fewer than one batch") for text in refused] == [True] * (batch == 4)
