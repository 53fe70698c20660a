"""A small reasoning world on a CPU: two families of problems, a tiny base model that makes mistakes, and scoring.

`problems` and `lookup` make the data, `noise` makes mistakes, `settings` names the data sets for fine-tuning, `pairs`
makes preferences of them. `scoring` and `likelihood` score.
"""

from importlib.resources import files
from pathlib import Path

from ift.lab.testbed.lookup import LookupProblem, relations
from ift.lab.testbed.problems import Problem, problems
from ift.lab.testbed.settings import Setting, setting_problems, settings

__all__ = [
    "LookupProblem", "Problem", "Setting", "base_path", "problems", "relations", "setting_problems", "settings",
    "tiny_base_path",
]  # fmt: skip


def base_path(family: str) -> Path:
    """The folder of the shipped base model of a family (`arithmetic` or `relation`), which `from_pretrained` takes.

    Raises:
        FileNotFoundError: The model is missing, or the package is installed in an archive that has no folders.
    """
    relation = family == "relation"
    name, module = ("relation_base", "make_relation_base") if relation else ("tiny_base", "make_base")
    folder = Path(str(files("ift.lab.testbed").joinpath(name)))
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"no base model in {folder}: reinstall the package unpacked, or make the model with "
            f"`python tools/{module}.py --output {folder}`"
        )
    return folder


def tiny_base_path() -> Path:
    """`base_path` of the word problems: the base of the demo and of the tests."""
    return base_path("arithmetic")
