"""The commands that generate answers name the rules of generation_config.json that they do not use."""

import json
import shutil

import pytest

from ift.lab.testbed import tiny_base_path

RULES = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1}
NAMED = (
    "not used of generation_config.json: no_repeat_ngram_size 1, repetition_penalty 5.0; answers follow the model's "
    "probabilities alone"
)


@pytest.fixture
def folder(tmp_path):
    """The tiny base with the rules in its generation_config.json."""
    copied = tmp_path / "model"
    shutil.copytree(tiny_base_path(), copied)
    file = copied / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | RULES))
    return copied


def test_generate_and_chat_name_the_rules_and_answer_alike(folder, tmp_path, ift):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "What is 1 + 1?"}) + "\n")
    done = ift(
        "generate",
        folder,
        tmp_path / "prompts.jsonl",
        "--output",
        tmp_path / "a.jsonl",
        "--max_new_tokens",
        9,
    )
    assert done.code == 0, done.err
    assert NAMED in " ".join(done.out.split())
    answer = json.loads((tmp_path / "a.jsonl").read_text())["output"]
    said = ift("chat", folder, "--prompt", "What is 1 + 1?", "--max_new_tokens", 9)
    assert f"{folder}: {NAMED}" in said.err
    assert said.out.split() == answer.split()


def test_training_names_the_rules_with_its_final_answers(folder, run_tiny):
    done = run_tiny(model_name_or_path=folder, max_steps=1, final_answers=1)
    assert done.code == 0, done.err
    assert NAMED in " ".join((done.out + done.err).split())
