"""ift: Intuitive Fine-Tuning (Hua et al., ACL 2025, arXiv:2405.11870) on the Hugging Face stack."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ift.runs.from_python import train_method
    from ift.step.algorithm import enable_residual, ift_loss
    from ift.step.result import IFTLoss
    from ift.training.config import IFTConfig
    from ift.training.end_watch import EndWatch
    from ift.training.trainer import IFTTrainer

__version__ = "1.0.0"
__all__ = ["EndWatch", "IFTConfig", "IFTLoss", "IFTTrainer", "enable_residual", "ift_loss", "train_method"]

_HOMES = {
    "EndWatch": "ift.training.end_watch",
    "IFTConfig": "ift.training.config",
    "IFTLoss": "ift.step.algorithm",
    "IFTTrainer": "ift.training.trainer",
    "enable_residual": "ift.step.algorithm",
    "ift_loss": "ift.step.algorithm",
    "train_method": "ift.runs.from_python",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562): importing trl takes seconds, and `ift --help` must be fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ift' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


# Import path of an earlier version (with its submodules) -> the modules that replace it
_MOVED: dict[str, tuple[str, ...]] = {
    "ift.baselines": ("ift.methods", "ift.runs"),
    "ift.baselines.answers": ("ift.methods.sft",),
    "ift.baselines.configs": ("ift.methods.settings",),
    "ift.baselines.methods": ("ift.methods.table",),
    "ift.baselines.pairs": ("ift.data.pairs",),
    "ift.baselines.train": ("ift.runs.from_python",),
    "ift.compare": ("ift.lab.compare",),
    "ift.config": ("ift.training.config",),
    "ift.evaluation": ("ift.lab.evaluation",),
    "ift.evaluation.models": ("ift.models.loading",),
    "ift.frozen_lake": ("ift.lab.frozen_lake",),
    "ift.functional": ("ift.step.equations", "ift.step.rows", "ift.training.lambda_schedule"),
    "ift.judge": ("ift.lab.judge",),
    "ift.loss": ("ift.step",),
    "ift.report": ("ift.lab.report",),
    "ift.residual": ("ift.step",),
    "ift.testbed": ("ift.lab.testbed",),
    "ift.trainer": ("ift.training.trainer",),
}


def _homes(name: str) -> tuple[str, ...]:
    """The modules that replace an old import path; empty for other names."""
    parent, _, child = name.rpartition(".")
    return _MOVED.get(name) or (tuple(f"{home}.{child}" for home in _homes(parent)[:1]) if parent else ())


class _Moved(ModuleType):
    """A module of an earlier version; its names are looked up in the modules that replace it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        homes = _homes(self.__name__)
        for home in map(import_module, homes):
            if hasattr(home, name):
                return getattr(home, name)
        raise AttributeError(f"{self.__name__} is now {' and '.join(homes)}, which has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, _Moved):  # the import system would replace a function of the same name
            super().__setattr__(name, value)


class _Finder(MetaPathFinder, Loader):
    """Finds the names in `_MOVED`; it precedes all other finders."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith("ift.") or not (homes := _homes(name)):
            return None
        import_module(homes[0])  # raises, with the new name, if that module was removed
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name, f"Moved to {', '.join(_homes(spec.name))}.")

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: names are looked up on access."""


sys.meta_path.insert(0, _Finder())  # first, or the file finder would load a submodule twice
