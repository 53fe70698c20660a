"""Nothing in an output folder is overwritten unasked; a run that was stopped or killed goes on and ends the same."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from killed_runs import STEPS, command, killed_run, same, started, weights
from safetensors.torch import load_file

from ift.runs.removed import OLD_DEFAULTS
from ift.training.checkpoints import newest_complete

SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


def test_a_folder_with_something_in_it_is_left_alone(run_tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    refused = run_tiny()
    assert refused.code == 1
    assert "the output folder is not empty (thesis.txt)" in refused.err
    assert "--overwrite_output_dir" in refused.err
    done = run_tiny("--overwrite_output_dir")
    assert done.code == 0
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_overwriting_takes_the_earlier_runs_checkpoints_and_only_when_the_new_run_begins(run_tiny):
    folder = run_tiny(**SAVING).folder
    assert (folder / "checkpoint-4").exists()
    refused = run_tiny("--overwrite_output_dir", **SAVING, max_length=40)
    assert refused.code == 1
    assert (folder / "checkpoint-4").exists()
    run_tiny("--overwrite_output_dir", **{**SAVING, "max_steps": 2})
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]


def test_overwriting_takes_the_earlier_model_and_the_verbs_say_that_the_new_run_is_not_finished(
    run_tiny, ift, write_rows, tmp_path, monkeypatch
):
    lora = {"use_peft": "true", "lora_r": 2}
    folder = run_tiny(**lora).folder
    run = folder / "run.json"
    assert json.loads(run.read_text())["finished"]
    earlier = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("ift.runs.train_run.train", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_tiny("--overwrite_output_dir", **lora).code == 130
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    words = {
        "merge": ["--output_dir", tmp_path / "merged"],
        "chat": ["--prompt", "Hi", "--max_new_tokens", "1"],
        "generate": [write_rows(), "--output", tmp_path / "answers.jsonl", "--max_new_tokens", "1"],
        "modelfile": ["--weights", "m.gguf", "--output", tmp_path / "Modelfile"],
        "show": [write_rows(), "-n", "1", "--output", tmp_path / "page.html"],
    }
    for verb, more in words.items():
        done = ift(verb, folder, *more)
        assert done.code == 1, verb
        assert "has not finished, so there is no model yet. Fix: repeat its command with --resume" in done.err
    for name, content in {**earlier, "run.json": run.read_bytes()}.items():  # as if they were another tool's
        (folder / name).write_bytes(content)
    for verb, more in words.items():
        done = ift(verb, folder, *more)
        assert f"warning: {folder}: the run of ift train in this folder has not finished" in done.err, verb


@pytest.fixture
def stopped(run_tiny):
    """A run of four steps whose folder is as if it had been killed while it wrote the last checkpoint."""
    folder = run_tiny(**SAVING).folder
    straight = weights(folder)
    (folder / "checkpoint-4" / "manifest.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "run.json").write_text('{"finished": false}')
    return folder, straight


def test_a_run_goes_on_from_the_newest_complete_checkpoint(run_tiny, stopped):
    folder, straight = stopped
    done = run_tiny("--resume", "auto", **SAVING)
    assert done.code == 0, done.err
    assert f"skipped {folder / 'checkpoint-4'}: it has no manifest" in done.out
    assert f"resumes from {folder / 'checkpoint-2'}" in done.out
    first, last = (f"{done.metrics[n]['nll']:.4g}" for n in (0, 3))
    part = r"steps 3 to 4; time of all 4 steps, without starting and saving the model: 0:\d\d:\d\d"
    closing = rf"done in [\d:]+ \({part}\)"
    assert re.search(closing + f", nll {first} -> {last}\n", done.out), done.out
    assert same(weights(folder), straight)
    assert newest_complete(folder)[0] == folder / "checkpoint-4"


def test_the_count_of_tokens_goes_on(run_tiny, stopped):
    folder, _ = stopped
    before = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tokens = [line["num_tokens"] for line in before if "end_nll" not in line]
    done = run_tiny("--resume", "auto", **SAVING)
    assert [line["num_tokens"] for line in done.metrics] == tokens
    assert tokens[0] < tokens[1] < tokens[3]


def test_the_measure_before_the_first_step_goes_on_with_the_run(run_tiny, stopped):
    folder, _ = stopped
    before = (folder / "metrics.jsonl").read_text().splitlines()
    done = run_tiny("--resume", "auto", **SAVING)
    ends = [json.loads(line) for line in before]
    assert [(line["step"], line["end_nll"]) for line in done.ends] == [
        (line["step"], line["end_nll"]) for line in ends if "end_nll" in line
    ]
    assert [line["step"] for line in done.ends] == [0, 1, 2, 4]
    assert "before the first step" not in done.out + done.err


def test_a_setting_that_is_left_out_is_a_changed_one(run_tiny):
    """As for every setting: the run neither goes on with the default, nor keeps the old value without being told."""
    folder = run_tiny(**SAVING, propagation_detach="none").folder
    straight = weights(folder)
    (folder / "checkpoint-4" / "manifest.json").unlink()
    (folder / "run.json").write_text('{"finished": false}')
    refused = run_tiny("--resume", "auto", **SAVING)
    assert refused.code == 1
    assert "not the same run: propagation_detach was 'none', is 'scale'. Fix: set them back" in refused.err
    done = run_tiny("--resume", "auto", **SAVING, propagation_detach="none")
    assert done.code == 0, done.err
    assert same(weights(folder), straight)


@pytest.fixture
def stopped_sequence(run_tiny):
    """`sft+ift` whose second stage is as if it had been killed behind its first checkpoint."""
    flags = {**SAVING, "method": "sft+ift"}
    folder = run_tiny(**flags).folder
    straight = weights(folder / "2-ift")
    shutil.rmtree(folder / "2-ift" / "checkpoint-4")
    (folder / "2-ift" / "model.safetensors").unlink()
    (folder / "2-ift" / "run.json").write_text('{"finished": false}')
    return folder, straight, flags


def test_a_sequence_goes_on_in_the_stage_where_it_stopped(run_tiny, stopped_sequence):
    folder, straight, flags = stopped_sequence
    first = (folder / "1-sft" / "model.safetensors").stat().st_mtime_ns
    done = run_tiny("--resume", "auto", **flags)
    assert done.code == 0, done.err
    assert f"stage 1: this run is finished: the model is in {folder / '1-sft'}" in done.out
    assert f"resumes from {folder / '2-ift' / 'checkpoint-2'}" in done.out
    assert (folder / "1-sft" / "model.safetensors").stat().st_mtime_ns == first
    assert same(weights(folder / "2-ift"), straight)
    again = run_tiny("--resume", "auto", **flags)
    assert again.code == 0
    assert f"the model is in {folder / '2-ift'}" in again.out


def test_a_later_stage_does_not_go_on_before_the_one_ahead_of_it(run_tiny, stopped_sequence):
    folder, _, flags = stopped_sequence
    (folder / "1-sft" / "run.json").write_text('{"finished": false}')
    done = run_tiny("--resume", "auto", **flags)
    assert done.code == 1
    assert f"{folder / '2-ift'} is not empty, but the stage before it is not finished" in done.err


def test_a_finished_run_is_finished(run_tiny):
    run_tiny(**SAVING)
    before = time.time_ns()
    done = run_tiny("--resume", "auto", **SAVING)
    assert done.code == 0
    assert "this run is finished: the model is in" in done.out
    assert (done.folder / "model.safetensors").stat().st_mtime_ns < before


@pytest.mark.parametrize(
    "flags", [{}, {"use_peft": True, "lora_r": 2}, {"method": "sft", "dtype": "bfloat16"}, {"packing": True}]
)
def test_a_finished_run_with_other_settings_is_refused(run_tiny, write_rows, flags):
    """As for a run that stopped. Red when: a command says "finished" of a training that it does not describe."""
    flags = {**SAVING, **flags}
    folder = run_tiny(**flags).folder
    other = shutil.copy(write_rows(), folder.parent / "other.jsonl")
    for changed, said in (
        ({"learning_rate": 5.0, "max_steps": 5}, "learning_rate was 0.001, is 5.0; max_steps was 4, is 5"),
        ({"dataset_name": other}, ", are other.jsonl"),
    ):
        done = run_tiny("--resume", "auto", **{**flags, **changed})
        assert done.code == 1, done.out
        assert f"{folder}: this run is finished, with other settings: " in done.err
        assert said in done.err
        assert "--overwrite_output_dir" in done.err
    done = run_tiny("--resume", "auto", "--allow_changed", "learning_rate", **{**flags, "learning_rate": 5.0})
    assert done.code == 0, done.err
    assert "this run is finished: the model is in" in done.out
    assert run_tiny("--resume", "auto", "--logging_steps", "2", **flags).code == 0


def test_without_a_whole_checkpoint_it_begins_anew(run_tiny, stopped):
    folder, straight = stopped
    shutil.rmtree(folder / "checkpoint-2")
    done = run_tiny("--resume", "auto", **SAVING)
    assert done.code == 0
    assert f"no complete checkpoint in {folder}: starts from scratch" in done.out
    assert same(weights(folder), straight)


def test_a_foreign_folder_is_not_resumed(run_tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    done = run_tiny("--resume", "auto")
    assert done.code == 1
    assert "is not empty and has no run.json" in done.err


def test_resume_auto_in_a_new_folder_just_begins(run_tiny):
    done = run_tiny("--resume", "auto")
    assert done.code == 0
    assert "starts from scratch" in done.out


def test_a_named_checkpoint(run_tiny, stopped):
    folder, straight = stopped
    broken = run_tiny("--resume", folder / "checkpoint-4", **SAVING)
    assert broken.code == 1
    assert "it has no manifest" in broken.err
    done = run_tiny("--resume", folder / "checkpoint-2", **SAVING)
    assert done.code == 0
    assert same(weights(folder), straight)


@pytest.mark.parametrize("flag", ["--resume", "--resume_from_checkpoint"])
def test_a_checkpoint_of_another_folder_overwrites_nothing_either(run_tiny, stopped, tmp_path, flag):
    folder, straight = stopped
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    refused = run_tiny(flag, folder / "checkpoint-2", **SAVING, out="other")
    assert refused.code == 1
    assert "the output folder is not empty (README.md)" in refused.err
    assert (tmp_path / "other" / "README.md").read_text() == "mine"
    done = run_tiny(flag, folder / "checkpoint-2", **SAVING, out="new")
    assert done.code == 0, done.err
    assert same(weights(tmp_path / "new"), straight)


@pytest.mark.parametrize("step", [1, 2, 3])  # of six; an epoch has two
@pytest.mark.parametrize("strategies", ["epoch epoch", "epoch steps", "steps epoch"])
def test_a_run_that_is_stopped_within_an_epoch_does_not_do_what_its_end_does(
    run_tiny, write_rows, monkeypatch, step, strategies
):
    """Red when: the stop evaluates out of turn, which draws random numbers, so that dropout is another's afterwards."""
    from ift.training.checkpoints import SealedCheckpoints

    def stop(self, args, state, control, **kwargs):
        self.received = signal.SIGINT if state.global_step == step else None
        real(self, args, state, control)

    evaluated, saved = strategies.split()
    settings = {
        "use_peft": "true", "lora_r": 2, "lora_dropout": 0.5, "num_train_epochs": 3, "max_steps": -1,
        "per_device_train_batch_size": 2, "test_split_size": 1, "eval_strategy": evaluated, "save_strategy": saved,
        "eval_steps": 2, "save_steps": 2, "logging_steps": 1,
        "dataset_name": write_rows([
            {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}{n}"}]}
            for n in range(5)
        ]),
    }  # fmt: skip
    whole = run_tiny(**settings, out="whole")
    assert whole.code == 0, whole.err
    real = SealedCheckpoints.on_step_end
    with monkeypatch.context() as patched:
        patched.setattr(SealedCheckpoints, "on_step_end", stop)
        halted = run_tiny(**settings, out="parts")
    assert halted.code == 130, halted.err
    resumed = run_tiny("--resume", "auto", **settings, out="parts")
    assert resumed.code == 0, resumed.err
    adapters = [load_file(done.folder / "adapter_model.safetensors") for done in (resumed, whole)]
    assert same(*adapters)
    evaluations = [line["step"] for line in resumed.metrics if "eval_nll" in line]
    assert evaluations == [line["step"] for line in whole.metrics if "eval_nll" in line] == [2, 4, 6]


def test_a_signal_behind_the_last_step_does_not_lose_the_model(run_tiny, monkeypatch):
    from ift.training.checkpoints import SealedCheckpoints

    real = SealedCheckpoints.on_train_end

    def late(self, args, state, control, **kwargs):
        real(self, args, state, control)  # gives the signals back
        self._stop(signal.SIGINT, None)

    monkeypatch.setattr(SealedCheckpoints, "on_train_end", late)
    done = run_tiny()
    assert done.code == 0, done.err
    assert (done.folder / "model.safetensors").exists()


def test_a_changed_run_is_refused_with_every_key_and_let_through_by_name(run_tiny, stopped, write_rows):
    changed = {**SAVING, "learning_rate": 2e-3, "residual_lambda": 0.1}
    refused = run_tiny("--resume", "auto", **changed)
    assert refused.code == 1
    assert "learning_rate was 0.001, is 0.002" in refused.err
    assert "residual_lambda was 0.2, is 0.1" in refused.err
    assert "--allow_changed learning_rate residual_lambda" in refused.err
    half = run_tiny("--resume", "auto", "--allow_changed", "learning_rate", **changed)
    assert half.code == 1
    assert "residual_lambda was" in half.err
    assert "learning_rate was" not in half.err
    done = run_tiny("--resume", "auto", "--allow_changed", "learning_rate", "residual_lambda", **changed)
    assert done.code == 0
    assert "changed, allowed by --allow_changed: learning_rate" in done.out


def with_removed_settings(folder, **values):
    """Settings that an earlier version had, written into the facts of a folder's whole checkpoint."""
    manifest = folder / "checkpoint-2" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["facts"] |= values
    manifest.write_text(json.dumps(content))


def test_a_checkpoint_with_removed_settings_at_their_defaults_is_the_same_run(run_tiny, stopped):
    folder, straight = stopped
    with_removed_settings(folder, **OLD_DEFAULTS)
    done = run_tiny("--resume", "auto", **SAVING)
    assert done.code == 0, done.err
    assert f"resumes from {folder / 'checkpoint-2'}" in done.out
    assert "lookahead_cache" not in done.out
    assert same(weights(folder), straight)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lookahead_cache", "epoch"), ("lookahead_refresh", 0.5), ("lookahead_cache_path", "made.safetensors")],
)
def test_a_checkpoint_that_used_a_removed_setting_is_refused(run_tiny, stopped, name, value):
    folder, _ = stopped
    with_removed_settings(folder, **{**OLD_DEFAULTS, name: value})
    refused = run_tiny("--resume", "auto", **SAVING)
    assert refused.code == 1
    assert (
        f"not the same run: {name} was {value!r}, and this setting was removed. Fix: start a new"
        in refused.err
    )
    assert f"--allow_changed {name}" in refused.err
    done = run_tiny("--resume", "auto", "--allow_changed", name, **SAVING)
    assert done.code == 0, done.err
    assert f"changed, allowed by --allow_changed: {name}" in done.out


def test_other_rows_are_a_changed_run_and_other_logging_is_not(run_tiny, stopped, write_rows):
    other = write_rows("messages", "other.jsonl")
    lines = other.read_text().splitlines()
    other.write_text("\n".join(reversed(lines)) + "\n")
    refused = run_tiny("--resume", "auto", dataset_name=other, **SAVING)
    assert refused.code == 1
    assert ", are those of other.jsonl (data). Fix: " in refused.err
    assert run_tiny("--resume", "auto", **SAVING, logging_steps=2, save_total_limit=3).code == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_ends_the_same(chat_model, write_rows, tmp_path, number, code):
    rows, out = write_rows(), tmp_path / "out"
    subprocess.run(command(chat_model, rows, tmp_path / "straight"), check=True, capture_output=True)
    running = started(command(chat_model, rows, out))
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").stat().st_size:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(number)
    _, said = running.communicate(timeout=120)
    assert running.returncode == code, said
    assert f"stopped by {number.name}; saved to {out}" in said
    found, skipped = newest_complete(out)
    assert found is not None
    assert not skipped
    done = subprocess.run(command(chat_model, rows, out, "--resume", "auto"), capture_output=True, text=True)
    assert f"resumes from {found}" in done.stdout
    assert same(weights(out), weights(tmp_path / "straight"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_two_processes_saves_and_the_run_ends_the_same(
    chat_model, write_rows, tmp_path, number, code
):
    rows, out, two = write_rows(), tmp_path / "out", ("--num_processes", "2")
    subprocess.run(command(chat_model, rows, tmp_path / "straight", *two), check=True, capture_output=True)
    running = started(command(chat_model, rows, out, *two))
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").stat().st_size:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(number)
    _, said = running.communicate(timeout=120)
    assert running.returncode == code, said
    assert said.count(f"stopped by {number.name}; saved to {out}") == 1
    assert said.count("stopping: this step is finished first") == 1
    assert "Traceback" not in said
    found, skipped = newest_complete(out)
    assert found is not None
    assert not skipped
    words = command(chat_model, rows, out, "--resume", "auto", *two)
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.count(f"resumes from {found}") == 1
    assert same(weights(out), weights(tmp_path / "straight"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_twenty_kills_change_nothing(chat_model, write_rows, tmp_path):
    """Red when: a checkpoint counts before it is whole, or something that training depends on is not in it."""
    run = killed_run(chat_model, write_rows(), tmp_path, 20)
    assert run.equal
    assert run.steps == [*range(1, STEPS + 1), STEPS]
    assert sum(kill.went_on_from > 0 for kill in run.kills) >= 10


def test_a_line_separator_in_an_answer_does_not_break_a_resumed_run(run_tiny, tmp_path):
    """U+2028 is content: the file of answers has as many lines as it has answers, before and after."""
    rows = tmp_path / "separated.jsonl"
    line = {
        "messages": [
            {"role": "user", "content": "one\u2028two"},
            {"role": "assistant", "content": "three\x85four"},
        ]
    }
    rows.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for _ in range(8)), encoding="utf-8")
    answering = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_generate": 1,
        "eval_generate_max_new_tokens": 4,
    }
    how = {**SAVING, **answering, "dataset_name": rows}
    folder = run_tiny(**how).folder
    before = (folder / "answers.jsonl").read_bytes().split(b"\n")
    shutil.rmtree(folder / "checkpoint-4")
    (folder / "run.json").write_text('{"finished": false}')
    resumed = run_tiny("--resume", "auto", **how)
    assert resumed.code == 0, resumed.err
    lines = (folder / "answers.jsonl").read_bytes().split(b"\n")
    assert len(lines) == len(before) == 3
    assert all(json.loads(one)["prompt"].count("\u2028") for one in lines[:-1])


def test_a_bad_row_of_a_stream_is_named_and_what_was_trained_is_saved(run_tiny, tmp_path, write_rows):
    lines = Path(write_rows("messages")).read_text(encoding="utf-8")
    rows = tmp_path / "stream.jsonl"
    rows.write_text(lines * 150 + "{broken\n" + lines)  # behind the rows that are looked at before the run
    whole = len(lines.splitlines()) * 150
    stopped = run_tiny(
        dataset_name=rows,
        dataset_streaming=True,
        max_steps=50,
        per_device_train_batch_size=100,
    )
    assert stopped.code == 1
    assert f"line {whole + 1}: found text that is not JSON" in stopped.err
    found, skipped = newest_complete(stopped.folder)
    assert skipped == []
    assert f"saved in {found}" in stopped.err
