"""The operations of a run on paper: against those of a real step, and the hours that follow from them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import PrinterCallback
from trl import ModelConfig

from ift import IFTConfig
from ift.check.engines import Engine
from ift.check.findings import preflight
from ift.check.flop_formulas import grouped_flops
from ift.check.flops import run_flops
from ift.check.result import Preflight
from ift.check.steps import Work
from ift.lab.compare.flops import StepFlops
from ift.lab.testbed import tiny_base_path
from ift.methods.stage import build_trainer, load_data, prepare_stage
from ift.runs.arguments import parse

QUESTION = [{"role": "user", "content": "2 groups of 7 people get on a bus. How many people ride it?"}]
SIDES = {
    side: [{"role": "assistant", "content": answer}]
    for side, answer in (("chosen", "2*7=14 people\n#### 14"), ("rejected", "2*7=15 people\n#### 15"))
}


def counted_and_measured(folder, *words):
    """FLOPs of a step as counted without data, and of a real one, over four equal rows (no padding)."""
    (folder / "rows.jsonl").write_text("\n".join([json.dumps({"prompt": QUESTION, **SIDES})] * 4))
    flags = {
        "model_name_or_path": tiny_base_path(), "dataset_name": folder / "rows.jsonl", "output_dir": folder / "out",
        "per_device_train_batch_size": 4, "max_steps": 1, "report_to": "none", "save_strategy": "no",
    }  # fmt: skip
    run = parse([*(f"--{name}={value}" for name, value in flags.items()), *words])
    prepared = prepare_stage(run, load_data(run))
    found = preflight(run, prepared, operations=True)
    trainer = build_trainer(run, prepared)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(counter := StepFlops())
    trainer.train()
    return found.flops, counter.total


@pytest.mark.parametrize(
    "words",
    [
        "--method=sft --gradient_checkpointing=false",
        "--method=ift --lookahead_prefix=full",
        "--lookahead_prefix=full --residual_lambda_start=0.4 --residual_lambda=0 --residual_warmup_ratio=1",
        "--method=dpo",
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in (
                "--method=ift --lookahead_prefix=full --use_peft=true",
                "--method=dft",
                "--method=orpo",
                "--method=simpo",
                "--method=tdpo2",
            )
        ),
    ],
)
def test_counted_operations_are_those_of_a_step(tmp_path, words):
    """Red when: a pass, the look-ahead, the reference, checkpointing or an answer of a pair is missing."""
    counted, measured = counted_and_measured(tmp_path, *words.split())
    assert counted == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(
    ("attention", "flops"),
    [("sdpa", 60 * 400**2), ("flash_attention_2", 60 * 8 * 50**2)],  # 20 sequences of 8 rows, 3 passes
)
def test_packed_rows_attend_to_all_of_a_sequence_but_in_the_flash_kernels(attention, flops):
    needs = SimpleNamespace(flops=lambda tokens, scored: tokens**2)
    report = SimpleNamespace(total_tokens=8000, trained_tokens=4000, rows_kept=160)
    work = Work(20, 20, 8, 9, None, None, "8 sequences", seen=60, packed=True)
    stage = SimpleNamespace(
        method=SimpleNamespace(name="ift", needs_pairs=False),
        model=ModelConfig(attn_implementation=attention),
        config=IFTConfig(output_dir="out"),
    )
    assert run_flops(needs, report, work, stage) == flops


def test_rows_that_are_not_counted_have_no_operations():
    work = Work(None, None, 8, 3, None, None, "8 rows")
    assert run_flops(None, None, work, None) is None
    stream = Preflight([], {}, None, 0, Engine(), work)
    assert stream.compute_line(100) == "compute: not known, because rows of a stream are not counted"
    other = replace(stream, work=replace(work, found=24))
    assert other.compute_line(None) == "compute: not known, because this model cannot be counted"


def test_hours_are_those_of_the_throughput_that_is_given():
    """By hand: 1.44e18 FLOPs on 8 GPUs of 100 TFLOP/s are 1,800 s, half an hour; on one of 10, 40 hours."""
    work = Work(24, 24, 8, 3, None, None, "8 rows", seen=24)
    found = Preflight([], {}, None, 0, Engine("ddp", 8), work, flops=1.44e18)
    counts = "compute: about 1.44e+18 FLOPs in all, 4.80e+17 a step, without padding; "
    assert (
        found.compute_line(None)
        == f"{counts}--gpu_tflops N adds the hours on GPUs that sustain N TFLOP/s each"
    )
    ending = "without evaluation and saving"
    assert found.compute_line(100) == f"{counts}30 minutes on 8 GPUs that each sustain 100 TFLOP/s, {ending}"
    one = replace(found, engine=Engine())
    assert one.compute_line(10) == f"{counts}40.0 hours on one GPU that sustains 10 TFLOP/s, {ending}"
    assert (
        found.compute_line(1e4)
        == f"{counts}less than a minute on 8 GPUs that each sustain 10000 TFLOP/s, {ending}"
    )
    assert (found.hours(100), found.hours(None)) == (0.5, None)


def test_products_of_experts_are_counted_once_for_each_row():
    """7 rows of width 5 with 3 experts of (5, 2): each row meets one of them; and the gradient of the experts."""
    assert grouped_flops((7, 5), (3, 5, 2)) == 2 * 7 * 5 * 2
    assert grouped_flops((5, 7), (7, 2)) == 2 * 7 * 5 * 2
