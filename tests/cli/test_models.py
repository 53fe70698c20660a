"""What a run starts from and leaves behind as a model: adapters, dtypes, limits, and how it is asked afterwards."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ift.generation.prompts import prompt_ids
from ift.lab.testbed import tiny_base_path
from ift.models.loading import PLAIN_TEXT
from ift.models.record import model_sha256, read_record
from ift.text import TRAINED

LORA = {"use_peft": "true", "lora_r": 2, "lora_target_modules": "all-linear", "learning_rate": 0.1}
PAIRS = "preference, conversational"


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_adapter_remembers_its_base_in_every_checkpoint(run_tiny, ift, chat_model, tmp_path, monkeypatch):
    monkeypatch.chdir(chat_model.parent)
    done = run_tiny(model_name_or_path=chat_model.name, **LORA, save_strategy="steps", save_steps=1)
    assert done.code == 0, done.err
    for folder in (done.folder, done.folder / "checkpoint-1"):
        named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert named == str(chat_model)
        record = read_record(str(folder))
        assert (record.prompts, record.base_sha256) == ("chat template", model_sha256(chat_model))
    monkeypatch.chdir(tmp_path)
    assert ift("chat", "out/checkpoint-1", "--prompt", "Hi", "--max_new_tokens", "2").code == 0


def test_training_goes_on_with_an_adapter(run_tiny):
    first = run_tiny(**LORA, out="first")
    still = run_tiny(model_name_or_path=first.folder, learning_rate=0, out="still")
    assert still.code == 0, still.err
    assert "same outputs on 3 rows" in still.out
    assert same(tensors(first.folder), tensors(still.folder))
    further = run_tiny(model_name_or_path=first.folder, use_peft="true", out="further")
    assert not same(tensors(first.folder), tensors(further.folder))
    assert further.metrics[0]["nll"] == pytest.approx(still.metrics[0]["nll"])
    records = [read_record(str(done.folder)) for done in (first, further)]
    assert records[0].base_sha256 == records[1].base_sha256 != ""
    assert records[0].trained_from == records[1].trained_from != "first"


def test_an_adapter_of_another_shape_is_refused_with_the_command_that_merges(run_tiny):
    first = run_tiny(**LORA, out="first")
    done = run_tiny(model_name_or_path=first.folder, lora_r=4, use_peft="true", out="second")
    assert done.code == 1
    assert f"lora_r is 4, but the adapter {first.folder} has 2" in done.err
    command = done.err.split("train the merged model: ")[1]
    assert command.strip() == f"ift merge {first.folder} --output_dir first-merged"


def test_preferences_are_trained_on_from_an_adapter(run_tiny):
    first = run_tiny(**LORA, form=PAIRS, method="sft", out="first")
    done = run_tiny(model_name_or_path=first.folder, form=PAIRS, method="dpo", out="second")
    assert done.code == 0, done.err
    assert done.metrics[0]["loss"] == pytest.approx(
        0.6931, abs=1e-3
    )  # the reference is the adapter as it was


def test_another_task_than_a_language_model_is_refused_before_the_training(run_tiny):
    done = run_tiny(**LORA, lora_task_type="SEQ_CLS")
    assert done.code == 1
    assert "lora_task_type is 'SEQ_CLS'" in done.err
    assert "step 1" not in done.out


@pytest.mark.parametrize(
    ("dtype", "said", "saved"),
    [
        (None, "weights torch.bfloat16 in the files, torch.float32 in training (--dtype auto keeps torch.bfloat16), "
         "optimiser states torch.float32, saved in torch.float32", torch.float32),
        ("auto", "weights torch.bfloat16, optimiser states torch.bfloat16, saved in torch.bfloat16", torch.bfloat16),
    ],
)  # fmt: skip
def test_the_plan_says_which_dtypes_there_are(run_tiny, chat_model, tmp_path, dtype, said, saved):
    shutil.copytree(chat_model, tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(chat_model, dtype="bfloat16").save_pretrained(tmp_path / "half")
    done = run_tiny(model_name_or_path=tmp_path / "half", **({"dtype": dtype} if dtype else {}))
    assert done.code == 0, done.err
    assert f"dtype   {said}" in done.out
    assert {one.dtype for one in load_file(done.folder / "model.safetensors").values()} == {saved}


def test_a_tied_matrix_is_not_trained_twice(ift, write_rows):
    """peft would train two copies of it, of which one is lost when the adapter is loaded."""
    given = {
        "model_name_or_path": tiny_base_path(),
        "dataset_name": write_rows("messages"),
        "use_peft": "true",
    }
    done = ift("check", "--lora_modules_to_save", "embed_tokens", "lm_head", **given, output_dir="out")
    assert done.code == 1
    assert "embed_tokens and lm_head are one matrix" in " ".join(done.out.split())
    done = ift("check", "--lora_modules_to_save", "lm_head", **given, output_dir="out")
    said = " ".join(done.out.split())
    assert done.code == 0, done.err
    assert "memory: about" in said
    assert "The adapter trains a copy of it for the output alone, and the input keeps the old one" in said
    done = ift("check", "--lora_modules_to_save", "embd_tokens", **given, output_dir="out")
    assert done.code == 1
    assert "has no module embd_tokens; did you mean embed_tokens?" in " ".join(done.out.split())


def test_a_wrong_module_is_named_beside_missing_packages(ift, write_rows):
    """Red when: it is found only after the packages are installed."""
    given = {
        "model_name_or_path": tiny_base_path(),
        "dataset_name": write_rows("messages"),
        "use_peft": "true",
    }
    wrong = ("--lora_modules_to_save", "embed_tokens", "lm_head", "--optim", "lomo")
    for elsewhere in ([], ["--gpu_memory", "24"]):
        done = ift("check", *wrong, *elsewhere, **given, output_dir="out")
        assert done.code == 1
        assert "embed_tokens and lm_head are one matrix" in (said := " ".join(done.out.split()))
        assert "lomo-optim (for optim lomo)" in said


def test_a_run_elsewhere_is_planned_without_weights(ift, write_rows, tmp_path):
    folder = shutil.copytree(
        tiny_base_path(), tmp_path / "plan", ignore=shutil.ignore_patterns("*.safetensors")
    )
    given = {"model_name_or_path": folder, "dataset_name": write_rows("messages"), "output_dir": "out"}
    planned = ift("check", **given, gpu_memory=24, accelerate_config="fsdp2", num_processes=8)
    assert planned.code == 0, planned.err + planned.out
    assert "it fits" in planned.out
    assert "no weights in this folder" in (said := ift("check", **given).err)
    hint = "To plan a run on paper, config.json and the tokenizer are enough: ift check --gpu_memory 24"
    assert hint in said
    assert hint not in planned.out
    shown = ift("check", "--show", "1", **given, gpu_memory=24)
    assert shown.code == 0, shown.err + shown.out
    rows = shown.out.partition("row 1 of the kept rows")[2]
    assert set(TRAINED) <= set(rows)
    assert "‹" not in rows
    assert "(without the model's guesses: its weights are not here)" in rows


@pytest.mark.parametrize("token", ["pad_token", "bos_token"])
def test_a_special_token_without_a_row_is_refused(run_tiny, ift, chat_model, write_rows, tmp_path, token):
    shutil.copytree(chat_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    size = len(tokenizer)
    tokenizer.add_special_tokens({token: "[NEW]"})
    tokenizer.save_pretrained(tmp_path / "model")
    given = {"model_name_or_path": tmp_path / "model", "dataset_name": write_rows("messages")}
    checked = ift("check", **given, output_dir=tmp_path / "out")
    assert checked.code == 1
    assert f"{token} '[NEW]' has the id {size}, and the model embeds the ids 0 to {size - 1}" in checked.out
    done = run_tiny(model_name_or_path=tmp_path / "model")
    assert done.code == 1
    assert "[NEW]" in done.err


def test_rows_and_prompts_longer_than_the_learned_positions_are_refused(run_tiny, ift, chat_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=24,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    done = run_tiny(model_name_or_path=tmp_path / "gpt")
    assert done.code == 1
    assert "the model has learned 24 positions. Fix: --max_length 24" in done.err
    asked = ift("chat", "gpt", "--prompt", "Why? " * 20, "--max_new_tokens", "4")
    assert asked.code == 1
    assert "no room for an answer" in asked.err
    assert (
        ift("chat", "gpt", "--prompt", "Hi", "--max_new_tokens", "400").code == 0
    )  # as many as there are positions


def test_a_model_trained_on_plain_text_is_asked_in_plain_text(run_tiny, ift, tmp_path):
    done = run_tiny(form="prompt-completion, text", max_steps=20, learning_rate=1e-2)
    assert done.code == 0, done.err
    question = "What is 3 plus 3?"
    asked = ift("chat", "out", "--prompt", question, "--max_new_tokens", "8")
    assert "trained on plain text: prompts are passed without a chat template" in asked.err
    tokenizer, model = (
        AutoTokenizer.from_pretrained(done.folder),
        AutoModelForCausalLM.from_pretrained(done.folder),
    )
    ids = tokenizer(question, return_tensors="pt")
    new = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert asked.out.strip() == tokenizer.decode(new, skip_special_tokens=True).strip()
    (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": question}) + "\n")
    written = ift("generate", "out", "asked.jsonl", "--max_new_tokens", "8", "--output", "answers.jsonl")
    assert "trained on plain text" in written.out
    answer = json.loads((tmp_path / "answers.jsonl").read_text())["output"]
    assert answer == asked.out.strip()
    turns = {"turns": ["Hi", "And?"]}
    (tmp_path / "turns.jsonl").write_text(json.dumps(turns) + "\n")
    several = ift(
        "generate", "out", "turns.jsonl", "--max_new_tokens", "2", "--output", "turns-answers.jsonl"
    )
    assert "1 prompt has several turns: using a chat template that it was not trained with" in several.out


def test_a_plain_prompt_is_tokenised_as_in_the_training(chat_model):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    asked = [{"role": "user", "content": "<s>Hi"}]
    assert prompt_ids(tokenizer, asked, PLAIN_TEXT) == tokenizer("<s>Hi")["input_ids"]
