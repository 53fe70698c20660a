"""What only a CUDA device can show: `pytest -m gpu`. The same loss as on a CPU, the memory of a step, a whole run."""

import copy
import json

import pytest
import torch
from test_architectures import example
from torch.utils.flop_counter import FlopCounterMode

import models
from ift import ift_loss
from ift.lab.compare.flops import UNCOUNTED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
FAMILIES = [family for family in models.FAMILIES if family not in ("mixtral", "qwen3_moe")]


@pytest.fixture(autouse=True)
def _full_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def on_cuda(batch):
    return {name: value.cuda() for name, value in batch.items()}


@pytest.mark.parametrize(
    "options", [{}, {"lookahead": "sample"}, {"lookahead": "expected", "lookahead_top_k": 5}]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_cpu(family, options):
    """In float32: the CPU's are the oracle's (test_architectures)."""
    model = models.tiny_model(family)
    rows, labels = example(model)
    batch, twin = models.padded(rows, labels), copy.deepcopy(model).cuda()
    here = ift_loss(model, batch, seed=3, step=5, **options)
    there = ift_loss(twin, on_cuda(batch), seed=3, step=5, **options)
    assert there.loss.item() == pytest.approx(here.loss.item(), rel=1e-5)
    here.loss.backward()
    there.loss.backward()
    assert models.gradient_error(twin.cpu(), model) < 1e-4


def test_bfloat16_is_as_near_as_plain_cross_entropy_is():
    """The rounding of the weights sets the error: IFT's may be no more than three times that of the plain loss."""
    exact = models.tiny_model(sharpen=2.0)
    rows, labels = example(exact)
    batch = on_cuda(models.padded(rows, labels))
    exact = exact.cuda()
    rounded = copy.deepcopy(exact).bfloat16()
    for parameter, source in zip(exact.parameters(), rounded.parameters(), strict=True):
        parameter.data.copy_(source.float())

    def error(options):
        found = [ift_loss(model, batch, **options).loss.item() for model in (exact, rounded)]
        return abs(found[0] - found[1]) / found[0]

    plain = error({"residual_lambda": 0.0, "propagation": "none", "loss_reduction": "token"})
    assert (
        error({"residual_lambda": 0.2, "propagation": "none", "loss_reduction": "token"}) < 3 * plain + 1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flops_are_those_counted_on_the_cpu(dtype):
    """In bfloat16 the head asks `addmm` for float32 sums, which torch's own formula does not take."""
    model = models.tiny_model(dtype=dtype)
    rows, labels = example(model)
    batch = models.padded(rows, labels)

    def counted(model, batch):
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
            ift_loss(model, batch).loss.backward()
        return counter.get_total_flops()

    twin = copy.deepcopy(model).cuda()
    assert counted(twin, on_cuda(batch)) == pytest.approx(counted(model, batch), rel=0.02)


def test_a_step_never_holds_the_logits():
    """16 x 512 tokens, half of them trained, 256k words: float32 logits would be 8 GiB, the step stays far below."""
    vocabulary, shape = 262_144, (16, 512)
    model = models.tiny_model(vocab_size=vocabulary, max_position_embeddings=512, dtype=torch.bfloat16)
    model = model.cuda()
    ids = torch.randint(3, vocabulary, shape, device="cuda")
    labels = ids.masked_fill(torch.arange(shape[1], device="cuda") < shape[1] // 2, -100)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    ift_loss(model, {"input_ids": ids, "labels": labels}).loss.backward()
    logits = 4 * vocabulary * ids.numel()
    assert torch.cuda.max_memory_allocated() - held < 0.3 * logits


def test_a_run_with_autocast_checkpoints_and_goes_on(tmp_path):
    model = models.tiny_model(sharpen=1.0)
    data = models.dataset_of(*models.uneven_rows(model))
    how = {"use_cpu": False, "bf16": True, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = models.trained(tmp_path / "whole", copy.deepcopy(model), data, **how)
    assert next(whole.model.parameters()).is_cuda
    again = models.trained(tmp_path / "again", copy.deepcopy(model), data, run=False, **how)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for ours, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    logs = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line).get("nll", 1.0) > 0 for line in logs)
