"""The plan of a study: its contenders ("entrants"), the search of each, and the budgets."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ift.lab.compare.own_weights import own_weights
from ift.methods.table import CONTROLS, parse_methods

KEY_LENGTH = 12  # of the names of trials
SEARCH_SEED = 100  # of rows and order while settings are chosen; no run has it
BETAS: Mapping[str, tuple[float, ...]] = {
    "dpo": (0.1, 0.5),
    "orpo": (0.25, 0.1),
    "simpo": (2.0, 1.0),
    "tdpo1": (0.1, 0.5),
    "tdpo2": (0.1, 0.5),
}
SIMPO_RATIO = 0.8  # gamma over beta, as in the IFT paper
FIXED: Mapping[str, Any] = {  # of every training
    "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "max_length": 512, "gradient_checkpointing": False,
    "save_strategy": "no", "logging_steps": 10, "disable_tqdm": True,
}  # fmt: skip
IFT_DEFAULTS: Mapping[str, Any] = {  # always part of a record's configuration
    "residual_lambda": 0.2,
    "propagation_gamma": 0.95,
    "propagation_detach": "scale",
}
ROWS_PER_STEP, PASSES = 16, 4  # answers of a step and over a training; a pair counts as two answers


@dataclass(frozen=True)
class Rates:
    """Learning rates of methods that train on answers and on pairs; a search tries the first ones."""

    answers: tuple[float, ...]
    pairs: tuple[float, ...]

    @classmethod
    def around(cls, rate: float) -> "Rates":
        """The rates around the rate that a user trains with; the rates for pairs start at a tenth of it."""

        def times(*factors: float) -> tuple[float, ...]:
            return tuple(float(f"{rate * factor:.3g}") for factor in factors)

        return cls(times(1, 3, 1 / 3, 1 / 10, 10, 1 / 30), times(1 / 10, 1 / 30, 1 / 3))


TESTBED_RATES = Rates((1e-4, 3e-4, 3e-5, 5e-5, 1e-3, 1e-5), (3e-5, 1e-5, 1e-4))


@dataclass(frozen=True)
class Entrant:
    """One way of training that is compared: a method in one variant."""

    method: str  # as `ift train --method` takes it
    variant: str = ""  # tells entrants of one method apart; empty for the method as it is
    settings: Mapping[str, Any] = field(default_factory=dict)  # beyond the method's own
    like: str = ""  # label of the entrant whose chosen settings it takes; empty: it is searched itself
    more_steps: float = 1.0  # factor on the number of passes over the rows
    time_of: str = (
        ""  # method whose measured seconds of a step the factor is scaled to; empty: `more_steps` as it is
    )
    rate_factors: tuple[
        float, ...
    ] = ()  # on the learning rate: trained with each, the best on validation rows counts
    weights_sha256: str = (
        ""  # of the code of its `token_weights`, a function of the user's own; empty: it has none
    )

    @property
    def label(self) -> str:
        """The method and, if there is one, the variant."""
        return f"{self.method} {self.variant}".strip()

    @property
    def needs_pairs(self) -> bool:
        """Whether any stage needs pairs; all stages then read pairs."""
        return any(one.needs_pairs for one in parse_methods(self.method))

    def candidates(self, trials: int, rates: Rates = TESTBED_RATES) -> list[dict[str, Any]]:
        """The settings to choose from: `trials` of them for each method, for a sequence those of its last stage."""
        stages = parse_methods(self.method)
        last, prefix = stages[-1], f"{len(stages)}." if len(stages) > 1 else ""
        if not last.needs_pairs:
            found = [{"learning_rate": rate} for rate in rates.answers]
        else:
            betas = [with_beta(last.name, beta) for beta in BETAS[last.name]]
            found = [{"learning_rate": rate, **beta} for beta in betas for rate in rates.pairs]
        return [{f"{prefix}{name}": value for name, value in one.items()} for one in found[:trials]]


def with_beta(method: str, beta: float) -> dict[str, float]:
    """The settings that follow from a beta."""
    return {"beta": beta} | ({"simpo_gamma": SIMPO_RATIO * beta} if method == "simpo" else {})


@dataclass(frozen=True)
class Plan:
    """A whole study: its contenders, its search and its sizes."""

    experiment: str  # "compare" or "ablate"
    setting: str  # name of the testbed's setting (family, size and noise), or of the user's model and data
    entrants: tuple[Entrant, ...]  # in the order of the tables
    seeds: int  # of the runs; a seed gives rows, order and noise
    trials: int  # settings tried for each entrant that is searched
    validation_rows: int = 200  # rows that the settings are chosen on
    test_rows: int = 500  # rows of each scored split, on the testbed `test` and `longer`
    rates: Rates = TESTBED_RATES  # learning rates of the search
    # `seconds` that the study may take; which of seeds, trials, validation_rows and test_rows the user has named; and
    # `training`, whether the user has named the steps or epochs
    time_budget: Mapping[str, Any] | None = None
    training_share: float = (
        1.0  # of the steps of every training; below 1 only if a time budget shortens the training
    )
    # of a study on the user's model and rows, the fields of `ift.lab.compare.user_data.UserData`. None: the testbed
    user_data: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of `plan.json`, in which `user_data` has the key of earlier versions, `own`."""
        values = asdict(self)
        values["own"] = values.pop("user_data")
        for entrant in values["entrants"]:  # earlier versions did not know these fields
            for name in ("time_of", "rate_factors", "weights_sha256"):
                if not entrant[name]:
                    del entrant[name]
        return values

    @property
    def metric(self) -> str:
        """The score whose differences the study reports."""
        data = self.user_data
        by_metric = data is not None and (data.get("scoring") or not data["pattern"])
        return data["metric"] if data is not None and by_metric else "exact_match"

    def candidates(self, entrant: Entrant) -> list[dict[str, Any]]:
        """The settings from which those of an entrant are chosen; a single candidate is used without a search."""
        return entrant.candidates(self.trials, self.rates)

    def searched(self) -> list[Entrant]:
        """The entrants that have their own search; single methods precede the sequences that begin with them."""
        found = [one for one in self.entrants if not one.like and len(self.candidates(one)) > 1]
        return sorted(found, key=lambda entrant: "+" in entrant.method)


BUDGETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {"methods": "sft,ift,dpo", "seeds": 3, "trials": 3},
    "full": {"methods": "sft,ift,dpo,orpo,simpo,tdpo,sft+dpo,sft+ift,sft+sft", "seeds": 5, "trials": 6},
}
FAIRER_SFT = (  # stronger baselines; the second has about IFT's FLOPs: its look-ahead is a fourth forward
    Entrant("sft", "token mean", {"loss_reduction": "token"}, "sft"),
    Entrant("sft", "4/3 of the steps", {}, "sft", 4 / 3),
)
# as dear as IFT in seconds; and two trainings for one, the best of which counts
SAME_TIME = Entrant("sft", "time of ift", {}, "sft", time_of="ift")
BEST_OF_TWO = Entrant("sft", "best of two rates", {}, "sft", rate_factors=(1.0, 3.0))


def compare_plan(
    setting: str, methods: Sequence[str], seeds: int, trials: int, fairer: bool, **more: Any
) -> Plan:
    """Make the plan of `ift compare`, with the methods that other methods build on.

    Args:
        setting: See `Plan`.
        methods: Methods, sequences of methods, labels of `CONTENDERS`, or names such as "ift FILE.py:function".
        seeds: See `Plan`.
        trials: See `Plan`.
        fairer: Whether to add the entrants of `FAIRER_SFT`.
        **more: Further fields of `Plan`.

    Raises:
        ValueError: A method is unknown or named twice, or a file does not exist.
    """
    found = [
        CONTENDERS.get(name)
        or _with_own_weights(name)
        or Entrant("+".join(one.name for one in parse_methods(name)))
        for name in methods
    ]
    names = _each_once(found)
    firsts = [Entrant(one.like or one.method.split("+")[0]) for one in found if one.like or "+" in one.method]
    entrants = [*{entrant.label: entrant for entrant in [*firsts, *found]}.values()]
    if fairer and "sft" in names:
        place = [entrant.label for entrant in entrants].index("sft") + 1
        entrants[place:place] = [one for one in FAIRER_SFT if one.label not in names]
    return Plan("compare", setting, tuple(entrants), seeds, trials, **more)


def _with_own_weights(name: str, like: str = "") -> Entrant | None:
    found = own_weights(name)
    return None if found is None else Entrant(**found, like=like)


def _each_once(entrants: Sequence[Entrant]) -> list[str]:
    """The labels of entrants. Raises ValueError if two are equal, because they name files and rows of tables."""
    names = [entrant.label for entrant in entrants]
    for entrant, name in zip(entrants, names, strict=True):
        if entrant.weights_sha256 and (names.count(name) > 1 or name in CONTENDERS):
            raise ValueError(
                f"two contenders are called {name!r}, by the name of a function: rename the function"
            )
        if names.count(name) > 1:
            raise ValueError(f"method {name} is named twice")
    return names


def _changed(variant: str, **settings: Any) -> Entrant:
    return Entrant("ift", variant, settings, "ift")


PARTS = (
    _changed("residual only", propagation="none"),
    _changed("propagation only", residual_lambda=0.0),
    _changed("as released", propagation_detach="none"),
    _changed("weights detached", propagation_detach="weights"),
    _changed("cumsum", propagation="cumsum"),
)
FURTHER = (
    *(_changed(f"lambda {value:g}", residual_lambda=value) for value in (0.1, 0.3, 0.4, 0.6, 0.8, 1.0)),
    *(_changed(f"gamma {value:g}", propagation_gamma=value) for value in (0.5, 0.8, 0.9, 1.0)),
    _changed("noisy lambda", residual_noise_std=0.5),
    _changed("sampled look-ahead", lookahead="sample"),
    _changed("expected look-ahead", lookahead="expected"),
    _changed("token mean", loss_reduction="token"),
    Entrant("random-residual", like="ift"),
    Entrant("position-weights", like="ift"),
    # residual connection switched on late, or off before the end of training
    _changed("lambda 0 to 0.2", residual_warmup_ratio=1.0),
    _changed("lambda 0.4 to 0", residual_lambda=0.0, residual_lambda_start=0.4, residual_warmup_ratio=1.0),
)
VARIANTS: Mapping[str, Entrant] = {entrant.label: entrant for entrant in (*PARTS, *FURTHER)}
# what `ift compare --methods` takes beside methods: SFT at other costs, and parts of IFT, which are searched themselves
CONTENDERS: Mapping[str, Entrant] = {
    **{entrant.label: entrant for entrant in (*FAIRER_SFT, SAME_TIME, BEST_OF_TWO)},
    **{label: replace(entrant, like="") for label, entrant in VARIANTS.items() if entrant.variant},
}


def ablate_plan(
    setting: str, seeds: int, trials: int, quick: bool, variants: Sequence[str] = (), **more: Any
) -> Plan:
    """Make the plan of `ift ablate`: IFT with one part changed at a time, at the learning rate chosen for IFT.

    `variants` are labels of `VARIANTS`, or names such as "ift FILE.py:function"; an empty list means all, or only
    `PARTS` if `quick`. `more` are further fields of `Plan`.

    Raises:
        ValueError: A variant is unknown or named twice, or a file does not exist.
    """
    found = [VARIANTS.get(name) or _with_own_weights(name, like="ift") for name in variants]
    if None in found:
        choice = f"{'; '.join(VARIANTS)}; or ift FILE.py:function"
        raise ValueError(f"unknown variant {variants[found.index(None)]!r}: choose from {choice}")
    chosen = [one for one in found if one] or [*PARTS, *([] if quick else FURTHER)]
    _each_once(chosen)
    return Plan("ablate", setting, (Entrant("sft"), Entrant("ift"), *chosen), seeds, trials, **more)


def stage_settings(entrant: Entrant, chosen: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of one training, in the form that `train_method` takes.

    `chosen` are the settings that the entrant's search has chosen (in a sequence, prefixed with the number of the last
    stage); `first` are those chosen for the method of the first stage of a sequence.
    """
    stages = parse_methods(entrant.method)
    settings: dict[str, Any] = {**FIXED, **entrant.settings, **chosen}
    for number, stage in enumerate(stages, start=1):
        prefix = f"{number}." if len(stages) > 1 else ""
        share = 2 if stage.needs_pairs else 1
        settings[f"{prefix}per_device_train_batch_size"] = ROWS_PER_STEP // share
        settings[f"{prefix}num_train_epochs"] = PASSES / share * entrant.more_steps
        if prefix and number < len(stages):
            settings |= {f"{prefix}{name}": value for name, value in first.items()}
        has_reduction = stage.name in ("sft", "ift", "neftune", *CONTROLS)
        if has_reduction and "loss_reduction" not in entrant.settings:
            settings[f"{prefix}loss_reduction"] = "sequence"
    return settings


def key_of(*parts: Any) -> str:
    """A short name for a trial: a hash of its settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]
