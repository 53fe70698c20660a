"""The look-ahead: the model's own one-step guess at every trained position (Algorithm 1, arXiv:2405.11870v3).

Pure tensor functions, like `equations`. Shape legend: B rows, T positions, V vocabulary, H width, N trained positions,
K candidates of one look-ahead. No gradient flows through anything here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ift.step.rows import RowLayout


@dataclass(frozen=True)
class LookAhead:
    """What the model expects at each of N trained positions. No gradient flows through any field.

    Attributes:
        ids: (N, K) int64. K = 1 for greedy and sampled look-aheads, the top-k for the expected one.
        probabilities: (N, K) float32, each row sums to 1.
        top1: (N,) int64. The argmax, whatever the kind.
        nll: (N,) float32. Teacher-forced -log pi(target | target prefix).
    """

    ids: Tensor
    probabilities: Tensor
    top1: Tensor
    nll: Tensor


@dataclass(frozen=True)
class Head:
    """A language-model head: logits = softcap(scale * (hidden @ weight.T + bias)).

    Attributes:
        weight: (V, H). bias: (V,) or None. scale: factor on the logits. softcap: c of c * tanh(z / c), or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor, start: int, end: int) -> Tensor:
        """Logits (n, end - start) in float32 of hidden (n, H) for the vocabulary slice [start, end)."""
        bias = None if self.bias is None else self.bias[start:end]
        z = torch.nn.functional.linear(hidden, self.weight[start:end], bias).float()
        z = z if self.scale == 1 else z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


@torch.no_grad()
def look_ahead(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    kind: str = "greedy",
    temperature: float = 1.0,
    top_k: int = 64,
    uniforms: Tensor | None = None,
    tile: tuple[int, int] = (4096, 32768),
) -> LookAhead:
    """The model's own one-step guess at every trained position, in tiles: no (N, V) tensor is ever built.

    Args:
        hidden: (N, H), the state that predicts each trained position.
        head: the model's own head.
        targets: (N,) int64, the target tokens, for the teacher-forced negative log-likelihood.
        kind: "greedy" (argmax), "sample" (one draw from softmax(z / temperature)) or "expected" (the top-k
            candidates with their renormalised probabilities).
        temperature: > 0, for "sample" and "expected".
        top_k: K of "expected", cut to V.
        uniforms: (N,) float32 in (0, 1), the noise of "sample"; required for that kind.
        tile: tokens and vocabulary entries of the largest tile.
    """
    parts = [
        _look_ahead_tokens(
            hidden[start : start + tile[0]],
            head,
            targets[start : start + tile[0]],
            kind=kind,
            temperature=temperature,
            top_k=top_k,
            uniforms=None if uniforms is None else uniforms[start : start + tile[0]],
            vocabulary_tile=tile[1],
        )
        for start in range(0, max(len(hidden), 1), tile[0])
    ]
    return LookAhead(
        *(torch.cat([getattr(p, name) for p in parts]) for name in ("ids", "probabilities", "top1", "nll"))
    )


def _look_ahead_tokens(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    kind: str,
    temperature: float,
    top_k: int,
    uniforms: Tensor | None,
    vocabulary_tile: int,
) -> LookAhead:
    """`look_ahead` for one tile of tokens: a running maximum, log-sum-exp and top-k over vocabulary tiles."""
    n, vocabulary = len(hidden), head.weight.shape[0]
    best = torch.full((n,), -math.inf, device=hidden.device)  # (n,) running maximum
    top1 = torch.zeros(n, dtype=torch.int64, device=hidden.device)
    log_z, target_logit = best.clone(), best.clone()
    candidates = best.new_empty((n, 0)), top1.new_empty((n, 0))  # values and ids of the running top-k
    masses = []  # log-sum-exp of z / temperature in each vocabulary tile, for sampling
    for start in range(0, vocabulary, vocabulary_tile):
        end = min(start + vocabulary_tile, vocabulary)
        z = head.logits(hidden, start, end)  # (n, end - start)
        value, index = z.max(-1)
        top1 = torch.where(value > best, index + start, top1)
        best = torch.maximum(best, value)
        log_z = torch.logaddexp(log_z, z.logsumexp(-1))
        here = (targets >= start) & (targets < end)
        target_logit = torch.where(
            here, z.gather(1, (targets - start).clamp(0, end - start - 1)[:, None])[:, 0], target_logit
        )
        if kind == "expected":
            value, index = z.topk(min(top_k, end - start), dim=-1)
            value, index = torch.cat([candidates[0], value], 1), torch.cat([candidates[1], index + start], 1)
            value, keep = value.topk(min(top_k, value.shape[1]), dim=-1)
            candidates = value, index.gather(1, keep)
        elif kind == "sample":
            masses.append((z / temperature).logsumexp(-1))
    nll = log_z - target_logit
    if kind == "expected":
        return LookAhead(candidates[1], torch.softmax(candidates[0] / temperature, -1), top1, nll)
    ids = top1
    if kind == "sample":
        assert uniforms is not None  # nosec B101 # for the type checker
        ids = _draw(hidden, head, torch.stack(masses, 1), uniforms, temperature, vocabulary_tile)
    return LookAhead(ids[:, None], torch.ones_like(best)[:, None], top1, nll)


def _draw(
    hidden: Tensor, head: Head, masses: Tensor, uniforms: Tensor, temperature: float, tile: int
) -> Tensor:
    """Inverse-CDF draw: first the vocabulary tile by its mass (n, tiles), then the token in it."""
    cumulative = torch.softmax(masses, -1).cumsum(-1)  # (n, tiles)
    cumulative = cumulative / cumulative[:, -1:]
    chosen = (uniforms[:, None] > cumulative).sum(-1)  # (n,)
    below = torch.where(chosen > 0, cumulative.gather(1, (chosen - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    inside = (uniforms - below) / (cumulative.gather(1, chosen[:, None])[:, 0] - below).clamp(min=1e-30)
    ids = torch.empty_like(chosen)
    for number in range(masses.shape[1]):
        rows = (chosen == number).nonzero()[:, 0]
        end = min((number + 1) * tile, head.weight.shape[0])
        z = head.logits(hidden[rows], number * tile, end) / temperature
        steps = torch.softmax(z, -1).cumsum(-1)
        steps = steps / steps[:, -1:]
        ids[rows] = number * tile + (inside[rows, None] > steps).sum(-1).clamp(max=end - number * tile - 1)
    return ids


def random_guess(
    guess: LookAhead, targets: Tensor, documents: Tensor, uniforms: Tensor, vocabulary: int
) -> LookAhead:
    """The control of `methods.controls`: as many guesses differ from their targets in each document, all at random.

    Where they differ is drawn among the document's N trained positions, and what stands there uniformly from the
    vocabulary without the target; elsewhere the guess is the target. `top1` and `nll` stay the model's own.

    Args:
        guess: the greedy look-ahead, which tells how many guesses of a document differ.
        targets: (N,) int64.
        documents: (N,) int64.
        uniforms: (2, N) float32 in (0, 1), the noise of the places and of the tokens.
        vocabulary: V.
    """
    wrong = torch.bincount(documents, (guess.top1 != targets).double())  # (documents,)
    sizes = torch.bincount(documents)
    order = uniforms[0].argsort()
    order = order[documents[order].argsort(stable=True)]  # by document, at random inside it
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[documents[order]]
    drawn = (uniforms[1].double() * (vocabulary - 1)).long()
    drawn = drawn + (drawn >= targets)  # any token but the target
    ids = torch.where(rank < wrong[documents], drawn, targets)
    return LookAhead(ids[:, None], torch.ones_like(guess.nll)[:, None], guess.top1, guess.nll)


def row_hashes(input_ids: Tensor, layout: RowLayout) -> Tensor:
    """A 64-bit hash of each document's tokens and their order, at each of its positions: (B, T) int64."""
    return layout.per_document(_scramble(input_ids * 0x9E3779B1 + layout.positions) * layout.attended)


def look_ahead_uniforms(input_ids: Tensor, layout: RowLayout, seed: int, step: int) -> Tensor:
    """Noise of the sampled look-ahead: (B, T) float32 in (0, 1), a function of (seed, step, row, position) alone.

    A row is known by its hash, so the noise does not depend on the batch, rank, accumulation step, padding or packing
    that the row arrives in.
    """
    row = row_hashes(input_ids, layout)
    bits = _scramble(_scramble(row + 1_000_003 * seed) + _scramble(layout.positions + (step << 32)))
    return ((bits >> 41) & 0x7FFFFF).float().add(0.5).div(1 << 23)  # exact: 24 bits, never 0 or 1


def _scramble(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 with wrap-around (a bijection that mixes all bits)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))
