"""Starts the processes of a run, also on a CPU: `ift train --num_processes 2`."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml

from ift.check.engines import Engine
from ift.runs.arguments import UsageError
from ift.text import counted, quoted
from ift.training.checkpoints import SIGNALS

NUM_PROCESSES = "IFT_NUM_PROCESSES"
CPU_FLAGS = {  # accelerate's name -> torchrun's
    "--main_process_port": "--master-port",
    "--main_process_ip": "--master-addr",
    "--num_machines": "--nnodes",
    "--machine_rank": "--node-rank",
    "--rdzv_conf": "--rdzv-conf",
}
RENDEZVOUS_SECONDS = 300  # for machines to find each other, unless --rdzv_conf sets another limit
# on all machines
SAME_VERSIONS = ("intuitive-fine-tuning", "torch", "transformers", "trl", "accelerate", "peft")


def is_launched() -> bool:
    """Whether a launcher (ift's, torchrun or accelerate) started this process."""
    return "LOCAL_RANK" in os.environ or NUM_PROCESSES in os.environ


def is_first_process() -> bool:
    """Whether this is the first process of a run; a run of one process has no RANK."""
    return int(os.environ.get("RANK", 0)) == 0


def running_engine() -> Engine:
    """The engine that this process runs under, from the environment that `accelerate launch` sets."""
    name, version = "ddp", os.environ.get("FSDP_VERSION", "1")
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        name = "fsdp2"
    elif os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        name = _zero(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", 2))
    return Engine(name, int(os.environ.get("WORLD_SIZE", 1)), fsdp1=name == "fsdp2" and version == "1")


def wanted_engine(launch_flags: list[str]) -> Engine:
    """The engine and the number of processes that the launch flags request.

    Raises:
        UsageError: An accelerate configuration that does not exist, or a number of processes that is not a number.
    """
    flags = resolve_config(launch_flags)
    file = _flag(flags, "--config_file")
    asked = {} if file is None else _read_config_file(Path(file))
    name, fsdp = "ddp", asked.get("fsdp_config") or {}
    if asked.get("distributed_type") == "FSDP":
        name = "fsdp2"
    elif asked.get("distributed_type") == "DEEPSPEED":
        name = _zero((asked.get("deepspeed_config") or {}).get("zero_stage", 2))
    fsdp1 = name == "fsdp2" and str(fsdp.get("fsdp_version", 1)) == "1"
    return Engine(name, max(1, _processes(flags) or 1), fsdp1)


def engine_here(launch_flags: list[str]) -> str:
    """Name of the engine that a run with these flags would use on this machine: without an accelerator DDP."""
    return wanted_engine(launch_flags).name if torch.accelerator.is_available() else "ddp"


def _zero(stage: object) -> str:
    """Name of DeepSpeed's engine; its stage 0 is data parallelism."""
    return "ddp" if str(stage) == "0" else f"zero{stage}"


def check_world_size() -> None:
    """Raises UsageError if the number of processes differs from the requested one."""
    wanted, running = int(os.environ.get(NUM_PROCESSES, 0)), int(os.environ.get("WORLD_SIZE", 1))
    if wanted and wanted != running:
        raise UsageError(
            f"{counted(wanted, 'process was', 'processes were')} requested, but {running} "
            f"{'is' if running == 1 else 'are'} running. Launch with torchrun instead."
        )


def launch(launch_flags: list[str], module: str, arguments: list[str], *, use_cpu: bool) -> int:
    """Starts the training processes and waits for them; returns the exit code of the first that failed, or 0.

    On a CPU accelerate silently starts a single process, so torchrun starts the processes there (gloo). A signal is
    passed on to the processes, which save and stop; torchrun itself would kill them after 30 seconds.

    Args:
        launch_flags: Flags of `accelerate launch`.
        module: Python module that each process runs.
        arguments: Command-line arguments of the module.
        use_cpu: Whether the processes run on the CPU although there is an accelerator.

    Raises:
        UsageError: Flags that cannot be used together, or that have no effect on a CPU.
        TimeoutError: The machines of a run did not find each other.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import patch_environment
    from torch.distributed import DistError

    flags = resolve_config(launch_flags)
    count, machines = _processes(flags), machines_of(flags)
    if machines > 1 and "--rdzv_conf" not in flags:
        flags = [*flags, "--rdzv_conf", f"timeout={RENDEZVOUS_SECONDS}"]
    command = ["--module", module, *arguments]
    environment = {"PET_SIGNALS_TO_HANDLE": "SIGQUIT"}  # torchrun must not handle the signals forwarded here
    if use_cpu or not torch.accelerator.is_available():
        from torch.distributed.run import parse_args, run

        if (count or machines) % machines:
            raise UsageError(f"--num_processes {count} cannot be divided by {machines} machines.")
        local_processes = (count or machines) // machines
        print(_on_cpu(local_processes, wanted_engine(flags)), flush=True)
        environment |= {"ACCELERATE_USE_CPU": "true", NUM_PROCESSES: str(local_processes * machines)}
        environment["OMP_NUM_THREADS"] = os.environ.get(
            "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // local_processes))
        )
        torchrun_arguments = [f"--nproc-per-node={local_processes}", *_torchrun_flags(flags), *command]

        def start() -> None:
            run(parse_args(torchrun_arguments))
    else:
        asked = launch_command_parser().parse_args([*flags, *command])  # exits with accelerate's own message
        environment |= {NUM_PROCESSES: str(count)} if count else {}

        def start() -> None:
            launch_command(asked)

    # the processes print their own errors
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with patch_environment(**environment), _forward_signals() as received:
        try:
            code = _exit_code(start)
        except DistError as error:
            raise TimeoutError(_rendezvous_error(flags, machines, error)) from error
    return SIGNALS[received[0]] if received and code else code


def _on_cpu(processes: int, engine: Engine) -> str:
    """What runs instead of an engine where there is no accelerator."""
    unused = "" if engine.name == "ddp" else f"; {engine.name} needs an accelerator and is not used here"
    count = counted(processes, "process", "processes")
    return f"no accelerator in use: {count} on the CPU, data-parallel (gloo){unused}"


def _rendezvous_error(flags: list[str], machines: int, error: Exception) -> str:
    """The message for machines that did not find each other."""
    address = (
        f"{_setting(flags, 'main_process_ip') or '127.0.0.1'}:{_setting(flags, 'main_process_port') or 29500}"
    )
    return (
        f"{machines} machines did not find each other at {address} ({quoted(error)}). Fix: run the same "
        "command on each machine, with its own --machine_rank from 0 and the --main_process_ip and --main_process_port "
        "of the first, which must be reachable; --rdzv_conf timeout=900 waits longer"
    )


def _exit_code(start: Callable[[], None]) -> int:
    """Exit code of the processes that a launcher starts."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        start()
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code  # after a signal, the code that a shell returns
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    return 0


@contextmanager
def _forward_signals() -> Iterator[list[signal.Signals]]:
    """Forwards SIGINT, SIGTERM and SIGHUP to the child processes; yields the list of received signals."""
    import psutil

    received: list[signal.Signals] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        number = signal.SIGTERM if number == signal.SIGHUP else number
        received.append(signal.Signals(number))
        for worker in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (*SIGNALS, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resolve_config(launch_flags: list[str]) -> list[str]:
    """Replaces the name of an accelerate configuration shipped with ift or trl by its file.

    Raises:
        UsageError: Neither a file nor a known name.
    """
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    name = _flag(launch_flags, "--accelerate_config")
    shipped = files("ift.runs.accelerate_configs")
    if name is not None and not Path(name).is_file() and shipped.joinpath(f"{name}.yaml").is_file():
        place = launch_flags.index("--accelerate_config")
        rest = launch_flags[:place] + launch_flags[place + 2 :]
        return ["--config_file", str(shipped.joinpath(f"{name}.yaml")), *rest]
    try:
        found: list[str] = resolve_accelerate_config_argument(launch_flags)
    except ValueError as error:
        names = ", ".join(sorted(path.name[:-5] for path in shipped.iterdir() if path.name.endswith(".yaml")))
        raise UsageError(f"{error} ift has: {names}.") from error
    return found


def _flag(flags: list[str], name: str) -> str | None:
    return flags[flags.index(name) + 1] if name in flags else None


def _setting(flags: list[str], name: str) -> Any:
    """A setting from its flag, otherwise from the accelerate configuration file; None if neither sets it."""
    given, file = _flag(flags, f"--{name}"), _flag(flags, "--config_file")
    return _read_config_file(Path(file)).get(name) if given is None and file is not None else given


def machines_of(flags: list[str]) -> int:
    """Number of machines, from flags that `resolve_config` returned."""
    return int(_setting(flags, "num_machines") or 1)


def _processes(flags: list[str]) -> int | None:
    """Number of processes on all machines together; None if it is not set."""
    file = _flag(flags, "--config_file")
    given = _setting(flags, "num_processes")
    if _flag(flags, "--num_processes") is None and file is not None:
        given = 1 if _read_config_file(Path(file)).get("distributed_type") == "NO" else given
    try:
        return None if given is None else int(given)
    except ValueError as error:
        raise UsageError(f"--num_processes is {given!r}; give a whole number.") from error


def _read_config_file(file: Path) -> dict[str, Any]:
    """Content of accelerate's configuration file; raises UsageError if it is missing or not YAML."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"--config_file {file}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--config_file {file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--config_file {file} must hold `key: value` lines.")
    return found


def _torchrun_flags(flags: list[str]) -> list[str]:
    """Translates accelerate's flags to torchrun's; raises UsageError for those without effect on a CPU."""
    found: list[str] = []
    words = iter(flags)
    for word in words:
        if word in CPU_FLAGS:
            value = next(words)
            if (word, value) != ("--main_process_port", "0"):  # accelerate's way to request any free port
                found.append(f"{CPU_FLAGS[word]}={value}")
        elif word in ("--num_processes", "--config_file"):
            next(words)
        elif word not in ("--cpu", "--use_cpu", "--multi_gpu"):
            raise UsageError(f"{word} has no effect without an accelerator; leave it out here.")
    # --standalone lets torchrun choose a free port (--master-port=0 would wait forever)
    return found or ["--standalone"]
