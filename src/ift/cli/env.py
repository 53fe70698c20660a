"""`ift env`: information for a bug report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from ift.text import counted

PACKAGES = (
    "intuitive-fine-tuning", "torch", "transformers", "trl", "accelerate", "datasets", "peft", "tokenizers",
)  # fmt: skip
OPTIONAL = ("bitsandbytes", "deepspeed", "flash-attn", "triton", "kernels")


def command() -> int:
    """Print versions and hardware for a bug report; no paths and no environment variables."""
    import torch

    print(f"python: {platform.python_version()} on {platform.platform()}")
    for name in (*PACKAGES, *OPTIONAL):
        try:
            print(f"{name}: {version(name)}")
        except PackageNotFoundError:
            if name in PACKAGES:
                print(f"{name}: not installed as a package")
    print(f"cpu: {counted(os.cpu_count() or 1, 'core')}, {counted(torch.get_num_threads(), 'torch thread')}")
    print(f"memory: {_memory_gib()}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            print(
                f"cuda {index}: {found.name}, {found.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
            )
    else:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "none"
        print(f"accelerator: {accelerator}")
    return 0


def _memory_gib() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{size / 2**30:.0f} GiB"
