"""Two processes are one: loss, gradients, metrics, evaluation and weights of a global batch do not depend on the ranks.

"Equal" is max |difference| / max |gradient| <= 1e-6 over all gradients, in float32, rows of 2 to 60 tokens. What turns
a test red stands in its docstring; tests/mutations.py plants some of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import distributed_worker
import pair_runs
import sharded_cases
import two_processes
from models import assert_same_gradients, gradient_gap, tiny_model, trained, uneven_rows
from page_tables.sharding import GATHERS, gathered_parameters, shape_of

TOLERANCE = 1e-6
SAME = (
    "loss", "nll", "residual_nll", "entropy", "lookahead_accuracy", "eos_nll", "num_tokens", "lambda",
    "propagation_weight_max", "propagation_negative_share",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def of_two_processes(folder):
    return two_processes.of_two_processes(Path(__file__).parents[1] / "distributed_worker.py", folder)


@pytest.mark.parametrize("name", distributed_worker.CASES)
def test_copies_are_one_process(of_two_processes, tmp_path, name):
    """Red when: items are counted on one rank, DDP's average is not undone, rows of the last batch come twice."""
    two, one = of_two_processes[f"DDP, {name}"], distributed_worker.run_copies(name, tmp_path, 8)
    for ours, expected in zip(two["gradients"], one["gradients"], strict=True):
        assert gradient_gap(ours, expected) <= TOLERANCE
        assert_same_gradients(ours, expected)
    for ours, expected in zip(two["logs"], one["logs"], strict=True):
        assert ours.keys() == expected.keys()
        for key in SAME:
            assert ours[key] == pytest.approx(expected[key], rel=TOLERANCE), key
    for key in one["metrics"]:
        if not key.endswith(("runtime", "per_second")):
            assert two["metrics"][key] == pytest.approx(one["metrics"][key], rel=1e-5), key


def test_the_uneven_last_batch_is_short_and_has_every_row(of_two_processes):
    """11 rows, two epochs of two steps: both read every token once. Red when: rows come twice, or are dropped."""
    tokens = [entry["num_tokens"] for entry in of_two_processes["DDP, an uneven last batch"]["logs"]]
    rows, _ = uneven_rows(tiny_model(), 11)
    assert len(tokens) == 4
    assert tokens[1] == sum(map(len, rows))
    assert tokens[3] == 2 * tokens[1]


def test_packed_in_two_processes_is_unpacked_in_one(of_two_processes, tmp_path):
    """Red when: packed documents see each other, share weights, or the filler of the last pack counts."""
    one = trained(tmp_path, tiny_model(), uneven_rows(tiny_model()))
    two = of_two_processes["DDP, packed"]
    assert gradient_gap(two["gradients"][0], one.gradients[0]) <= TOLERANCE
    assert two["logs"][0]["loss"] == pytest.approx(one.state.log_history[0]["loss"], rel=TOLERANCE)


@pytest.mark.parametrize("name", sharded_cases.CASES)
def test_shards_are_one_process(of_two_processes, tmp_path, name):
    """Red when: the step bypasses the wrapper's forward (pieces of weights), or a rank's loss has no graph."""
    two, one = of_two_processes[f"FSDP2, {name}"], sharded_cases.run_shards(name, tmp_path, 8)
    assert gradient_gap(two["gradients"], one["gradients"]) <= TOLERANCE
    assert_same_gradients(two["gradients"], one["gradients"])
    assert two["loss"] == pytest.approx(one["loss"], rel=TOLERANCE)


@pytest.mark.parametrize("name", sharded_cases.TENSOR_CASES)
def test_tensor_parallel_ranks_are_one_process(of_two_processes, tmp_path, name):
    """`ift_loss` on a Llama. Red when: the head, of which each rank has some rows, is taken for the whole one."""
    two, one = of_two_processes[f"TP, {name}"], sharded_cases.run_tensor_parallel(name, tmp_path, 8)
    assert gradient_gap(two["gradients"], one["gradients"]) <= TOLERANCE
    assert two["loss"] == pytest.approx(one["loss"], rel=TOLERANCE)


@pytest.mark.parametrize("name", ["sequence", "adapter"])
def test_weights_saved_from_shards_are_one_processs(of_two_processes, folder, tmp_path, name):
    """After a step. Red when: a shard is missing from the saved weights, or the step moves pieces apart."""
    sharded_cases.run_shards(name, tmp_path, 8)

    def logits(place):
        if name == "adapter":
            base = tiny_model(**sharded_cases.MODEL)
            model = PeftModel.from_pretrained(base, place)
        else:
            model = AutoModelForCausalLM.from_pretrained(place)
        with torch.no_grad():
            return model.eval()(torch.arange(3, 40)[None]).logits

    before = tiny_model(**sharded_cases.MODEL).eval()(torch.arange(3, 40)[None]).logits
    ours, expected = logits(folder / f"FSDP2, {name}"), logits(tmp_path)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (before - expected).abs().max() >= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", ["sequence", "checkpointed", "sft"])
def test_shards_gather_as_often_as_the_plan_says(of_two_processes, name):
    """The factors of `docs/page_tables/sharding.py`. Red when: a pass is added or saved, or blocks stay whole."""
    method, found = "sft" if name == "sft" else "ift", of_two_processes[f"FSDP2, {name}"]
    shape, times = shape_of(tiny_model(**sharded_cases.MODEL).config), GATHERS[method]
    units = times.block * shape.blocks + times.more_blocks + times.root
    assert found["calls"] == {"allgather": units, "reduce_scatter": shape.blocks + 1}
    assert found["elements"] == {
        "allgather": gathered_parameters(shape, method),
        "reduce_scatter": shape.parameters,
    }


@pytest.mark.parametrize("name", pair_runs.TDPO_CASES)
def test_pairs_are_one_process(of_two_processes, tmp_path, name):
    """TDPO under DDP: gradients and metrics."""
    two, one = of_two_processes[f"TDPO, {name}"], pair_runs.run_tdpo(name, tmp_path, 8)
    assert_same_gradients(two["gradients"], one["gradients"])
    keys = [
        key
        for key in one["log"]
        if key.startswith(("rewards", "logps", "kl")) or key in ("loss", "num_tokens")
    ]
    assert len(keys) == 10
    for key in keys:
        assert two["log"][key] == pytest.approx(one["log"][key], rel=1e-5), key
