"""A small reasoning world: two families of problems, a tiny base model that errs, scoring; all on a CPU in minutes.

`problems` and `lookup` make the data, `noise` makes mistakes, `settings` names the data sets for fine-tuning, `pairs`
makes preferences of them. `scoring`, `likelihood` and `wrong_steps` score. `make_base` makes the model that
`tiny_base_path` finds.
"""

from importlib.resources import files
from pathlib import Path

from ift.testbed.lookup import LookupProblem, lookups
from ift.testbed.problems import Problem, problems
from ift.testbed.settings import Setting, setting_problems, settings

__all__ = [
    "LookupProblem",
    "Problem",
    "Setting",
    "lookups",
    "problems",
    "setting_problems",
    "settings",
    "tiny_base_path",
]


def tiny_base_path() -> Path:
    """The folder of the shipped tiny base model: weights, tokenizer, chat template and `record.json`.

    Returns:
        A folder that `from_pretrained` takes.

    Raises:
        FileNotFoundError: If the installation lacks the model, or lies in an archive that offers no folder.
    """
    folder = Path(str(files("ift.testbed").joinpath("tiny_base")))
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"no tiny base model in {folder}: reinstall the package unpacked, or make the model with "
            f"`python -m ift.testbed.make_base --output {folder}`"
        )
    return folder
