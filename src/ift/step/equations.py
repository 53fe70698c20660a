"""The method as pure tensor functions (Hua et al., arXiv:2405.11870v3; equation numbers are that version's).

Everything of shape (B, T) is indexed by the *target* token: entry t belongs to token t, predicted from tokens < t.

Shape legend: B rows, T positions, H width, N trained positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ift.labels import IGNORED
from ift.step.rows import RowLayout, count_items, row_layout
from ift.step.settings import Detach, Propagation, Reduction, StepSettings

# a function from the token losses (B, T) and the layout to their weights (B, T), in place of `propagation_weights`
TokenWeights = Callable[[Tensor, RowLayout], Tensor]

# --- The temporal residual connection (Eq. 17) ------------------------------------------------------------------------


def temporal_residual(target: Tensor, guess: Tensor, residual_lambda: float) -> Tensor:
    """Eq. 17: e_t = (1 - lambda) E(x_t) + lambda E(p_t) at N trained positions, all (N, H). Gradient flows to both."""
    return (1 - residual_lambda) * target + residual_lambda * guess


# --- Dynamic relation propagation (section 4.2) -----------------------------------------------------------------------


def suffix_sums(values: Tensor, gamma: float, documents: Tensor) -> Tensor:
    """S_t = sum_{i >= t} gamma^(i - t) l_i inside t's document; `values` l and the result are (B, T). Gradient flows.

    Computed by doubling: after round k every entry is the discounted sum of the next 2^k positions. So log2(T) rounds
    suffice, without a (T, T) matrix and without gamma^-t, which could overflow.
    """
    length = values.shape[1]
    sums, reach, discount = values, 1, gamma
    while reach < length:
        same = documents[:, reach:] == documents[:, :-reach]
        ahead = torch.where(same, sums[:, reach:], 0.0) * discount
        sums = sums + torch.nn.functional.pad(ahead, (0, reach))
        reach, discount = 2 * reach, discount * discount
    return sums


def propagation_weights(
    losses: Tensor,
    layout: RowLayout,
    kind: Propagation = "bellman",
    gamma: float = 0.95,
    detach: Detach = "scale",
) -> Tensor:
    """The weight w_t of every token's loss: (B, T), mean 1 over each document's trained positions, 0 elsewhere.

    Args:
        losses: (B, T) float, l_t = -log pi(x_t | e_<t) at trained positions.
        layout: of the batch; distances count positions, trained or not.
        kind: "bellman" (Algorithm 1: w_t = sum_{i>=t} gamma^(i-t) l_i; gradient flows through the sums), "cumsum"
            (Eq. 21 read literally: fixed weights that grow with position) or "none" (w = 1).
        gamma: decay in (0, 1].
        detach: which part of bellman's weights carries no gradient: their "scale" (Algorithm 1 as printed, up to a
            constant per row), "none" of them (the released code, whose gradient is negative for confident late tokens)
            or the "weights" as a whole.
    """
    ones = layout.trained.to(losses.dtype)
    if kind == "none":
        return ones
    if kind == "bellman":  # w_t = sum_{i>=t} gamma^(i-t) l_i
        raw = suffix_sums(losses * ones, gamma, layout.documents)
        raw = raw.detach() if detach == "weights" else raw
    else:  # Eq. 21: w_t = sum_{k<=t} gamma^(t-k) over trained positions k
        raw = suffix_sums(ones.flip(1), gamma, layout.documents.flip(1)).flip(1)
    mean = layout.per_document(raw * ones) / layout.per_document(ones).clamp(min=1)  # (B, T)
    mean = mean.detach() if detach == "scale" else mean
    usable = layout.trained & (mean > torch.finfo(losses.dtype).tiny)
    return torch.where(usable, raw / torch.where(usable, mean, 1.0), ones)


def reduce_losses(
    weighted: Tensor, layout: RowLayout, reduction: Reduction, num_items: Tensor | float | None = None
) -> Tensor:
    """The batch's loss, a scalar, from w_t l_t (B, T).

    "sequence": the sum over documents of their mean over trained positions, divided by `num_items` documents.
    "token": the sum over trained positions, divided by `num_items` trained tokens.
    `num_items` is the global count (across accumulation steps and ranks); None counts this batch. A batch without a
    trained token gives 0, connected to the graph.
    """
    if reduction == "sequence":
        weighted = weighted / layout.per_document(layout.trained.to(weighted.dtype)).clamp(min=1)
    items = (
        count_items(layout, reduction)
        if num_items is None
        else torch.as_tensor(num_items, device=weighted.device)
    )
    return torch.where(layout.trained, weighted, 0.0).sum() / items.clamp(min=1)


def propagated_loss(
    losses: Tensor,
    layout: RowLayout,
    settings: StepSettings,
    num_items: Tensor | float | None = None,
    token_weights: TokenWeights | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The batch's loss from the tokens' losses (B, T), by `propagation_weights` and `reduce_losses`.

    Args:
        losses: (B, T) float.
        layout: of the batch.
        settings: the weights and the reduction.
        num_items: as in `reduce_losses`.
        token_weights: gives the weights in place of `propagation_weights`; gradient flows through what it returns.

    Raises:
        ValueError: `token_weights` fails, or returns something else than weights.

    Returns:
        The loss, a scalar with gradient to `losses`; the weights (B, T); and d loss / d l_t, (B, T): where it is
        negative, the step pushes that token's loss *up*, as `propagation_detach` "none" does (docs/method.md). The last
        two carry no gradient. sum_t l_t dL/dl_t is the loss, but twice the loss for `propagation` "bellman" with
        `propagation_detach` "scale"; with `token_weights` it depends on the function.
    """
    with torch.enable_grad():
        leaf = losses.detach().requires_grad_()
        if token_weights is None:
            kind, gamma, detach = (
                settings.propagation,
                settings.propagation_gamma,
                settings.propagation_detach,
            )
            weights = propagation_weights(leaf, layout, kind, gamma, detach)
        else:
            weights = _own_weights(token_weights, leaf, layout)
        loss = reduce_losses(weights * leaf, layout, settings.loss_reduction, num_items)
        gradient = torch.autograd.grad(loss, leaf)[0]
    value: Tensor = _WithGradient.apply(losses, loss.detach(), gradient)  # type: ignore[no-untyped-call]
    return value, weights.detach(), gradient


def try_weights(token_weights: TokenWeights, device: Any) -> None:
    """Calls a function for `token_weights` with losses as they vary in training, before anything is trained.

    Two batches of padded rows: one of alike losses, and one of losses from 0 to 20, with a row of one trained token and
    a row whose losses are all 0, as those of tokens that the model is certain of.

    Raises:
        ValueError: It fails, or returns something else than weights.
    """
    alike = [[1.5, 2.0, 2.5], [3.5, 4.0]]
    varied = [[0.7, 0.0, 1e-4, 5.0, 0.02, 20.0, 0.3], [0.3], [0.0, 0.0, 0.0]]
    for batch in (alike, varied):
        length = max(map(len, batch)) + 2  # two tokens of prompt, then padding
        padding = [length - 2 - len(row) for row in batch]
        labels = [
            [IGNORED, IGNORED, *[1] * len(row), *[IGNORED] * left]
            for row, left in zip(batch, padding, strict=True)
        ]
        mask = [[1] * (length - left) + [0] * left for left in padding]
        values = [[0.0, 0.0, *row, *[0.0] * left] for row, left in zip(batch, padding, strict=True)]
        layout = row_layout(torch.tensor(labels, device=device), torch.tensor(mask, device=device))
        losses = torch.tensor(values, device=device)
        try:
            propagated_loss(losses, layout, StepSettings(), token_weights=token_weights)
        except ValueError as error:
            raise ValueError(
                f"{error} (tried before the training, on made-up losses from 0 to 20)"
            ) from error


def name_of(function: Any) -> str:
    """The name of a function, for messages and records; of a partial one, that of the function."""
    function = getattr(function, "func", function)
    return getattr(function, "__name__", type(function).__name__)


def _own_weights(token_weights: TokenWeights, losses: Tensor, layout: RowLayout) -> Tensor:
    """What `token_weights` returns, checked. The check of its values causes one GPU synchronisation.

    A function with a true attribute `may_be_negative` may also raise losses.

    Raises:
        ValueError: The function fails, or returns something else than finite weights, 0 or more, (B, T); the message
            names the function, what was found, and what is expected.
    """
    if isinstance(token_weights, str):
        raise ValueError(
            f"token_weights is the text {token_weights!r}; `ift_loss` takes the function itself. FILE.py:function is "
            "for IFTConfig and for --token_weights"
        )
    place = f"token_weights {name_of(token_weights)}"
    try:
        weights = token_weights(losses, layout)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from error
    shape, device = tuple(losses.shape), losses.device
    expected = f"expected a floating-point tensor of shape {shape} on {device}, as the losses"
    if not isinstance(weights, Tensor):
        raise ValueError(f"{place}: returned {type(weights).__name__}; {expected}")
    found = (tuple(weights.shape), weights.device)
    if found != (shape, device) or not weights.is_floating_point():
        kind = str(weights.dtype).removeprefix("torch.")
        raise ValueError(f"{place}: returned {kind} of shape {found[0]} on {found[1]}; {expected}")
    function = getattr(token_weights, "func", token_weights)
    least = -torch.inf if getattr(function, "may_be_negative", False) else 0.0
    wrong = layout.trained & ~((weights >= least) & weights.isfinite())
    wrong &= losses.isfinite().all()  # otherwise it is not the function's fault
    first = int(torch.where(wrong.any(), wrong.flatten().int().argmax(), -1))
    if first >= 0:
        raise ValueError(_wrong_weight(place, name_of(token_weights), losses, layout, weights, first))
    return weights


def _wrong_weight(
    place: str, name: str, losses: Tensor, layout: RowLayout, weights: Tensor, first: int
) -> str:
    """The message for a weight that is negative or not finite, at `first` of the flattened batch."""
    row, position = divmod(first, losses.shape[1])
    value, loss = float(weights.detach()[row, position]), float(losses.detach()[row, position])
    same = layout.trained[row] & (layout.documents[row] == layout.documents[row, position])
    number, count = int(same[: position + 1].sum()), int(same.sum())
    fix = (
        f"return 0 or more, for instance with .clamp(min=0); or set {name}.may_be_negative = True below the function, "
        "if it is meant to raise the losses of tokens"
        if -torch.inf < value < 0
        else "return finite weights also where losses are 0 and where a row has one trained token, for instance with "
        ".clamp(min=...) on what it divides by"
    )
    return (
        f"{place}: returned {value:g} for a token with the loss {loss:g} (trained token {number} of {count} of its "
        f"row); expected a finite weight, 0 or more, at every trained position. Fix: {fix}"
    )


class _WithGradient(torch.autograd.Function):
    """Returns the scalar `value`, whose `gradient` with respect to `losses` has been computed before."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer * gradient, None, None
