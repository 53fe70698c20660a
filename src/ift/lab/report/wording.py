"""Formats names, numbers and foreign text for display, so that no text can break the page that shows it."""

import json
import re

from ift.lab.report.intervals import Estimate
from ift.text import visible

PER_TOKEN = "target_log_likelihood_per_token"
EMPTY = "empty"  # the share of answers without text, shown where there are any
SHARES = (
    "exact_match",
    "stopped",
    EMPTY,
    "choice_accuracy",
    "choice_accuracy_per_token",
    "text",
    "contains",
    "json",
    "sql",
    "rouge",
    "f1",
)  # in 0..1, shown in percent
RIGHT_OR_WRONG = tuple(name for name in SHARES if name not in ("rouge", "f1"))  # values of rows are 0 and 1
ONE_DIGIT = (*SHARES, "bleu", "chrf", "mean_length")  # behind the point, in a mean with its interval
CURVES = ("nll", "eval_nll", "lookahead_accuracy", "eos_nll", "propagation_negative_share")  # what is drawn
LABELS = {
    "exact_match": "exact match",
    "stopped": "stops with its end token",
    EMPTY: "answers without text",
    "choice_accuracy": "choices right",
    "choice_accuracy_per_token": "choices right, per token",
    "mean_length": "answer tokens",
    "text": "text equal",
    "contains": "contains the reference",
    "json": "JSON equal",
    "sql": "SQL result equal",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge": "ROUGE-L",
    "f1": "token F1",
    "judge": "judge's grade",
    "target_log_likelihood": "log-likelihood of the target",
    "target_log_likelihood_per_token": "log-likelihood of the target, per token",
    "residual_lambda": "lambda",
    "propagation_gamma": "gamma",
    "seconds": "seconds",
    "flops": "FLOPs",
    "peak_memory_bytes": "peak memory",
    "models_held": "models held",
    "answers_seen": "answers seen",
    "labels": "labels",
}
NONE = "–"
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~$])")


def label(name: str) -> str:
    """The words for a metric or a cost; another name, such as that of a user's score, is returned as it is."""
    return LABELS.get(name, name)


def number(value: float | None, name: str) -> str:
    """Format a number in the unit of its metric or cost: percent, GiB, or plain with 3 to 4 digits."""
    if value is None:
        return NONE
    if name in SHARES:
        return f"{100 * value:.1f} %"
    if name == "peak_memory_bytes":
        return f"{value / 2**30:.2f} GiB"
    if name == "flops" or (value and abs(value) < 1e-3):
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def estimate(found: Estimate | None, name: str, signed: bool = False) -> str:
    """Format a mean +- half its 95 % interval, or the mean alone if there is no interval; `signed` is for differences.

    The notation is the same if the interval of a share extends beyond 0 or 100 %; `HOW_TO_READ` explains it.
    """
    if found is None:
        return NONE
    scale = 100 if name in SHARES else 1
    digits = 1 if name in ONE_DIGIT else 3
    mean, sign = scale * found.mean, "+" if signed else ""
    unit = "" if name not in SHARES else " points" if signed else " %"
    half = "" if found.half is None else f" ± {scale * found.half:.{digits}f}"
    return f"{mean:{sign}.{digits}f}{half}" + unit


def markdown(text: str) -> str:
    """Format text as one line of Markdown that shows it unchanged, also in the cell of a table, without active HTML."""
    return _MARKDOWN.sub(r"\\\1", visible(" ".join(text.split()))).replace("&", "&amp;")


def json_for_script(value: object) -> str:
    """JSON for the inside of a script element; no character of it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
