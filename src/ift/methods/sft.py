"""The other methods that train on target answers only: SFT, NEFTune and DFT."""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer

from ift.training.last_batch import CountsRowsOnce
from ift.training.loaded_dtypes import KeepsDtypes
from ift.training.telemetry import NoTelemetry
from ift.training.trainer import IFTTrainer


class PlainSFTTrainer(IFTTrainer):
    """SFT: `IFTTrainer` with lambda 0 and no propagation, with either reduction; its model card names SFT.

    Source: trl's `SFTTrainer` (`loss_reduction="token"`), the IFT paper's code ("sequence").
    """

    _tag_names = ["trl", "sft"]  # noqa: RUF012 (trl's own declaration)
    _name = "SFT"
    _paper: dict[str, str] = {}  # noqa: RUF012


class NEFTuneTrainer(PlainSFTTrainer):
    """SFT with uniform noise of scale alpha / sqrt(tokens x width) on the embeddings, in training only.

    The noise is transformers' `neftune_noise_alpha`. Source: Jain et al., arXiv:2310.05914.
    """

    _tag_names = ["trl", "neftune"]  # noqa: RUF012
    _name = "NEFTune"
    _paper = {  # noqa: RUF012
        "title": "NEFTune: Noisy Embeddings Improve Instruction Finetuning",
        "id": "2310.05914",
        "citation": "",
    }


class DFTTrainer(NoTelemetry, KeepsDtypes, CountsRowsOnce, SFTTrainer):
    """trl's `SFTTrainer` with `loss_type="dft"`: each token's loss times its detached probability; mean over tokens.

    Data sets have `input_ids` and `labels`, as `ift.data` prepares them. Source: Wu et al., arXiv:2508.05629.
    """

    _tag_names = ["trl", "dft"]  # noqa: RUF012
    _name = "DFT"
    _paper = {  # noqa: RUF012
        "title": "On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification",
        "id": "2508.05629",
        "citation": "",
    }

    def __init__(self, model: Any, args: Any, **kwargs: Any) -> None:
        if args.loss_type != "dft":
            raise ValueError(f"loss_type is {args.loss_type!r}; give 'dft', or train another method.")
        super().__init__(model, args, **kwargs)
