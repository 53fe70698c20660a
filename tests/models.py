"""Tiny language models of every supported family, and batches that show what can go wrong.

Their weights are sharpened, so that a look-ahead is neither always right nor always wrong: a flat random model would
let a wrong look-ahead pass every test.
"""

from __future__ import annotations

import copy

import torch
import transformers
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

VOCABULARY = 97
WIDTH = 32

LAYERS = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**LAYERS, "num_key_value_heads": 2, "head_dim": 8}
PLAIN = {key: value for key, value in GROUPED.items() if key != "head_dim"}
EXPERTS = {"num_experts_per_tok": 2, "output_router_logits": False}

# family: (config class, its arguments). "tied" below switches the sharing of embeddings and head.
FAMILIES = {
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", GROUPED),
    "qwen2": ("Qwen2Config", PLAIN),
    "qwen3": ("Qwen3Config", GROUPED),
    "gemma2": ("Gemma2Config", {**GROUPED, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**GROUPED, "query_pre_attn_scalar": 8, "sliding_window": 128}),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCABULARY,
            "n_embd": WIDTH,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 256,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", {**LAYERS, "rotary_pct": 0.5}),
    "phi3": ("Phi3Config", PLAIN),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "word_embed_proj_dim": WIDTH,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "falcon": ("FalconConfig", {k: v for k, v in LAYERS.items() if k != "intermediate_size"}),
    "mixtral": ("MixtralConfig", {**GROUPED, **EXPERTS, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**GROUPED, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 16, "norm_topk_prob": True},
    ),
}
# Families that no document promises, and that have something of their own: alibi, multiplied embeddings, scaled logits,
# a narrow window, sinks, latent attention, routers of other names.
OTHERS = {
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4}),
    "granite": ("GraniteConfig", {**PLAIN, "logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    "cohere2": ("Cohere2Config", {**GROUPED, "logit_scale": 0.25}),
    "narrow mistral": ("MistralConfig", {**GROUPED, "sliding_window": 4}),
    "narrow gemma3": ("Gemma3TextConfig", {**GROUPED, "query_pre_attn_scalar": 8, "sliding_window": 4}),
    "gpt_oss": ("GptOssConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo2": ("Olmo2Config", PLAIN),
    "phimoe": ("PhimoeConfig", {**PLAIN, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **LAYERS,
            "num_key_value_heads": 4,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
}
# Families that are tested for one thing alone: that sharing a prefix changes nothing.
FURTHER = {
    "cohere": ("CohereConfig", PLAIN),
    "ernie4_5": ("Ernie4_5Config", GROUPED),
    "exaone4": ("Exaone4Config", PLAIN),
    "gemma": ("GemmaConfig", GROUPED),
    "glm": ("GlmConfig", GROUPED),
    "glm4": ("Glm4Config", GROUPED),
    "gptj": (
        "GPTJConfig",
        {
            "vocab_size": VOCABULARY,
            "n_embd": WIDTH,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 8,
            "n_positions": 256,
        },
    ),
    "granitemoe": ("GraniteMoeConfig", {**PLAIN, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", GROUPED),
    "ministral": ("MinistralConfig", GROUPED),
    "nemotron": ("NemotronConfig", PLAIN),
    "olmo": ("OlmoConfig", PLAIN),
    "olmo3": ("Olmo3Config", PLAIN),
    "olmoe": ("OlmoeConfig", {**PLAIN, "num_experts": 4, "num_experts_per_tok": 2}),
    "phi": ("PhiConfig", PLAIN),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            **PLAIN,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "smollm3": ("SmolLM3Config", PLAIN),
    "stablelm": ("StableLmConfig", PLAIN),
    "starcoder2": ("Starcoder2Config", PLAIN),
}
DROPOUT = {
    "gptj": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0},
    "falcon": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
}
MIXES_DOCUMENTS = {"opt", "falcon"}  # attention ignores document borders given by position_ids
DENSE = [name for name in FAMILIES if name not in ("mixtral", "qwen3_moe")]


def config_of(family: str, **changes):
    name, arguments = {**FAMILIES, **OTHERS, **FURTHER}[family]
    return getattr(transformers, name)(**{**arguments, **DROPOUT.get(family, {}), **changes})


def tiny_model(family: str = "llama", seed: int = 0, sharpen: float = 4.0, dtype=torch.float32, **changes):
    """A sharpened model in training mode (dropout is 0 unless `changes` say otherwise)."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config_of(family, **changes), dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(sharpen)
            elif "norm" not in name and "ln" not in name:
                parameter.normal_(0, 0.1)  # a bias of zeros would hide one that is forgotten
        model.get_output_embeddings().weight.mul_(3.0)
    return model.train()


def likely_rows(model, lengths, follow: float = 0.5, seed: int = 0):
    """Rows of ids in which a share `follow` of tokens is what the model itself would say: agreement is in between."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.randint(3, VOCABULARY, (len(lengths), longest), generator=generator)
    modes = [module for module in model.modules() if module.training]
    model.eval()
    with torch.no_grad():
        for t in range(1, longest):
            guess = model(input_ids=ids[:, :t], use_cache=False).logits[:, -1].argmax(-1)
            keep = torch.rand(len(lengths), generator=generator) < follow
            ids[:, t] = torch.where(keep, guess, ids[:, t])
    for module in modes:
        module.training = True
    return [ids[i, :n] for i, n in enumerate(lengths)]


def masked_labels(rows, prompts, holes=()):
    """Labels of `rows`: -100 on the prompt and, for (row, start, end) in `holes`, on a later user turn."""
    labels = [row.clone() for row in rows]
    for label, prompt in zip(labels, prompts, strict=True):
        label[:prompt] = -100
    for row, start, end in holes:
        labels[row][start:end] = -100
    return labels


def padded(rows, labels, side: str = "right", extra: int = 0, pad: int = 0):
    """A padded batch; the pad id is a real token's id (2, EOS, is allowed), so that only the mask tells padding."""
    length = max(len(row) for row in rows) + extra
    batch = {
        "input_ids": torch.full((len(rows), length), pad),
        "labels": torch.full((len(rows), length), -100),
        "attention_mask": torch.zeros(len(rows), length, dtype=torch.int64),
    }
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        where = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        batch["input_ids"][i, where], batch["labels"][i, where] = row, label
        batch["attention_mask"][i, where] = 1
    return batch


def packed(rows, labels):
    """The same rows in one, told apart by position_ids, with everything that trl's collator says of them."""
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    pairs = zip(rows, labels, strict=True)
    return collator([{"input_ids": ids.tolist(), "labels": label.tolist()} for ids, label in pairs])


def double(model):
    """A float64 copy for the oracle, its experts in plain loops: grouped kernels know no float64."""
    twin = copy.deepcopy(model).double()
    twin.zero_grad()
    if hasattr(twin.config, "num_experts_per_tok"):
        twin.set_experts_implementation("eager")
    return twin


def gradient_error(ours, theirs) -> float:
    """Largest relative difference of a parameter's gradient, over two models' trainable parameters.

    Relative to that parameter's own gradient, or to a thousandth of the whole one where its own is nearly nothing (a
    key's bias moves no softmax).
    """
    pairs = [
        (n, p.grad, q.grad) for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True)
    ]
    for name, mine, other in pairs:
        assert (mine is None) == (other is None), f"{name}: one of the gradients is missing"
    pairs = [(mine.double(), other.double()) for _, mine, other in pairs if mine is not None]
    assert pairs, "no gradient at all"
    floor = 1e-3 * torch.stack([other.norm() for _, other in pairs]).norm()
    return max(float((mine - other).norm() / other.norm().clamp(min=floor)) for mine, other in pairs)


# --- the trainer's ----------------------------------------------------------------------------------------------------


def tiny_tokenizer():
    """97 words, `w3` .. `w96` and three special ones; no chat template."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def dataset_of(rows, labels):
    from datasets import Dataset

    return Dataset.from_dict(
        {"input_ids": [row.tolist() for row in rows], "labels": [label.tolist() for label in labels]}
    )


def uneven_rows(model, count: int = 8, seed: int = 3):
    """Rows of 2 to 60 tokens, ending in EOS; some train one token, one trains nearly all."""
    lengths = ([2, 60, 3, 25, 9, 41, 5, 14] * (count // 8 + 1))[:count]
    rows = likely_rows(model, lengths, seed=seed)
    for row in rows:
        row[-1] = 2
    labels = masked_labels(rows, [max(1, n // 3) if n > 3 else 1 for n in lengths])
    labels[3][14:18] = -100
    return rows, labels


SETTINGS = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "max_steps": 1,
    "optim": "sgd",
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "gradient_checkpointing": False,
    "max_length": None,
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "shuffle_dataset": False,
}


def gradient_recorder():
    """A callback that keeps the gradients of every optimiser step."""

    class Recorder(transformers.TrainerCallback):
        def __init__(self):
            self.steps = []

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            named = model.named_parameters()
            self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    return Recorder()


def trained(
    output_dir, model, data, *, trainer_class=None, config_class=None, run=True, evaluation=None, **options
):
    """A trainer that has run; its gradients are in `.gradients`, a list with one dict a step."""
    from ift import IFTConfig, IFTTrainer

    extra = {key: options.pop(key) for key in ("peft_config", "callbacks") if key in options}
    config = (config_class or IFTConfig)(output_dir=str(output_dir), **{**SETTINGS, **options})
    recorder = gradient_recorder()
    trainer = (trainer_class or IFTTrainer)(
        model,
        config,
        train_dataset=dataset_of(*data) if isinstance(data, tuple) else data,
        eval_dataset=evaluation,
        processing_class=tiny_tokenizer(),
        **extra,
    )
    trainer.add_callback(recorder)
    trainer.gradients = recorder.steps
    if run:
        trainer.train()
    return trainer


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def gradient_gap(ours, theirs) -> float:
    """max |difference| / max |gradient|, both over every parameter."""
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) / largest


def assert_same_gradients(ours, theirs, tolerance=1e-5):
    assert ours.keys() == theirs.keys()
    floor = 1e-3 * torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    for name, expected in theirs.items():
        error = (ours[name] - expected).norm() / expected.norm().clamp(min=floor)
        assert error < tolerance, f"{name}: {error:.1e}"
