"""Answers follow the model's probabilities, whatever its generation_config.json adds; what is left out is named."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ift.generation.decoding import continue_prompts
from ift.generation.plain_decoding import plain_decoding, unused_rules
from ift.lab.testbed import tiny_base_path
from ift.models.loading import LoadOptions, load_model

RULES = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "num_beams": 3}
NAMED = (
    "not used of generation_config.json: no_repeat_ngram_size 1, num_beams 3, repetition_penalty 5.0; answers follow "
    "the model's probabilities alone"
)


@pytest.fixture
def model():
    found = copy.deepcopy(load_model(str(tiny_base_path()), LoadOptions("float32", "cpu")).model)
    for name, value in RULES.items():
        setattr(found.generation_config, name, value)
    return found


def most_probable(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("adapter", [False, True], ids=["a full model", "an adapter"])
def test_greedy_answers_are_the_most_probable_tokens(model, adapter):
    """Red when: a repetition penalty or beams of the model's folder change answers that are called greedy."""
    if adapter:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    prompt = [5, 6, 7, 5, 6, 7]
    config = model.generation_config
    (found,) = continue_prompts(model, [prompt], [model.config.vocab_size - 1], 0, max_new_tokens=12)
    assert found.ids == most_probable(model, prompt, 12)
    assert len(set(found.ids)) < 12, "without a repeated token the penalty changes nothing"
    assert model.generation_config is config
    holders = [one.generation_config for one in model.modules() if "generation_config" in vars(one)]
    assert all(one.repetition_penalty == 5 for one in holders)


def test_what_changes_no_answer_is_kept(model):
    model.generation_config.eos_token_id, model.generation_config.use_cache = [3, 4], False
    with plain_decoding(model):
        plain = model.generation_config
        assert (plain.eos_token_id, plain.use_cache, plain.repetition_penalty) == ([3, 4], False, None)


def test_rules_without_an_effect_are_not_named(model):
    assert unused_rules(model.generation_config) == NAMED
    for name, value in {
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "top_p": 0.8,
    }.items():
        setattr(model.generation_config, name, value)
    assert unused_rules(model.generation_config) == unused_rules(None) == ""
