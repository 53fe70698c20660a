"""Processes as tasks of Ray, on this machine or a cluster: `--ray [ADDRESS]`.

Ray decides which node runs what, lets tasks wait until their CPUs or GPU are free, and runs those of a lost node again.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ift.lab.interrupts import noted_signals
from ift.lab.processes import POLL_SECONDS, Job, problem, threads
from ift.runs.argv import UsageError
from ift.runs.extras import missing_extra
from ift.text import quoted

OWN = "local"  # the address of an own Ray on this machine, as Ray itself names it
# of the command's environment, set on every node: they change what is printed and where it is looked for, no secrets
PASSED = (
    "DISABLE_SAFETENSORS_CONVERSION", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "TQDM_DELAY", "TQDM_MININTERVAL"
)  # fmt: skip
RETRIES = 3  # of a task whose node or worker was lost, Ray's default; its own failures are not repeated
OBJECT_BYTES = 80 * 2**20  # of an own Ray's object store, about the least it accepts: results are files
CONNECT_SECONDS = 10.0
SHARED_SECONDS = 60.0  # a file may be seen so much later on another machine (NFS caches names)
HELP = "Run the processes as Ray tasks: on this machine, or on the cluster at ADDRESS, such as auto or 10.0.0.1:6379."


def check_ray(address: str | None) -> None:
    """Check that Ray is installed where `--ray` is given.

    Raises:
        UsageError: It is not.
    """
    if address is not None and (hint := missing_extra("ray", "ray")):
        raise UsageError(f"--ray: {hint}")


@contextmanager
def ray_tasks(address: str | None, limit: int | None = None) -> Iterator[RayTasks | None]:
    """The executor of `--ray ADDRESS`, connected; None without an address.

    Args:
        address: Of a cluster, or `OWN`.
        limit: The most tasks at the same time; None: as many as the nodes hold.

    Raises:
        UsageError: No cluster answers at the address.
    """
    if address is None:
        yield None
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # an own Ray reports to nobody
    import ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    own = {**quiet, "object_store_memory": OBJECT_BYTES}
    joined = {name: quiet[name] for name in ("log_to_driver", "logging_level")}
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for many minutes
            place = (host.rpartition("/")[2].strip("[]"), int(port))
            socket.create_connection(place, CONNECT_SECONDS).close()
        ray.init(address=address, **(own if address == OWN else joined))
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--ray {address}: no cluster answers there ({quoted(str(error).splitlines()[0])}). Fix: start one "
            "with `ray start --head` and join this machine to it, or leave out the address for an own Ray on this "
            "machine"
        ) from error
    try:
        yield RayTasks(ray, limit)
    finally:
        ray.shutdown()


class RayTasks:
    """An `Executor` on the nodes of a connected Ray."""

    def __init__(self, ray: Any, limit: int | None = None) -> None:
        self.ray, self.limit = ray, limit or math.inf
        # sent as code, not as a name: a node without ift then says so in the process's log
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self._at_start = (
            self._nodes()
        )  # a study whose GPU nodes are lost waits for others, and does not go on on CPUs

    def run(
        self, work: Sequence[Job], jobs: int, started: Callable[[list[int]], object] = lambda places: None
    ) -> Generator[tuple[int, str | None], None, None]:
        """See `Executor.run`; Ray does not tell which of the waiting tasks it has started."""
        asked = resources(self._at_start, threads(jobs))
        options = {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0), "max_retries": RETRIES}
        task, here = self.ray.remote(**options)(run_process), str(Path.cwd())
        environment = {name: os.environ[name] for name in PASSED if name in os.environ}
        environment["OMP_NUM_THREADS"] = str(int(asked["CPU"]))
        waiting, running = [*range(len(work))], dict[Any, int]()
        with noted_signals(signal.SIGINT, signal.SIGTERM) as received:
            try:
                while waiting or running:
                    if received:
                        raise KeyboardInterrupt
                    while waiting and len(running) < self.limit:
                        place = waiting.pop(0)
                        job = work[place]
                        reads = [str(one) for one in job.reads]
                        running[task.remote(job.words, str(job.log), reads, here, environment)] = place
                    ended, _ = self.ray.wait([*running], num_returns=1, timeout=POLL_SECONDS)
                    for one in ended:
                        place = running.pop(one)
                        yield place, self._problem(one, work[place])
            finally:
                for one in running:
                    self.ray.cancel(one)
                if running:
                    self.ray.wait([*running], num_returns=len(running), timeout=SHARED_SECONDS)

    def at_once(self, jobs: int) -> int:
        """As many as the nodes hold; `--jobs` is the most."""
        asked = resources(self._at_start, threads(jobs))
        return int(max(1, min(self.limit, places(self._nodes(), asked))))

    def speed(self, jobs: int, on_devices: bool) -> float:
        """A GPU for each task; without any, the CPUs of the tasks over those of this machine."""
        asked, at_once = resources(self._at_start, threads(jobs)), self.at_once(jobs)
        return at_once if "GPU" in asked else max(1.0, at_once * asked["CPU"] / (os.cpu_count() or 1))

    def _nodes(self) -> list[dict[str, float]]:
        """What each node has that is alive, such as {"CPU": 8.0, "GPU": 1.0}."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _problem(self, ended: Any, job: Job) -> str | None:
        try:
            found = self.ray.get(ended)
        except self.ray.exceptions.RayError as error:  # the node or its worker was lost too often
            return f"failed on the cluster, after {RETRIES} repetitions: {str(error).strip().splitlines()[0]}"
        if isinstance(found, str):
            return found
        until = time.monotonic() + SHARED_SECONDS
        while found == 0 and job.result and not job.result.exists() and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return problem(job, found)


def resources(nodes: Sequence[dict[str, float]], cores: int) -> dict[str, float]:
    """What Ray is asked for a task: a GPU where the cluster has any, and so many CPUs, as far as a node has them."""
    shares = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
    if shares:
        return {"GPU": 1, "CPU": max(1, min(cores, *shares))}
    return {"CPU": max(1, min(cores, max((node.get("CPU", 0) for node in nodes), default=0)))}


def places(nodes: Sequence[dict[str, float]], asked: dict[str, float]) -> int:
    """How many tasks that ask for this the nodes hold at the same time."""
    return sum(int(min(node.get(name, 0) // amount for name, amount in asked.items())) for node in nodes)


def run_process(
    words: Sequence[str], log: str, reads: Sequence[str], folder: str, environment: dict[str, str]
) -> int | str:
    """Run `python -m WORDS` in `folder` on a node, with the output in `log`; stopped with its task.

    Returns:
        The exit code, or what is missing on the node.
    """
    log, *needed = (os.path.join(folder, name) for name in (log, *reads))
    missing = [name for name in (folder, os.path.dirname(log), *needed) if not os.path.exists(name)]
    if missing:
        return (
            f"failed on node {platform.node()}, which has no {missing[0]}: the working directory, --output_dir, the "
            "model's folder and ift itself must be at the same path on every node, such as in a shared file system"
        )
    with open(log, "wb") as output:
        process = subprocess.Popen(  # nosec B603 # the node's Python on this package; no shell
            [sys.executable, "-m", *words],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    try:
        while process.poll() is None:  # not `wait`, in which a cancelled task would not wake up
            time.sleep(POLL_SECONDS)
        return process.returncode
    finally:
        process.terminate()
        process.wait()
