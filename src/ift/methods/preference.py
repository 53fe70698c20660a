"""trl's preference trainers on pairs that `ift.data.pairs` has prepared."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from ift.data.pairs import COLUMNS, PairCollator
from ift.training.loaded_dtypes import KeepsDtypes
from ift.training.telemetry import NoTelemetry


class PreparedDPOTrainer(NoTelemetry, KeepsDtypes, DPOTrainer):
    """`trl.DPOTrainer` on prepared pairs: `-log s(beta [(sum lp_w - sum lr_w) - (sum lp_l - sum lr_l)])`.

    Takes the arguments of `trl.DPOTrainer`; data sets have the columns `pairs.COLUMNS`, and `processing_class` is
    required. Without adapters the reference is a second model. Source: Rafailov et al., arXiv:2305.18290, Eq. 7.
    """

    def __init__(self, model: Any, args: Any, *, processing_class: Any, **kwargs: Any) -> None:
        set_pad_token(processing_class, args.pad_token)
        collator = PairCollator(processing_class.pad_token_id)
        super().__init__(
            model, args=args, processing_class=processing_class, data_collator=collator, **kwargs
        )

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Checks that the rows are prepared; trl would tokenise them again."""
        missing = set(COLUMNS) - set(dataset.column_names or [])
        if missing:
            raise ValueError(f"not prepared: {', '.join(sorted(missing))} missing. Call prepare_pairs first.")
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*COLUMNS, "ref_chosen_logps", "ref_rejected_logps"]


class _Prepared(NoTelemetry, KeepsDtypes):
    """The common part of the ORPO and CPO trainers: rows are not tokenised again."""

    def __init__(self, model: Any, args: Any, *, processing_class: Any, **kwargs: Any) -> None:
        set_pad_token(processing_class, None)
        super().__init__(model, args=args, processing_class=processing_class, **kwargs)  # type: ignore[call-arg]

    def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
        """Returns the row unchanged; trl would tokenise it again, and truncate it without counting."""
        return dict(feature)


class PreparedORPOTrainer(_Prepared, ORPOTrainer):
    """trl's ORPOTrainer on prepared pairs: `NLL(y_w) - beta log s(logodds_w - logodds_l)`.

    `logodds = m - log(1 - e^m)`, with m the mean log-probability per response token; `args` is an `ORPOSettings`.
    Source: Hong et al., arXiv:2403.07691, Eq. 2 and 6-8.
    """

    def concatenated_forward(self, model: Any, batch: Any) -> Any:
        """As in trl; unless `orpo_likelihood` is "all", the likelihood term is -m_w, averaged over rows."""
        found = super().concatenated_forward(model, batch)
        if self.args.orpo_likelihood == "all":
            return found
        return (*found[:4], -found[0].mean(), *found[5:])


class PreparedSimPOTrainer(_Prepared, CPOTrainer):
    """trl's CPOTrainer as SimPO on prepared pairs: `-log s(beta (m_w - m_l) - gamma)`.

    m is the mean log-probability per response token; `args` is a `SimPOSettings` with `loss_type="simpo"` and
    `cpo_alpha=0`. Source: Meng et al., arXiv:2405.14734, Eq. 6.
    """

    _tag_names = ["trl", "simpo"]  # noqa: RUF012 (trl's own declaration)
    _name = "SimPO"
    _paper = {  # noqa: RUF012
        "title": "SimPO: Simple Preference Optimization with a Reference-Free Reward",
        "id": "2405.14734",
        "citation": "",
    }


def set_pad_token(tokenizer: Any, wanted: str | None) -> None:
    """Sets the padding token: the wanted one, else the tokenizer's, else its end-of-sequence token."""
    if wanted or tokenizer.pad_token is None:
        tokenizer.pad_token = wanted or tokenizer.eos_token
