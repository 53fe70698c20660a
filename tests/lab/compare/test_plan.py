"""The same budget for every method, the same answers seen, and nothing that the trainers do not know."""

import pytest

from ift.lab.compare.plan import (
    BETAS,
    BUDGETS,
    CONTENDERS,
    PASSES,
    ROWS_PER_STEP,
    Entrant,
    ablate_plan,
    compare_plan,
    stage_settings,
)
from ift.methods.table import CONTROLS, METHODS, parse_methods
from ift.runs.from_python import _check_names, _settings_of

FULL = compare_plan("arithmetic-small-clean", BUDGETS["full"]["methods"].split(","), 5, 6, True)
ABLATION = ablate_plan("arithmetic-small-clean", 3, 3, quick=False)
OTHERS = compare_plan("arithmetic-small-clean", [*METHODS, *CONTROLS, *CONTENDERS], 3, 3, False)
ENTRANTS = {entrant.label: entrant for entrant in (*OTHERS.entrants, *FULL.entrants, *ABLATION.entrants)}


@pytest.mark.parametrize("method", [*METHODS, "sft+dpo", "sft+ift", "sft+simpo"])
@pytest.mark.parametrize("trials", [3, 6])
def test_every_method_has_the_same_number_of_different_trials(method, trials):
    found = Entrant(method).candidates(trials)
    assert len({str(one) for one in found}) == len(found) == trials


def test_a_sequence_searches_its_last_stage_alone():
    assert all(key.startswith("2.") for one in Entrant("sft+dpo").candidates(6) for key in one)
    betas = {one["2.beta"] for one in Entrant("sft+dpo").candidates(6)}
    assert betas == {*BETAS["dpo"]}


def test_simpo_keeps_its_ratio():
    assert {one["simpo_gamma"] / one["beta"] for one in Entrant("simpo").candidates(6)} == {0.8}


@pytest.mark.parametrize("label", ENTRANTS)
def test_every_setting_is_known_to_the_trainer(label):
    """And each stage sees as many answers as any other method: a pair is two, so half the pairs in half the passes."""
    entrant = ENTRANTS[label]
    chosen = entrant.candidates(1)[0] if not entrant.like else {"learning_rate": 1e-4}
    settings = stage_settings(entrant, chosen, {"learning_rate": 7e-4}) | {"seed": 0}
    methods = parse_methods(entrant.method)
    _check_names(methods, settings)
    for number, method in enumerate(methods, start=1):
        own = _settings_of(settings, methods, number)
        answers = 2 if method.needs_pairs else 1
        assert own["per_device_train_batch_size"] * answers == ROWS_PER_STEP
        assert own["num_train_epochs"] * answers == pytest.approx(PASSES * entrant.more_steps)
        rate = 7e-4 if number < len(methods) else next(iter(chosen.values()))
        assert own["learning_rate"] == rate


def test_ift_and_sft_share_the_reduction_and_the_token_mean_is_beside():
    def reduction(label):
        return stage_settings(ENTRANTS[label], {}, {})["loss_reduction"]

    assert reduction("sft") == reduction("ift") == "sequence"
    assert reduction("sft token mean") == reduction("ift token mean") == "token"


def test_sequences_bring_their_first_method():
    plan = compare_plan("x", ["sft+dpo"], 2, 2, fairer=False)
    assert [entrant.label for entrant in plan.entrants] == ["sft", "sft+dpo"]
    assert [entrant.label for entrant in plan.searched()] == ["sft", "sft+dpo"]
    assert [entrant.method for entrant in compare_plan("x", ["tdpo"], 2, 1, False).entrants] == ["tdpo2"]


def test_a_single_candidate_is_not_searched():
    assert compare_plan("x", ["sft", "dpo"], 2, 1, fairer=False).searched() == []


@pytest.mark.parametrize(
    ("methods", "said"), [(["sft", "ipo"], "unknown method 'ipo'"), (["sft", "sft"], "named twice")]
)
def test_wrong_methods_are_refused(methods, said):
    with pytest.raises(ValueError, match=said):
        compare_plan("x", methods, 2, 1, fairer=False)


def test_ablations_change_what_they_say():
    """Every entrant but the two searched ones differs from published IFT in settings or method, each in its own way."""
    followers = [entrant for entrant in ABLATION.entrants if entrant.like]
    assert all(entrant.like == "ift" for entrant in followers)
    assert all(entrant.settings or entrant.method != "ift" for entrant in followers)
    assert len({str((entrant.method, entrant.settings)) for entrant in followers}) == len(followers) == 23
    quick = ablate_plan("x", 3, 3, quick=True)
    assert [entrant.label for entrant in quick.entrants][:2] == ["sft", "ift"]
    assert len(quick.entrants) == 7


def test_variants_are_chosen_by_label():
    """Of any budget, in the order given; SFT and IFT stay, for the others take IFT's settings and stand beside SFT."""
    plan = ablate_plan("x", 3, 3, quick=True, variants=["ift lambda 0.4", "random-residual"])
    assert [entrant.label for entrant in plan.entrants] == ["sft", "ift", "ift lambda 0.4", "random-residual"]
    assert plan.entrants[2].settings == {"residual_lambda": 0.4}
    assert plan.entrants[3].method == "random-residual"
    with pytest.raises(ValueError, match="unknown variant 'ift lambda 7': choose from ift residual only; "):
        ablate_plan("x", 3, 3, quick=True, variants=["ift lambda 7"])
