"""`ift train` in one process of an engine, on a CPU; started by `engine_runs.py` with accelerate's environment.

accelerate turns FSDP into plain data parallelism where there is no accelerator, and refuses tensor parallelism. What is
changed for that stands here, and nowhere in the package: everything else that runs is what runs on GPUs.
"""

import contextlib
import os
import sys

import torch
from accelerate.state import DistributedType, PartialState
from torch.distributed.fsdp import _optim_utils
from torch.distributed.fsdp._flat_param import FlatParamHandle

TENSOR_PARALLEL = "TEST_TENSOR_PARALLEL"  # variable of the environment


def shard_on_cpu() -> None:
    """Let accelerate apply FSDP, or accept a model split by tensor parallelism, in processes on a CPU."""
    original = PartialState.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU
            self.device = torch.device("cpu")  # FSDP1 takes no index here

    PartialState.__init__ = init
    # FSDP1's state on its way to the CPU: it frees the original, and uses the buffer that gathered an optimiser's state
    # for the next one; on a CPU these are the copies
    FlatParamHandle.to_cpu = lambda self: contextlib.nullcontext()
    gathered = _optim_utils._unflatten_orig_param_states
    _optim_utils._unflatten_orig_param_states = lambda *args: gathered(*args[:-1], False)  # copies


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get(TENSOR_PARALLEL)):
        shard_on_cpu()
    from ift.cli.main import app

    sys.exit(app(["train", *sys.argv[1:]], standalone_mode=False))
