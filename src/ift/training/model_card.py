"""The paper's citation and the settings of the method in a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ift.step.equations import name_of

CITATION = """\
@inproceedings{hua2025intuitive,
  title     = {Intuitive Fine-Tuning: Towards Simplifying Alignment into a Single Process},
  author    = {Ermo Hua and Biqing Qi and Kaiyan Zhang and Kai Tian and Xingtai Lv and Ning Ding and Bowen Zhou},
  booktitle = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics},
  year      = {2025},
  eprint    = {2405.11870}
}"""


def card_settings(trainer: Any) -> dict[str, Any]:
    """The method's settings of an `IFTTrainer` as a card shows them: a function of the user's own has one line.

    It is named in the place of the setting that it replaces, with its file without the folders. "trained tokens" says
    which tokens of the rows were trained.
    """
    found: dict[str, Any] = dict(trainer._method_settings())
    spec, sha256 = found.get("token_weights"), found.pop("token_weights_sha256", "")
    own = {
        "propagation": trainer.token_weights,
        "lookahead": trainer.change_guess,
        "score_tokens": trainer.score_tokens,
    }
    for part, function in own.items():
        if function is None or not str(found[part]).startswith("a function"):
            continue
        code = getattr(getattr(function, "func", function), "__code__", None)
        file = spec.rpartition(":")[0] if spec and part == "propagation" else getattr(code, "co_filename", "")
        of = f" of `{Path(file).name}`" if file else ""
        hashed = f" (SHA-256 {sha256})" if sha256 and part == "propagation" else ""
        found[part] = f"the function `{name_of(function)}`{of}{hashed}"
    if trainer.token_weights is not None:  # named as the propagation
        del found["token_weights"]
    if report := trainer.data_reports.get("train"):
        parts = dict.fromkeys(one.explanation for one in report.parts or (report,))
        found["trained tokens"] = "; ".join(parts)
    return found


def add_settings(card: Path, settings: dict[str, Any], name: str) -> None:
    """Adds a table of settings to trl's card, which writes None for a model that is not on the Hub: it is `name`."""
    rows = "".join(f"| `{key}` | {value} |\n" for key, value in settings.items())
    text = card.read_text().replace("(https://huggingface.co/None)", "")
    text = text.replace('model="None"', f'model="{name}"').replace("version of [None].", "local model.")
    card.write_text(f"{text}\n## IFT settings\n\n| setting | value |\n| --- | --- |\n{rows}")
