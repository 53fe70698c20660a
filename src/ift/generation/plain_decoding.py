"""Decoding by a model's probabilities alone, without the rules that its generation_config.json adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import GenerationConfig

# settings of a generation config that say how tokens are drawn, or how long an answer is: ift's own options set them
SET_BY_IFT = frozenset({
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "max_length", "max_new_tokens", "num_return_sequences",
})  # fmt: skip
# settings that change no answer
KEPT = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache", "cache_implementation",
    "cache_config", "max_cache_len", "compile_config", "disable_compile", "continuous_batching_config", "low_memory",
    "prefill_chunk_size", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "transformers_version",
})  # fmt: skip
# 1 stands for no effect; 0, False and None do in all others
FACTORS = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "length_penalty",
    "num_beams",
    "num_beam_groups",
)


@contextmanager
def plain_decoding(model: nn.Module) -> Iterator[None]:
    """While active, `model.generate` applies no rule of the model's generation config, such as a repetition penalty.

    Greedy answers are then the most probable tokens, and sampled ones are drawn from the model's probabilities.
    """
    holders = [
        vars(one) for one in model.modules() if "generation_config" in vars(one)
    ]  # an adapter and its base
    before = [one["generation_config"] for one in holders]
    for holder, config in zip(holders, before, strict=True):
        kept = {name: getattr(config, name, None) for name in KEPT}
        holder["generation_config"] = GenerationConfig(**{k: v for k, v in kept.items() if v is not None})
    try:
        yield
    finally:
        for holder, config in zip(holders, before, strict=True):
            holder["generation_config"] = config


def unused_rules(config: GenerationConfig | None) -> str:
    """A sentence on what `plain_decoding` leaves out of a model's generation config; "" if it has no such rule."""
    values = {} if config is None else config.to_diff_dict()
    found = [
        f"{name} {value}"
        for name, value in sorted(values.items())
        if name not in KEPT | SET_BY_IFT and value and not (value == 1 and name in FACTORS) and name[0] != "_"
    ]
    if not found:
        return ""
    return f"not used of generation_config.json: {', '.join(found)}; answers follow the model's probabilities alone"
