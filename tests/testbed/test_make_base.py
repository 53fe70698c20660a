"""The tiny base model: as small as promised, as good as recorded, and made the same way twice."""

import hashlib
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.testbed import tiny_base_path
from ift.testbed.families import FAMILIES, family_problems
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


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_score_is_reproduced(model, tokenizer, record, family):
    recorded = record["scores"][family]["test"]
    result = score(model, tokenizer, family_problems(family, "test", recorded["n"]))
    low, high = recorded["interval"]
    assert low <= result.exact_match <= high
    # The same weights: only ties broken by another machine's rounding may differ.
    assert abs(result.exact_match - recorded["exact_match"]) <= 0.01


def test_recorded_score_leaves_room_to_rise(record):
    """Of word problems: this base has not learnt the lookups, as docs/testbed.md says."""
    scores = record["scores"]["arithmetic"]
    assert 0.25 <= scores["test"]["exact_match"] <= 0.45
    assert scores["longer"]["exact_match"] < scores["test"]["exact_match"]
    assert scores["test"]["stopped"] > 0.95


def test_record_names_recipe_and_versions(record):
    assert record["recipe"] == Recipe(**record["recipe"]).__dict__ == Recipe().__dict__
    assert {"python", "platform", "torch", "transformers", "tokenizers", "intuitive-fine-tuning"} == set(
        record["versions"]
    )
    assert record["loss"] > 0
    assert record["tokens"] > record["rows"] == record["recipe"]["steps"] * record["recipe"]["batch_size"]


def test_learning_rate_rises_stays_and_falls():
    """Peak 1, 10 steps, 2 of warm-up, 4 of fall: 0.5, six of 1, then 1 - 0.95 * 2/4, 1 - 0.95 * 3/4, 0.05.

    The first step of the fall is step 6: 1 - 0.95 / 4 = 0.7625.
    """
    recipe = Recipe(steps=10, warmup_steps=2, fall_steps=4, learning_rate=1.0)
    rates = [learning_rate(recipe, step) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.7625, 0.525, 0.2875, 0.05])


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
    assert sum("Which colour" in text for text in texts) == 20


@pytest.mark.slow
def test_same_seed_makes_the_same_model(tmp_path):
    def make(name: str, seed: int) -> tuple[str, dict]:
        recipe = Recipe(seed=seed, steps=4, batch_size=8, hidden_size=32, layers=1)
        made = make_base(tmp_path / name, recipe, n_scored=4)
        del made["pretraining_seconds"]
        return hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest(), made

    assert make("first", 0) == make("second", 0)
    assert make("first", 0)[0] != make("other", 1)[0]
