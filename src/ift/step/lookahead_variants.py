"""Guesses beyond the paper's greedy one: the top candidates with their probabilities, and a sampled token.

`add` receives the logits of one tile of tokens, one slice of the vocabulary at a time; `guess` then returns the
candidates. No gradient flows through anything here.

Shape legend: B rows, T positions, V vocabulary, H width, n tokens of one tile, K candidates of one guess.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ift.step.head import Head
from ift.step.rows import RowLayout


class TopCandidates:
    """The expected guess: the top-k tokens with softmax(z / temperature), renormalised over the k.

    Args:
        hidden: (n, H).
        top_k: K, cut to the vocabulary.
        temperature: > 0.
    """

    def __init__(self, hidden: Tensor, top_k: int, temperature: float) -> None:
        self.top_k, self.temperature = top_k, temperature
        # (n, K) the largest logits so far, and their tokens
        self.values = hidden.new_empty((len(hidden), 0), dtype=torch.float32)
        self.ids = hidden.new_empty((len(hidden), 0), dtype=torch.int64)

    def add(self, start: int, z: Tensor) -> None:
        """Fold in the logits (n, width) of the vocabulary from id `start` on."""
        value, index = z.topk(min(self.top_k, z.shape[1]), dim=-1)
        value, index = torch.cat([self.values, value], 1), torch.cat([self.ids, index + start], 1)
        self.values, keep = value.topk(min(self.top_k, value.shape[1]), dim=-1)
        self.ids = index.gather(1, keep)

    def guess(self) -> tuple[Tensor, Tensor]:
        """Ids (n, K) int64 and probabilities (n, K) float32."""
        return self.ids, torch.softmax(self.values / self.temperature, -1)


class SampledToken:
    """The sampled guess: an inverse-CDF draw from softmax(z / temperature), K = 1.

    The vocabulary slice is drawn first, by its probability mass, and then the token in it, whose logits are computed
    once more.

    Args:
        hidden: (n, H).
        head: the model's own head.
        uniforms: (n,) float32 in (0, 1).
        temperature: > 0.
        width: vocabulary entries of a slice.
    """

    def __init__(self, hidden: Tensor, head: Head, uniforms: Tensor, temperature: float, width: int) -> None:
        self.hidden, self.head, self.uniforms = hidden, head, uniforms
        self.temperature, self.width = temperature, width
        self.masses: list[Tensor] = []  # log-sum-exp (n,) of z / temperature in each slice

    def add(self, start: int, z: Tensor) -> None:
        """Fold in the logits (n, width) of the vocabulary from id `start` on."""
        self.masses.append((z / self.temperature).logsumexp(-1))

    def guess(self) -> tuple[Tensor, Tensor]:
        """Ids (n, 1) int64 and probabilities (n, 1) float32, which are 1."""
        cumulative = torch.softmax(torch.stack(self.masses, 1), -1).cumsum(-1)  # (n, slices)
        cumulative = cumulative / cumulative[:, -1:]
        chosen = (self.uniforms[:, None] > cumulative).sum(-1)  # (n,) the slice of each token
        below = cumulative.gather(1, (chosen - 1).clamp(min=0)[:, None])[:, 0]
        below = torch.where(chosen > 0, below, 0.0)
        mass = cumulative.gather(1, chosen[:, None])[:, 0] - below
        inside = (self.uniforms - below) / mass.clamp(min=1e-30)  # (n,) uniform inside the slice
        ids = torch.empty_like(chosen)
        for number in range(len(self.masses)):
            rows = (chosen == number).nonzero()[:, 0]
            start, end = number * self.width, min((number + 1) * self.width, len(self.head.weight))
            z = self.head.logits(self.hidden[rows], start, end) / self.temperature
            steps = torch.softmax(z, -1).cumsum(-1)
            steps = steps / steps[:, -1:]
            ids[rows] = start + (inside[rows, None] > steps).sum(-1).clamp(max=end - start - 1)
        return ids[:, None], torch.ones_like(self.uniforms)[:, None]


# --- The noise of the sampled guess -----------------------------------------------------------------------------------


def look_ahead_uniforms(input_ids: Tensor, layout: RowLayout, seed: int, step: int) -> Tensor:
    """Noise of the sampled guess: (B, T) float32 in (0, 1), a function of (seed, step, document, position) alone.

    A document is identified by a hash of its tokens, so the noise does not depend on batch, rank, accumulation step,
    padding or packing.
    """
    document = document_hashes(input_ids, layout)
    bits = _scramble(_scramble(document + 1_000_003 * seed) + _scramble(layout.positions + (step << 32)))
    return ((bits >> 41) & 0x7FFFFF).float().add(0.5).div(1 << 23)  # exact: 24 bits, never 0 or 1


def document_hashes(input_ids: Tensor, layout: RowLayout) -> Tensor:
    """A 64-bit hash of each document's tokens and their order, at each of its positions: (B, T) int64."""
    return layout.per_document(_scramble(input_ids * 0x9E3779B1 + layout.positions) * layout.attended)


def _scramble(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 with wrap-around (a bijection that mixes all bits)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))
