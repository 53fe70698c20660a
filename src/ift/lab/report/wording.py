"""How names, numbers and foreign text are shown, so that no text can break the page that it is in."""

import json
import re

from ift.lab.report.intervals import Estimate
from ift.text import visible

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
    """The words for a metric or a cost; another name, such as a score of the user's, as it is logged."""
    return LABELS.get(name, name)


def number(value: float | None, name: str) -> str:
    """A number in the unit of its metric or cost: percent, GiB, or plain with 3 to 4 digits."""
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
    """Mean +- half of its 95 % interval; the mean alone where one seed gives no interval. Signed: a difference.

    One notation everywhere, also where the interval of a share reaches beyond 0 or 100 %: `HOW_TO_READ` says so.
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
    """One line of Markdown that shows the text as it is: in a table's cell too, and without live HTML."""
    return _MARKDOWN.sub(r"\\\1", visible(" ".join(text.split()))).replace("&", "&amp;")


def json_for_script(value: object) -> str:
    """JSON for the inside of a script element: no character of it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
