"""Runs of `ift train` under an engine, two processes on a CPU, with the shipped accelerate configurations."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

SCRIPT = Path(__file__).parent / "engine_process.py"
# FSDP1 sends the weights from rank 0 through an accelerator; here each rank reads them
CPU_LOADING = ["--fsdp_cpu_ram_efficient_loading", "false", "--fsdp_sync_module_states", "false"]
ENGINES = {  # name: shipped configuration and changes to it, as flags of `accelerate launch`
    "fsdp2": ("fsdp2", []),
    "fsdp2-sharded": ("fsdp2", ["--fsdp_state_dict_type", "SHARDED_STATE_DICT"]),
    "fsdp1": ("fsdp2", ["--fsdp_version", "1", "--fsdp_reshard_after_forward", "FULL_SHARD", *CPU_LOADING]),
    "zero1": ("zero2", ["--zero_stage", "1"]),
    "zero2": ("zero2", []),
    "zero3": ("zero3", []),
}
TENSOR_PARALLEL = {"TEST_TENSOR_PARALLEL": "true"}  # environment; the model is split by model_init_kwargs


def engine_environment(engine: str, configurations: Path) -> dict[str, str]:
    """What `accelerate launch` puts into the environment of each process for the engine."""
    name, changes = ENGINES[engine]
    flags = ["--config_file", str(configurations / f"{name}.yaml"), "--num_processes", "2", *changes]
    parser = launch_command_parser()
    arguments, *_ = _validate_launch_command(
        parser.parse_args([*flags, "--mixed_precision", "no", "--main_process_port", "0", str(SCRIPT)])
    )
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = (
            ""  # what `accelerate launch` sets for a file like ours
        )
        return prepare_deepspeed_cmd_env(arguments)[1] | {"DS_ACCELERATOR": "cpu"}
    return prepare_multi_gpu_env(arguments)


@dataclass(frozen=True)
class Ended:
    """How the processes of a run ended.

    Attributes:
        codes: exit code of each process, by rank.
        outputs: what each process wrote to stdout and stderr.
    """

    codes: list[int]
    outputs: list[str]


def start_processes(
    flags: dict[str, object], environment: dict[str, str], count: int = 2
) -> list[subprocess.Popen]:
    """`ift train` with the flags in `count` processes that find each other on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    if count > 1:
        shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [f"--{name}={value}" for name, value in flags.items()]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {} for rank in range(count)]
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *words],
            env=shared | rank,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ranks
    ]


def wait_for(processes: list[subprocess.Popen], timeout: float = 300) -> Ended:
    """Wait until all have ended; none is left behind."""
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return Ended([process.returncode for process in processes], outputs)


def start_launcher(
    flags: dict[str, object], environment: dict[str, str]
) -> tuple[subprocess.Popen, Callable[[], list[psutil.Process]]]:
    """`ift train` in two processes under torchrun; the launcher, and a function that gives its processes by rank."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(SCRIPT),
            *words,
        ],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def workers() -> list[psutil.Process]:
        found = [one for one in psutil.Process(launcher.pid).children() if str(SCRIPT) in one.cmdline()]
        return sorted(found, key=lambda one: int(one.environ()["RANK"]))

    return launcher, workers
