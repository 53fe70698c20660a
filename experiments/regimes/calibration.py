"""Does a model know how sure it may be, and how different are its answers? H6 of docs/regimes.md.

`python experiments/regimes/calibration.py --seeds 3 --output FILE.jsonl` trains contenders as run.py does and adds a
line for each run, with what is measured on held-out problems of the split `test` at the end:

* `calibration`: over the tokens of the right solutions, teacher-forced, the expected calibration error (the mean
  distance between the probability of the most likely token and how often it is right, in `BINS` bins of equal width),
  both means, and the loss in nats a token;
* `drawn`: of `TIMES` answers drawn at temperature 1 for each problem, the share that is right, the share of problems of
  which at least one is right, and the mean number of different answers.

A run whose line is there is not trained again. `--pack FILES --output docs/records/calibration.jsonl` writes the record
that docs/fill_tables.py reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from measuring import measure_missing, pack, parser_of
from run import PROBLEMS, REGIMES
from torch import Tensor

from ift.lab.testbed import base_path, families, settings
from ift.lab.testbed.likelihood import padded_batch, rendered
from ift.lab.testbed.scoring import generate_answers, right_answers
from ift.labels import IGNORED
from ift.models.loading import LoadOptions, load_tokenizer
from ift.step.model import evaluating

CHOSEN = "sft,ift,ift as released,ift residual only,ift propagation only"
BINS, TIMES = 15, 4


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """The expected calibration error; `confidence` (N,) are probabilities in 0..1, `right` (N,) is bool."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    apart = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, right.double() - confidence.double())
    return float(apart.abs().sum() / len(confidence))


def calibration(model: Any, batch: dict[str, Tensor]) -> dict[str, float]:
    """As in the module's text, on a padded batch with labels."""
    with torch.no_grad(), evaluating(model):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:]
    chosen = targets != IGNORED
    log_probs = logits[:, :-1][chosen].float().log_softmax(-1)  # (N, V)
    targets = targets[chosen]
    top = log_probs.max(-1)
    confidence, right = top.values.exp(), top.indices == targets
    return {
        "error": calibration_error(confidence, right),
        "confidence": confidence.double().mean().item(),
        "right": right.double().mean().item(),
        "nll": -log_probs.gather(-1, targets[:, None]).double().mean().item(),
    }


def drawn(model: Any, tokenizer: Any, problems: Sequence[Any], seed: int) -> dict[str, float]:
    """As in the module's text."""
    prompts = [one.messages[:1] for one in problems]
    seeds = [1_000 * (1 + time) + seed for time in range(TIMES)]
    answers = [generate_answers(model, tokenizer, prompts, sampling_seed=one)[0] for one in seeds]
    of_problem = [*zip(*answers, strict=True)]
    right = [*zip(*(right_answers(problems, texts) for texts in answers), strict=True)]
    return {
        "right": fmean(fmean(one) for one in right),
        "any right": fmean(any(one) for one in right),
        "different": fmean(len({text.strip() for text in texts}) for texts in of_problem),
    }


def shorten(line: dict[str, Any]) -> None:
    """Keeps five digits of every number."""
    for values in line["end"].values():
        values |= {name: float(f"{value:.5g}") for name, value in values.items()}


def main() -> None:
    """Trains what is missing, or packs files of runs."""
    args = parser_of(__doc__, "many", CHOSEN).parse_args()
    if args.pack:
        pack(args.pack, args.output, shorten)
        return
    family = settings()[REGIMES[args.regime].setting].family
    tokenizer = load_tokenizer(str(base_path(family)), LoadOptions())
    problems = families.family_problems(family, "test", PROBLEMS)
    batch = padded_batch([rendered(tokenizer, one.messages) for one in problems], "cpu")
    measure_missing(
        args,
        None,
        lambda model, seed: {
            "calibration": calibration(model, batch),
            "drawn": drawn(model, tokenizer, problems, seed),
        },
    )


if __name__ == "__main__":
    main()
