"""Computes how engines divide the memory of a training step over processes; no engine is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ift.text import counted

ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
FULL, HALF = 4, 2  # bytes of float32, and of bfloat16
GATHERED_BLOCKS = 2  # whole at once in FSDP2 and ZeRO-3: the one at work, and the next


@dataclass(frozen=True)
class Engine:
    """An engine and its processes; FSDP1 counts as fsdp2.

    Attributes:
        name: One of `ENGINES`.
        processes: 1 or more, one for each device.
        fsdp1: Whether the engine is FSDP1.
    """

    name: str = "ddp"
    processes: int = 1
    fsdp1: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {self.processes} process{'es' if self.processes > 1 else ''}"

    @property
    def full_name(self) -> str:
        """The name, in which FSDP1 is "fsdp1"."""
        return "fsdp1" if self.fsdp1 else self.name

    @property
    def shards_weights(self) -> bool:
        """Whether no process holds all weights."""
        return self.name in ("zero3", "fsdp2")


ONE_DEVICE = Engine()


@dataclass(frozen=True)
class Held:
    """What a step holds before it is divided, in bytes unless it says otherwise.

    Attributes:
        weights: All weights as they are loaded.
        computed: All weights in the dtype of the computation.
        trained: Number of trained parameters.
        element: Bytes of one number in the dtype of the computation.
        gradients: In the dtype of the trained weights.
        optimizer: Optimiser states of the trained weights as they are loaded.
        full_optimizer: The same for weights in float32.
        upcast: What trained weights grow by where accelerate turns them into float32: FSDP2 in mixed precision.
        reference: A frozen second model as it is loaded, or a frozen copy of an adapter; 0 without one.
        gathered: Of `computed`, what is whole for a while where the weights lie in shards; see `gathered_parameters`.
        unsharded: Of `weights`, a base in few bits, which every process of FSDP2 holds whole.
    """

    weights: int
    computed: int
    trained: int
    element: int
    gradients: int
    optimizer: int
    full_optimizer: int
    upcast: int
    reference: int
    gathered: int
    unsharded: int = 0

    def optimised(self, engine: Engine) -> int:
        """Bytes of all trained weights in the optimiser's dtype, before they are divided."""
        if engine.name == "ddp":
            return self.gradients
        return self.gradients + self.upcast if engine.name == "fsdp2" else self.trained * FULL


def divide(held: Held, engine: Engine) -> dict[str, int]:
    """Bytes of "weights", "gradients", "optimizer" and "reference" that one process holds.

    * ddp: everything, and with several processes DDP's buckets of the gradients.
    * zero1, zero2, zero3: DeepSpeed keeps the weights in the dtype of the computation, and beside them float32 copies
      of the trained ones with their optimiser states, in shards (zero3 in float32 makes no copies); zero2 shards
      gradients too, zero3 also the weights.
    * fsdp2: everything in shards, except a base in few bits; trained weights, their gradients and states in float32
      where the computation is in 16 bits, else as they were loaded.

    Raises:
        ValueError: An unknown engine, or no process.
    """
    if engine.name not in ENGINES or engine.processes < 1:
        raise ValueError(
            f"Found engine {engine.name!r}, {counted(engine.processes, 'process', 'processes')}; give one of "
            f"{', '.join(ENGINES)}, and 1 process or more."
        )

    def share(size: int) -> int:
        return -(-size // engine.processes)

    if engine.name == "ddp":
        buckets = held.gradients if engine.processes > 1 else 0
        return _parts(held.weights, held.gradients + buckets, held.optimizer, held.reference)
    if engine.name == "fsdp2":
        weights = held.unsharded + share(held.weights + held.upcast - held.unsharded) + held.gathered
        optimizer = share(held.full_optimizer if held.upcast else held.optimizer)
        return _parts(weights, share(held.optimised(engine)), optimizer, share(held.reference))
    optimizer, masters = share(held.full_optimizer), share(held.optimised(engine))
    gradients = held.trained * held.element
    if engine.name == "zero3":
        weights = share(held.computed) + (masters if held.element < FULL else 0) + held.gathered
        return _parts(weights, share(gradients), optimizer, share(held.reference))
    gradients = share(gradients) if engine.name == "zero2" else gradients
    return _parts(held.computed + masters, gradients, optimizer, min(held.computed, held.reference))


def _parts(weights: int, gradients: int, optimizer: int, reference: int) -> dict[str, int]:
    return {"weights": weights, "gradients": gradients, "optimizer": optimizer, "reference": reference}


def gathered_parameters(blocks: list[int], every: int) -> int:
    """Parameters that are whole at once where weights lie in shards: what lies outside the blocks, and two blocks.

    Args:
        blocks: Parameters of each block.
        every: Parameters of the whole model.
    """
    return every - sum(blocks) + GATHERED_BLOCKS * max(blocks, default=0)


def block_sizes(model: nn.Module) -> list[int]:
    """Parameters of each block."""
    return [sum(p.numel() for p in block.parameters()) for block in blocks_of(model)]


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The blocks of a model: its list of modules with most parameters; an empty list where it has none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda one: sum(p.numel() for p in one.parameters()), default=nn.ModuleList())
