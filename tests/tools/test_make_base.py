"""The tiny base model: as small as promised, as good as recorded, and made the same way twice."""

import hashlib
import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.lab.testbed import base_path, tiny_base_path
from ift.lab.testbed.families import family_problems
from ift.lab.testbed.scoring import score
from make_base import IGNORED, Recipe, corpus_batches, learning_rate, make_base
from make_relation_base import (
    RelationRecipe,
    first_stage,
    lookup_batches,
    recall_rows,
    second_stage,
)


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
    recorded = record["scores"]["arithmetic"]["test"]
    result = score(model, tokenizer, family_problems("arithmetic", "test", recorded["n"]))
    low, high = recorded["interval"]
    assert low <= result.exact_match <= high
    # The same weights: only ties broken by another machine's rounding may differ.
    assert abs(result.exact_match - recorded["exact_match"]) <= 0.01


def test_recorded_score_leaves_room_to_rise(record):
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


# --- the base for relations

SMALL = RelationRecipe(steps=20, batch_size=8, recall_steps=8, recall_share=0.5, chain_steps=4, stretch=64)


def test_rows_that_ask_for_all_facts_tell_every_one_once():
    for question, answer in recall_rows(3, 20):
        told, _, asked = question["content"].rpartition(". ")
        assert asked == "Which facts are told?"
        facts = answer["content"].split("\n")
        assert len(facts) == len(set(facts)) == told.count(".") + 1
        for fact in facts:
            key, who, value = re.fullmatch(r"(\w+) of (\w+) is (\w+)", fact).groups()
            sentences = [
                f"The {key} of {who} is {value}", f"{value} is the {key} of {who}", f"{who} has a {value} {key}",
            ]  # fmt: skip
            assert sum(f"{told}.".count(f"{sentence}.") for sentence in sentences) == 1


def test_recall_comes_first_then_both_then_chains_alone():
    """By hand: a stretch is 64 rows, 8 steps; all of the first, half of the second, none at the last four steps."""
    assert [SMALL.recalled(step) for step in (0, 8, 16)] == [64, 32, 0]


def test_lookup_batches_train_the_answers_alone(tokenizer):
    batches = list(lookup_batches(SMALL, tokenizer, processes=0))
    assert [ids.shape[0] for ids, _ in batches] == [8] * 20
    asks = "Which facts are told?"
    recalled = [sum(asks in text for text in tokenizer.batch_decode(ids)) for ids, _ in batches]
    assert recalled[:8] == [8] * 8
    assert sum(recalled[8:16]) == 32
    assert recalled[16:] == [0] * 4
    for ids, labels in batches:
        for row, label in zip(ids[:20].tolist(), labels[:20].tolist(), strict=True):
            begin = row.index(tokenizer.convert_tokens_to_ids("<|assistant|>"))
            end = row.index(tokenizer.eos_token_id) + 1
            assert label == [IGNORED] * begin + row[begin:end] + [IGNORED] * (len(row) - end)


def test_the_shipped_base_for_relations_is_as_recorded():
    """Its first stage was made on another machine: the record says on which, and the recipe is the module's."""
    record = json.loads((base_path("relation") / "record.json").read_text(encoding="utf-8"))
    assert (
        RelationRecipe(**{**record["recipe"], "second": Recipe(**record["recipe"]["second"])})
        == RelationRecipe()
    )
    assert {"device", "torch", "loss"} <= record["first_stage"].keys()
    scores = record["scores"]["relation"]
    assert 0.25 <= scores["validation"]["exact_match"] <= 0.45
    assert scores["longer"]["exact_match"] < scores["test"]["exact_match"]
    model = AutoModelForCausalLM.from_pretrained(base_path("relation"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base_path("relation"))
    result = score(model, tokenizer, family_problems("relation", "test", 500))
    assert abs(result.exact_match - scores["test"]["exact_match"]) <= 0.01


def test_the_second_stage_goes_on_from_the_first(tmp_path):
    second = Recipe(steps=2, batch_size=4, warmup_steps=1, fall_steps=1)
    recipe = RelationRecipe(steps=1, batch_size=8, recall_steps=1, chain_steps=0, stretch=8, second=second)
    first_stage(tmp_path / "first", recipe, processes=0)
    record = second_stage(tmp_path / "first", tmp_path / "base", recipe, n_scored=2)
    assert record["first_stage"]["device"] == "cpu"
    assert record["scores"].keys() == {"relation"}
    one, other = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        for name in ("first", "base")
    )
    moved = [(a - b).abs().max().item() for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    assert 0 < max(moved) < 0.1  # two small steps from there, not a new model
