"""Records made up for the tests: an ablation and a comparison, three seeds, and one hostile answer."""

import math
import random

from ift.lab.report import Cost, DataSplit, Provenance, RunRecord, Sample, Trial

HOSTILE = (
    "<script>window.broken = 1</script>\n<img src=x onerror='window.broken = 2'>\n</script><script>window.broken = 3"
    "</script>\n\"'`${window.broken = 4}` <!-- --> ]]>\n"
    "\u202egnikaerb\u202c | *bold* [x](javascript:alert(1))\n\x07\ud800\u2028"
)
PROVENANCE = Provenance(
    {"python": "3.11.7", "torch": "2.13.0"}, {"machine": "x86_64", "cores": 2}, "ab" * 20,
    "ift compare", "2026-01-02T03:04:05+00:00"
)  # fmt: skip
SCORES = {"base": 0.36, "sft": 0.78, "ift": 0.80, "dpo": 0.62, "sft+dpo": 0.79, "sft+ift": 0.83}
STEP_LINES = ["3 + 4 = 7", "7 * 6 = 42", "42 - 5 = 37"]


def record(method="sft", seed=0, *, variant="", score=None, **changes):
    """One plausible record; the same arguments give the same one."""
    draw = random.Random(ascii((method, variant, seed)))
    score = SCORES[method] + draw.gauss(0, 0.012) if score is None else score
    factor = {"ift": 1.33, "sft+dpo": 2.4, "dpo": 1.9, "sft+ift": 2.3}.get(method, 1.0)
    split = {"n": 500, "exact_match": score, "stopped": 0.99, "mean_length": 30 + draw.random()}
    split["target_log_likelihood"] = -2 - draw.random()
    values = {
        "experiment": "compare",
        "setting": "chains, 800 rows, noise 0.3",
        "method": method,
        "variant": variant,
        "seed": seed,
        "config": {"learning_rate": 1e-3, "residual_lambda": 0.2 if "ift" in method else 0.0},
        "scores": {"test": split, "longer": {**split, "n": 200, "exact_match": score / 2}},
        "provenance": PROVENANCE,
        "data": {"train": DataSplit(800, "cd" * 32), "test": DataSplit(500, "ef" * 32)},
        "cost": Cost(9 * factor + draw.random(), 3.1e12 * factor, 5e8 * factor, 2 if "dpo" in method else 1, 1600,
                     800 if "dpo" in method else 0),
        "search": [Trial({"learning_rate": 3e-4}, 0.6), Trial({"learning_rate": 1e-3}, 0.7)],
        "error_steps": {"test": [int(500 * (1 - score) * share) for share in (0.2, 0.3, 0.5)]},
        "curves": [
            {"step": step, "nll": (2 - score) * math.exp(-step / 40) + 0.2, "eval_nll": 0.3 + 0.001 * step,
             "lookahead_accuracy": 1 - 0.6 * math.exp(-step / 30)} for step in range(10, 101, 10)
        ],
        "samples": [sample(method, seed, number) for number in range(4)],
    }  # fmt: skip
    return RunRecord(**(values | changes))


def sample(method, seed, number):
    """Problem 0 is answered with the hostile text; of the others SFT gets every second one wrong, in its line 2."""
    prompt, target = f"Ada has 3 pears and gets 4. Problem {number}.", "\n".join([*STEP_LINES, "#### 37"])
    if number == 0:
        return Sample("test", "0", HOSTILE, target, HOSTILE, False, 2)
    if method == "sft" and number % 2:
        return Sample(
            "test", str(number), prompt, target, "3 + 4 = 7\n7 * 6 = 48\n48 - 5 = 43\n#### 43", False, 2
        )
    if method == "base":
        return Sample("test", str(number), prompt, target, "3 + 4 = 7", False, 2)
    return Sample("test", str(number), prompt, target, target, True)


def comparison(seeds=3):
    """The runs of a comparison."""
    return [record(method, seed) for method in SCORES for seed in range(1 if method == "base" else seeds)]


def ablation(seeds=3):
    """The runs of a sweep over lambda."""
    lambdas = {0.0: 0.78, 0.1: 0.79, 0.2: 0.8, 0.4: 0.74, 0.8: 0.5}
    return [
        record("ift", seed, variant=f"lambda {value}", experiment="ablate", score=score + 0.01 * seed,
               config={"learning_rate": 1e-3, "residual_lambda": value})
        for value, score in lambdas.items() for seed in range(seeds)
    ]  # fmt: skip


def write(records, folder):
    """Save each in a file of its own."""
    from ift.lab.report import save

    for one in records:
        save(one, folder / one.experiment / f"{one.label.replace(' ', '-')}-seed{one.seed}.json")
    return folder
