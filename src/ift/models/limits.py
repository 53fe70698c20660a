"""Limits of a model: the size of its embedding, and its table of learned positions if it has one."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ift.data.errors import DataError
from ift.text import did_you_mean

# names of the number of positions in configurations; transformers maps n_positions of GPT-2 and GPT-J to the first
POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_POSITIONS = re.compile(r"wpe$|position_embeddings$|embed_positions$|position_embedding$|pos_emb$")


def special_ids(tokenizer: Any) -> dict[str, int]:
    """The special ids that a tokenizer and its chat template add to rows or batches, by name."""
    from ift.data import end_of_turn_ids

    found = {}
    for name in ("pad_token", "bos_token", "eos_token"):
        if (token := getattr(tokenizer, f"{name}_id")) is not None:
            found[f"{name} {getattr(tokenizer, name)!r}"] = int(token)
    for token in sorted(end_of_turn_ids(tokenizer) - set(found.values())):
        found[f"end of a turn {tokenizer.convert_ids_to_tokens(token)!r}"] = token
    return found


def check_named_tokens(tokenizer: Any, settings: Any) -> None:
    """Raises DataError for an `eos_token` or `pad_token` in the settings that is not in the tokenizer's vocabulary."""
    vocabulary = tokenizer.get_vocab()
    for name in ("eos_token", "pad_token"):
        token = getattr(settings, name, None)
        if token is None or token in vocabulary:
            continue
        known = list(dict.fromkeys([*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()]))
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise DataError(
            f"{name} is {token!r}, which is not in the tokenizer's vocabulary{did_you_mean(token, known) or '.'} Fix: "
            f"give one of its special tokens ({shown or 'it has none'}), or leave {name} out; a new token needs a row "
            "of the model's embedding"
        )


def explain_ids_outside(ids: dict[str, int], vocabulary: int) -> str:
    """The problem and fix for special ids beyond the model's `vocabulary` embeddings; "" if there are none."""
    outside = [f"{name} has the id {number:,}" for name, number in ids.items() if number >= vocabulary]
    if not outside:
        return ""
    return (
        f"{' and '.join(outside)}, and the model embeds the ids 0 to {vocabulary - 1:,}. Fix: use a token that the "
        "model knows (tokenizer.pad_token = tokenizer.eos_token), or resize the model's embedding "
        "(model.resize_token_embeddings(len(tokenizer))), and save it"
    )


def config_ids(config: Any) -> dict[str, int]:
    """The special ids in a model's configuration, by name."""
    text, found = config.get_text_config(), {}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = getattr(text, name, None)
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int):
                found[f"{name} {number} of its config.json"] = number
    return found


def check_special_ids(name: str, tokenizer: Any, model: Any, *, padding: bool = True) -> None:
    """Raises DataError for a special id without an embedding; the model may be on the meta device.

    The padding token is not checked if `padding` is false, because generation can pad with another token.
    """
    ids = {key: one for key, one in special_ids(tokenizer).items() if padding or not key.startswith("pad_")}
    if problem := explain_ids_outside(ids, embedded_ids(model)):
        raise DataError(f"{name}: {problem}")


def embedded_ids(model: Any) -> int:
    """Number of rows of the input embedding; under ZeRO-3 the unpartitioned number."""
    weight = model.get_input_embeddings().weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])


def learned_positions(model: Any) -> int | None:
    """The longest row that a model with a table of positions (GPT-2, OPT, GPT-J) can process; None without a table."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    tables = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    tables += [name for name, _ in model.named_buffers()]
    return int(limit) if limit and any(_POSITIONS.search(name) for name in tables) else None


def positions_of(model: Any) -> tuple[str, int] | None:
    """As `known_positions`, of a model or of the name of one; None also if its configuration cannot be read here."""
    if not isinstance(model, str):
        return known_positions(model.config)
    from transformers import AutoConfig

    try:
        return known_positions(AutoConfig.from_pretrained(model, trust_remote_code=False))
    except (OSError, ValueError):  # an adapter, or code that must be trusted first
        return None


def known_positions(config: Any) -> tuple[str, int] | None:
    """Name and number of a model's positions; None if its configuration has none.

    Where rotary positions are scaled, the number is that after scaling.
    """
    text = config.get_text_config()
    name = next((one for one in POSITION_NAMES if isinstance(getattr(text, one, None), int)), None)
    if name is None:
        return None
    positions = int(getattr(text, name))
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    before, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    if factor and (before or scaling.get("rope_type") in ("linear", "dynamic")):
        positions = max(positions, int((before or positions) * factor))
    return name, positions
