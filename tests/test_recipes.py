"""Every file in recipes/ is read by `ift train` key by key, and trains a step of a tiny model with its settings."""

import json
from pathlib import Path

import pytest
import yaml

from ift.cli.exit_codes import run_verb
from ift.cli.train import main
from ift.lab.testbed import problems, tiny_base_path
from ift.runs.arguments import parse

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_key_is_known_and_says_what_it_trains(recipe):
    told = parse(["--config", str(recipe)])
    written = yaml.safe_load(recipe.read_text())
    for name, value in written.items():
        for part in (told.config, told.model, told.run):
            if hasattr(part, name):
                found = getattr(part, name)
                assert getattr(found, "value", found) == value, name
    head = recipe.read_text().splitlines()
    assert head[0].startswith("# Purpose: ")
    assert any(f"--config recipes/{recipe.name}" in line for line in head)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_step_trains(recipe, tmp_path, capfd):
    """On the embedded base and rows of the testbed, in place of what the recipe would download."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(problem.row) + "\n" for problem in problems("train", 8)))
    told = yaml.safe_load(recipe.read_text())
    told.pop("datasets", None)
    told |= {
        "model_name_or_path": str(tiny_base_path()), "dataset_name": str(rows), "output_dir": str(tmp_path / "out"),
        "max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "report_to": "none",
        "final_answers": 0,
    }  # fmt: skip
    file = tmp_path / recipe.name
    file.write_text(yaml.safe_dump(told))
    assert run_verb("train", lambda: main(["--config", str(file)])) == 0, capfd.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_released_code_is_a_recipe():
    told = parse(["--config", str(next(path for path in RECIPES if path.stem == "as_released"))])
    assert told.config.propagation_detach == "none"
    assert (told.config.optim.value, told.config.learning_rate) == ("rmsprop", 5e-7)
