"""The losses of the methods as slow, obvious loops in float64, from their formulas alone; never imports the package.

A batch is a list of pairs (chosen, rejected); a side is (ids, labels), two lists of equal length, labels -100 outside
the response. A model is anything that `model(ids (1, T)).logits` gives logits (1, T, V) of.
"""

from __future__ import annotations

import math

import torch


def token_log_probs(model, ids):
    """log pi(. | ids_<t) for t = 1.., as a list of (V,) float64 tensors; entry t - 1 speaks of token t."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return [logits[t] - torch.logsumexp(logits[t], 0) for t in range(len(ids) - 1)]


def responses(labels):
    return [t for t in range(1, len(labels)) if labels[t] != -100]


def total(model, side):
    """Sum of the response tokens' log-probabilities."""
    ids, labels = side
    rows = token_log_probs(model, ids)
    result = torch.zeros((), dtype=torch.float64)
    for t in responses(labels):
        result = result + rows[t - 1][ids[t]]
    return result


def mean(model, side):
    return total(model, side) / len(responses(side[1]))


def minus_log_sigmoid(x):
    return torch.log(1 + torch.exp(-x))


def average(losses):
    return sum(losses) / len(losses)


def bracket(policy, reference, pair):
    chosen, rejected = pair
    with torch.no_grad():
        base = [total(reference, chosen), total(reference, rejected)]
    return (total(policy, chosen) - base[0]) - (total(policy, rejected) - base[1])


def dpo(policy, reference, pairs, beta):
    return average([minus_log_sigmoid(beta * bracket(policy, reference, pair)) for pair in pairs])


def sequential_kl(policy, reference, side):
    """sum_t sum_v ref(v) (log ref(v) - log pi(v)) over the response."""
    ids, labels = side
    with torch.no_grad():
        fixed = token_log_probs(reference, ids)
    moving = token_log_probs(policy, ids)
    result = torch.zeros((), dtype=torch.float64)
    for t in responses(labels):
        for v in range(len(fixed[t - 1])):
            result = result + math.exp(float(fixed[t - 1][v])) * (fixed[t - 1][v] - moving[t - 1][v])
    return result


def tdpo1(policy, reference, pairs, beta):
    losses = []
    for chosen, rejected in pairs:
        u = bracket(policy, reference, (chosen, rejected))
        kl_w, kl_l = sequential_kl(policy, reference, chosen), sequential_kl(policy, reference, rejected)
        losses.append(minus_log_sigmoid(beta * (u - (kl_l - kl_w))))
    return average(losses)


def tdpo2(policy, reference, pairs, beta, alpha):
    losses = []
    for chosen, rejected in pairs:
        u = bracket(policy, reference, (chosen, rejected))
        kl_w, kl_l = sequential_kl(policy, reference, chosen), sequential_kl(policy, reference, rejected)
        losses.append(minus_log_sigmoid(beta * (u - alpha * (kl_l - kl_w.detach()))))
    return average(losses)


def log_odds(m):
    return m - torch.log(1 - torch.exp(m))


def orpo(policy, pairs, beta, likelihood="response"):
    odds = average(
        [
            beta * minus_log_sigmoid(log_odds(mean(policy, chosen)) - log_odds(mean(policy, rejected)))
            for chosen, rejected in pairs
        ]
    )
    if likelihood == "response":
        return average([-mean(policy, chosen) for chosen, _ in pairs]) + odds
    everything = [(ids, ids) for (ids, _), _ in pairs]  # trl: prompt and response, token mean over the batch
    return (
        sum(-total(policy, side) for side in everything) / sum(len(ids) - 1 for ids, _ in everything) + odds
    )


def simpo(policy, pairs, beta, gamma):
    return average([minus_log_sigmoid(beta * (mean(policy, w) - mean(policy, r)) - gamma) for w, r in pairs])


def sft(policy, sides, reduction):
    if reduction == "sequence":
        return average([-mean(policy, side) for side in sides])
    return sum(-total(policy, side) for side in sides) / sum(len(responses(labels)) for _, labels in sides)


def dft(policy, sides):
    """Each token's loss times its own probability, held still; token mean (arXiv:2508.05629)."""
    result, count = torch.zeros((), dtype=torch.float64), 0
    for ids, labels in sides:
        rows = token_log_probs(policy, ids)
        for t in responses(labels):
            log_prob = rows[t - 1][ids[t]]
            result = result - log_prob.exp().detach() * log_prob
            count += 1
    return result / count


def position_weights(length, gamma):
    """bellman's weights of a row of `length` response tokens whose losses are all equal, scaled to mean 1."""
    raw = [sum(gamma ** (i - t) for i in range(t, length)) for t in range(length)]
    return [value * length / sum(raw) for value in raw]
