"""Row statistics and running means, with numbers worked by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from transformers.trainer_utils import IntervalStrategy

from ift.step.equations import propagated_loss
from ift.step.result import IFTLoss, TokenScores
from ift.step.rows import row_layout
from ift.step.settings import StepSettings
from ift.training.metrics import COLUMNS, LogsBothEnds, MetricsFile, RunningMeans, row_statistics


def statistics(losses, labels, mask=None, positions=None, reduction="sequence", nll=None):
    layout = row_layout(labels, mask, positions)
    losses = torch.where(layout.trained, losses, 0.0)
    nll = losses if nll is None else torch.where(layout.trained, nll, 0.0)
    hits = layout.trained & (losses < 1)
    scores = TokenScores(
        losses=losses, entropy=losses * 2, top1=hits, nll=nll, lookahead_ids=labels, lookahead_hits=hits
    )
    settings = StepSettings(propagation_gamma=0.5, propagation_detach="none", loss_reduction=reduction)
    loss, weights, gradient = propagated_loss(losses, layout, settings)
    result = IFTLoss(loss, weights, gradient, scores, layout)
    config = SimpleNamespace(loss_reduction=reduction)
    return row_statistics(result, labels, torch.tensor([2, 9]), config), weights


def column(rows, name):
    return rows[:, COLUMNS.index(name)].tolist()


LOSSES = torch.tensor([[9.0, 1.0, 2.0, 4.0, 9.0], [9.0, 0.5, 9.0, 9.0, 9.0]])
LABELS = torch.tensor([[-100, 5, 9, 2, -100], [-100, 2, -100, -100, -100]])
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])


def test_the_sums_of_each_row():
    rows, weights = statistics(LOSSES, LABELS, MASK, nll=LOSSES * 10)
    assert column(rows, "tokens") == [4, 2]
    assert column(rows, "trained") == [3, 1]
    assert column(rows, "residual_nll") == [7, 0.5]
    assert column(rows, "nll") == [70, 5]
    assert column(rows, "entropy") == [14, 1]
    assert column(rows, "top1") == column(rows, "lookahead_hits") == [0, 1]
    assert column(rows, "eos") == [2, 1]
    assert column(rows, "eos_nll") == [60, 5]
    assert column(rows, "items") == [1, 1]
    # weights 9/11, 12/11, 12/11 (see test_equations); the row's mean of w l is (9 + 24 + 48) / 33
    assert column(rows, "loss") == pytest.approx([81 / 33, 0.5], rel=1e-6)
    assert column(rows, "weight_max") == pytest.approx(weights.amax(1).tolist())


def test_sums_of_the_token_reduction():
    rows, _ = statistics(LOSSES, LABELS, MASK, reduction="token")
    assert column(rows, "loss") == pytest.approx([81 / 11, 0.5], rel=1e-6)
    assert column(rows, "items") == [3, 1]


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_packed_documents_sum_to_those_of_the_rows(reduction):
    apart, _ = statistics(LOSSES, LABELS, MASK, reduction=reduction)
    flat = MASK.bool()
    positions = torch.tensor([[0, 1, 2, 3, 0, 1]])
    packed, _ = statistics(LOSSES[flat][None], LABELS[flat][None], None, positions, reduction)
    torch.testing.assert_close(packed[:, :-1], apart[:, :-1].sum(0, keepdim=True))
    assert packed[0, -1] == apart[:, -1].max()


def test_means_are_over_tokens_not_over_batches():
    rows, _ = statistics(LOSSES, LABELS, MASK)
    whole, parts = RunningMeans(), RunningMeans()
    whole.add(rows, True, **{"lambda": 0.2})
    parts.add(rows[:1], True, **{"lambda": 0.1})
    parts.add(rows[1:], True, **{"lambda": 0.3})
    assert whole.summary() == pytest.approx(parts.summary())
    assert whole.summary()["nll"] == pytest.approx(7.5 / 4)
    assert whole.summary()["lambda"] == 0.2
    assert whole.loss == pytest.approx((81 / 33 + 0.5) / 2)
    assert parts.loss == pytest.approx(whole.loss)


def test_constants_of_the_weights_are_absent_without_propagation():
    rows, _ = statistics(LOSSES, LABELS, MASK)
    means = RunningMeans()
    means.add(rows, looked_ahead=False)
    all_names, fewer = set(means.summary()), set(means.summary(propagates=False))
    assert all_names - fewer == {"propagation_weight_max", "propagation_negative_share"}


def test_what_was_not_computed_is_absent():
    assert RunningMeans().summary() == {}
    assert RunningMeans().loss is None
    rows, _ = statistics(LOSSES, torch.where(LABELS == 5, 5, -100), MASK)
    means = RunningMeans()
    means.add(rows, looked_ahead=False)
    assert not {"residual_nll", "residual_gap", "eos_nll", "lambda"} & set(means.summary())
    nothing, _ = statistics(LOSSES, torch.full_like(LABELS, -100), MASK)
    means = RunningMeans()
    means.add(nothing, looked_ahead=True, **{"lambda": 0.2})
    assert means.summary() == {"lambda": 0.2}
    assert means.loss is None


def test_the_negative_share_is_of_the_gradient():
    losses = torch.tensor([[0.0, 3.0, 3.0, 3.0, 0.001]])
    labels = torch.full((1, 5), 5)
    rows, _ = statistics(losses, labels)
    assert column(rows, "negative") == [1]  # the confident last token is pushed up


def test_the_file_keeps_earlier_lines_of_a_resumed_run_only(tmp_path):
    args = SimpleNamespace(output_dir=str(tmp_path / "new"))
    file, path = MetricsFile(), tmp_path / "new" / "metrics.jsonl"

    def at(step, process_zero=True):
        return SimpleNamespace(is_world_process_zero=process_zero, global_step=step)

    file.on_train_begin(args, at(0), None)
    for step in (1, 2, 3):
        file.on_log(args, at(step), None, logs={"nll": step / 2})
    file.on_log(args, at(3, process_zero=False), None, logs={"nll": 99})
    file.on_log(args, at(3), None, logs={})
    assert [json.loads(line)["nll"] for line in path.read_text().splitlines()] == [0.5, 1.0, 1.5]
    with path.open("a") as half_written:
        half_written.write('{"step": 4, "nl')
    file.on_train_begin(args, at(2), None)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    file.on_train_begin(args, at(0, process_zero=False), None)
    assert len(path.read_text().splitlines()) == 2
    file.on_train_begin(args, at(0), None)
    assert path.read_text() == ""


@pytest.mark.parametrize(("strategy", "steps"), [("steps", [1, 4]), ("epoch", [1, 4]), ("no", [])])
def test_the_first_and_the_last_step_are_logged_unless_nothing_is(strategy, steps):
    args, logged = SimpleNamespace(logging_strategy=IntervalStrategy(strategy)), []
    for step in range(1, 5):
        control = SimpleNamespace(should_log=False)
        LogsBothEnds().on_step_end(args, SimpleNamespace(global_step=step, max_steps=4), control)
        logged += [step] * control.should_log
    assert logged == steps
