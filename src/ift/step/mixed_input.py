"""The temporal residual connection (Eq. 17, arXiv:2405.11870v3) at the output of a model's own input-embedding module.

A hook before the module appends the ids of the guesses to those of the batch; a hook after it replaces the embeddings
of the trained positions with the mix. Everything that the module does (scaling, LoRA) is therefore part of E, the
backbone still gets ordinary ids, and the module runs once, so that its weight gets one gradient, as in a step of SFT.

To follow Eq. 17, read `mixed_embeddings`. `RowEmbeddings`, which is the rest of the file, saves memory in a step that
shares its prefix and changes no result: the prefix is embedded before the guesses are known, so the first call of the
module embeds placeholders for them.

Shape legend: B rows, T positions, P of the prefix, H width, V vocabulary, N trained positions, K candidates of one
guess, U different guesses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode

from ift.step.equations import temporal_residual
from ift.step.lookahead import LookAhead


@contextmanager
def mixed_embeddings(
    model: Any,
    shape: torch.Size,
    positions: Tensor,
    guess: LookAhead | None,
    residual_lambda: float,
    embedded: RowEmbeddings | None = None,
) -> Iterator[None]:
    """While active, one call of the input-embedding module returns the mix of Eq. 17 at the trained positions.

    Hooks that wrappers have registered on the module still run. Gradient flows to E(x_t) and E(p_t).

    Args:
        model: a causal language model, unwrapped.
        shape: (B, T), of the ids that the module will be called with.
        positions: (N,) int64, the trained positions, which are mixed; indices into the flattened ids.
        guess: the guesses, in the order of the trained positions, row by row; None changes nothing.
        residual_lambda: share of the guess in the mix.
        embedded: the embeddings of these ids from an earlier call, if any; the module then embeds only the guesses.
    """
    if guess is None:
        yield
        return
    many_candidates = guess.ids.shape[1] > 1
    # (U,) and, for several candidates a position, the index (N, K) of each among them
    guess_ids, inverse_index = (
        guess.ids.unique(return_inverse=True) if many_candidates else (guess.ids[:, 0], None)
    )
    embedded_rows = None if embedded is None else embedded.after_prefix  # (B, T, H)
    calls: list[bool] = []

    def append_guesses(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = args[0]
        if calls or ids.shape != shape:
            raise ValueError(
                f"{type(model).__name__} embeds its input ids more than once or in another shape: IFT cannot mix them."
            )
        calls.append(True)
        if embedded_rows is not None:
            return (guess_ids.to(ids.device)[None], *args[1:])  # (1, N)
        return (torch.cat([ids.flatten(), guess_ids.to(ids.device)])[None], *args[1:])  # (1, B T + U)

    def mix(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if embedded is not None and embedded_rows is not None:
            target, guessed = embedded_rows.flatten(0, 1), embedded.fill_guesses(guess_ids, output[0])
        else:
            target, guessed = output[0, : shape.numel()], output[0, shape.numel() :]  # (B T, H), (U, H)
        if inverse_index is not None:
            guessed = _expected(guessed, inverse_index, guess.probabilities)
        at = positions.to(target.device)
        mixed = temporal_residual(target.index_select(0, at), guessed, residual_lambda)
        return target.index_put((at,), mixed.to(target.dtype)).view(*shape, -1)

    with _hooks(model.get_input_embeddings(), append_guesses, mix):
        yield
    if not calls:
        raise ValueError(
            f"{type(model).__name__} did not use its input-embedding module: IFT cannot mix its input."
        )


def _expected(embeddings: Tensor, inverse_index: Tensor, probabilities: Tensor) -> Tensor:
    """(N, H), the expected guess sum_k p_k E(v_k), without a (N, K, H) tensor.

    Args:
        embeddings: (U, H), of the candidates' distinct ids.
        inverse_index: (N, K) int64, each candidate's row among them.
        probabilities: (N, K).
    """
    weights = probabilities.to(embeddings)
    return nn.functional.embedding_bag(
        inverse_index.to(embeddings.device), embeddings, mode="sum", per_sample_weights=weights
    )


class RowEmbeddings:
    """Embeddings of B rows and of N guesses that are known later, with one gradient of the embedding matrix.

    Two calls of the module would give two gradients of the matrix's size, which must be added: with a
    vocabulary of 150,000 a gigabyte that a step of SFT does not need. So the call on the prefix embeds all rows, and a
    placeholder for each guess. Its backward pass uses the ids that `fill_guesses` has written in the meantime.

    Args:
        module: the model's input-embedding module.
        ids: (B, T) int64.
        prefix_length: P, the columns that the pass over the prefix embeds.
        guesses: N, the number of guesses.
    """

    def __init__(self, module: nn.Module, ids: Tensor, prefix_length: int, guesses: int) -> None:
        self.module, self.ids, self.prefix_length = module, ids, prefix_length
        self.guess_ids = ids.new_zeros(guesses)  # written by `fill_guesses`, read by the backward pass
        self.after_prefix: Tensor | None = None  # (B, T - P, H)
        self._placeholders: Tensor | None = None  # (N, H)

    @contextmanager
    def prefix_call(self) -> Iterator[None]:
        """While active, the module's call on the prefix embeds all rows and returns the embeddings of the prefix.

        Without effect (`after_prefix` stays None) unless `_trains_plain_matrix`.
        """
        with ExitStack() as lookup:

            def embed_all_rows(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
                if not _trains_plain_matrix(module):
                    return None
                lookup.enter_context(_LookUpWithLateIds(self.guess_ids))
                return (torch.cat([self.ids.flatten(), self.guess_ids])[None], *args[1:])  # (1, B T + N)

            def return_prefix(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
                lookup.close()
                if output.shape[:2] != (1, self.ids.numel() + len(self.guess_ids)):
                    return None
                rows, self._placeholders = output[0, : self.ids.numel()], output[0, self.ids.numel() :]
                rows = rows.view(*self.ids.shape, -1)
                self.after_prefix = rows[:, self.prefix_length :]
                return rows[:, : self.prefix_length].clone()  # a view would keep all rows in memory

            with _hooks(self.module, embed_all_rows, return_prefix):
                yield

    def fill_guesses(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """Stores the guesses' `ids` (N,); returns their `embeddings` (N, H), with gradient through the first call."""
        assert self._placeholders is not None  # nosec B101 # for the type checker
        self.guess_ids.copy_(ids)
        return _ReplaceValueKeepGradient.apply(self._placeholders, embeddings.detach())


def _trains_plain_matrix(module: nn.Module) -> bool:
    """Whether the module is an `nn.Embedding` whose whole matrix is trained, without options that change its lookup."""
    if not torch.is_grad_enabled() or not isinstance(module, nn.Embedding):
        return False
    weight = module.weight
    special = module.max_norm is not None or module.scale_grad_by_freq or module.sparse
    return weight.requires_grad and not isinstance(weight, DTensor) and not special


@contextmanager
def _hooks(module: nn.Module, before: Any, after: Any) -> Iterator[None]:
    """Registers a forward pre-hook and a forward hook, and removes them at the end."""
    handles = module.register_forward_pre_hook(before), module.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _LookUpWithLateIds(TorchFunctionMode):
    """While active, `nn.functional.embedding` treats its last N ids as placeholders for `guess_ids`.

    The module's own forward cannot be replaced instead, since it may scale its output (Gemma's does).
    """

    def __init__(self, guess_ids: Tensor) -> None:
        super().__init__()
        self.guess_ids = guess_ids

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.embedding:
            padding = (kwargs or {}).get("padding_idx", args[2] if len(args) > 2 else None)
            return _Lookup.apply(args[1], args[0], self.guess_ids, -1 if padding is None else padding)
        return func(*args, **(kwargs or {}))


class _Lookup(torch.autograd.Function):
    """Looks up ids (1, M) in a matrix (V, H); in the backward pass the last N ids are those in `guess_ids`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, guess_ids: Tensor, padding: int) -> Tensor:
        ctx.ids, ctx.guess_ids, ctx.padding, ctx.entries = ids, guess_ids, padding, len(weight)
        return torch.embedding(weight, ids)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        known = ctx.ids.shape[1] - len(ctx.guess_ids)
        ids = torch.cat([ctx.ids[:, :known], ctx.guess_ids.to(ctx.ids.device)[None]], 1)
        to_weight = torch.ops.aten.embedding_dense_backward(gradient, ids, ctx.entries, ctx.padding, False)
        return to_weight, None, None, None


class _ReplaceValueKeepGradient(torch.autograd.Function):
    """Returns the values of the second tensor; the gradient goes to the first."""

    @staticmethod
    def forward(ctx: Any, placeholders: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
