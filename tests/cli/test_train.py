"""`ift train` from rows to a saved model, on a tiny Llama."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.cli.chat import main as chat
from ift.models.loading import LoadOptions

FORMATS = (
    "messages",
    "ShareGPT",
    "Alpaca",
    "prompt-completion, conversational",
    "prompt-completion, text",
    "preference, conversational",
    "text",
    "tokenised",
)
THE_SAME = FORMATS[:4]


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_equal_weights(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name
        )


def answers(folder):
    """What the saved model generates, loaded with transformers alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("What is 1 plus 1?", return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    return output[0, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_trains_a_model_that_plain_transformers_loads(run_tiny, form, chat_model):
    done = run_tiny(form=form)
    assert done.code == 0, done.err
    name = "chat messages" if form == "messages" else form
    assert f"train: format: {name};" in done.out
    assert "kept 8 of 8 rows" in done.out
    assert "done in" in done.out
    assert f"ift chat {done.folder}" in done.out
    assert 1 <= len(answers(done.folder)) <= 3
    before, after = weights(chat_model), weights(done.folder)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert [line["step"] for line in done.metrics] == [1, 2, 2]  # the last line closes the run
    assert all({"loss", "nll", "lambda", "time"} <= line.keys() for line in done.metrics[:2])
    card = (done.folder / "README.md").read_text()
    assert "2405.11870" in card
    assert "| `residual_lambda` | 0.2 |" in card
    assert "| `propagation_gamma` | 0.95 |" in card
    assert "# out\n" in card
    assert "None]" not in card
    assert 'model="None"' not in card


def test_a_short_run_logs_both_ends_and_says_what_follows_the_last_step(run_tiny, monkeypatch):
    """The closing time is the whole command's: here from 0 to 3661 s."""
    clock = iter((0.0, 3661.0))
    monkeypatch.setattr("ift.cli.train.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    done = run_tiny(max_steps=3, logging_steps=10, final_answers=2, learning_rate=0.1)
    assert done.code == 0, done.err
    assert [line["step"] for line in done.metrics] == [1, 3, 3]
    first, last = (f"{line['nll']:.4g}" for line in done.metrics[:2])
    assert first != last
    said = (
        "step 3/3",
        f"saving the model in {done.folder} and reading it back",
        "answering 2 rows with the trained model (each prompt once)",
        f"done in 1:01:01, nll {first} -> {last}\n",
    )
    assert sorted(map(done.out.index, said)) == [done.out.index(text) for text in said]


def test_the_same_conversations_in_four_formats_give_the_same_weights(run_tiny):
    found = {form: run_tiny(form=form, out=str(n)) for n, form in enumerate(THE_SAME)}
    first = weights(found["messages"].folder)
    for form in THE_SAME[1:]:
        assert_equal_weights(first, weights(found[form].folder))
    other = run_tiny(form="prompt-completion, text", out="other")
    assert any(not torch.equal(first[name], weights(other.folder)[name]) for name in first)


def test_the_rejected_side_and_the_spare_column_of_a_preference_row_change_nothing(run_tiny):
    chosen = weights(run_tiny(form="preference, conversational", out="a").folder)
    assert_equal_weights(chosen, weights(run_tiny(form="messages", out="b").folder))


def test_an_ordinary_run_has_no_warning_of_a_library(run_tiny, caplog):
    """Red when: transformers, trl or datasets warn of what ift itself does."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_warning()  # a user's; the tests' is lower
    logging.enable_propagation()  # to caplog
    try:
        done = run_tiny()
    finally:
        logging.set_verbosity(before)
        logging.disable_propagation()
    assert done.code == 0
    assert not [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


def test_an_adapter_is_saved_and_loads_on_its_base(run_tiny, chat_model):
    done = run_tiny(use_peft="true", lora_r=2, lora_target_modules="all-linear", learning_rate=0.1)
    assert done.code == 0, done.err
    assert "trained (" in done.out  # a share of the parameters
    assert f"an adapter on {chat_model}" in done.out
    assert (done.folder / "adapter_model.safetensors").exists()
    assert not (done.folder / "model.safetensors").exists()
    base, adapted = (AutoModelForCausalLM.from_pretrained(folder) for folder in (chat_model, done.folder))
    ids = torch.arange(5, 15)[None]
    assert not torch.allclose(base(ids).logits, adapted(ids).logits)
    assert len(answers(done.folder)) >= 1
    assert chat(str(done.folder), "Hi", 3, LoadOptions()) == 0


def test_a_base_model_gets_the_default_template_said_and_saved(run_tiny, base_model):
    done = run_tiny(model_name_or_path=base_model)
    assert done.code == 0, done.err
    assert "the default one (User:, Assistant:) is set and saved" in done.out
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    asked = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert prompt == "User: Hi\n\nAssistant:"
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(base_model))
    assert AutoModelForCausalLM.from_pretrained(done.folder).generation_config.eos_token_id == 1


def test_generation_stops_at_the_template_s_end_of_turn(run_tiny):
    done = run_tiny()
    ids = AutoModelForCausalLM.from_pretrained(done.folder).generation_config.eos_token_id
    assert AutoTokenizer.from_pretrained(done.folder).convert_tokens_to_ids("<|im_end|>") in ids


def test_an_end_that_is_not_learnt_is_told(run_tiny):
    """Two steps on a random model teach no end; eighty do."""
    short = run_tiny()
    assert short.metrics[1]["eos_nll"] > 1
    said = " ".join(short.out.split())
    assert "answers may not stop: after step 2 the end token has a probability of" in said
    assert "Train longer, or at a higher learning rate" in said
    assert [line["step"] for line in short.ends] == [0, 1, 2]
    released = run_tiny(out="released", propagation_detach="none")
    assert "--propagation_detach none, the released code, makes the end token less likely" in " ".join(
        released.out.split()
    )
    long = run_tiny(out="long", max_steps=80, learning_rate=1e-2, method="sft")
    assert long.metrics[-2]["eos_nll"] < 0.5
    assert "answers may not stop" not in long.out


def test_evaluation_on_rows_held_out_from_the_training_rows(run_tiny):
    done = run_tiny(eval_strategy="steps", eval_steps=1)
    assert done.code == 0, done.err
    assert "no evaluation split: 1 of 8 rows held out" in done.out
    assert "kept 7 of 7 rows" in done.out
    evaluations = [line for line in done.metrics if "eval_nll" in line]
    assert [line["step"] for line in evaluations] == [1, 2]
    assert all(line["eval_loss"] > 0 for line in evaluations)


def test_the_step_of_the_saved_weights_is_named_where_it_is_not_the_last(run_tiny, tmp_path):
    """The rate ruins the model, so the weights of step 1 are saved after four steps. Red when: terminal, card, run.json
    or report name the last step alone, as if its loss were that of the saved model."""
    from ift.lab.report.training_runs import write_training_report

    every_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    done = run_tiny(
        max_steps=4,
        learning_rate=3.0,
        lr_scheduler_type="constant",
        load_best_model_at_end=True,
        **every_step,
    )
    assert done.code == 0, done.err
    assert_equal_weights(weights(done.folder), weights(done.folder / "checkpoint-1"))
    value = next(line["eval_nll"] for line in done.metrics if "eval_nll" in line)
    words = f"step 1, the best by eval_nll ({value:.4g})"
    said = " ".join(done.out.split())
    assert f"saving the model of {words}, in" in said
    assert f"the weights of {words}" in said.rpartition("done in")[2]
    assert "after step 1 the end token" in said
    assert "(that of step 4)" in said
    assert "end_nll of the saved weights, those of step 1: " in said
    # the curve of the last steps has no point of other weights
    assert [line["step"] for line in done.ends] == [0, 1, 2]
    assert f"4 steps, 1 process. The weights are those of {words}." in (done.folder / "README.md").read_text()
    lines = write_training_report([done.folder], tmp_path / "report")
    assert lines[0].endswith(f"finished at step 4; the saved weights are those of {words}")
    assert words in (tmp_path / "report" / "report.html").read_text()
    last = run_tiny(out="last", max_steps=2, eval_strategy="steps", eval_steps=1)
    assert "the best by" not in last.out + (last.folder / "README.md").read_text()


def test_a_resumed_run_ends_where_a_straight_one_does(run_tiny):
    """2 + 2 steps against 4, optimiser, schedule and order of the rows included."""
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    straight = run_tiny(out="straight", **saving)
    folder = run_tiny(out="resumed", **saving).folder
    shutil.rmtree(folder / "checkpoint-4")
    (folder / "model.safetensors").unlink()
    resumed = run_tiny(out="resumed", **saving, resume_from_checkpoint=folder / "checkpoint-2")
    assert resumed.code == 0, resumed.err
    assert_equal_weights(weights(straight.folder), weights(folder))
    assert [line["step"] for line in resumed.metrics] == [1, 2, 3, 4, 4]
    assert resumed.metrics[3]["loss"] == pytest.approx(straight.metrics[3]["loss"], rel=1e-6)


def test_a_mixture_of_two_formats(train, chat_model, write_rows, tmp_path):
    write_rows("messages", "a.jsonl")
    write_rows("Alpaca", "b.jsonl")
    config = tmp_path / "mixture.yaml"
    config.write_text(
        f"model_name_or_path: {chat_model}\noutput_dir: {tmp_path / 'out'}\nmax_steps: 1\nreport_to: none\n"
        "save_strategy: no\n"  # YAML's false
        f"datasets:\n  - path: {tmp_path / 'a.jsonl'}\n    fraction: 0.5\n"
        f"  - path: {tmp_path / 'b.jsonl'}\n    fraction: 0.5\n"
    )
    done = train("--config", config)
    assert done.code == 0, done.err
    assert "format: mixture of 2; chat messages + Alpaca" in done.out
    assert "kept 16 of 16 rows" in done.out
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_stream(run_tiny):
    done = run_tiny(dataset_streaming="true", max_steps=1)
    assert done.code == 0, done.err
    assert "streaming: rows are checked when they are read" in done.out


def test_columns_with_other_names(run_tiny, write_rows):
    rows = write_rows([{"question": f"{n}?", "answer": f"It is {n}."} for n in range(4)])
    done = run_tiny(
        "--dataset_columns", "question=instruction", "answer=output", dataset_name=rows, max_steps=1
    )
    assert done.code == 0, done.err
    assert "train: format: Alpaca;" in done.out
