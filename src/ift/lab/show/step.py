"""The step's own results for a few rows, one row at a time; nothing of the method is computed here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from ift.data.samples import ids_and_labels
from ift.methods.stage import PreparedRows, Stage, load_data, prepare_stage
from ift.methods.start import start_options
from ift.models.loading import load_network, to_device
from ift.step import ift_loss
from ift.step.equations import try_weights
from ift.step.result import IFTLoss
from ift.text import PART, counted, token_texts
from ift.user_code import load_function

SPARE_ROWS = 16  # read beyond those that are shown, as some may be dropped


@dataclass(frozen=True)
class ShownToken:
    """A token of a row.

    Attributes:
        text: As `token_texts` decodes it, `PART` if it ends within a character; a line feed is kept.
        trained: Whether it has a loss; without one the numbers are 0.
        loss: Of the token, under the mixed input; in nats.
        nll: Under the target's own prefix; in nats.
        guess: The look-ahead's token, where it is another one; else "".
        weight: Of the token's loss; 1 on the average of the row.
        push: d loss / d loss of the token, as a multiple of SFT's (1 / trained tokens); below 0 the step makes this
            token less likely.
    """

    text: str
    trained: bool = False
    loss: float = 0.0
    nll: float = 0.0
    guess: str = ""
    weight: float = 0.0
    push: float = 0.0

    @property
    def pushed_up(self) -> bool:
        """Whether the step raises this token's loss."""
        return self.push < 0


@dataclass(frozen=True)
class ShownRow:
    """A row: its number among the kept rows, from 1, its tokens, and its loss as the step computes it."""

    number: int
    tokens: tuple[ShownToken, ...]
    loss: float

    @property
    def summary(self) -> str:
        """The row in a few figures."""
        trained = [one for one in self.tokens if one.trained]
        wrong, up = sum(bool(one.guess) for one in trained), sum(one.pushed_up for one in trained)
        return (
            f"row {self.number}: {counted(len(self.tokens), 'token')}, {len(trained)} trained, loss {self.loss:.3f}, "
            f"look-ahead wrong at {wrong}, pushed up {up}"
        )


def prepare_first_rows(stage: Stage, count: int) -> PreparedRows:
    """The first `count` rows of a stage, and some more in place of those that are dropped, prepared as for training.

    Raises:
        DataError: As in `load_data` and `prepare_stage`.
    """
    data = load_data(stage)
    first = replace(data.train[0], rows=data.train[0].rows.take(count + SPARE_ROWS))
    return prepare_stage(stage, replace(data, train=[first], evaluation=None))


def shown_rows(stage: Stage, prepared: PreparedRows, count: int) -> Iterator[ShownRow]:
    """Loads the model and yields up to `count` rows, each as a step on it alone.

    Raises:
        DataError: The model cannot be loaded.
        ValueError: IFT cannot train it, or the weights of the user's own fail.
    """
    model = load_network(stage.model.model_name_or_path, start_options(stage)).eval()
    model = to_device(model, stage.config.device)
    config, weights = stage.config, None
    if config.token_weights is not None:
        weights = load_function(config.token_weights, "--token_weights")
        try_weights(weights, config.device)
    for number, row in enumerate(itertools.islice(prepared.sets["train"].dataset, count), start=1):
        batch = {
            name: torch.tensor([values], device=model.device)
            for name, values in zip(("input_ids", "labels"), ids_and_labels(row), strict=True)
        }
        with torch.no_grad():
            result = ift_loss(model, batch, config.step_settings(), token_weights=weights)
        yield _shown(result, batch["input_ids"][0].tolist(), prepared.tokenizer, number)


def _shown(result: IFTLoss, ids: list[int], tokenizer: Any, number: int) -> ShownRow:
    scores = result.scores
    guesses = ids if scores.lookahead_ids is None else scores.lookahead_ids[0].tolist()
    pushes = result.gradient * result.layout.trained.sum()
    columns = (result.layout.trained, scores.losses, scores.nll, result.weights, pushes)
    tokens = []
    texts = token_texts(tokenizer, ids, guesses)
    for (text, wrong), trained, loss, nll, weight, push in zip(
        texts, *(column[0].tolist() for column in columns), strict=True
    ):
        text = text or PART
        if trained:
            tokens.append(ShownToken(text, True, loss, nll, wrong, weight, push))
        else:
            tokens.append(ShownToken(text))
    return ShownRow(number, tuple(tokens), float(result.loss))
