"""`ift train` with the weights in shards, two processes on a CPU, against one process that holds everything.

Seven rows, so that the second global batch of four is uneven (eight for trl's DPO, which weighs each process's part of
a batch alike). Equal must be: every tensor of the saved model, every
logged number of the training and of the evaluations. A run that is stopped and resumed must save the same bits.
"""

import importlib.util
import json
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from engine_runs import (
    ENGINES,
    TENSOR_PARALLEL,
    engine_environment,
    start_launcher,
    start_processes,
    wait_for,
)
from safetensors.torch import load_file
from short_runs import ROWS, SHORT
from tiny_folder import CHATML, save_tiny

from ift.runs.arguments import parse
from ift.runs.convert_config import convert_file
from ift.training.checkpoints import MANIFEST

pytestmark = pytest.mark.slow

CONFIGURATIONS = Path(importlib.util.find_spec("ift").origin).parent / "runs" / "accelerate_configs"
RUN = {
    **SHORT,
    "max_steps": -1,
    "num_train_epochs": 2,
    "bf16": "false",
    "max_grad_norm": 0.5,
    "eval_strategy": "epoch",
}
# Adam's first steps are the gradient's sign, whatever its size: rounding would move weights that hardly matter
SGD = {"optim": "sgd", "learning_rate": 0.1}
ADAM = {"optim": "adamw_torch", "learning_rate": 1e-3}
ADAPTER = {"use_peft": "true", "lora_r": 4, "lora_dropout": 0, "lora_target_modules": "all-linear"}
CASES = {
    "ift": SGD,
    "accumulated": SGD | {"gradient_accumulation_steps": 2},
    "checkpointed": SGD | {"gradient_checkpointing": "true"},
    "adapter": SGD | ADAPTER | {"learning_rate": 1.0},
    "tied": SGD,
    "sft": SGD | {"method": "sft"},
    "dpo": SGD | {"method": "dpo", "max_steps": 2, "eval_strategy": "no"},
    "tdpo": SGD | {"method": "tdpo", "max_steps": 2, "eval_strategy": "no"},
    "qlora": ADAM | ADAPTER | {"load_in_4bit": "true"},
}
EVERY_ENGINE = ["ift", "tied", "adapter"]
ONCE = {
    "fsdp2": ["accumulated", "checkpointed", "sft", "dpo", "tdpo"],
    "zero3": ["accumulated", "sft"],
}
RUNS = [(engine, case) for engine in ENGINES for case in [*EVERY_ENGINE, *ONCE.get(engine, [])]]
RUNS.remove(("fsdp1", "adapter"))  # refused
# of one process and two: the time that a run took; the cost counts the padding of each process's batches
DIFFER = ("second", "runtime", "total_flos", "shared_prefix")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, and rows in files."""
    folder = tmp_path_factory.mktemp("engines")
    save_tiny(folder / "untied", CHATML)
    save_tiny(folder / "tied", CHATML, tie_word_embeddings=True)
    for form in ("messages", "preference, conversational"):
        for name, rows in (
            ("train", ROWS[form][: 7 if form == "messages" else 8]),
            ("eval", ROWS[form][5:8]),
        ):
            (folder / form).mkdir(exist_ok=True)
            (folder / form / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def flags_of(case, folder, out, rows_per_process):
    form = "preference, conversational" if "dpo" in case else "messages"
    model = "tied" if case == "tied" else "untied"
    return RUN | CASES[case] | {
        "model_name_or_path": folder / model,
        "dataset_name": folder / form,
        "output_dir": out,
        "per_device_train_batch_size": rows_per_process,
        "per_device_eval_batch_size": rows_per_process,
    }  # fmt: skip


def saved(out):
    """Tensors and logged numbers of a finished run."""
    tensors = {}
    for file in sorted(out.glob("*.safetensors")):
        tensors |= load_file(file)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    numbers = [
        {key: value for key, value in line.items() if not any(part in key for part in DIFFER)}
        for line in lines
    ]
    return tensors, numbers


def largest_difference(log, expected):
    """Of two logs' numbers, relative to the number where that is above 0.01."""
    pairs = [
        (line[key], wanted[key])
        for line, wanted in zip(log, expected, strict=True)
        for key in wanted
        if isinstance(wanted[key], int | float)
    ]
    return max(abs(one - other) / max(abs(other), 0.01) for one, other in pairs)


def trained_on_two(flags, environment):
    """What a run of two processes saves."""
    ended = wait_for(start_processes(flags, environment))
    assert ended.codes == [0, 0], "\n".join(text[-3000:] for text in ended.outputs)
    assert "same outputs on 3 rows" in ended.outputs[0]
    return saved(flags["output_dir"])


def needs(engine):
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed", reason="pip install deepspeed")


@pytest.fixture(scope="module")
def one_process(folder):
    """What a case saves in one process, run once for all engines."""
    found = {}

    def run(case):
        if case not in found:
            ended = wait_for(start_processes(flags_of(case, folder, folder / f"one-{case}", 4), {}, count=1))
            assert ended.codes == [0], ended.outputs[0][-3000:]
            found[case] = saved(folder / f"one-{case}")
        return found[case]

    return run


@pytest.mark.parametrize(("engine", "case"), RUNS)
def test_two_shards_train_what_one_process_trains(
    engine, case, folder, one_process, tmp_path, record_property
):
    """Red when: a gradient is summed once too often, a weight is read in pieces, the last batch counts twice."""
    needs(engine)
    expected, expected_log = one_process(case)
    tensors, log = trained_on_two(
        flags_of(case, folder, tmp_path / "out", 2), engine_environment(engine, CONFIGURATIONS)
    )
    tensors = {name: tensor for name, tensor in tensors.items() if name in expected or case != "tied"}
    assert tensors.keys() == expected.keys()
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    gap = max(float((tensors[name] - tensor).abs().max()) for name, tensor in expected.items())
    record_property("weights", gap / largest)  # for benchmarks/reliability.py
    assert gap <= 1e-5 * largest
    if case != "adapter":
        before = load_file(folder / ("tied" if case == "tied" else "untied") / "model.safetensors")
        assert max(float((before[name] - expected[name]).abs().max()) for name in before) > 1e-3
    assert len(log) == len(expected_log)
    record_property("numbers", largest_difference(log, expected_log))
    for line, wanted in zip(log, expected_log, strict=True):
        assert line == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_a_converted_file_trains_under_its_engine(folder, tmp_path):
    """Axolotl's FSDP: the engine that `ift convert-config` writes shards what one process trains whole."""
    theirs = {
        "base_model": str(folder / "untied"), "datasets": [{"path": str(folder / "messages" / "train.jsonl")}],
        "micro_batch_size": 2, "max_steps": 3, "optimizer": "sgd", "learning_rate": 0.1, "lr_scheduler": "constant",
        "warmup_steps": 0, "bf16": False, "fsdp": ["full_shard", "auto_wrap"], "save_strategy": "no",
        "logging_steps": 1, "fsdp_config": {"fsdp_version": 2}, "sequence_len": 128, "report_to": "none",
        "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    (tmp_path / "theirs.yml").write_text(yaml.safe_dump(theirs))
    ours = tmp_path / "ours.yml"
    ours.write_text(convert_file(tmp_path / "theirs.yml").yaml_text("theirs.yml"))
    flag, name = parse(["--config", str(ours)]).launch
    assert (flag, name) == ("--accelerate_config", "fsdp2")
    flags = {"config": ours, "gradient_checkpointing": "false", "final_answers": 0}
    tensors, log = trained_on_two(
        flags | {"output_dir": tmp_path / "out"}, engine_environment(name, CONFIGURATIONS)
    )
    whole = tmp_path / "whole.yml"  # with the engine, `ift train` would start processes itself
    whole.write_text(ours.read_text().replace("accelerate_config: fsdp2\n", ""))
    one = {"config": whole, "output_dir": tmp_path / "one", "per_device_train_batch_size": 4}
    ended = wait_for(start_processes(flags | one, {}, count=1))
    assert ended.codes == [0], ended.outputs[0][-3000:]
    expected, expected_log = saved(tmp_path / "one")
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    assert max(float((tensors[name] - expected[name]).abs().max()) for name in expected) <= 1e-5 * largest
    assert [line["loss"] for line in log if "loss" in line] == pytest.approx(
        [line["loss"] for line in expected_log if "loss" in line], rel=1e-4
    )


@pytest.mark.parametrize("case", ["ift", "sft", "accumulated"])
def test_tensor_parallel_processes_train_what_one_trains(case, folder, one_process, tmp_path):
    """Transformers' `tp_plan`: both processes have the same rows. Red when: the loss is divided by the rows of both."""
    expected, expected_log = one_process(case)
    split = {"model_init_kwargs": '{"tp_plan": "auto"}'}
    tensors, log = trained_on_two(flags_of(case, folder, tmp_path / "out", 4) | split, TENSOR_PARALLEL)
    assert tensors.keys() == expected.keys()
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    assert max(float((tensors[name] - expected[name]).abs().max()) for name in expected) <= 1e-5 * largest
    assert {"loss", "grad_norm"} <= {key for line in log for key in line}
    for line, wanted in zip(log, expected_log, strict=True):
        assert line == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_an_adapter_on_four_bits_logs_what_one_process_logs(engine, folder, one_process, tmp_path):
    """FSDP2 shards the adapter and leaves the 4-bit weights whole. The adapter is in bfloat16, as trl makes it."""
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    environment = {} if engine == "ddp" else engine_environment(engine, CONFIGURATIONS)
    tensors, log = trained_on_two(flags_of("qlora", folder, tmp_path / "out", 2), environment)
    expected, expected_log = one_process("qlora")
    assert tensors.keys() == expected.keys()
    nll, expected_nll = ([line["nll"] for line in lines if "nll" in line] for lines in (log, expected_log))
    assert nll == pytest.approx(expected_nll, rel=1e-2)
    assert expected_nll[-1] < 0.99 * expected_nll[0]


def test_methods_of_trl_are_refused_under_zero3(folder, tmp_path):
    """trl's head fails in the backward pass there. Red when: the run starts, or the message names no way out."""
    needs("zero3")
    flags = flags_of("dpo", folder, tmp_path / "out", 2)
    ended = wait_for(start_processes(flags, engine_environment("zero3", CONFIGURATIONS)))
    assert ended.codes == [1, 1]
    assert "dpo under DeepSpeed ZeRO-3" in ended.outputs[0]
    assert "Use ZeRO-2, FSDP2 or DDP" in ended.outputs[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stopped_run_resumes_to_the_same_bits(engine, folder, tmp_path):
    """SIGTERM after the second step; then `--resume auto`. Red when: a shard of the state is not saved or not read."""
    needs(engine)
    environment = engine_environment(engine, CONFIGURATIONS)
    changes = ADAM | {"num_train_epochs": 30, "eval_strategy": "no"}
    flags = {**flags_of("ift", folder, tmp_path / "straight", 2), **changes, "save_strategy": "no"}
    straight = wait_for(start_processes(flags, environment))
    assert straight.codes == [0, 0], straight.outputs[0][-3000:]

    flags["output_dir"] = tmp_path / "stopped"
    running = start_processes(flags, environment)
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while running[0].poll() is None and not (metrics.exists() and '"step": 2' in metrics.read_text()):
        time.sleep(0.01)
    for process in running:
        process.send_signal(signal.SIGTERM)
    stopped = wait_for(running)
    assert stopped.codes == [143, 143], stopped.outputs[0][-3000:]
    resumed = wait_for(start_processes(flags | {"resume": "auto"}, environment))
    assert resumed.codes == [0, 0], resumed.outputs[0][-3000:]
    ours, expected = saved(tmp_path / "stopped")[0], saved(tmp_path / "straight")[0]
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_an_adapter_is_refused_under_fsdp1(folder, tmp_path):
    """Red when: the run starts, and ends with an error after its training."""
    flags = flags_of("adapter", folder, tmp_path / "out", 2)
    ended = wait_for(start_processes(flags, engine_environment("fsdp1", CONFIGURATIONS)))
    assert ended.codes == [1, 1]
    assert "LoRA under FSDP1: peft saves the adapter without its tensors. Use FSDP2" in ended.outputs[0]


def test_plain_sgd_is_not_resumed_under_fsdp2(folder, tmp_path):
    """Torch cannot load an optimiser state without tensors. Red when: the run ends as a bug of ift."""
    environment = engine_environment("fsdp2", CONFIGURATIONS)
    flags = flags_of("ift", folder, tmp_path / "out", 2) | {"save_strategy": "steps", "save_steps": 1}
    flags |= {"eval_strategy": "no", "max_steps": 2}
    first = wait_for(start_processes(flags, environment))
    assert first.codes == [0, 0], first.outputs[0][-3000:]
    flags |= {"output_dir": tmp_path / "second", "resume_from_checkpoint": tmp_path / "out" / "checkpoint-1"}
    ended = wait_for(start_processes(flags, environment))
    assert ended.codes == [1, 1], ended.outputs[0][-3000:]
    assert "checkpoint-1: its optimiser has no state (plain SGD keeps none)" in ended.outputs[0]
    assert "--optim adamw_torch" in ended.outputs[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_process_ends_the_others_and_the_next_run_resumes(engine, folder, tmp_path):
    """SIGKILL of one process under torchrun, as an out-of-memory killer does it."""
    needs(engine)
    environment = engine_environment(engine, CONFIGURATIONS)
    flags = flags_of("ift", folder, tmp_path / "out", 2)
    flags |= {"num_train_epochs": 30, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 5}
    flags |= ADAM
    running, workers = start_launcher(flags, environment)
    while running.poll() is None and not (tmp_path / "out" / "checkpoint-5" / MANIFEST).exists():
        time.sleep(0.01)
    workers()[1].kill()
    killed = time.monotonic()
    output = running.communicate(timeout=90)[0]
    assert running.returncode != 0
    assert time.monotonic() - killed < 60
    assert "SIGKILL" in output
    resumed = wait_for(start_processes(flags | {"resume": "auto"}, environment))
    assert resumed.codes == [0, 0], resumed.outputs[0][-3000:]
    _, log = saved(tmp_path / "out")
    assert sorted({line["step"] for line in log if line["step"]}) == list(range(1, 61))
