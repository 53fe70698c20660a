"""benchmarks/: that it runs, that the naive method is the method, and that its figures mean what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models
from ift import ift_loss

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_the_naive_method_is_the_method():
    """Padded to any length, with full logits: the loss is the same; only the embeddings get no gradient (R1)."""
    from naive_ift import NaiveIFT

    model = models.tiny_model("llama")
    rows = models.likely_rows(model, (9, 14, 5))
    batch = models.padded(rows, models.masked_labels(rows, [3, 2, 4]))
    wanted = ift_loss(model, batch)
    wanted.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    naive = NaiveIFT(model, 0)
    naive.max_length = 40
    loss = naive.loss(batch)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert gradients.pop("model.embed_tokens.weight").abs().max() > 0
    assert model.model.embed_tokens.weight.grad is None
    models.assert_same_gradients(
        {name: dict(model.named_parameters())[name].grad for name in gradients}, gradients
    )


@pytest.mark.parametrize(
    ("n", "low", "high"), [(2, 0, 1), (5, 0, 4), (7, 0, 6), (8, 0, 7), (9, 1, 7), (20, 5, 14)]
)
def test_the_interval_of_a_median(n, low, high):
    """Of 9 values the 2nd and 8th hold the median with 1 - 2 (1 + 9) / 2^9 = 96 %, of 8 the 1st and 8th (99 %)."""
    from measure import median_interval

    assert median_interval([float(i) for i in reversed(range(n))]) == [low, high]


def test_memory_is_that_of_tensors():
    """A million floats are 4 MB; two such live at once, and one is left."""
    from measure import _allocations

    def function():
        first = torch.ones(1_000_000)
        second = first * 2
        del first
        return second + 1

    result, kept, peak = _allocations(function)
    assert result[0] == 3
    assert kept == pytest.approx(4e6, rel=1e-3)
    assert peak == pytest.approx(8e6, rel=1e-3)


def test_operations_of_a_gpus_head_and_attention_are_counted():
    """(4, 5) @ (5, 6) with a type told: 2 * 4 * 5 * 6. Attention of 2 rows, 4 heads (2 of keys), 3 queries, 7 keys."""
    from measure import counted_flops

    from ift.lab.compare.flops import UNCOUNTED

    made = {"device": "meta", "dtype": torch.bfloat16}
    result = torch.zeros(4, 6, device="meta")
    told = {"out_dtype": torch.float32, "out": result}
    typed = lambda: torch.addmm(result, torch.zeros(4, 5, **made), torch.zeros(5, 6, **made), **told)  # noqa: E731
    assert counted_flops(typed) == 240
    query, keys = (2, 4, 3, 8), (2, 2, 7, 8)
    for name in ("flash_attention", "efficient_attention", "cudnn_attention"):
        forward = UNCOUNTED[getattr(torch.ops.aten, f"_scaled_dot_product_{name}")]
        backward = UNCOUNTED[getattr(torch.ops.aten, f"_scaled_dot_product_{name}_backward")]
        assert forward(query, keys, keys, None, False) == 2 * (2 * 4) * 3 * 7 * (8 + 8)
        assert backward(query, query, keys, keys, None) == 5 * (2 * 2 * 4 * 3 * 7 * 8)


def test_mixed_lengths_are_the_same_each_time_and_rows_share_their_prompts():
    from contestants import Point, answers, drawn_lengths

    point = Point(batch=6, lengths="mixed")
    assert drawn_lengths(point) == drawn_lengths(point)
    assert len({sum(lengths) for lengths in drawn_lengths(point)}) == 6
    chosen, rejected = answers(point, 1000, 1), answers(point, 1000, 2)
    for one, other, (prompt, completion) in zip(chosen, rejected, drawn_lengths(point), strict=True):
        assert one["input_ids"][:prompt] == other["input_ids"][:prompt]
        assert one["input_ids"] != other["input_ids"]
        assert one["labels"] == [-100] * prompt + one["input_ids"][prompt:]
        assert len(one["input_ids"]) == prompt + completion


def test_a_quick_run(tmp_path, monkeypatch, capsys):
    """Every figure is there, and a step's operations stand in the order that they must."""
    import step_cost

    words = [
        "--quick",
        "--threads",
        "1",
        "--output",
        str(tmp_path / "x.json"),
        "--plot",
        str(tmp_path / "x.png"),
    ]
    monkeypatch.setattr(sys, "argv", ["step_cost.py", *words])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    step_cost.main()
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "x.json").read_text())
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert [entry["point"]["checkpointing"] for entry in record["points"]] == [False, True]
    for entry in record["points"]:
        found = entry["methods"]
        assert list(found) == list(step_cost.QUICK)
        flops = {name: figures["flops"] for name, figures in found.items()}
        assert flops["ift-lambda-0"] < flops["ift"] < flops["naive-ift"] < flops["dpo"]
        assert found["ift"]["flops_over_ift-lambda-0"] <= 1.03 * entry["least_flops_over_ift-lambda-0"]
        assert found["ift"]["loss"] == pytest.approx(found["naive-ift"]["loss"], rel=1e-4)
        assert all(len(figures["seconds"]) == 2 for figures in found.values())


def test_the_memory_of_a_method(tmp_path):
    """DPO holds a second model; what a step needs is more than what its forward pass keeps."""
    from contestants import MODELS, Contestant, Point
    from measure import memory_of

    point = Point(batch=2, length=64)
    found = {}
    for name in ("ift", "dpo"):
        contestant = Contestant(name, MODELS["tiny"], point, "cpu", "float32")
        found[name] = memory_of(contestant, contestant.batch(point))
    assert found["dpo"]["held_bytes"] == 2 * found["ift"]["held_bytes"]
    for figures in found.values():
        assert 0 < figures["kept_by_forward_bytes"] < figures["step_peak_bytes"]
    assert found["dpo"]["kept_by_forward_bytes"] > 1.5 * found["ift"]["kept_by_forward_bytes"]


def test_grouped_batches_are_the_drawn_rows_in_order_of_length():
    from contestants import PARTS, Point, drawn_lengths

    parts = [drawn_lengths(Point(batch=4, lengths="grouped", part=part)) for part in range(PARTS)]
    assert [len(part) for part in parts] == [4] * PARTS
    totals = [sum(row) for part in parts for row in part]
    assert totals == sorted(totals)
    assert len(set(totals)) > PARTS
    assert drawn_lengths(Point(batch=4, lengths="mixed")) != parts[0]


@pytest.mark.slow
def test_the_script_for_the_day_a_gpu_is_there(tmp_path, monkeypatch):
    """Its tiny mode, every part; the tables are made from its records. Red when: a part cannot even start."""
    script = [ROOT / "benchmarks" / "gpu.sh", "--tiny", tmp_path]
    ended = subprocess.run(
        script, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=True
    )
    summary = json.loads(ended.stdout)
    parts = {name: part["code"] for name, part in summary["parts"].items()}
    logs = "".join(path.read_text()[-500:] for path in tmp_path.glob("*.log"))
    assert parts == dict.fromkeys(("launches", "gpu-0.5b", "gpu-1.5b", "gpu-7b", "tests"), 0), logs
    assert summary["records"] == ["gpu-0.5b.json", "gpu-1.5b.json", "gpu-7b.json", "launches.json"]
    waits = {
        name: found["waits"]
        for name, found in json.loads((tmp_path / "launches.json").read_text())["methods"].items()
    }
    assert waits["ift-full-prefix"] < waits["trl-sft"]

    monkeypatch.syspath_prepend(ROOT / "docs")
    from page_tables import performance

    for file in tmp_path.glob("gpu-*.json"):
        found = json.loads(file.read_text())
        for point in found["points"]:  # memory is measured on a GPU alone
            for figures in point["methods"].values():
                assert "failed" not in figures, figures
                figures["memory"] = {"kept_by_forward_bytes": 0, "step_peak_bytes": 0}
        file.write_text(json.dumps(found))
    monkeypatch.setattr(performance, "RECORDS", tmp_path)
    assert "ift-shared-prefix" in performance.gpu("gpu-7b")
