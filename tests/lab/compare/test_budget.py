"""`--budget 2h`: the last plan of the ladder that fits the time, what the user has named, and what does not fit."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import ift.lab.compare.plan
from ift.lab.compare.budget import LADDER, REPORT_SECONDS, fit_to_budget
from ift.lab.compare.estimate import foresight, seconds_needed, span, too_small, training_steps
from ift.lab.compare.plan import Entrant, compare_plan
from ift.lab.compare.run_study import run_study
from ift.lab.compare.split import _spread
from ift.lab.compare.study import Study, StudyError
from ift.lab.compare.study_args import parse_time
from ift.lab.compare.testbed import TestbedBackend
from ift.lab.progress import WorkProgress
from ift.lab.report.intervals import smallest_difference
from ift.lab.testbed import tiny_base_path
from ift.runs.argv import UsageError

MEASURED = {
    "step_seconds": 1.0, "steps": 30, "start_seconds": 10.0, "validation_row_seconds": 0.1, "test_row_seconds": 0.4,
    "peak_memory_bytes": 1, "weight_bytes": 1,
}  # fmt: skip
ROOT = Path(__file__).parents[3]
NOTHING = dict.fromkeys(("seeds", "trials", "validation_rows", "test_rows"))


@pytest.fixture
def study_of(tmp_path):
    """A study of SFT and IFT that has measured `MEASURED`, with a budget of some seconds."""

    def made(seconds, **named):
        budget = {"seconds": seconds, **NOTHING, **named}
        plan = compare_plan("arithmetic-small-clean", ["sft", "ift"], 3, 3, False, time_budget=budget)
        study = Study(plan, tmp_path / "study", tiny_base_path(), 1, ["compare"])
        study.open()
        study.probe()[0].result.write_text(json.dumps(MEASURED))
        return study

    return made


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("45m", 2700), ("1.5 h", 5400), ("90s", 90), ("30min", 1800), ("2", None), ("0h", None)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


def test_the_time_of_a_plan_by_hand(study_of):
    """SFT 10 + 30 s, IFT 10 + 40 s (four forwards for three); 200 validation and 500 test rows."""
    study = study_of(1)
    searched = 3 * (40 + 20) + 3 * (50 + 20)
    runs = 200 + 3 * (40 + 200 + 50 + 200)
    assert seconds_needed(study) == pytest.approx(searched + runs)
    on_four_nodes = SimpleNamespace(speed=lambda jobs, on_devices: 4.0)
    assert seconds_needed(replace(study, executor=on_four_nodes)) == pytest.approx((searched + runs) / 4)


def test_imports_and_loading_count_for_every_process_and_what_several_share_is_measured(study_of):
    """Red when: 13 processes that take 20 s to start and to exit are estimated without them."""
    study = study_of(1)
    without = seconds_needed(study)
    study.probe()[0].result.write_text(json.dumps(MEASURED | {"process_seconds": 20.0, "at_once": 1}))
    assert seconds_needed(study) == pytest.approx(without + (6 + 7) * 20)
    study.probe()[0].result.write_text(json.dumps(MEASURED | {"process_seconds": 20.0, "at_once": 2}))
    assert seconds_needed(study) == pytest.approx((without + (6 + 7) * 20) / 2)


@pytest.mark.parametrize("rung", range(len(LADDER)))
def test_the_last_rung_that_fits_is_taken(study_of, rung):
    """With just the time of each rung, the plan is that rung's."""
    seeds, trials, share = LADDER[rung]
    study = study_of(1)
    rows = {"validation_rows": max(50, round(200 * share)), "test_rows": round(500 * share)}
    expected = replace(study.plan, seeds=seeds, trials=trials, **rows)
    needed = seconds_needed(replace(study, plan=expected))
    budget = {**study.plan.time_budget, "seconds": 1.001 * needed / 0.9 + REPORT_SECONDS}
    lines = []
    found = fit_to_budget(replace(study, plan=replace(study.plan, time_budget=budget)), 1, lines.append).plan
    assert (found.seeds, found.trials, found.test_rows, found.validation_rows) == (
        seeds, trials, rows["test_rows"], rows["validation_rows"]
    )  # fmt: skip
    assert f"{seeds} seeds" in lines[0]
    assert ("no search" in lines[0]) == (trials == 1)


def test_the_page_has_the_ladder():
    shares = {"a quarter": 0.25, "half": 0.5, "all": 1.0}
    text = (
        (ROOT / "docs" / "compare.md").read_text().partition("## A budget in time")[2].partition("\n## ")[0]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if "|" in line][2:]
    assert tuple((int(a), int(b.split()[0]), shares[c]) for a, b, c in rows) == LADDER


def test_what_the_user_has_named_stays(study_of):
    study = study_of(1e6, seeds=4, trials=1, test_rows=500)
    found = fit_to_budget(study, 1, lambda line: None).plan
    assert (found.seeds, found.trials, found.test_rows) == (4, 1, 500)
    assert found.searched() == []


@pytest.mark.parametrize(
    ("seconds", "spent", "given", "needed", "enough"),
    [(600, 0, "10m", "12 minutes", "12m"), (60, 0, "1m", "12 minutes", "12m"), (720, 60, "12m", "13 minutes", "13m"),
     (90, 6000, "90s", "1.9 hours", "1.9h")],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_was_given_and_what_it_needs(
    study_of, seconds, spent, given, needed, enough
):
    """By hand: 620 s over 0.9, 15 s of the report, and what has passed since the command began."""
    with pytest.raises(UsageError) as refused:
        fit_to_budget(study_of(seconds), 1, lambda line: None, spent)
    assert str(refused.value) == (
        f"--budget {given} is too short. The smallest study of sft, ift (3 seeds, no search, 125 test rows) needs "
        f"about {needed} with the measurement and the report; give --budget {enough} or name fewer --methods"
    )


def test_a_budget_that_goes_into_starting_processes_says_so(study_of):
    """Seven processes of 200 s each. Red when: fewer steps are advised, which save next to nothing."""
    study = study_of(600)
    own = {"metric": "text", "pattern": None, "scoring": None}
    study = replace(study, plan=replace(study.plan, user_data=SimpleNamespace(**own)))
    study.probe()[0].result.write_text(json.dumps(MEASURED | {"process_seconds": 200.0}))
    with pytest.raises(UsageError) as refused:
        fit_to_budget(study, 1, lambda line: None)
    assert ", of which the processes take 24 minutes to start; give --budget 38m or name fewer" in str(
        refused.value
    )


def _on_user_rows(study, **budget):
    """The study, as one on rows of the user's own, whose time budget has further keys."""
    own = SimpleNamespace(metric="text", pattern=None, scoring=None)
    given = {**study.plan.time_budget, **budget}
    return replace(study, plan=replace(study.plan, user_data=own, time_budget=given))


@pytest.mark.parametrize("steps", [20, 23, 29])
def test_a_time_that_is_too_short_for_the_whole_training_shortens_it(study_of, steps):
    """The whole has 30 steps. Red when: the study is refused, trains a step that does not fit, or says nothing.

    By hand: 125 test rows of 0.4 s for the base model and each of six runs, which start in 10 s; IFT has 4/3 s a step.
    """
    needed = 50 + 3 * (10 + steps + 50) + 3 * (10 + 4 / 3 * steps + 50)
    budget = needed / 0.9 + REPORT_SECONDS
    lines = []
    study = _on_user_rows(study_of(budget + 1), training=False)
    found = fit_to_budget(study, 1, lines.append)
    assert training_steps(found) == steps
    assert seconds_needed(found) == pytest.approx(needed, abs=0.1)
    assert lines[1].startswith(
        f"each training is shortened to {steps} of its 30 steps ({100 * steps / 30:.0f} %)"
    )
    assert "early in training; for the whole training give --budget 12m and another" in lines[1]
    assert {task.content["training_share"] for task in found.runs()} == {(steps - 0.001) / 30}
    lines.clear()
    resumed = fit_to_budget(study, 1, lines.append)
    assert resumed.plan.training_share == found.plan.training_share
    assert lines[1].endswith("early in training")


def test_a_time_that_is_too_short_even_for_twenty_steps_is_refused_with_both_times(study_of):
    with pytest.raises(UsageError) as refused:
        fit_to_budget(_on_user_rows(study_of(300), training=False), 1, lambda line: None)
    assert (
        "(3 seeds, no search, 125 test rows, 20 of the 30 steps of each training) needs about 11 minutes"
        in str(refused.value)
    )
    assert "give --budget 11m (--budget 12m for the whole training) or name fewer" in str(refused.value)


@pytest.mark.parametrize(
    ("named", "steps", "said"),
    [
        (
            True,
            30,
            "--train_rows; without --max_steps and --num_train_epochs the budget shortens the training)",
        ),
        (True, 20, "--train_rows)"),
        (False, 20, "--train_rows)"),
    ],
)
def test_steps_that_the_user_has_named_and_few_steps_are_not_shortened(study_of, named, steps, said):
    study = _on_user_rows(study_of(300), training=named)
    study.probe()[0].result.write_text(json.dumps(MEASURED | {"steps": steps}))
    with pytest.raises(UsageError, match=r"125 test rows\) needs .*, train less") as refused:
        fit_to_budget(study, 1, lambda line: None)
    assert said in str(refused.value)


def test_a_study_that_its_time_refuses_leaves_the_folder_to_another_one(study_of):
    """Red when: the logs of the measurement or the split of the user's rows stay and refuse the next study."""
    study = study_of(60)
    (study.folder / "logs" / "measured.log").touch()
    study.rows.mkdir()
    (study.rows / "test.arrow").touch()
    with pytest.raises(UsageError, match="is too short"):
        run_study(study, 1, WorkProgress(Console(quiet=True)), lambda line: None)
    assert not [*study.folder.glob("*.json")]
    replace(study, plan=replace(study.plan, test_rows=100)).open()


def test_a_time_is_kept_with_as_many_processes_as_were_measured(study_of, monkeypatch):
    """Red when: one process is measured, and several that share the cores are started."""
    monkeypatch.setattr("ift.lab.compare.budget.fitting_jobs", lambda study: 4)
    assert fit_to_budget(study_of(3000), None, lambda line: None).jobs == 1
    assert fit_to_budget(study_of(3000), 3, lambda line: None).jobs == 3
    study = study_of(3000)
    without = replace(study, plan=replace(study.plan, time_budget=None))
    assert fit_to_budget(without, None, lambda line: None).jobs == 4


@pytest.mark.parametrize(("seconds", "rows", "said"), [(500, 28, True), (1e6, 28, False), (500, 0, False)])
def test_rows_that_were_held_out_for_a_search_without_one_are_named(study_of, seconds, rows, said):
    study, lines = study_of(seconds), []
    own = {"metric": "text", "pattern": None, "scoring": None}
    plan = replace(study.plan, user_data=own, validation_rows=rows, test_rows=57)
    fit_to_budget(replace(study, plan=plan), 1, lines.append)
    assert ("no search, 50 test rows" in lines[0]) == (seconds == 500)
    assert ("28 validation rows" in lines[0]) == (rows > 0 and not said)
    assert any("28 validation rows are not used" in line for line in lines) == said


def test_short_times_are_not_rounded_to_minutes():
    assert [span(one) for one in (0, 31, 90, 91, 5400, 5401)] == [
        "10 seconds", "40 seconds", "90 seconds", "2 minutes", "90 minutes", "1.5 hours",
    ]  # fmt: skip


def test_a_resumed_study_keeps_its_plan(study_of):
    first = fit_to_budget(study_of(3000), 1, lambda line: None).plan
    study = study_of(3000)  # opens the same folder
    study.probe()[0].result.write_text(json.dumps(MEASURED | {"step_seconds": 1000.0}))
    assert fit_to_budget(study, 1, lambda line: None).plan == first
    with pytest.raises(StudyError, match=r"Another --test_rows \(not given, now 50\)"):
        study_of(3000, test_rows=50)


def test_without_a_time_nothing_is_changed(study_of):
    study = study_of(1)
    study = replace(study, plan=replace(study.plan, time_budget=None))
    found = fit_to_budget(study, 2, print)
    assert (found.plan, found.jobs) == (study.plan, 2)


def test_fewer_rows_are_spread_evenly():
    class Rows(list):
        def select(self, places):
            return [self[place] for place in places]

    assert _spread(Rows(range(10)), 4) == [0, 2, 5, 7]
    assert _spread(Rows(range(3)), 4) == [0, 1, 2]


def test_the_testbed_measures_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("ift.lab.compare.testbed.PROBE_ROWS", 4)
    plan = compare_plan("arithmetic-small-clean", ["sft"], 2, 1, False)
    study = Study(plan, tmp_path, tiny_base_path(), 1, ["compare"])
    backend = TestbedBackend(study.probe()[0].content)
    found = backend.probe(tmp_path / "model")
    assert found["steps"] == ift.lab.compare.plan.PASSES * 400 / 16
    assert found["weight_bytes"] > 1e6
    assert all(value > 0 for value in found.values())
    assert backend.entrant == Entrant("sft")


def test_the_smallest_difference_is_said_with_what_is_assumed():
    plan = compare_plan("arithmetic-small-clean", ["sft", "ift"], 3, 1, False)
    least = [100 * smallest_difference(3, 500, share**0.5, 0.01) for share in (0.1, 0.3)]
    assert foresight(plan) == (
        "With 500 test rows and 3 seeds, the smallest difference between two methods that is likely to be detected is "
        f"{least[0]:.1f} points if their results differ on 10 % of the rows, and {least[1]:.1f} points if their "
        "results differ on 30 % of the rows."
    )
    few = foresight(replace(plan, test_rows=57))
    assert few.endswith(
        "that is likely to be detected is 20.7 points if their results differ on 30 % of the rows."
    )
    assert "even 30 points between two methods are likely to be missed" in foresight(
        replace(plan, test_rows=8)
    )
    assert "no verdict with fewer than 3 seeds; give --seeds 3" in foresight(replace(plan, seeds=2))
    five = compare_plan("arithmetic-small-clean", ["sft", "ift", "dpo", "orpo", "dft"], 3, 1, False)
    wider = 100 * smallest_difference(
        3, 500, 0.3**0.5, 0.01, confidence=1 - 0.05 / 10
    )  # ten pairs of methods
    assert wider > 1.2 * least[1]
    assert "between two of the 5 methods that is" in foresight(five)
    assert f"and {wider:.1f} points if their results differ on 30 % of the rows" in foresight(five)
    data = {"metric": "bleu", "pattern": None, "scoring": {"names": ["bleu"]}}
    for rows, word in ((8, "only a very large"), (20, "only a large"), (100, "a medium"), (200, "a small")):
        least_share = smallest_difference(3, rows, 1.0, 0.0)
        assert foresight(replace(plan, user_data=data, test_rows=rows)) == (
            f"With {rows} test rows and 3 seeds, {word} difference between two methods is likely to be detected: its "
            f"mean over the rows must be at least {least_share:.2f} of its standard deviation."
        )


def test_a_study_that_is_too_small_is_said_to_be():
    """200 test rows are the number with which three seeds find a small difference, 0.2 standard deviations."""
    assert smallest_difference(3, 200, 1.0, 0.0) < 0.2 < smallest_difference(3, 190, 1.0, 0.0)
    plan = compare_plan("arithmetic-small-clean", ["sft"], 3, 1, False)

    def said(rows, steps):
        return too_small(replace(plan, test_rows=rows), steps)

    assert said(8, 4) == (
        "warning: this study is too small to compare methods and shows only that everything runs: 8 test rows (at "
        "least 50; 200 are advisable) and 4 steps of a training (at least 20)."
    )
    assert said(50, 19).endswith("runs: 19 steps of a training (at least 20).")
    assert "steps" not in said(49, 20)
    assert said(50, 20) == said(50, None) == ""
    assert said(49, None) == said(49, 20)


def test_what_a_study_can_see_is_said_before_anything_is_run(tmp_path, monkeypatch):
    """Red when: ten test rows are said to be too few after a process of a minute. Nothing is said twice."""
    lines = []

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    def begin(**changes):
        plan = compare_plan("arithmetic-small-clean", ["sft", "ift"], 3, 1, False, **changes)
        study = Study(plan, tmp_path / str(len(changes)), tiny_base_path(), 1, ["compare"])
        study.open()
        with pytest.raises(KeyboardInterrupt):
            run_study(study, 1, WorkProgress(Console()), lines.append)
        return study

    with monkeypatch.context() as patched:
        patched.setattr(Study, "perform", stop)
        study = begin(test_rows=10)
        assert lines[1] == foresight(study.plan)
        assert lines[2].startswith("warning: this study is too small to compare methods")
        assert lines[3].startswith("measuring")
        begin(test_rows=10, time_budget={"seconds": 600.0, **NOTHING})  # seeds are not decided yet
        assert [line.partition(" ")[0] for line in lines[5:]] == ["warning:", "measuring"]
    lines.clear()

    def measure(study, *args):
        study.probe()[0].result.write_text(json.dumps(MEASURED))

    monkeypatch.setattr("ift.lab.compare.run_study.measure", measure)
    monkeypatch.setattr(Study, "perform", stop)
    study.probe()[0].result.unlink(missing_ok=True)
    begin(test_rows=10)
    assert lines.count(foresight(study.plan)) == 1
    assert len([line for line in lines if line.startswith("warning:")]) == 1
