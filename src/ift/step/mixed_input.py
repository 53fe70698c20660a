"""The temporal residual connection (Eq. 17, arXiv:2405.11870v3) at the output of a model's own input-embedding module.

Whatever that module does (scaling, LoRA) is part of E, and the input ids stay the ordinary ids.

Shape legend: B rows, T positions, H width, N trained positions, K look-ahead candidates, U different guesses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ift.step.embedded_rows import EmbeddedRows
from ift.step.equations import temporal_residual
from ift.step.lookahead import LookAhead


@contextmanager
def mixed_embeddings(
    model: Any,
    trained: Tensor,
    guess: LookAhead | None,
    residual_lambda: float,
    embedded: EmbeddedRows | None = None,
) -> Iterator[None]:
    """While open, one call of the input-embedding module returns Eq. 17's mix at the trained positions.

    The ids of the guesses are appended to the module's own input, so that it runs once, with whatever hooks wrappers
    have put on it; its output is cut again and mixed. Gradient reaches E(x_t) and E(p_t).

    Args:
        model: a causal language model, unwrapped.
        trained: (B, T) bool, the N positions to mix, of the ids that the module will be called with.
        guess: what is mixed in, in the order of the trained positions, row by row; None leaves the module alone.
        residual_lambda: the guess's share.
        embedded: of an earlier call, these ids' embeddings; the module's output is then asked for the guesses alone.
    """
    if guess is None:
        yield
        return
    several = guess.ids.shape[1] > 1
    extra, place = guess.ids.unique(return_inverse=True) if several else (guess.ids[:, 0], None)
    known = None if embedded is None else embedded.after  # (B, T, H)
    calls: list[bool] = []

    def append_guesses(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = args[0]
        if calls or ids.shape != trained.shape:
            raise ValueError(
                f"{type(model).__name__} embeds its input ids more than once or in another shape: IFT cannot mix them."
            )
        calls.append(True)
        if known is not None:
            return (extra.to(ids.device)[None], *args[1:])  # (1, N)
        return (torch.cat([ids.flatten(), extra.to(ids.device)])[None], *args[1:])  # (1, B T + U)

    def mix(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if embedded is not None and known is not None:
            own, guessed = known.flatten(0, 1), embedded.guessed(extra, output[0])
        else:
            own, guessed = output[0, : trained.numel()], output[0, trained.numel() :]  # (B T, H), (U, H)
        if place is not None:
            guessed = _expected(guessed, place, guess.probabilities)
        places = trained.flatten().nonzero()[:, 0].to(own.device)  # (N,)
        mixed = temporal_residual(own.index_select(0, places), guessed, residual_lambda)
        return own.index_put((places,), mixed.to(own.dtype)).view(*trained.shape, -1)

    embedding = model.get_input_embeddings()
    hooks = embedding.register_forward_pre_hook(append_guesses), embedding.register_forward_hook(mix)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        raise ValueError(
            f"{type(model).__name__} did not use its input-embedding module: IFT cannot mix its input."
        )


def _expected(embeddings: Tensor, places: Tensor, probabilities: Tensor) -> Tensor:
    """(N, H), the expected look-ahead sum_k p_k E(v_k), without a (N, K, H) tensor.

    Args:
        embeddings: (U, H), of the candidates' distinct ids.
        places: (N, K) int64, each candidate's row among them.
        probabilities: (N, K).
    """
    weights = probabilities.to(embeddings)
    return nn.functional.embedding_bag(
        places.to(embeddings.device), embeddings, mode="sum", per_sample_weights=weights
    )
