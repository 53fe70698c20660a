"""Counts the places at which a GPU step would make the host wait for the device, on a CPU."""

from __future__ import annotations

import sys
from collections import Counter

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# the host needs a value, or the size of a result depends on one
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique", "_unique2",
    "unique_consecutive", "bincount", "is_nonzero",
}  # fmt: skip
INDEXING = {
    "index",
    "index_put",
    "index_put_",
    "_index_put_impl_",
}  # a mask as the index is searched for its places
COPIES = {"tolist", "cpu", "numpy"}  # on a CPU these dispatch no operation


class HostWaits(TorchDispatchMode):
    """While open, counts the waits by operation and by the line of ift, trl or transformers that causes them."""

    def __init__(self, packages: tuple[str, ...] = ("ift", "trl", "transformers", "naive_ift")) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.packages = packages
        self._copies = _Copies(self)

    def __enter__(self):
        self._copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        return self._copies.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        masked = name in INDEXING and any(
            isinstance(one, Tensor) and one.dtype.itemsize == 1 for one in args[1] if one is not None
        )
        if name in WAITING or masked or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.add(name)
        return func(*args, **(kwargs or {}))

    def add(self, name: str) -> None:
        """Counts one wait, unless it is for a data loader's sampler, which is on the CPU anyway."""
        place = self._place()
        if place is not None:
            self.counts[f"{name} in {place}"] += 1

    def of(self, package: str) -> dict[str, int]:
        """The waits that a package causes."""
        return {
            name: count for name, count in self.counts.items() if name.split(" in ")[1].startswith(package)
        }

    def _place(self) -> str | None:
        frame = sys._getframe(1)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("torch.utils.data"):
                return None
            if module.split(".")[0] in self.packages:
                return f"{module}.{frame.f_code.co_name}"
            frame = frame.f_back
        return "torch"


class _Copies(TorchFunctionMode):
    def __init__(self, waits: HostWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in COPIES:
            self.waits.add(func.__name__)
        return func(*args, **(kwargs or {}))
