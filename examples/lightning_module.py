"""IFT as a LightningModule: the training step is `ift_loss`, the rest is Lightning's.

    pip install lightning && python examples/lightning_module.py

The loss is the mean over the rows of a batch. Lightning averages the losses of accumulated batches and of devices, so
that with full batches this is the mean over the global batch; a shorter last batch counts as much as the others.
"""

from __future__ import annotations

import functools

import lightning
import torch
from plain_loop import MODEL, collate, encode
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.lab.testbed import problems
from ift.step import ift_loss


class IFTModule(lightning.LightningModule):
    """A causal language model that is trained with IFT."""

    def __init__(self, name: str, learning_rate: float = 3e-4, **settings: float | str) -> None:
        """`settings` are fields of `ift.step.StepSettings`, such as residual_lambda."""
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).train()
        self.learning_rate, self.settings = learning_rate, settings

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        """The loss of a batch; what Lightning logs is in the docstring of `ift.step.IFTLoss`."""
        result = ift_loss(self.model, batch, step=self.global_step, **self.settings)
        nll = result.scores.nll.sum() / result.layout.trained.sum()
        self.log_dict({"loss": result.loss.detach(), "nll": nll})
        return result.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all weights."""
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def main(steps: int = 4) -> lightning.Trainer:
    """Trains the shipped tiny model on a CPU; returns Lightning's trainer."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    examples = [encode(tokenizer, problem.row["messages"]) for problem in problems("train", 8 * steps)]
    batches = functools.partial(collate, padding_id=tokenizer.pad_token_id)
    loader = torch.utils.data.DataLoader(examples, batch_size=8, collate_fn=batches)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(IFTModule(MODEL, residual_lambda=0.2), loader)
    return trainer


if __name__ == "__main__":
    main()
