"""IFT inside LLaMA-Factory: its training by YAML file with the loss of IFT. Everything else stays LLaMA-Factory's.

    PYTHONPATH=examples python examples/llama_factory_train.py sft.yaml
    PYTHONPATH=examples torchrun --nproc-per-node 8 examples/llama_factory_train.py sft.yaml

LLaMA-Factory has no plugins, so this replaces the trainer that its stage `sft` creates, and starts the run as
`llamafactory-cli train` does. The file must have `stage: sft`, and no packing. Change IFT's settings below.
"""

from __future__ import annotations

from ift_loss_mixin import IFTLossMixin
from llamafactory.train import tuner
from llamafactory.train.sft import workflow

SETTINGS = {"residual_lambda": 0.2, "propagation_gamma": 0.95}  # fields of ift.step.StepSettings


class IFTSeq2SeqTrainer(IFTLossMixin, workflow.CustomSeq2SeqTrainer):
    """LLaMA-Factory's trainer with the loss of IFT."""

    ift_settings = SETTINGS


def main() -> None:
    """Trains as the YAML file on the command line says."""
    workflow.CustomSeq2SeqTrainer = IFTSeq2SeqTrainer
    tuner.run_exp()


if __name__ == "__main__":
    main()
