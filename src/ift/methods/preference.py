"""trl's trainers of preference pairs, fed with pairs that `ift.data.pairs` prepared."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from ift.data.pairs import COLUMNS, PairCollator


class PreparedDPOTrainer(DPOTrainer):
    """`trl.DPOTrainer` on prepared pairs: `-log s(beta [(sum lp_w - sum lr_w) - (sum lp_l - sum lr_l)])`.

    Takes what `trl.DPOTrainer` takes; data sets hold the columns of `pairs.COLUMNS`, `processing_class` is needed.
    Source: Rafailov et al., arXiv:2305.18290, Eq. 7. Without adapters a second model, the reference, is held.
    """

    def __init__(self, model: Any, args: Any, *, processing_class: Any, **kwargs: Any) -> None:
        set_pad_token(processing_class, args.pad_token)
        collator = PairCollator(processing_class.pad_token_id)
        super().__init__(
            model, args=args, processing_class=processing_class, data_collator=collator, **kwargs
        )

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Nothing is left to do."""
        return checked_columns(dataset)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*COLUMNS, "ref_chosen_logps", "ref_rejected_logps"]

    def _send_telemetry(self) -> None:
        """Send nothing."""


class _Prepared:
    """What trl's ORPO and CPO trainers need alike: a loaded model, and rows left alone."""

    def __init__(self, model: Any, args: Any, *, processing_class: Any, **kwargs: Any) -> None:
        set_pad_token(processing_class, None)
        super().__init__(model, args=args, processing_class=processing_class, **kwargs)  # type: ignore[call-arg]

    def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
        """Nothing is left to do: trl would tokenise, and cut without a count, once more."""
        return dict(feature)

    def _send_telemetry(self) -> None:
        """Send nothing."""


class PreparedORPOTrainer(_Prepared, ORPOTrainer):
    """`trl`'s ORPOTrainer on prepared pairs: `NLL(y_w) - beta log s(logodds_w - logodds_l)`.

    `logodds = m - log(1 - e^m)`, m the mean log-probability per response token. Source: Hong et al.,
    arXiv:2403.07691, Eq. 2 and 6-8. `args` is an `ORPOSettings`.
    """

    def concatenated_forward(self, model: Any, batch: Any) -> Any:
        """Trl's forward; the likelihood term is -m_w averaged over rows, unless `orpo_likelihood` is "all"."""
        found = super().concatenated_forward(model, batch)
        if self.args.orpo_likelihood == "all":
            return found
        return (*found[:4], -found[0].mean(), *found[5:])


class PreparedSimPOTrainer(_Prepared, CPOTrainer):
    """`trl`'s CPOTrainer as SimPO on prepared pairs: `-log s(beta (m_w - m_l) - gamma)`.

    m is the mean log-probability per response token. Source: Meng et al., arXiv:2405.14734, Eq. 6. `args` is a
    `SimPOSettings` with `loss_type="simpo"` and `cpo_alpha=0`.
    """

    _tag_names = ["trl", "simpo"]  # noqa: RUF012 (trl's own declaration)
    _name = "SimPO"
    _paper = {  # noqa: RUF012
        "title": "SimPO: Simple Preference Optimization with a Reference-Free Reward",
        "id": "2405.14734",
        "citation": "",
    }


def set_pad_token(tokenizer: Any, wanted: str | None) -> None:
    """Give the tokenizer a padding token: the wanted one, its own, or its end-of-sequence token."""
    if wanted or tokenizer.pad_token is None:
        tokenizer.pad_token = wanted or tokenizer.eos_token


def checked_columns(dataset: Any) -> Any:
    """`dataset`, if it holds prepared pairs; raises ValueError otherwise."""
    missing = set(COLUMNS) - set(dataset.column_names or [])
    if missing:
        raise ValueError(f"not prepared: {', '.join(sorted(missing))} missing. Call prepare_pairs first.")
    return dataset
