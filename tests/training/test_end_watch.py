"""The end of the answers: as plain logits say, on the same rows, told with a remedy; training is untouched."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ift import IFTConfig
from ift.cli.exit_codes import run_verb
from ift.cli.train import main
from ift.generation import after_training
from ift.generation.after_training import FinalAnswers
from ift.lab.testbed import problems, tiny_base_path
from ift.runs.supervision import Supervision
from ift.training.end_watch import EndWatch, end_nll, percent, rows_that_end

ENDS = {2, 9}


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(tiny_base_path()), dtype="float32")


@pytest.mark.parametrize("keeps", [True, False])
def test_the_measure_is_that_of_plain_logits(model, keeps, monkeypatch):
    """Rows of several lengths, one with two ends; the mean over ends, each predicted from the tokens before it."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in (5, 9, 12, 7, 7, 6, 8, 10, 11):
        ids = torch.randint(10, 60, (length,), generator=generator).tolist()
        ids[-1] = 2
        if length == 9:
            ids[4] = 9
        rows.append((ids, [-100] * 3 + ids[3:]))
    expected = []
    with torch.no_grad():
        for ids, labels in rows:
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected += [-log_probs[t - 1, ids[t]].item() for t, label in enumerate(labels) if label in ENDS]
    assert len(expected) == 10
    if not keeps:  # a model whose forward knows nothing of it gives all logits
        plain = type(model).forward

        def forward(self, input_ids, attention_mask):
            return plain(self, input_ids=input_ids, attention_mask=attention_mask)

        monkeypatch.setattr(type(model), "forward", forward)
    model.train()
    found = end_nll(model, rows, torch.tensor(sorted(ENDS)), torch.device("cpu"))
    assert model.training
    assert found == pytest.approx(sum(expected) / 10, rel=1e-5)


def test_rows_are_cut_behind_their_last_trained_end_and_those_without_are_left_out():
    rows = [
        {"input_ids": [5, 6, 2, 7, 2, 8], "labels": [-100, 6, 2, 7, -100, 8]},  # the second end is not trained
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
        {"input_ids": [2, 6, 7], "labels": [2, 6, 7]},  # nothing predicts a first token
        {"chosen_input_ids": [5, 9], "chosen_labels": [-100, 9],
         "rejected_input_ids": [5, 2], "rejected_labels": [-100, 2]},
    ]  # fmt: skip
    found = rows_that_end(rows, ENDS, 8, seed=0)
    assert found == [([5, 9], [-100, 9]), ([5, 6, 2], [-100, 6, 2])]
    assert rows_that_end(rows, ENDS, 1, seed=0) in ([found[0]], [found[1]])
    assert rows_that_end(rows, {77}, 8, seed=0) == []


def watch(args, measured):
    trainer = SimpleNamespace(args=args)
    rows = [{"input_ids": [5, 2], "labels": [-100, 2]}] * 3
    found = EndWatch(trainer, rows, ENDS)
    found.measured = measured
    return found


def config(**settings):
    return IFTConfig(output_dir="unused", max_steps=4, report_to="none", **settings)


def test_a_less_likely_end_is_told_with_what_to_do(tmp_path):
    """0.5 nats before, 1.5 after: 60.7 % -> 22.3 %; within 0.05 nats, or better, nothing is said."""
    assert watch(config(), {0: 0.5, 4: 0.54}).less_likely() is None
    assert watch(config(), {0: 0.5}).less_likely() is None
    assert watch(config(), {2: 1.5}).less_likely() is None  # what it was before is not known
    said = watch(config(), {0: 0.5, 1: 0.4, 4: 1.5}).less_likely()
    assert "was 60.7% before the first step and is 22.3% after step 4" in said
    assert "on the same 3 training rows" in said
    assert "Train longer" in said
    released = watch(config(propagation_detach="none"), {0: 0.5, 4: 1.5}).less_likely()
    assert "--propagation_detach none, the released code, makes the end token less likely" in released
    pairs = watch(
        SimpleNamespace(max_steps=4, train_batch_size=8, gradient_accumulation_steps=1, world_size=1, seed=0),
        {0: 0.5, 4: 1.5},
    )
    assert "--method sft+..." in pairs.less_likely()


def test_an_end_that_is_less_likely_than_not_is_told():
    assert watch(config(), {0: 3.0, 4: 0.69}).unlikely() is None
    assert watch(config(), {0: 3.0}).unlikely() is None
    said = watch(config(), {0: 3.0, 4: 1.0}).unlikely()
    assert said.startswith("answers may not stop: after step 4 the end token has a probability of 36.8%")


def test_the_warning_of_an_unlikely_end_and_the_answers_say_one_thing():
    """Greedy answers can all end where the end token is less likely than not; then "may not stop" would contradict."""
    unsure = watch(config(), {0: 3.0, 4: 1.0})
    assert unsure.unlikely(3, 3).startswith(
        "3 of 3 greedy answers stop with their end token, at the end of the model's own text; sampled ones may run "
        "on: after step 4"
    )
    assert unsure.unlikely(1, 3).startswith(
        "1 of 3 greedy answers stops with its end token, at the end of the model's own text; sampled"
    )
    assert unsure.unlikely(0, 3).startswith("none of 3 greedy answers stops with its end token: after step 4")
    assert unsure.unlikely(0, 1).startswith(
        "the greedy answer does not stop with its end token: after step 4"
    )
    warned = Supervision(watch=unsure).warnings(FinalAnswers(asked=3, stopped=3, limit=9))
    assert "may not stop" not in " ".join(warned)
    assert "may not stop" in " ".join(Supervision(watch=unsure).warnings(FinalAnswers(note="no prompt")))
    sure = watch(config(), {0: 3.0, 4: 0.1})
    assert sure.unlikely(1, 3) is None
    (held_out,) = Supervision(watch=sure).warnings(FinalAnswers(asked=3, limit=9))
    assert held_out.startswith(
        "no answer after the training stops with its end token (final_answers.jsonl), although"
    )
    assert Supervision(watch=sure).warnings(FinalAnswers(asked=3, stopped=1, limit=9)) == ()


# --- through ift train ------------------------------------------------------------------------------------------------


def train(out, rows, *words):
    told = [
        "--model_name_or_path", str(tiny_base_path()), "--dataset_name", str(rows), "--output_dir", str(out),
        "--max_steps", "8", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--report_to", "none",
        "--save_strategy", "no", "--gradient_checkpointing", "false", "--logging_steps", "1", *words,
    ]  # fmt: skip
    return run_verb("train", lambda: main(told))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(problem.row) + "\n" for problem in problems("train", 40)))
    return path


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "with"
    assert train(out, rows) == 0
    return out


def test_the_end_is_measured_before_the_first_step_at_a_quarter_at_half_and_at_the_end(run):
    ends = [line for line in lines(run / "metrics.jsonl") if "end_nll" in line]
    assert [line["step"] for line in ends] == [0, 2, 4, 8]
    assert all(math.isfinite(line["end_nll"]) for line in ends)
    logged = [line["step"] for line in lines(run / "metrics.jsonl") if "loss" in line]
    assert logged == [1, 2, 3, 4, 5, 6, 7, 8]  # no entry is lost to a measurement


def test_training_is_not_touched(run, rows, tmp_path, monkeypatch):
    """Without the watch and the answers: the same weights, and every logged number."""
    for name in ("on_train_begin", "on_step_end", "on_train_end"):
        monkeypatch.delattr(EndWatch, name)
    assert train(tmp_path / "without", rows, "--final_answers", "0") == 0
    ours, plain = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "without"))
    assert all(torch.equal(ours[name], plain[name]) for name in plain)

    def numbers(folder):
        timed = (
            "time",
            "tokens_per_second",
            "train_runtime",
            "train_samples_per_second",
            "train_steps_per_second",
        )
        found = [line for line in lines(folder / "metrics.jsonl") if "end_nll" not in line]
        return [{name: value for name, value in line.items() if name not in timed} for line in found]

    assert numbers(run) == numbers(tmp_path / "without")
    assert not (tmp_path / "without" / "final_answers.jsonl").exists()


def test_the_final_answers_are_the_saved_model_s(run, rows, capfd):
    """Each line again, by plain greedy generation of the saved model; ended where the end token came."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = lines(run / "final_answers.jsonl")
    assert len(found) == 8
    assert len({one["row"] for one in found}) == 8
    saved, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    stops = saved.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    targets = {json.loads(line)["messages"][1]["content"] for line in rows.read_text().splitlines()}
    longest = max(len(tokenizer(one["target"])["input_ids"]) + 1 for one in found)
    for one in found:
        assert one["target"] in targets
        ids = tokenizer(one["prompt"], return_tensors="pt", add_special_tokens=False)
        new = saved.generate(**ids, do_sample=False, max_new_tokens=2 * longest + 16)[
            0, ids["input_ids"].shape[1] :
        ]
        assert tokenizer.decode(new, skip_special_tokens=True) == one["answer"]
        assert one["stopped"] == (new[-1].item() in stops)


def test_answers_without_text_are_told(rows, tmp_path, capfd, monkeypatch):
    """An answer of spaces ends well and says nothing."""
    from transformers import PreTrainedTokenizerFast

    write = after_training._write
    decode = PreTrainedTokenizerFast.decode

    def spaces(*given):
        """The answers of two rows are replaced as if the model had written spaces."""
        with monkeypatch.context() as patch:
            texts = iter(["  ", "", "12"])
            one_answer = {id(new.ids) for new in given[2]}
            patch.setattr(
                PreTrainedTokenizerFast, "decode",
                lambda self, ids, **kw: next(texts) if id(ids) in one_answer else decode(self, ids, **kw),
            )  # fmt: skip
            return write(*given)

    monkeypatch.setattr(after_training, "_write", spaces)
    assert train(tmp_path / "run", rows, "--final_answers", "3") == 0
    said = capfd.readouterr().out
    assert [one["answer"] for one in lines(tmp_path / "run" / "final_answers.jsonl")] == ["  ", "", "12"]
    assert " of 3 answers stop with their end token, 2 without text (greedy" in " ".join(said.split())
    assert (
        "2 of 3 answers after the training have no text (final_answers.jsonl). Fix: train longer"
        in " ".join(said.split())
    )


def test_the_closing_lines_say_how_many_stop(rows, tmp_path, capfd):
    assert train(tmp_path / "run", rows, "--final_answers", "3") == 0
    stopped_ones = sum(one["stopped"] for one in lines(tmp_path / "run" / "final_answers.jsonl"))
    said = capfd.readouterr()
    stop = "stops with its" if stopped_ones == 1 else "stop with their"
    assert f"{stopped_ones} of 3 answers {stop} end token (greedy" in " ".join(said.out.split())
    assert "before the first step the end of an answer has a probability of" in said.out + said.err


def test_answers_that_would_take_long_are_skipped_and_that_is_said(rows, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(after_training, "SECONDS", 0.0)
    assert train(tmp_path / "run", rows) == 0
    assert "skipped: 8 answers would take about" in capfd.readouterr().out
    assert not (tmp_path / "run" / "final_answers.jsonl").exists()


def test_too_little_memory_for_the_answers_does_not_fail_a_run_that_is_saved(
    rows, tmp_path, capfd, monkeypatch
):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(after_training, "continue_with_trainer", no_room)
    assert train(tmp_path / "run", rows, "--max_steps", "1") == 0
    assert "skipped: out of memory; run ift generate on the saved model" in capfd.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_rows_without_prompts_and_without_ends_are_said(tmp_path, capfd):
    rows = tmp_path / "text.jsonl"
    rows.write_text("".join(json.dumps({"input_ids": [*range(5, 20 + n)]}) + "\n" for n in range(8)))
    assert train(tmp_path / "run", rows, "--force") == 0
    said = capfd.readouterr()
    assert "skipped: the rows have no prompt to answer" in said.out
    assert "no training row ends with an end token" in said.out


def test_the_released_code_is_warned_of_in_the_plan(rows, tmp_path, capfd):
    assert train(tmp_path / "run", rows, "--propagation_detach", "none", "--max_steps", "1") == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "nothing detached (the released code)" in said
    assert "warning propagation_detach none is the released code" in said


@pytest.mark.parametrize(("probability", "shown"), [(0.368, "36.8%"), (0.001, "0.1%"), (0.00042, "0.042%")])
def test_small_probabilities_are_not_shown_as_0(probability, shown):
    assert percent(math.log(probability)) == shown
