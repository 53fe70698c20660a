"""Two gloo processes of one script, as torchrun would start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch


def of_two_processes(script, folder):
    """What rank 0 of `script FOLDER` saved as `found.pt`; the tests' folder and the script's are importable."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    paths = [str(script.parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(text[-3000:] for text in told)
    return torch.load(folder / "found.pt", weights_only=False)


def save_what_rank_0_found(run_case, cases, batch_size):
    """The script's side: run every case in this rank, with its share of the batch."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    found = {name: run_case(name, folder / name, batch_size) for name in cases}
    assert torch.distributed.get_world_size() == 2
    if torch.distributed.get_rank() == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
