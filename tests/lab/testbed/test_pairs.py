"""Preference pairs: the setting's prompts, all of them, against answers that are really wrong."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.lab.testbed import tiny_base_path
from ift.lab.testbed.pairs import cached_pairs, is_wrong, preference_pairs
from ift.lab.testbed.scoring import generate_answers, right_answers
from ift.lab.testbed.settings import right_problems, setting_problems, settings


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_base_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny_base_path(), dtype=torch.float32)


def small(name, n_rows=12):
    return replace(settings()[name], n_rows=n_rows)


@pytest.mark.parametrize("name", ["arithmetic-small-noisy", "relation-small-clean"])
def test_pairs_are_the_setting_s_rows_against_wrong_answers(model, tokenizer, name):
    setting = small(name)
    right, targets = right_problems(setting), setting_problems(setting)
    pairs = preference_pairs(model, tokenizer, setting)
    assert len(pairs.rows) == setting.n_rows == pairs.sampled + pairs.corrupted
    assert pairs.sampled > 0
    for row, good, target in zip(pairs.rows, right, targets, strict=True):
        assert [*row["prompt"], *row["chosen"]] == target.messages
        (rejected,) = row["rejected"]
        assert rejected["role"] == "assistant"
        assert right_answers([good, target], [rejected["content"]] * 2) == [False, False]


def test_same_seed_gives_the_same_pairs_and_leaves_the_generator_alone(model, tokenizer):
    setting = small("arithmetic-small-clean", 6)
    state = torch.get_rng_state()
    first = preference_pairs(model, tokenizer, setting, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert preference_pairs(model, tokenizer, setting, seed=2) == first


def test_without_a_wrong_sample_one_step_of_the_right_solution_is_wrong(model, tokenizer):
    setting = small("relation-small-noisy")
    pairs = preference_pairs(model, tokenizer, setting, tries=0)
    assert (pairs.sampled, pairs.corrupted) == (0, 12)
    for row, right, target in zip(
        pairs.rows, right_problems(setting), setting_problems(setting), strict=True
    ):
        assert is_wrong(row["rejected"][0]["content"], right, target)


def test_what_counts_as_wrong():
    setting = small("arithmetic-small-noisy", 40)
    right, targets = right_problems(setting), setting_problems(setting)
    pair = next((a, b) for a, b in zip(right, targets, strict=True) if a != b)
    assert not is_wrong(f"#### {pair[0].answer}", *pair)
    assert not is_wrong(f"#### {pair[1].answer}", *pair)
    assert is_wrong("#### 123456", *pair)
    assert is_wrong("no closing line", *pair)


def test_sampled_answers_differ_by_seed(model, tokenizer):
    prompts = [problem.messages[:1] for problem in right_problems(small("arithmetic-small-clean", 8))]
    draws = [generate_answers(model, tokenizer, prompts, sampling_seed=seed)[0] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_cache_is_read_checked_and_renewed(tmp_path, monkeypatch):
    setting = small("arithmetic-small-clean", 4)
    made = cached_pairs(tmp_path, tiny_base_path(), setting, tries=1)
    path = tmp_path / "pairs-arithmetic-small-clean-seed0.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr("ift.lab.testbed.pairs.preference_pairs", lambda *_: pytest.fail("made again"))
        assert cached_pairs(tmp_path, tiny_base_path(), setting, tries=1) == made
    assert cached_pairs(tmp_path, tiny_base_path(), setting, tries=0).corrupted == 4  # other arguments
    path.write_text(path.read_text().replace("####", "###"))
    with pytest.raises(ValueError, match="is not what was written there; delete it"):
        cached_pairs(tmp_path, tiny_base_path(), setting, tries=0)


def test_refusal(model, tokenizer):
    with pytest.raises(ValueError, match="tries must be 0 or more, got -1"):
        preference_pairs(model, tokenizer, small("relation-small-clean"), tries=-1)
