"""Which tokens do the contenders learn, and what does the mixed input change? See docs/regimes.md.

`python experiments/regimes/token_classes.py --regime few --seeds 3 --output FILE.jsonl` trains contenders as run.py
does and adds a line for each run. A line has, after a part of the steps and at the end, on the solutions of held-out
problems of the split `test`:

* `classes`: the teacher-forced loss by class of token: whether the base, before any training, predicts the token
  (`predicted`, `mispredicted`), and whether it has a digit (`digit`) or not (`other`);
* `mixed`: by how much the loss of a token is higher under the mixed input (lambda 0.2) than under the clean one, where
  the model's guess of the token *before* it is right (that embedding is then not changed) and where it is wrong.

All losses are in nats a token. A run whose line is there is not trained again. `--pack FILES --output
docs/records/token-classes.jsonl` writes the record that docs/fill_tables.py reads.
"""

from __future__ import annotations

from typing import Any

import torch
from measuring import measure_missing, pack, parser_of
from run import PROBLEMS, REGIMES
from torch import Tensor

from ift.lab.testbed import base_path, families, settings
from ift.lab.testbed.likelihood import padded_batch, rendered
from ift.models.loading import LoadOptions, load_model
from ift.step import ift_loss
from ift.step.model import evaluating

CHOSEN = "sft,ift,ift as released,ift residual only,ift propagation only,random-residual"


def scores_of(model: Any, batch: dict[str, Tensor]) -> Any:
    """`TokenScores` of the batch under the mixed input, without gradient or dropout."""
    with torch.no_grad(), evaluating(model):
        return ift_loss(model, batch, residual_lambda=0.2).scores


def mean_in(values: Tensor, chosen: Tensor) -> dict[str, float | int]:
    """The mean of the chosen values and their number."""
    return {"mean": values[chosen].double().mean().item(), "tokens": int(chosen.sum())}


def measured(model: Any, batch: dict[str, Tensor], known: Tensor, digit: Tensor) -> dict[str, Any]:
    """The losses by class, and what the mix adds to them; `known` and `digit` (B, T) are bool."""
    scores = scores_of(model, batch)
    trained_here = scores.layout.trained  # (B, T)
    classes = {"predicted": known, "mispredicted": ~known, "digit": digit, "other": ~digit}
    before = torch.nn.functional.pad(trained_here[:, :-1], (1, 0))  # whether the token before is trained too
    hit_before = torch.nn.functional.pad(scores.lookahead_hits[:, :-1], (1, 0))
    both = trained_here & before
    added = scores.losses - scores.nll
    return {
        "classes": {name: mean_in(scores.nll, trained_here & chosen) for name, chosen in classes.items()},
        "mixed": {
            "after a right guess": mean_in(added, both & hit_before),
            "after a wrong guess": mean_in(added, both & ~hit_before),
        },
    }


def shorten(line: dict[str, Any]) -> None:
    """Keeps five digits of every mean."""
    for when in ("early", "end"):
        for values in (one for of in line[when].values() for one in of.values()):
            values["mean"] = float(f"{values['mean']:.5g}")


def main() -> None:
    """Trains what is missing, or packs files of runs."""
    args = parser_of(__doc__, "few", CHOSEN).parse_args()
    if args.pack:
        pack(args.pack, args.output, shorten)
        return
    regime = REGIMES[args.regime]
    family = settings()[regime.setting].family
    base = load_model(str(base_path(family)), LoadOptions(dtype="float32"))
    tokenizer = base.tokenizer
    problems = families.family_problems(family, "test", PROBLEMS)
    batch = padded_batch([rendered(tokenizer, one.messages) for one in problems], "cpu")
    known = scores_of(base.model, batch).lookahead_hits
    digits = [any(map(str.isdigit, tokenizer.decode([one]))) for one in range(len(tokenizer))]
    digit = torch.tensor(digits)[batch["input_ids"]]

    def found(model: Any) -> dict[str, Any]:
        return measured(model, batch, known, digit)

    measure_missing(args, found, lambda model, seed: found(model))


if __name__ == "__main__":
    main()
