"""What a model has room for: ids that it embeds, and positions that it has learned."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ift.data.errors import DataError

_POSITIONS = re.compile(r"wpe$|position_embeddings$|embed_positions$|position_embedding$|pos_emb$")


def special_ids(tokenizer: Any) -> dict[str, int]:
    """The ids that a tokenizer and its chat template put into rows or batches, by name."""
    from ift.data import end_of_turn_ids

    found = {}
    for name in ("pad_token", "bos_token", "eos_token"):
        if (token := getattr(tokenizer, f"{name}_id")) is not None:
            found[f"{name} {getattr(tokenizer, name)!r}"] = int(token)
    for token in sorted(end_of_turn_ids(tokenizer) - set(found.values())):
        found[f"end of a turn {tokenizer.convert_ids_to_tokens(token)!r}"] = token
    return found


def ids_outside(ids: dict[str, int], vocabulary: int) -> str:
    """Which special ids a model of so many embedded ids has no row for, as a sentence with its remedy; else empty."""
    outside = [f"{name} has the id {number:,}" for name, number in ids.items() if number >= vocabulary]
    if not outside:
        return ""
    return (
        f"{' and '.join(outside)}, and the model embeds the ids 0 to {vocabulary - 1:,}. Fix: use a token that the "
        "model knows (tokenizer.pad_token = tokenizer.eos_token), or give the model rows for it "
        "(model.resize_token_embeddings(len(tokenizer))), and save it"
    )


def config_ids(config: Any) -> dict[str, int]:
    """The special ids that a model's configuration names; none where it names none or several kinds of nothing."""
    text, found = config.get_text_config(), {}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = getattr(text, name, None)
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int):
                found[f"{name} {number} of its config.json"] = number
    return found


def check_special_ids(name: str, tokenizer: Any, model: Any, *, padding: bool = True) -> None:
    """Raise DataError where a special id is outside the model's embedding.

    Args:
        name: Of the model, for the message.
        tokenizer: Its tokenizer.
        model: The model, also on "meta".
        padding: Whether the padding token counts; where nothing is trained, another one can take its place.
    """
    ids = {key: one for key, one in special_ids(tokenizer).items() if padding or not key.startswith("pad_")}
    if said := ids_outside(ids, embedded_ids(model)):
        raise DataError(f"{name}: {said}")


def embedded_ids(model: Any) -> int:
    """Rows of the input embedding; of ZeRO-3's shards the full number."""
    weight = model.get_input_embeddings().weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])


def learned_positions(model: Any) -> int | None:
    """The longest row that a model with a table of positions (GPT-2, OPT, GPT-J) can read; None: it has none."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    tables = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    tables += [name for name, _ in model.named_buffers()]
    return int(limit) if limit and any(_POSITIONS.search(name) for name in tables) else None
