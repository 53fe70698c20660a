"""The number of steps is that of the trainer."""

import pytest

from ift.check.steps import count_steps, rows_of_steps
from ift.lab.testbed import problems, tiny_base_path
from ift.methods.stage import build_trainer, load_data, prepare_stage
from ift.runs.arguments import parse


@pytest.mark.parametrize("packing", ["false", "true"])
def test_rows_of_steps_are_those_of_the_trainer(packing, tmp_path):
    """Above a thousand rows packing depends on their order."""
    import json

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
