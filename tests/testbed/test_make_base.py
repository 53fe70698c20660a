"""The tiny base model: as small as promised, as good as recorded, and made the same way twice."""

import hashlib
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.testbed import problems, tiny_base_path
from ift.testbed.make_base import IGNORED, Recipe, corpus_batches, learning_rate, make_base
from ift.testbed.scoring import score


@pytest.fixture(scope="module")
def record():
    return json.loads((tiny_base_path() / "record.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_base_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny_base_path(), dtype=torch.float32)


def test_shipped_model_is_small(model, record):
    size = (tiny_base_path() / "model.safetensors").stat().st_size
    assert size <= 4_000_000
    assert model.num_parameters() <= 1_900_000
    assert (size, model.num_parameters()) == (record["weights_bytes"], record["parameters"])


def test_shipped_config_agrees_with_the_tokenizer(model, tokenizer):
    assert model.config.dtype == torch.float32
    assert json.loads((tiny_base_path() / "config.json").read_text())["dtype"] == "bfloat16"
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_recorded_score_is_reproduced(model, tokenizer, record):
    recorded = record["scores"]["test"]
    result = score(model, tokenizer, problems("test", recorded["n"]))
    low, high = recorded["interval"]
    assert low <= result.exact_match <= high
    # The same weights: only ties broken by another machine's rounding may differ.
    assert abs(result.exact_match - recorded["exact_match"]) <= 0.01


def test_recorded_score_leaves_room_to_rise(record):
    assert 0.25 <= record["scores"]["test"]["exact_match"] <= 0.40
    assert record["scores"]["test"]["stopped"] > 0.95


def test_record_names_recipe_and_versions(record):
    assert record["recipe"] == Recipe(**record["recipe"]).__dict__ == Recipe().__dict__
    assert {"python", "platform", "torch", "transformers", "tokenizers", "intuitive-fine-tuning"} == set(
        record["versions"]
    )
    assert record["loss"] > 0
    assert record["tokens"] > record["rows"] == record["recipe"]["steps"] * record["recipe"]["batch_size"]


def test_learning_rate_rises_and_falls():
    """With peak 1, 10 steps and 2 of warm-up: step 0 has half of 1, step 1 has 1 - 0.095, step 9 has 1 - 0.855."""
    recipe = Recipe(steps=10, warmup_steps=2, learning_rate=1.0)
    rates = [learning_rate(recipe, step) for step in range(10)]
    assert rates[:2] == pytest.approx([0.5, 0.905])
    assert rates[9] == pytest.approx(0.145)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_corpus_batches_hold_every_row_once_and_ignore_padding(tokenizer):
    recipe = Recipe(steps=5, batch_size=8)
    batches = list(corpus_batches(recipe, tokenizer))
    assert len(batches) == 5
    texts = set()
    for ids, labels in batches:
        assert ids.shape == labels.shape
        assert ids.shape[0] == 8
        padding = ids == tokenizer.pad_token_id
        assert torch.equal(labels == IGNORED, padding)
        assert torch.equal(labels[~padding], ids[~padding])
        texts.update(tokenizer.batch_decode(ids, skip_special_tokens=True))
    assert len(texts) == 40


@pytest.mark.slow
def test_same_seed_makes_the_same_model(tmp_path):
    def make(name: str, seed: int) -> tuple[str, dict]:
        recipe = Recipe(seed=seed, steps=4, batch_size=8, hidden_size=32, layers=1)
        made = make_base(tmp_path / name, recipe, n_scored=4)
        del made["pretraining_seconds"]
        return hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest(), made

    assert make("first", 0) == make("second", 0)
    assert make("first", 0)[0] != make("other", 1)[0]
