"""The published numbers come out again, the measures mean what they say, and the command writes what it promises."""

import dataclasses
import json
import xml.etree.ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.frozen_lake.measures import estimate, in_order, measure, paired_differences, summary
from ift.lab.frozen_lake.methods import Settings
from ift.lab.frozen_lake.policy import new_policies
from ift.lab.frozen_lake.training import METHODS, Start, make_tasks, start_matrix, train
from ift.lab.frozen_lake.trajectories import shortest_detour
from ift.lab.frozen_lake.window import errors, step_maps, sweeps, window_ticks
from ift.lab.frozen_lake.world import make_lake, optimal_policy

# MSE x 1000 at step 20 of an independent prototype: 200 other seeds, half width 0.2 of the 95 % interval each.
PROTOTYPE = {"dpo": 27.5, "ift": 34.9, "orpo": 36.7, "sft": 39.9}
PROTOTYPE_START = 64.1
PROTOTYPE_LAMBDAS = (35.3, 34.9, 35.6, 37.7, 41.3, 46.4, 52.8, 62.8, 65.8)  # 0.1 to 0.9
PROTOTYPE_VARIANTS = {
    "weights detached": 34.5,
    "propagation only": 36.4,
    "residual only": 40.0,
    "weights by position": 34.2,
    "sampled look-ahead": 35.4,
    "expected look-ahead": 35.2,
}


@pytest.fixture(scope="module")
def measured(task):
    return {method: measure(task, train(task, method, Settings())) for method in METHODS}


def test_few_agents_come_near_the_prototype(measured):
    """Eight agents: their own interval is about 1.2 wide on each side (see the slow test for 200)."""
    errors_now = {method: 1000 * measured[method]["mse_all"] for method in PROTOTYPE}
    assert errors_now["sft"][0].mean().item() == pytest.approx(PROTOTYPE_START, abs=0.3)
    for method, published in PROTOTYPE.items():
        assert errors_now[method][-1].mean().item() == pytest.approx(published, abs=1.5), method
    means = [errors_now[method][-1].mean() for method in ("dpo", "ift", "orpo", "sft")]
    assert all(low < high for low, high in pairwise(means))


@pytest.mark.slow
def test_two_hundred_agents_agree_with_the_prototype():
    """Both have sampling error: the intervals must overlap (0.05 more for the prototype's rounding)."""
    (task,) = make_tasks(make_lake(), [Start()], range(200))
    found = summary({method: measure(task, train(task, method, Settings())) for method in PROTOTYPE})
    for method, published in PROTOTYPE.items():
        mse = found[method]["mse_all"]
        assert abs(1000 * mse["mean"] - published) <= 1000 * mse["ci95"] + 0.2 + 0.05, method
    swept = sweeps(task, Settings())
    for row, published in zip(swept["lambda"][1:10], PROTOTYPE_LAMBDAS, strict=True):
        assert abs(1000 * row["ift"]["mean"] - published) <= 1000 * row["ift"]["ci95"] + 0.25 + 0.05, row[
            "value"
        ]
    variants = {row["value"]: row["ift"] for row in swept["variant"]}
    for name, published in PROTOTYPE_VARIANTS.items():
        assert abs(1000 * variants[name]["mean"] - published) <= 1000 * variants[name]["ci95"] + 0.3, name
    assert found["dpo"]["success_greedy_slippery"]["mean"] == pytest.approx(0.740, abs=1e-3)
    assert found["sft"]["success_greedy_slippery"]["mean"] == pytest.approx(0.67, abs=0.01)


def test_cells_explored_are_those_of_the_trajectories(measured):
    """SFT: the target's 6. DPO: the 10 of both less the 2 shared moves. ORPO: all 10. IFT: one more than SFT."""
    explored = {method: measured[method]["cells_explored"][-1] for method in ("sft", "ift", "dpo", "orpo")}
    assert (explored["sft"] == 6).all()
    assert (explored["dpo"] == 8).all()
    assert (explored["orpo"] == 10).all()
    assert (explored["ift"] > 6).all()
    assert (measured["sft"]["cells_explored"][0] == 0).all()


def test_errors_and_own_ground_by_hand(task, measured):
    """Rows: 16 in all, 11 where one can move, 5 of them off the target (1 2 3 6 10)."""
    run = train(task, "orpo", Settings(steps=2))
    found = measure(task, run)
    square = (run.policies[2, 3] - task.optimum[3]).square()
    assert found["mse_all"][2, 3].item() == pytest.approx(square.sum().item() / 64)
    moving = [0, 1, 2, 3, 4, 6, 8, 9, 10, 13, 14]
    assert found["mse_non_terminal"][2, 3].item() == pytest.approx(square[moving].sum().item() / 44)
    assert found["mse_off_trajectory"][2, 3].item() == pytest.approx(
        square[[1, 2, 3, 6, 10]].sum().item() / 20
    )
    assert (found["own_ground"][0] == 0).all()
    assert ((found["own_ground"][1:] > 0) & (found["own_ground"][1:] <= 1)).all()


def test_intervals_and_order_by_hand(measured):
    """Students' t for 3 values is 4.303: 1, 2, 3 give 2 +- 4.303 / sqrt(3)."""
    assert estimate(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(
        {"mean": 2.0, "ci95": 4.30265 / 3**0.5}, rel=1e-5
    )
    held = in_order(
        {
            "dpo": torch.tensor([1.0, 1.0, 3.0]),
            "ift": torch.tensor([2.0, 2.0, 2.0]),
            "orpo": torch.tensor([3.0, 2.0, 4.0]),
            "sft": torch.tensor([4.0, 4.0, 5.0]),
        }
    )
    assert held.tolist() == [True, False, False]
    apart = measured["ift"]["mse_all"][-1] - measured["sft"]["mse_all"][-1]
    assert paired_differences(measured)["ift-sft"] == estimate(apart)


def test_the_start_is_a_skilled_agent_with_a_habit():
    """Cell 1 (optimum up, habit right): 0.5 (0.6 up + 0.1 each) + 0.5 right; cell 3 has no habit."""
    lake = make_lake()
    matrix = start_matrix(lake, Start(), shortest_detour(lake))
    torch.testing.assert_close(matrix[1], torch.tensor([0.05, 0.05, 0.55, 0.35], dtype=torch.float64))
    torch.testing.assert_close(matrix[3], torch.tensor([0.1, 0.1, 0.1, 0.7], dtype=torch.float64))
    assert (matrix[5] == 0.25).all()


def test_agents_are_fitted_and_do_not_depend_on_their_company(task):
    """The fit is near its target; agent 3 alone is agent 3 among eight; initial weights are those of nn.Linear."""
    lake = task.lake
    assert (task.optimum - optimal_policy(lake)).abs().max() < 0.02
    assert (task.start.matrix() - start_matrix(lake, Start(), shortest_detour(lake))).abs().max() < 0.02
    (alone,) = make_tasks(lake, [Start()], [3])
    run, company = train(alone, "ift", Settings()), train(task, "ift", Settings())
    torch.testing.assert_close(run.policies[:, 0], company.policies[:, 3], rtol=0, atol=1e-6)
    into, into_bias, out, out_bias = new_policies(16, [0, 1])
    assert into.abs().max() <= 16**-0.5 < into.abs().max() * 1.01
    assert out.abs().max() <= 64**-0.5 < out.abs().max() * 1.1
    assert into_bias.shape == (2, 1, 64)
    assert out_bias.shape == (2, 1, 4)
    assert not torch.equal(into[0], into[1])


def test_sweeps_change_one_setting(task):
    """The row of the usual value is the usual result; lambda 0 is "propagation only"."""
    usual = Settings(steps=3)
    calls = []
    swept = sweeps(task, usual, lambda: calls.append(1))
    by_value = {name: {row["value"]: row for row in rows} for name, rows in swept.items()}
    expected = estimate(errors(task, "ift", usual)[-1])
    for name, value in (("lambda", 0.2), ("gamma", 0.95), ("variant", "as released")):
        assert by_value[name][value]["ift"] == pytest.approx(expected)
    assert by_value["lambda"][0.0]["ift"] == pytest.approx(by_value["variant"]["propagation only"]["ift"])
    assert by_value["lambda"][0.0]["ift"] != pytest.approx(expected)
    assert by_value["beta"][0.1]["dpo"] == pytest.approx(estimate(errors(task, "dpo", usual)[-1]))
    assert len({json.dumps(row["ift"]) for row in swept["variant"]}) == len(swept["variant"])
    assert sum(map(len, swept.values())) == len(calls)
    assert window_ticks(task.lake) > len(calls)


@pytest.mark.slow
def test_step_maps_agree_with_single_runs(task):
    found = {one["rows"]: one for one in step_maps(task, Settings())}
    curves = {method: errors(task, method, Settings(orpo_beta=0.25)) for method in PROTOTYPE}
    map_of_orpo = found["ORPO beta"]
    row = map_of_orpo["shares"][map_of_orpo["row_values"].index(0.25)]
    assert row[19] == in_order(curves)[-1].double().mean().item() < 0.5
    assert found["DPO beta"]["shares"][2][19] > 0.8
    assert len(row) == len(map_of_orpo["column_values"]) == 100


def check_pictures(folder, names):
    for name in names:
        with Image.open(folder / f"{name}.png") as image:
            image.load()
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10
        assert xml.etree.ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    with Image.open(folder / "walk.gif") as image:
        assert image.n_frames > 3


@pytest.mark.slow
def test_the_command(tmp_path):
    """Twice: the record says what the issue asks for, the pictures exist, and the same seeds draw the same SVG."""
    for name in ("one", "two"):
        words = ["frozen-lake", "--seeds", "3", "--no-window", "--output_dir", str(tmp_path / name)]
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 0, found.output
    assert "tdpo2" in found.output
    assert "target  0← 4← 8↑ 9↓ 13→ 14↓" in found.output
    record = json.loads((tmp_path / "one" / "record.json").read_text())
    assert {*record["summary"]} == {*METHODS}
    for measures in record["summary"].values():
        assert {"mse_all", "mse_non_terminal", "mse_off_trajectory"} < {*measures}
        assert all({*value} == {"mean", "ci95"} for value in measures.values())
    assert (
        0.02
        < record["summary"]["dpo"]["mse_all"]["mean"]
        < record["summary"]["sft"]["mse_all"]["mean"]
        < 0.05
    )
    assert record["step"] == 20
    assert record["agents"] == 3
    assert len(record["curves"]["ift"]["mse_all"]["mean"]) == 101
    assert record["curves"]["ift"]["mse_all"]["mean"][20] == pytest.approx(
        record["summary"]["ift"]["mse_all"]["mean"]
    )
    for method, by_cell in record["mse_by_cell"].items():
        assert sum(by_cell) / 16 == pytest.approx(record["summary"][method]["mse_all"]["mean"], rel=1e-5)
    assert str(tmp_path) not in json.dumps(record)
    check_pictures(tmp_path / "one", ("policies", "ground", "errors", "curves", "walk"))
    for file in (tmp_path / "one").glob("*.svg"):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.slow
def test_the_command_with_its_window_on_another_lake(tmp_path):
    words = ["frozen-lake", "--seeds", "2", "--map_size", "5", "--seed", "1", "--output_dir", str(tmp_path)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    window = json.loads((tmp_path / "record.json").read_text())["window"]
    assert [one["rows"] for one in window["maps"]] == ["DPO beta", "ORPO beta", "lambda", "skill"]
    assert {world["kind"] for world in window["worlds"]} == {"optimizer", "rejected", "start", "lake"}
    check_pictures(tmp_path, ("policies", "ground", "errors", "curves", "walk", "sweeps", "order", "worlds"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "1"], "--seeds is 1"),
        (["--map_size", "7"], "no map of 7x7"),
        (["--lookahead", "guess"], "lookahead is 'guess': choose from"),
        (["--habit", "2"], r"must be in [0, 1]"),
        (["--seed", "0"], "no detour of two moves"),
    ],
)
def test_wrong_options_are_usage_errors(words, said, tmp_path):
    found = CliRunner().invoke(app, ["frozen-lake", "--output_dir", str(tmp_path / "out"), *words])
    assert found.exit_code == 2
    assert said in found.output
    assert not (tmp_path / "out").exists()


def test_every_setting_of_the_lake_is_described():
    for kind in (Settings, Start):
        for field in dataclasses.fields(kind):
            assert f"        {field.name}: " in kind.__doc__


def test_the_published_table_comes_from_the_default():
    """The committed record is of 200 agents at the default settings."""
    record = json.loads((Path(__file__).parents[3] / "docs" / "records" / "frozen-lake.json").read_text())
    assert record["agents"] == 200
    assert record["settings"] == dataclasses.asdict(Settings())
    assert record["start"] == dataclasses.asdict(Start())
