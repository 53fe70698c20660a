"""The plan for many GPUs: the bytes sent, by hand. tests/check/test_memory_of_engines.py has the memory."""

import pytest
from transformers import LlamaConfig

from page_tables.sharding import Shape, gathered_parameters, sent_bytes, shape_of

SMALL = Shape(blocks=2, block=100, root=40)  # 240 parameters


def test_the_shape_of_a_llama_is_its_dimensions():
    """q, o: 2 x 64 x 64; k, v: 2 x 64 x 32; three of 64 x 96; two norms of 64: 30,848. Outside: 2 x 500 x 64 + 64."""
    config = LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    assert shape_of(config) == Shape(blocks=3, block=30_848, root=64_064)


@pytest.mark.parametrize(
    ("strategy", "sent"),
    [
        ("ddp", 8 * 240 * 3 // 4),  # gradients passed twice, 3/4 of them, in float32
        ("zero2", 4 * 240 * 3 // 4),  # bfloat16 out and in
        ("zero3", 2 * (700 + 80 + 240) * 3 // 4),  # 3 x 2 + 1 blocks and 2 roots in, 240 gradients out
        ("fsdp2", 2 * (700 + 80 + 240) * 3 // 4),
    ],
)
def test_what_one_of_four_sends(strategy, sent):
    assert sent_bytes(SMALL, "ift", strategy, 4) == sent


def test_methods_differ_by_their_passes():
    sft, ift, dpo = (sent_bytes(SMALL, method, "fsdp2", 8) for method in ("sft", "ift", "dpo"))
    assert (ift - sft) * 8 == 2 * 300 * 7  # one pass over the blocks, and one block more
    assert (dpo - sft) * 8 == 2 * 240 * 7  # one pass over everything
    assert sent_bytes(SMALL, "ift", "ddp", 8) == sent_bytes(SMALL, "sft", "ddp", 8)
    assert sent_bytes(SMALL, "ift", "fsdp2", 1) == 0
    assert gathered_parameters(SMALL, "sft") == 2 * 240


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"strategy 'zero1'.*give one of ddp, zero2, zero3, fsdp2"):
        sent_bytes(SMALL, "ift", "zero1", 8)
