"""How many processes run: `ift train --num_processes 2` starts two, on a CPU too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from ift.cli.arguments import UsageError

WANTED = "IFT_NUM_PROCESSES"
CPU_FLAGS = {  # accelerate's name -> torchrun's
    "--main_process_port": "--master-port",
    "--main_process_ip": "--master-addr",
    "--num_machines": "--nnodes",
    "--machine_rank": "--node-rank",
}


def is_launched() -> bool:
    """Whether this process was started by a launcher (ours, torchrun or accelerate)."""
    return "LOCAL_RANK" in os.environ or WANTED in os.environ


def check_world_size() -> None:
    """Raise UsageError where fewer or more processes run than were asked for."""
    wanted, running = int(os.environ.get(WANTED, 0)), int(os.environ.get("WORLD_SIZE", 1))
    if wanted and wanted != running:
        raise UsageError(
            f"{wanted} processes were asked for and {running} run. Launch with torchrun instead."
        )


def launch(launch_flags: list[str], training_flags: list[str], *, use_cpu: bool) -> int:
    """Start the training processes and wait for them; returns their exit code.

    On a CPU accelerate starts a single process without a word, so torchrun starts them there (gloo).
    """
    from accelerate.commands.launch import launch_command_parser
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    try:
        flags = resolve_accelerate_config_argument(launch_flags)
    except ValueError as error:
        raise UsageError(str(error)) from error
    count = _processes(flags)
    command = ["--module", "ift.cli.main", "train", *training_flags]
    environment = dict(os.environ)
    if use_cpu or not torch.accelerator.is_available():
        print(f"no accelerator in use: {count or 1} process(es) on the CPU, data-parallel (gloo)")
        start = ["torch.distributed.run", f"--nproc-per-node={count or 1}", *_torchrun_flags(flags)]
        environment |= {"ACCELERATE_USE_CPU": "true", WANTED: str((count or 1) * _machines(flags))}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (count or 1))))
    else:
        launch_command_parser().parse_args([*flags, *command])  # exits with accelerate's own message
        start = ["accelerate.commands.launch", *flags]
        if count:
            environment[WANTED] = str(count)
    return subprocess.run([sys.executable, "-m", *start, *command], env=environment, check=False).returncode


def _flag(flags: list[str], name: str) -> str | None:
    return flags[flags.index(name) + 1] if name in flags else None


def _machines(flags: list[str]) -> int:
    return int(_flag(flags, "--num_machines") or 1)


def _processes(flags: list[str]) -> int | None:
    """Processes asked for by flag, else by the accelerate configuration file."""
    file = _flag(flags, "--config_file")
    given: str | int | None = _flag(flags, "--num_processes")
    if given is None and file is not None:
        asked = yaml.safe_load(Path(file).read_text()) or {}
        given = 1 if asked.get("distributed_type") == "NO" else asked.get("num_processes")
    try:
        return None if given is None else int(given)
    except ValueError as error:
        raise UsageError(f"--num_processes is {given!r}; give a whole number.") from error


def _torchrun_flags(flags: list[str]) -> list[str]:
    """Words of torchrun for accelerate's flags; those without a meaning on a CPU are refused."""
    found: list[str] = []
    words = iter(flags)
    for word in words:
        if word in CPU_FLAGS:
            value = next(words)
            if (word, value) != ("--main_process_port", "0"):  # accelerate's word for any free port
                found.append(f"{CPU_FLAGS[word]}={value}")
        elif word in ("--num_processes", "--config_file"):
            next(words)
        elif word not in ("--cpu", "--use_cpu", "--multi_gpu"):
            raise UsageError(f"{word} has no effect without an accelerator; leave it out here.")
    # without a port of one's own: a free one, of torchrun's choice (--master-port=0 would wait forever)
    return found or ["--standalone"]
