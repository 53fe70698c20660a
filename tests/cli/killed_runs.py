"""Training runs in processes of their own that are killed without warning, again and again, and go on."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from short_runs import SHORT

from ift.training.checkpoints import newest_complete

STEPS, SAVE_EVERY = 40, 3


@dataclass(frozen=True)
class Kill:
    """One kill of a run.

    Attributes:
        went_on_from: step of the checkpoint that the run had gone on from, 0 where it had begun anew.
        last_step: the last step that it had logged.
        whole: step of the newest whole checkpoint that it left.
        half_written: checkpoints that it had begun and that are not whole.
    """

    went_on_from: int
    last_step: int
    whole: int
    half_written: int


@dataclass(frozen=True)
class KilledRun:
    """A run that was killed, and in the end went on to its last step.

    Attributes:
        kills: in their order.
        equal: whether its weights are bit for bit those of a run that nobody killed.
        steps: the steps in its metrics.jsonl.
    """

    kills: list[Kill]
    equal: bool
    steps: list[int]


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


def command(model, rows, out, *more):
    flags = {
        **SHORT,
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": SAVE_EVERY,
        "save_total_limit": 2,
    }
    flags |= {"residual_noise_std": 0.5, "lookahead": "sample"}
    words = [f"--{name}={value}" for name, value in flags.items()]
    words += [f"--model_name_or_path={model}", f"--dataset_name={rows}", f"--output_dir={out}", *more]
    return [sys.executable, "-m", "ift.cli.main", "train", *words]


def started(words):
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored in the background, and inherited
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    return running


def killed_run(model, rows, folder: Path, kills: int) -> KilledRun:
    """A run that gets SIGKILL `kills` times, some random steps and milliseconds after its checkpoint."""
    straight, out = folder / "straight", folder / "out"
    subprocess.run(command(model, rows, straight), check=True, capture_output=True)
    rng, log = random.Random(0), []
    while len(log) < kills:
        begun = time.time()
        running = started(command(model, rows, out, "--resume", "auto"))
        _wait_for_steps(running, out, rng.randint(1, 6))
        time.sleep(rng.uniform(0, 0.1))
        if running.poll() is not None:  # it ended before: the next one begins in a new folder
            shutil.rmtree(out)
            continue
        running.send_signal(signal.SIGKILL)
        said, _ = running.communicate()
        on = [line for line in said.splitlines() if line.startswith("resumes from")]
        whole, broken = newest_complete(out)
        log.append(
            Kill(
                went_on_from=int(on[0].rpartition("-")[2]) if on else 0,
                last_step=max(logged_steps(out), default=0),
                whole=step_of(whole),
                half_written=sum(_last_change(path) > begun for path, _ in broken),
            )
        )
    done = subprocess.run(command(model, rows, out, "--resume", "auto"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resumes from" in done.stdout
    return KilledRun(log, same(weights(out), weights(straight)), logged_steps(out))


def _wait_for_steps(running, out, more):
    """Until `more` steps have been logged since the checkpoint it began from (its first, if none), or it has ended."""
    metrics = out / "metrics.jsonl"
    seen = metrics.stat().st_mtime_ns if metrics.exists() else 0
    while (not out.exists() or newest_complete(out)[0] is None) and running.poll() is None:
        time.sleep(0.005)
    if running.poll() is not None:
        return
    goal = step_of(newest_complete(out)[0]) + more
    while running.poll() is None:
        if metrics.stat().st_mtime_ns > seen and max(logged_steps(out), default=0) >= goal:
            return
        time.sleep(0.002)


def step_of(checkpoint):
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _last_change(folder):
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def logged_steps(out):
    """Steps of the trainer's lines in metrics.jsonl, without a line that a kill left half written."""
    text = (out / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line["step"] for line in lines if "end_nll" not in line]
