"""The plan for many GPUs: arithmetic by hand, and against the estimate for one device."""

import pytest
from transformers import LlamaConfig

from ift.check.memory import estimate_memory
from ift.runs.arguments import parse
from page_tables.sharding import Shape, gathered_parameters, shape_of, share

SMALL = Shape(blocks=2, block=100, root=40)  # 240 parameters


def test_the_shape_of_a_llama_is_its_dimensions():
    """q, o: 2 x 64 x 64; k, v: 2 x 64 x 32; three of 64 x 96; two norms of 64: 30,848. Outside: 2 x 500 x 64 + 64."""
    config = LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    assert shape_of(config) == Shape(blocks=3, block=30_848, root=64_064)


@pytest.mark.parametrize(
    ("strategy", "states", "gathered", "sent"),
    [
        # 4 weights + 2 copies + 4 gradients + 4 buckets + 8 Adam; gradients passed twice, 3/4 of them, in float32
        ("ddp", 22 * 240, 0, 8 * 240 * 3 // 4),
        # 2 weights + (4 + 2 + 8) / 4; bfloat16 out and in
        ("zero2", 2 * 240 + 14 * 240 // 4, 0, 4 * 240 * 3 // 4),
        # 16 / 4; two blocks and the root in bfloat16; 3 x 2 + 1 blocks and 2 roots in, 240 gradients out
        ("zero3", 16 * 240 // 4, 2 * 240, 2 * (700 + 80 + 240) * 3 // 4),
        ("fsdp2", 16 * 240 // 4, 2 * 240, 2 * (700 + 80 + 240) * 3 // 4),
    ],
)
def test_the_share_of_one_of_four(strategy, states, gathered, sent):
    found = share(SMALL, "ift", strategy, 4, activations=1000)
    assert (found.states, found.gathered, found.sent) == (states, gathered, sent)
    assert found.memory == states + gathered + 1000


def test_methods_differ_by_their_passes_and_by_the_reference():
    sft, ift, dpo = (share(SMALL, method, "fsdp2", 8, 0) for method in ("sft", "ift", "dpo"))
    assert sft.states == ift.states < dpo.states
    assert (ift.sent - sft.sent) * 8 == 2 * 300 * 7  # one pass over the blocks, and one block more
    assert (dpo.sent - sft.sent) * 8 == 2 * 240 * 7  # one pass over everything
    assert share(SMALL, "ift", "ddp", 8, 0).sent == share(SMALL, "sft", "ddp", 8, 0).sent
    assert share(SMALL, "ift", "fsdp2", 1, 0).sent == 0
    assert gathered_parameters(SMALL, "sft") == 2 * 240


def test_one_gpu_is_the_estimate_of_one_device(tmp_path):
    """Autocast copies no norms: hence the half per cent."""
    config = LlamaConfig(vocab_size=500, hidden_size=64, intermediate_size=96, num_hidden_layers=3)
    config.save_pretrained(tmp_path)
    words = [f"--model_name_or_path={tmp_path}", "--dataset_name=rows", f"--output_dir={tmp_path}"]
    for method in ("ift", "dpo"):
        estimate = estimate_memory(
            parse([*words, f"--method={method}", "--bf16=true", "--dtype=float32"]), 64
        )
        activations = estimate.activations + estimate.head
        found = share(shape_of(config), method, "ddp", 1, activations)
        assert found.memory == pytest.approx(estimate.total, rel=5e-3)


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"strategy 'zero1'.*give one of ddp, zero2, zero3, fsdp2"):
        share(SMALL, "ift", "zero1", 8, 0)
