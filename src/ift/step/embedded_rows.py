"""The input embeddings of a step that shares its prefix, all from one call of the module with gradient.

The prefix is embedded before the guesses are known, what is mixed with them after. Two calls would give two gradients
of the embedding matrix's size, to be added: at a vocabulary of 150,000 a gigabyte that a step of SFT does not need. So
the first call makes room for the guesses, and is told their ids later, in time for its backward pass.

Shape legend: B rows, T positions, P of the prefix, H width, N trained positions, V vocabulary.
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


class EmbeddedRows:
    """Embeddings of B rows and of N guesses that come later; gradient reaches the matrix through one backward pass.

    Args:
        module: the model's input-embedding module.
        ids: (B, T) int64.
        cut: P, the columns that the prefix's pass asks for.
        guesses: N.
    """

    def __init__(self, module: nn.Module, ids: Tensor, cut: int, guesses: int) -> None:
        self.module, self.ids, self.cut = module, ids, cut
        self.guess_ids = ids.new_zeros(guesses)  # written by `guessed`, read by the backward pass
        self.after: Tensor | None = None  # (B, T - P, H)
        self._places: Tensor | None = None  # (N, H)

    @contextmanager
    def prefix_call(self) -> Iterator[None]:
        """While open, the module's call on the prefix embeds all there is, and returns what was asked for.

        A module that is not a plain matrix under training is left alone; `after` stays None.
        """
        hooks: list[Any] = []
        with ExitStack() as instead:

            def all_ids(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
                if not _trains_plain_matrix(module):
                    return None
                instead.enter_context(_Gathering(self.guess_ids))
                return (torch.cat([self.ids.flatten(), self.guess_ids])[None], *args[1:])  # (1, B T + N)

            def own_part(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
                instead.close()
                if output.shape[:2] != (1, self.ids.numel() + len(self.guess_ids)):
                    return None
                rows, self._places = output[0, : self.ids.numel()], output[0, self.ids.numel() :]
                rows = rows.view(*self.ids.shape, -1)
                self.after = rows[:, self.cut :]
                return rows[:, : self.cut].clone()  # the rest need not live as long

            hooks += [
                self.module.register_forward_pre_hook(all_ids),
                self.module.register_forward_hook(own_part),
            ]
            try:
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    def guessed(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """The guesses' embeddings (N, H), as given, with gradient through the first call; ids (N,) are theirs."""
        assert self._places is not None  # nosec B101 # for the type checker
        self.guess_ids.copy_(ids)
        return _InPlaceOf.apply(self._places, embeddings.detach())


def _trains_plain_matrix(module: nn.Module) -> bool:
    """Whether the module looks rows up in a matrix that is trained, and at most scales them."""
    if not torch.is_grad_enabled() or not isinstance(module, nn.Embedding):
        return False
    weight = module.weight
    special = module.max_norm is not None or module.scale_grad_by_freq or module.sparse
    return weight.requires_grad and not isinstance(weight, DTensor) and not special


class _Gathering(TorchFunctionMode):
    """Lookups whose last N ids are placeholders: the backward pass reads them anew from `guess_ids`."""

    def __init__(self, guess_ids: Tensor) -> None:
        super().__init__()
        self.guess_ids = guess_ids

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.embedding:
            padding = (kwargs or {}).get("padding_idx", args[2] if len(args) > 2 else None)
            return _Lookup.apply(args[1], args[0], self.guess_ids, -1 if padding is None else padding)
        return func(*args, **(kwargs or {}))


class _Lookup(torch.autograd.Function):
    """Rows of a matrix (V, H) by ids (1, M), the last N of which are known by the time of the backward pass."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, guess_ids: Tensor, padding: int) -> Tensor:
        ctx.ids, ctx.guess_ids, ctx.padding, ctx.entries = ids, guess_ids, padding, len(weight)
        return torch.embedding(weight, ids)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        known = ctx.ids.shape[1] - len(ctx.guess_ids)
        ids = torch.cat([ctx.ids[:, :known], ctx.guess_ids.to(ctx.ids.device)[None]], 1)
        found = torch.ops.aten.embedding_dense_backward(gradient, ids, ctx.entries, ctx.padding, False)
        return found, None, None, None


class _InPlaceOf(torch.autograd.Function):
    """The values of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
