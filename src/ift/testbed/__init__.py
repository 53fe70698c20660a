"""A small reasoning world: word problems, a tiny base model that errs, exact-match scoring; all on a CPU in minutes.

`problems` and `noise` make the data, `scoring` scores, `make_base` makes the model that `tiny_base_path` finds.
"""

from importlib.resources import files
from pathlib import Path

from ift.testbed.problems import Problem, problems

__all__ = ["Problem", "problems", "tiny_base_path"]


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
