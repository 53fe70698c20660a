"""The methods whose steps are measured, each as its own trainer takes it, and the rows they are given.

The model is random: a step costs the same whatever the weights. Nothing is downloaded.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from naive_ift import NaiveIFT
from peft import LoraConfig
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ift import IFTConfig, IFTTrainer
from ift.methods.table import METHODS as BASELINES
from ift.training.compile import compile_blocks

PAD, END = 2, 1
MAX_LENGTH = 1024  # of the mixed lengths
PARTS = 8  # batches that are sorted by length together
PLAIN = {"residual_lambda": 0.0, "propagation": "none", "loss_reduction": "token"}
ROWS = ("trl-sft", "ift-lambda-0", "ift", "ift-full-prefix", "ift-shared-prefix", "naive-ift")
COMPILED = ("ift-lambda-0-compiled", "ift-compiled")  # their layers, as `ift train --torch_compile` has them
PAIRS = ("dpo", "orpo", "simpo", "tdpo2")


@dataclass(frozen=True)
class Model:
    """A model's sizes; `family` "llama" (untied), "qwen2" (grouped queries, tied) or "gemma3" (wide heads, tied)."""

    family: str
    width: int
    layers: int
    inner: int
    heads: int
    key_value_heads: int
    vocabulary: int

    def make(self, length: int, device: str, dtype: str) -> Any:
        """A fresh model of the same seed."""
        torch.manual_seed(0)
        families = {"llama": LlamaConfig, "qwen2": Qwen2Config, "gemma3": Gemma3TextConfig}
        config = families[self.family](
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=length,
            tie_word_embeddings=self.family != "llama",
            pad_token_id=PAD,
            eos_token_id=END,
            **({"head_dim": 256} if self.family == "gemma3" else {}),
        )
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


MODELS = {
    "tiny": Model("llama", 64, 2, 192, 4, 4, 1000),
    "even": Model("llama", 512, 5, 1536, 8, 8, 32768),  # a head as dear as the body: 50 M parameters
    "deep": Model("llama", 512, 12, 1536, 8, 2, 32000),
    "qwen-0.5b": Model("qwen2", 896, 24, 4864, 14, 2, 151936),  # the sizes of Qwen2.5-0.5B
    # the widths of Qwen2.5 with 4 of 24 layers, 4 of 28 and 2 of 28: the head's share of a step is larger than theirs
    "qwen-0.5b-4": Model("qwen2", 896, 4, 4864, 14, 2, 151936),
    "qwen-1.5b-4": Model("qwen2", 1536, 4, 8960, 12, 2, 151936),
    "qwen-7b-2": Model("qwen2", 3584, 2, 18944, 28, 4, 152064),
    "gemma-270m": Model(
        "gemma3", 640, 18, 2048, 4, 1, 262144
    ),  # of Gemma 3 270M: a head dearer than the body
}


@dataclass(frozen=True)
class Point:
    """What a step is measured on.

    Attributes:
        batch: rows (answers), or pairs of them.
        length: tokens of a row.
        share: of the row that is completion; rows of `lengths="mixed"` have their own.
        lengths: "equal"; "mixed": drawn as chat data is, prompts of 90 and answers of 250 tokens in the median; or
            "grouped": `PARTS` batches of the same kind, drawn together and sorted by length, as
            `train_sampling_strategy: group_by_length` has them.
        part: which of these batches.
        checkpointing: whether the body is computed again in the backward pass.
        lora: whether adapters are trained instead of the model.
        packing: whether the rows stand in one, told apart by position ids.
        vocabulary: entries of the head; None for the model's own.
    """

    batch: int = 4
    length: int = 256
    share: float = 0.5
    lengths: str = "equal"
    part: int = 0
    checkpointing: bool = False
    lora: bool = False
    packing: bool = False
    vocabulary: int | None = None

    def methods(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the chosen methods that can run here."""
        without = {*PAIRS, "naive-ift"} if self.packing else set()
        without |= {"naive-ift", "orpo", "simpo", "tdpo2"} if self.lora else set()
        return tuple(name for name in chosen if name not in without)


def drawn_lengths(point: Point) -> list[tuple[int, int]]:
    """Prompt and completion tokens of every row."""
    if point.lengths == "equal":
        prompt = min(max(1, round(point.length * (1 - point.share))), point.length - 1)
        return [(prompt, point.length - prompt)] * point.batch
    generator = torch.Generator().manual_seed(5)
    parts = PARTS if point.lengths == "grouped" else 1
    normal = torch.randn(parts * point.batch, 2, generator=generator)
    spread = torch.tensor([1.0, 0.7])
    lengths = (torch.tensor([90.0, 250.0]) * (normal * spread).exp()).round().long().clamp(min=8)
    drawn = [(min(p, MAX_LENGTH // 2), min(c, MAX_LENGTH // 2)) for p, c in lengths.tolist()]
    if point.lengths == "mixed":
        return drawn
    return sorted(drawn, key=sum)[point.part * point.batch :][: point.batch]


def answers(point: Point, vocabulary: int, seed: int) -> list[dict[str, list[int]]]:
    """Rows as data preparation leaves them, labels -100 on the prompt; the completions alone depend on `seed`."""
    rows = []
    for number, (prompt, completion) in enumerate(drawn_lengths(point)):
        one, other = (torch.Generator().manual_seed(s) for s in (number, 1000 * seed + number))
        ids = torch.randint(3, vocabulary, (prompt,), generator=one).tolist()
        ids += torch.randint(3, vocabulary, (completion,), generator=other).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return rows


class Contestant:
    """One method on a model of its own, which takes batches of any size.

    Args:
        name: the method.
        model: its sizes.
        point: for what the trainer must know from the start: whether adapters are trained.
        device: "cpu" or "cuda".
        dtype: of the weights.
        longest: tokens of the longest row that will come.
    """

    def __init__(
        self, name: str, model: Model, point: Point, device: str, dtype: str, longest: int = MAX_LENGTH
    ) -> None:
        self.name, self.device, self.pairs = name, device, name in PAIRS
        self.vocabulary = model.vocabulary
        policy = model.make(longest, device, dtype)
        if name == "naive-ift":
            self.trainer: Any = NaiveIFT(policy.train(), PAD)
        else:
            reference = None
            if name in PAIRS and BASELINES[name].needs_reference and not point.lora:
                reference = model.make(longest, device, dtype)
            self.trainer = _trainer(name, policy, reference, model.vocabulary, point, device, dtype)
        self.model = self.trainer.model
        self.model.train()
        if name in COMPILED:
            compile_blocks(self.model, dynamic=True)

    def batch(self, point: Point) -> dict[str, Tensor]:
        """The point's rows as this method's collator gives them."""
        rows = answers(point, self.vocabulary, 1)
        if point.packing:
            return self._moved(DataCollatorForLanguageModeling(pad_token_id=PAD, padding_free=True)(rows))
        if self.pairs:
            rows = [_pair(*two) for two in zip(rows, answers(point, self.vocabulary, 2), strict=True)]
            return self._moved(self.trainer.data_collator(rows))
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": PAD, "labels": -100}
        batch = {
            name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
            for name, value in fill.items()
        }
        if self.name == "naive-ift":
            self.trainer.max_length = point.length if point.lengths == "equal" else MAX_LENGTH
        batch["attention_mask"] = torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
        )
        return self._moved(batch)

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {name: x.to(self.device) if isinstance(x, Tensor) else x for name, x in batch.items()}

    def set_checkpointing(self, on: bool) -> None:
        """The body computed again in the backward pass, or kept."""
        if on:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads()
        else:
            self.model.activation_checkpointing_disable()

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a step, as the method's trainer computes it."""
        if self.name == "naive-ift":
            return self.trainer.loss(batch)
        items = None
        if not self.pairs:
            items = self.trainer._get_num_items_in_batch([batch], torch.device(self.device))
        with self.trainer.compute_loss_context_manager():
            return self.trainer.compute_loss(self.model, dict(batch), num_items_in_batch=items)

    def step(self, batch: dict[str, Any]) -> None:
        """Forward and backward; no optimiser, which costs every method the same."""
        self.forward(batch).backward()

    def drop_gradients(self) -> None:
        """As before the first step."""
        self.model.zero_grad(set_to_none=True)


def _pair(chosen: dict[str, list[int]], rejected: dict[str, list[int]]) -> dict[str, list[int]]:
    """A prepared preference pair (the columns of `ift.data.pairs`)."""
    pair = {}
    for side, row in (("chosen", chosen), ("rejected", rejected)):
        pair |= {f"{side}_{name}": ids for name, ids in row.items()}
        pair[f"{side}_attention_mask"] = [1] * len(row["input_ids"])
    return pair


@functools.cache
def tokenizer_of(vocabulary: int) -> Any:
    """A word for every id: the trainers ask for a tokenizer, whose words nobody reads."""
    words = {f"w{i}": i for i in range(vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w1", pad_token="w2"
    )


def _trainer(
    name: str, policy: Any, reference: Any, vocabulary: int, point: Point, device: str, dtype: str
) -> Any:
    options: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_length": None,
        "gradient_checkpointing": False,
        "use_cpu": device == "cpu",
        "bf16": dtype == "bfloat16",
        "report_to": "none",
    }
    if name in PAIRS:
        method = BASELINES[name]
        trainer_class, config_class = method.load()
        options |= method.settings
        rows = [
            _pair(*two)
            for two in zip(answers(point, vocabulary, 1), answers(point, vocabulary, 2), strict=True)
        ]
    else:
        trainer_class, config_class = (
            (SFTTrainer, SFTConfig) if name == "trl-sft" else (IFTTrainer, IFTConfig)
        )
        options |= PLAIN if name.startswith("ift-lambda-0") else {}
        if name.endswith("-prefix"):
            options["lookahead_prefix"] = name.split("-")[1]
        rows = answers(point, vocabulary, 1)
    extra = {} if reference is None else {"ref_model": reference}
    if point.lora:
        extra["peft_config"] = LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_dropout=0.0, target_modules="all-linear"
        )
    return trainer_class(
        model=policy,
        args=config_class(**options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer_of(vocabulary),
        **extra,
    )
