"""The plan of a training, as it is printed before the first step: lines by topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ift.check.steps import PACKS_NOTHING, packs_nothing
from ift.methods.stage import PreparedRows, Stage
from ift.methods.start import start_options
from ift.models.adapters import WHOLE_COPIES
from ift.models.loading import load_config
from ift.runs.launch import running_engine
from ift.runs.ranges import without_effect
from ift.text import counted
from ift.training.config import IFTConfig

DETACH_WARNING = (
    "propagation_detach none is the released code: it makes confident tokens late in a row less likely, the end token "
    "first, and answers may never end (docs/differences.md, D1). Leave it out for Algorithm 1 as printed"
)


def plan(
    trainer: Any, stage: Stage, rows: PreparedRows, state: Any, checked: bool = False
) -> dict[str, list[str]]:
    """The plan that is printed before the first step: lines by topic.

    `checked`: whether findings about the rows were printed before, and are not repeated.
    """
    args, model = trainer.args, trainer.model
    trained, total = _parameters(model)
    share = "all trained" if trained == total else f"{_count(trained)} trained ({trained / total:.2%})"
    split = trainer.get_tp_size()  # processes that have the same rows
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size // split
    precision = "bf16 autocast" if args.bf16 else "fp16 autocast" if args.fp16 else "no autocast"
    processes = f"{args.world_size} process{'es' if args.world_size > 1 else ''}"
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    packs = getattr(args, "packing", False)
    topics = {
        "model": [
            f"{stage.model.model_name_or_path}: {_count(total)} parameters, {share}",
            *without_effect_lines(stage),
        ],
        "data": [
            *rows.notes,
            *(line for one in rows.sets.values() for line in one.report.lines(findings=checked)),
        ],
        "device": [f"{args.device}, {precision}, {processes}"],
        "dtype": [dtype_line(stage, model, str(getattr(args.optim, "value", args.optim)))],
        "steps": [
            f"{counted(state.max_steps, 'step')} of {counted(batch, 'packed sequence' if packs else 'row')} "
            f"({args.train_batch_size} per device x "
            f"{args.gradient_accumulation_steps} gradient accumulation x {processes}"
            f"{f', {split} of them for the same rows' if split > 1 else ''}), "
            f"learning rate {args.learning_rate:g} ({schedule}){epochs_unused(stage)}"
        ],
        "packing": [packing_line(trainer, rows)] if packs else [],
        "method": [method_line(stage, args)],
        "output": [str(args.output_dir)],
    }
    if isinstance(args, IFTConfig) and args.propagation == "bellman" and args.propagation_detach == "none":
        topics["warning"] = [DETACH_WARNING]
    return topics


def without_effect_lines(stage: Any) -> list[str]:
    """A line for each flag that leaves settings of the YAML file without effect, and each setting that does so."""
    off: Mapping[str, str] = getattr(stage, "switched_off", {})
    names = {flag: [name for name, one in off.items() if one == flag] for flag in dict.fromkeys(off.values())}
    lines = [
        f"settings of the file without effect, because of {flag}: {', '.join(names[flag])}" for flag in names
    ]
    for why, those in without_effect(getattr(stage, "named", ()), stage.config).items():
        lines.append(f"settings without effect, because {why}: {', '.join(those)}")
    return lines


def epochs_unused(stage: Stage) -> str:
    """The end of the line of the steps where both max_steps and num_train_epochs were given; "" elsewhere."""
    config = stage.config
    if config.max_steps <= 0 or "num_train_epochs" not in getattr(stage, "named", ()):
        return ""
    return f"; max_steps takes precedence, num_train_epochs {config.num_train_epochs:g} is not used"


def packing_line(trainer: Any, rows: PreparedRows) -> str:
    """How many sequences the rows are packed into, and how long these are."""
    report, dataset = rows.sets["train"].report, trainer.train_dataset
    sequences = counted(len(dataset), "sequence") if hasattr(dataset, "__len__") else "sequences"
    packed = "rows are" if report.streaming else counted(report.rows_kept, "row is", "rows are")
    size = f"{sequences} of up to {trainer.args.max_length:,} tokens"
    line = f"{packed} packed into {size} and do not attend to each other"
    if report.streaming or not packs_nothing(trainer.args, report, len(dataset)):
        return line
    return f"{line}; {PACKS_NOTHING}"


def method_line(stage: Stage, args: Any) -> str:
    """The method and its settings in one line."""
    method = stage.method
    if isinstance(args, IFTConfig):
        return f"{method.name}: {ift_settings(args)}"
    settings = ", ".join(f"{name} {getattr(args, name)}" for name in method.settings)
    return f"{method.name}: {method.description}{'; ' + settings if settings else ''}"


def ift_settings(args: IFTConfig) -> str:
    """The settings of IFT in one line."""
    if args.residual_warmup_ratio:
        start, share = args.residual_lambda_start or 0, f"{args.residual_warmup_ratio:.0%} of the steps"
        mixed = f"lambda from {start:g} to {args.residual_lambda:g} over the first {share}, {args.lookahead} look-ahead"
    elif args.residual_lambda == 0:
        mixed = "lambda 0 (no look-ahead)"
    else:
        mixed = f"lambda {args.residual_lambda:g}, {args.lookahead} look-ahead"
    if args.residual_noise_std:
        mixed += f", noise {args.residual_noise_std:g}"
    mean = f"loss averaged per {'row' if args.loss_reduction == 'sequence' else args.loss_reduction}"
    if args.token_weights is not None:
        return f"{mixed}; weights of {args.token_weights}; {mean}"
    gamma = "" if args.propagation == "none" else f", gamma {args.propagation_gamma:g}"
    if args.propagation == "bellman" and args.propagation_detach != "scale":
        released = "nothing detached (the released code)"
        gamma += f", {released if args.propagation_detach == 'none' else 'weights detached'}"
    return f"{mixed}; propagation {args.propagation}{gamma}; {mean}"


def dtype_line(stage: Stage, model: Any, optimizer: str) -> str:
    """Dtypes of the weights, the optimiser states and the files that will be saved."""
    used = _name(next(p.dtype for p in model.parameters() if p.is_floating_point()))
    adapter = hasattr(model, "peft_config")
    # LoRA's own matrices are float32, beside a base in few bits bfloat16; its whole copies have the dtype of the base
    trained, copies = (_dtypes(model, whole) for whole in (False, True))
    try:
        in_files = _name(load_config(stage.model.model_name_or_path, start_options(stage)).dtype or used)
    except (OSError, ValueError):
        in_files = used
    weights = used
    if bits := next((bits for bits in (4, 8) if getattr(model, f"is_loaded_in_{bits}bit", False)), 0):
        weights = f"of linear layers in {bits} bits, all others {used}"
    elif in_files != used:
        weights = f"{in_files} in the files, {used} in training (--dtype auto keeps {in_files})"
    # DeepSpeed's optimisers work on float32 copies of the trained weights
    every = " and ".join(dict.fromkeys(filter(None, (trained, copies))))
    in_full = running_engine().name.startswith("zero") or "32bit" in optimizer
    full = "torch.float32" if in_full else every
    states = "8 bit" if "8bit" in optimizer else full
    saved = f"the adapter is saved in {trained}" if adapter else f"saved in {used}"
    if copies and copies != trained:
        saved += f", and the copies of lora_modules_to_save in {copies}"
    return f"weights {weights}, optimiser states {states}, {saved}"


def _parameters(model: Any) -> tuple[int, int]:
    """Numbers of trained and of all parameters; of a base in few bits and under ZeRO-3 those of the whole tensors."""
    if hasattr(model, "get_nb_trainable_parameters"):  # an adapter: peft knows how bitsandbytes packs weights
        trained, total = model.get_nb_trainable_parameters()
        return int(trained), int(total)
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, wanted in sizes if wanted), sum(size for size, _ in sizes)


def _dtypes(model: Any, whole: bool) -> str:
    """The dtypes of trained parameters: of peft's whole copies of modules, or of all others; "" without any."""
    found = {
        p.dtype for name, p in model.named_parameters() if p.requires_grad and (WHOLE_COPIES in name) == whole
    }
    return " and ".join(sorted(map(_name, found)))


def _name(dtype: Any) -> str:
    return f"torch.{str(dtype).removeprefix('torch.')}"


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
