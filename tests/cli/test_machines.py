"""Several machines, on the loopback: each has its own launcher with one process, and they are one run."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed_runs import weights
from short_runs import ROWS, SHORT

RUN = {**SHORT, "max_steps": 3, "optim": "sgd", "learning_rate": 0.1}
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=1", "--nnodes=2", "--master-addr=127.0.0.1"]


@pytest.fixture
def words(chat_model, write_rows, tmp_path):
    rows = write_rows(ROWS["messages"])

    def words(out, batch):
        flags = {**RUN, "per_device_train_batch_size": batch, "output_dir": tmp_path / out}
        flags |= {"model_name_or_path": chat_model, "dataset_name": rows}
        return ["-m", "ift.cli.main", "train", *(f"--{name}={value}" for name, value in flags.items())]

    return words


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(*commands, timeout=240, paths=()):
    """Run commands of Python beside each other; their exit codes and outputs. `paths`: a PYTHONPATH for each."""
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **({"PYTHONPATH": str(path)} if path else {})},
        )
        for command, path in itertools.zip_longest(commands, paths)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], outputs


def by_torchrun(rank, port, words):
    return [*TORCHRUN, f"--node-rank={rank}", f"--master-port={port}", *words]


def by_ift(rank, port, words):
    machines = {"num_machines": 2, "num_processes": 2, "machine_rank": rank}
    machines |= {"main_process_ip": "127.0.0.1", "main_process_port": port}
    return [*words, *(f"--{name}={value}" for name, value in machines.items())]


@pytest.mark.slow
def test_two_machines_train_what_one_process_trains(words, tmp_path, chat_model):
    """By torchrun, and by the flags of `ift train`. Red when: a machine trains by itself, or rows come twice."""
    codes, outputs = run(words("one", 4))
    assert codes == [0], outputs[0][-2000:]
    expected, before = weights(tmp_path / "one"), weights(chat_model)
    for launcher in (by_torchrun, by_ift):
        out, port = launcher.__name__, free_port()
        codes, outputs = run(*(launcher(rank, port, words(out, 2)) for rank in range(2)))
        assert codes == [0, 0], "\n".join(text[-2000:] for text in outputs)
        ours = weights(tmp_path / out)
        gap = max(float((ours[name] - expected[name]).abs().max()) for name in expected)
        moved = max(float((before[name] - expected[name]).abs().max()) for name in expected)
        assert gap <= 1e-5 < 1e-3 < moved
        steps = [json.loads(line)["step"] for line in (tmp_path / out / "metrics.jsonl").open()]
        assert max(steps) == 3


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_machine_that_never_comes_ends_the_run(words, tmp_path, rank):
    """Rank 0 waits for the other; rank 1 finds nothing at the port. Red when: it waits on."""
    began = time.monotonic()
    (code,), (output,) = run([*by_ift(rank, free_port(), words("out", 2)), "--rdzv_conf=timeout=5"])
    assert code == 1
    assert time.monotonic() - began < 90
    assert "2 machines did not find each other at 127.0.0.1:" in output
    assert "--rdzv_conf timeout=900 waits longer" in output
    assert "Traceback" not in output
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.slow
def test_machines_with_different_versions_end_the_run(words, tmp_path):
    """The second machine says that it has another peft. Red when: they train, or one waits for the other."""
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib import metadata\n"
        "real = metadata.version\n"
        "metadata.version = lambda name: '0.0.1' if name == 'peft' else real(name)\n"
    )
    began, port = time.monotonic(), free_port()
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    codes, outputs = run(*(by_ift(rank, port, words("out", 2)) for rank in range(2)), paths=(None, path))
    assert all(code != 0 for code in codes)
    assert time.monotonic() - began < 90
    for output in outputs:
        assert "the machines have different versions: peft 0.0.1 on " in output
        assert "Traceback" not in output
    assert not list((tmp_path / "out").glob("*.safetensors"))


def slurm_files():
    """The two job scripts of the documentation: for one node and for several."""
    page = (Path(__file__).parents[2] / "docs" / "many_gpus.md").read_text()
    one, several = (block.split("```")[0] for block in page.split("```sbatch\n")[1:])
    return one, several


def test_the_slurm_files_of_the_documentation_are_scripts(tmp_path):
    """And that of several nodes launches as `by_ift` does. Red when: one cannot be parsed, or a flag is missing."""
    for text in slurm_files():
        file = tmp_path / "run.sbatch"
        file.write_text(text)
        subprocess.run(["bash", "-n", file], check=True)
        assert "--resume auto" in text
        assert "#SBATCH --signal=TERM@300" in text
    flags = [word.split("=")[0] for word in by_ift(0, 1, []) if word.startswith("--")]
    assert all(f"{flag} " in slurm_files()[1] for flag in flags)


@pytest.mark.slow
def test_the_slurm_file_for_one_node_trains_what_one_process_trains(words, tmp_path):
    """The script itself, with a `srun` that sets Slurm's variables and two processes in place of eight GPUs."""
    codes, outputs = run(words("one", 4))
    assert codes == [0], outputs[0][-2000:]
    settings = dict(word.removeprefix("--").split("=", 1) for word in words("slurm", 2)[3:])
    (tmp_path / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    (tmp_path / "run.sbatch").write_text(slurm_files()[0].replace("GPUS=8", "GPUS=2"))
    programs = {
        "srun": 'SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_NODEID=0 exec "$@"',
        "ift": f'exec {sys.executable} -m ift.cli.main "$@"',
    }
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    found = subprocess.run(
        ["bash", "run.sbatch"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NNODES": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, (found.stdout + found.stderr)[-2000:]
    assert "2 processes on the CPU" in found.stdout
    ours, expected = weights(tmp_path / "slurm"), weights(tmp_path / "one")
    assert max(float((ours[name] - expected[name]).abs().max()) for name in expected) <= 1e-5
