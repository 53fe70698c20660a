"""The equations as slow, obvious loops in float64: the oracle the package is tested against.

Written from the specification alone (arXiv:2405.11870v3, Algorithm 1, Eq. 17, Eq. 21 and section 4.2), never
from the package, and never imported by it. One row, one document, one position at a time; no vectorisation that
could hide a shift.

Shapes: B rows, T positions, V vocabulary, H width, n tokens of one document.

Conventions, each of which the tests work out by hand:

* A *document* is what the model may attend to as one text: a row without its padding, or one of the texts
  packed into a row (`position_ids == 0` starts one). Documents are numbered 0, 1, .. within their row; padding
  belongs to document -1.
* A *trained position* has a label, is attended to, and is not the first token of its document, for nothing
  predicts that one.
* Distances are counted in positions: a position that is not trained contributes nothing and still counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

IGNORED = -100


# -------------------------------------------------------------------------------------------------- positions


def trained_positions(labels, attention_mask=None, position_ids=None):
    """Which positions are trained (`(B, T)` bool), and the document of each (`(B, T)` int64, -1 for padding)."""
    rows, length = labels.shape
    trained = torch.zeros(rows, length, dtype=torch.bool)
    documents = torch.full((rows, length), -1, dtype=torch.int64)
    for b in range(rows):
        document = -1  # none has begun
        for t in range(length):
            if attention_mask is not None and attention_mask[b, t] == 0:
                continue
            begins = document == -1 or (position_ids is not None and position_ids[b, t] == 0)
            if begins:
                document += 1
            documents[b, t] = document
            trained[b, t] = bool(labels[b, t] != IGNORED) and not begins
    return trained, documents


def rows_of(trained, documents):
    """Every document that has a trained position: a list of `(b, all its positions, its trained positions)`."""
    found = []
    for b in range(documents.shape[0]):
        for document in range(int(documents[b].max()) + 1):
            positions = [t for t in range(documents.shape[1]) if documents[b, t] == document]
            learned = [t for t in positions if trained[b, t]]
            if learned:
                found.append((b, positions, learned))
    return found


# --------------------------------------------------------------------------------------- relation propagation


def propagation_weights(losses, trained, documents, kind="bellman", gamma=0.95, detach="scale"):
    """The weight of every trained position, `(B, T)` float64; 0 where nothing is trained.

    Gradient: `detach="none"` lets it through the sums and their scale, "scale" through the sums only,
    "weights" through neither. `kind="cumsum"` and "none" have constant weights, whatever `detach` says.
    """
    if kind not in ("bellman", "cumsum", "none"):
        raise ValueError(kind)
    if detach not in ("none", "scale", "weights"):
        raise ValueError(detach)
    weights = [
        [torch.zeros((), dtype=torch.float64) for _ in range(losses.shape[1])] for _ in range(losses.shape[0])
    ]
    for b, _, learned in rows_of(trained, documents):
        raw = {}
        for t in learned:
            raw[t] = torch.zeros((), dtype=torch.float64)
            if kind == "none":
                raw[t] = raw[t] + 1.0
            for i in learned:
                if kind == "bellman" and i >= t:
                    raw[t] = raw[t] + gamma ** (i - t) * losses[b, i].double()
                if kind == "cumsum" and i <= t:
                    raw[t] = raw[t] + gamma ** (t - i)
        total = sum(raw.values())
        for t in learned:
            if total.item() == 0.0:
                weights[b][t] = torch.ones((), dtype=torch.float64)
                continue
            mean = total / len(learned)
            if detach == "scale":
                mean = mean.detach()
            weights[b][t] = raw[t] / mean
            if detach == "weights":
                weights[b][t] = weights[b][t].detach()
    return torch.stack([torch.stack(row) for row in weights])


# -------------------------------------------------------------------------------------------------- reduction


def reduce(weighted_losses, trained, documents, reduction="sequence", count=None):
    """The scalar loss of the batch.

    "sequence": the sum over documents of their mean weighted loss, over the number of documents that have a
    trained position.
    "token": the sum of the weighted losses over the number of trained positions.
    `count` replaces the divisor by that of the global batch, so that the losses of its parts add up to the
    loss of the whole.
    """
    if reduction not in ("sequence", "token"):
        raise ValueError(reduction)
    total = torch.zeros((), dtype=torch.float64)
    own_count = 0
    for b, _, learned in rows_of(trained, documents):
        row_sum = torch.zeros((), dtype=torch.float64)
        for t in learned:
            row_sum = row_sum + weighted_losses[b, t].double()
        if reduction == "sequence":
            total = total + row_sum / len(learned)
            own_count += 1
        else:
            total = total + row_sum
            own_count += len(learned)
    divisor = own_count if count is None else count
    return total / max(float(divisor), 1.0)  # nothing trained anywhere: 0, not NaN


def loss_from_token_losses(
    losses,
    labels,
    attention_mask=None,
    position_ids=None,
    kind="bellman",
    gamma=0.95,
    detach="scale",
    reduction="sequence",
    count=None,
):
    """Steps 4 and 5: `(B, T)` token losses to the scalar loss. What stands at untrained positions is not read."""
    trained, documents = trained_positions(labels, attention_mask, position_ids)
    weights = propagation_weights(losses, trained, documents, kind, gamma, detach)
    weighted = [
        [torch.zeros((), dtype=torch.float64) for _ in range(losses.shape[1])] for _ in range(losses.shape[0])
    ]
    for b, _, learned in rows_of(trained, documents):
        for t in learned:
            weighted[b][t] = weights[b, t] * losses[b, t].double()
    return reduce(torch.stack([torch.stack(row) for row in weighted]), trained, documents, reduction, count)


# ----------------------------------------------------------------------------------------------------- lambda


def scheduled_lambda(step, total_steps, target, start=None, warmup_ratio=0.0):
    """lambda at an optimiser step (from 0): a straight line from `start` (None: 0) to `target`, then constant."""
    warmup_steps = math.ceil(warmup_ratio * total_steps)
    if step >= warmup_steps:
        return target
    begin = 0.0 if start is None else start
    return begin + (target - begin) * step / warmup_steps


def noisy_lambda(value, noise_std, normal):
    """Table 7: lambda * (1 + sigma * n), kept within [0, 1]; `normal` is the step's draw from N(0, 1)."""
    return min(1.0, max(0.0, value * (1.0 + noise_std * normal)))


# --------------------------------------------------------------------------------------------------- one step


def lookahead_greedy(logits_of_prefix, tokens, learned):
    """The look-ahead of one document, a list of n ids.

    `logits_of_prefix(t)` gives pi(. | x_<t), `(V,)`. At the positions in `learned` the model's own guess of
    token t, elsewhere the token itself.
    """
    guesses = []
    for t in range(len(tokens)):
        guess = int(tokens[t])
        if t in learned:
            guess = int(torch.argmax(logits_of_prefix(t)))
        guesses.append(guess)
    return guesses


def lookahead_expected(logits, embed, temperature, top_k):
    """Expected embedding of the next token, `(H,)`: top-k of softmax(z / temperature), renormalised, no gradient."""
    probabilities = torch.softmax(logits.detach().double() / temperature, dim=-1)
    best = sorted(range(len(probabilities)), key=lambda v: -probabilities[v].item())[:top_k]
    mass = sum(probabilities[v].item() for v in best)
    expected = 0.0
    for v in best:
        expected = expected + (probabilities[v].item() / mass) * embed(torch.tensor([v]))[0]
    return expected


@dataclass
class Step:
    """What one step of the reference gives. All of `(B, T)` but the loss; 0 where nothing is trained."""

    loss: torch.Tensor  # (), float64, with gradient
    token_losses: torch.Tensor  # l_t, float64, with gradient
    lookahead_ids: torch.Tensor  # p_t of the argmax; the token itself where nothing is trained
    weights: torch.Tensor  # w_t
    nll: torch.Tensor  # teacher-forced -log pi(x_t | x_<t), no gradient
    trained: torch.Tensor  # bool


def ift_step(
    model,
    input_ids,
    labels,
    attention_mask=None,
    position_ids=None,
    residual_lambda=0.2,
    kind="bellman",
    gamma=0.95,
    detach="scale",
    reduction="sequence",
    lookahead="greedy",
    temperature=1.0,
    top_k=64,
    count=None,
    lookahead_ids=None,
    **borders,
):
    """Algorithm 1 on a batch, each document cut out and run alone, from full logits and `inputs_embeds`.

    `borders` is what trl's collator says of packed documents besides their positions; it is not read.
    `lookahead` is "greedy" or "expected"; `lookahead_ids` `(B, T)` takes the place of the model's guesses
    (for sampled ones). The auxiliary loss of a mixture of experts is not included.
    """
    if lookahead not in ("greedy", "expected"):
        raise ValueError(lookahead)
    assert borders.keys() <= {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
    rows, length = input_ids.shape
    trained, documents = trained_positions(labels, attention_mask, position_ids)
    embed = model.get_input_embeddings()
    token_losses = [[torch.zeros((), dtype=torch.float64) for _ in range(length)] for _ in range(rows)]
    guesses = input_ids.clone()
    nll = torch.zeros(rows, length, dtype=torch.float64)

    for b, positions, learned in rows_of(trained, documents):
        assert positions == list(range(positions[0], positions[-1] + 1)), "a hole in the attention mask"
        tokens = input_ids[b, positions[0] : positions[-1] + 1]  # (n,)
        local = [t - positions[0] for t in learned]  # the trained positions, counted within the document

        # 1. look-ahead: no gradient, dropout off
        clean_logits = _logits_without_dropout(model, tokens)  # (n, V); row t-1 is pi(. | x_<t)
        guess = lookahead_greedy(lambda t, z=clean_logits: z[t - 1], tokens, local)
        for t in local:
            if lookahead_ids is not None:
                guess[t] = int(lookahead_ids[b, positions[0] + t])
            guesses[b, positions[0] + t] = guess[t]
            log_pi = torch.log_softmax(clean_logits[t - 1].double(), dim=-1)
            nll[b, positions[0] + t] = -log_pi[tokens[t]]

        # 2. temporal residual connection
        mixed = []
        for t in range(len(tokens)):
            own = embed(tokens[t : t + 1])[0]  # (H,)
            if t not in local:
                mixed.append(own)
                continue
            if lookahead == "expected":
                ahead = lookahead_expected(clean_logits[t - 1], embed, temperature, top_k)
            else:
                ahead = embed(torch.tensor([guess[t]]))[0]
            mixed.append((1.0 - residual_lambda) * own + residual_lambda * ahead)
        embeddings = torch.stack(mixed)[None]  # (1, n, H)

        # 3. forward from the mixed embeddings
        logits = model(inputs_embeds=embeddings.to(embed.weight.dtype)).logits[0]  # (n, V)
        for t in local:
            log_pi = torch.log_softmax(logits[t - 1].double(), dim=-1)
            token_losses[b][positions[0] + t] = -log_pi[labels[b, positions[0] + t]]

    # 4. and 5. propagation and reduction
    losses = torch.stack([torch.stack(row) for row in token_losses])
    weights = propagation_weights(losses, trained, documents, kind, gamma, detach)
    loss = loss_from_token_losses(
        losses, labels, attention_mask, position_ids, kind, gamma, detach, reduction, count
    )
    return Step(loss, losses, guesses, weights, nll, trained)


def _logits_without_dropout(model, tokens):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=tokens[None]).logits[0]
    for module, training in modes:
        module.training = training
    return logits
