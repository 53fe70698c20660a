"""`ift compare` on the user's model and rows: the flags of `ift train`, scores checked against a plain loop."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import psutil
import pytest
import torch
from typer.testing import CliRunner

from ift.cli.compare import parse
from ift.cli.main import app
from ift.data import Part, load_rows
from ift.generation.final_answer import last_answer
from ift.lab.compare import trial
from ift.lab.compare.plan import Rates, compare_plan
from ift.lab.compare.run_study import StudyResult
from ift.lab.compare.scoring import decode_turns
from ift.lab.compare.study import Study
from ift.lab.compare.user_data import UserData, UserDataBackend, share_answers
from ift.lab.compare.user_flags import is_named
from ift.lab.compare.user_rows import split_rows
from ift.lab.report import Trial, load
from ift.lab.report.chosen import best
from ift.lab.testbed import tiny_base_path
from ift.methods.stage import load_tokenizer
from ift.runs.argv import UsageError

WORDS = ("--max_length=96", "--per_device_train_batch_size=4", "--per_device_eval_batch_size=3")
QUICK = ("--num_train_epochs=1", "--logging_steps=1", "--gradient_checkpointing=false")


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory):
    """Thirty pairs with a final answer each; the lengths differ."""
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{n} plus {n}{', please' * (n % 3)}"}],
            "chosen": [{"role": "assistant", "content": f"it is\n#### {2 * n}"}],
            "rejected": [{"role": "assistant", "content": f"it may be\n#### {2 * n + 1 + n % 2}"}],
        }
        for n in range(30)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def study(rows_file, tmp_path):
    """A study on the embedded base as if it were the user's model."""
    words = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", str(rows_file), *WORDS, *QUICK]
    words = [part for word in words for part in word.split("=")]
    data = UserData(words, ["sft", "ift", "dpo", "sft+dpo"], {}, "exact_match", "####", 12)
    (sft,) = data.stages("sft", {}, "unused")
    split = split_rows([Part("train", load_rows(str(rows_file)))], None, load_tokenizer(sft), max_length=96)
    data = UserData(words, data.methods, split.sha256, data.metric, data.pattern, data.max_new_tokens)
    plan = compare_plan("rows", ["sft", "ift", "dpo", "sft+dpo"], 2, 2, False, user_data=asdict(data))
    found = Study(plan, tmp_path / "study", str(tiny_base_path()), 1, ["compare"])
    found.open()
    split.save(found.rows)
    return found


def backend_of(study):
    (task,) = study.probe()
    return UserDataBackend(task.content)


def test_the_measured_steps_are_those_of_packed_rows(study, tmp_path):
    """Red when: the estimate multiplies the seconds of packed steps by the number of steps that unpacked rows take."""
    task = {**study.probe()[0].content, "chosen": {"packing": True}}
    alone = backend_of(study).probe(tmp_path / "alone")
    packed = UserDataBackend(task).probe(tmp_path / "packed")
    trained = UserDataBackend(task).train(tmp_path / "whole", lambda trainer: None)
    assert packed["steps"] == trained.stages[0].steps
    assert 1 <= packed["steps"] < alone["steps"] == -(-backend_of(study).split.train_rows // 4)


def plain_log_probs(model, ids, labels):
    """One row, full logits, a loop: the sum over the trained tokens."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logits[t - 1, ids[t]].item() for t in range(1, len(ids)) if labels[t] != -100)


def test_the_turns_of_a_prompt_are_apart():
    """Red when: system message, question and answer run together in the report (`be polite.When do you open?`)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    user, assistant, end = (
        tokenizer.convert_tokens_to_ids(f"<|{one}|>") for one in ("user", "assistant", "end")
    )
    first, second = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("2 plus 3", "5 men\n")
    )
    assert decode_turns(tokenizer, [user, *first, assistant, *second, end, user, *first, assistant]) == (
        "2 plus 3\n5 men\n2 plus 3"
    )
    assert decode_turns(tokenizer, first) == tokenizer.decode(first)
    assert decode_turns(tokenizer, [user]) == ""


def test_likelihood_and_answers_are_those_of_a_plain_loop(study):
    backend = backend_of(study)
    model, tokenizer = backend.scorer.load(str(tiny_base_path()))
    rows = [*backend.split.test, *backend.split.validation]
    found = backend.scorer.log_likelihoods(model, [(row["input_ids"], row["labels"]) for row in rows])
    expected = [plain_log_probs(model, row["input_ids"], row["labels"]) for row in rows]
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(expected) < max(expected) - 0.1

    answers = backend.scorer.answers(model, tokenizer, rows)
    for row, one in zip(rows, answers, strict=True):
        ids, _ = last_answer(row["input_ids"], row["labels"])
        new = []
        while len(new) < 12:
            with torch.no_grad():
                new.append(model(torch.tensor([ids + new])).logits[0, -1].argmax().item())
            if new[-1] == tokenizer.eos_token_id:
                break
        assert one["stopped"] == (new[-1] == tokenizer.eos_token_id)
        assert one["answer"] == tokenizer.decode(new, skip_special_tokens=True)
        assert one["target"].strip().endswith(f"#### {2 * (row['row'] - 1)}")
        assert one["tokens"] == len(new) - one["stopped"]


def test_choices_are_right_where_the_chosen_answer_is_likelier(study):
    backend = backend_of(study)
    model, _ = backend.scorer.load(str(tiny_base_path()))
    right = {"sum": 0, "mean": 0}
    for row in backend.split.pairs["test"]:
        sides = [(row[f"{side}_input_ids"], row[f"{side}_labels"]) for side in ("chosen", "rejected")]
        sums = [plain_log_probs(model, *side) for side in sides]
        lengths = [sum(label != -100 for label in labels) for _, labels in sides]
        right["sum"] += sums[0] > sums[1]
        right["mean"] += sums[0] / lengths[0] > sums[1] / lengths[1]
    n = len(backend.split.pairs["test"])
    found = backend.scorer.choices(model, backend.split.pairs["test"])
    shares = {name: sum(values) / n for name, values in found.items()}
    assert shares == {"choice_accuracy": right["sum"] / n, "choice_accuracy_per_token": right["mean"] / n}


def test_the_parts_of_rows_have_the_likelihood_per_token_as_their_mean(study):
    backend = backend_of(study)
    model, _ = backend.scorer.load(str(tiny_base_path()))
    rows = backend.split.test
    found = backend.scorer.target_likelihood(model, rows)
    tokens = [sum(label != -100 for label in row["labels"]) for row in rows]
    assert len(set(tokens)) > 1
    mean = sum(found["target_log_likelihood_per_token"]) / len(rows)
    assert mean == pytest.approx(sum(found["target_log_likelihood"]) / sum(tokens))


def test_an_adapter_is_scored_with_its_weights(study, tmp_path):
    """LoRA B matrices start at zero: made random, the scores must be the merged model's and not the base's."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_base_path(), dtype="float32")
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    backend = backend_of(study)
    rows = [(row["input_ids"], row["labels"]) for row in backend.split.test]
    model, _ = backend.scorer.load(str(tmp_path / "adapter"))
    merged = adapted.merge_and_unload()
    found = backend.scorer.log_likelihoods(model, rows)
    assert found == pytest.approx([plain_log_probs(merged, *row) for row in rows], rel=1e-4)
    plain, _ = backend.scorer.load(str(tiny_base_path()))
    assert found != pytest.approx(backend.scorer.log_likelihoods(plain, rows), rel=1e-2)


def test_a_study_without_validation_rows_is_measured_on_its_test_rows(rows_file, study):
    """Held-out pairs too, of which there are none for validation."""
    (sft,) = backend_of(study).user_data.stages("sft", {}, "unused")
    split = split_rows(
        [Part("train", load_rows(str(rows_file)))],
        None,
        load_tokenizer(sft),
        max_length=96,
        validation_rows=0,
    )
    assert {*split.pairs} == {"test"}
    split.save(study.rows)
    (task,) = study.probe()
    found = UserDataBackend({**task.content, "validation_rows": 0}).probe(study.folder / "model")
    assert found["test_row_seconds"] > 0
    assert found["timed_seconds"] > found["start_seconds"]


def do(task):
    file = task.result.with_suffix(".task.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(task.content))
    trial.main(str(file))


def test_trials_on_the_users_rows_end_in_a_record(study):
    searches = {task.title: task for task in study.searches(sequences=False)}
    for task in searches.values():
        task.result.write_text(json.dumps({"config": task.content["chosen"], "score": 0.0, "tie": -1.0}))
    one = searches["search dpo learning_rate=1e-05 beta=0.1"]
    do(one)
    found = json.loads(one.result.read_text())
    assert found["config"] == {"learning_rate": 1e-5, "beta": 0.1}
    assert 0 <= found["score"] <= 1
    assert found["tie"] < 0
    for task in study.searches(sequences=True):
        task.result.write_text(json.dumps({"config": task.content["chosen"], "score": 0.0, "tie": -2.0}))
    runs = {task.title: task for task in study.runs()}
    for title in ("base", "sft+dpo, seed 1"):
        do(runs[title])
    record = load(runs["sft+dpo, seed 1"].result)
    assert record.config["1.learning_rate"] == 1e-4
    assert record.config["2.learning_rate"] == 3e-5
    assert record.config["1.per_device_train_batch_size"] == 4
    assert record.config["2.per_device_train_batch_size"] == 2
    assert record.data["train"].rows == 21
    assert record.cost.labels == 21
    # a pass over 21 rows, whose last step has one; then ceil(21 / 2 / 2) steps of 2 pairs
    assert record.cost.answers_seen == 21 + 6 * 2 * 2
    assert {*record.scores["test"]} == {
        "n", "exact_match", "stopped", "empty", "mean_length", "target_log_likelihood",
        "target_log_likelihood_per_token", "choice_accuracy", "choice_accuracy_per_token",
    }  # fmt: skip
    assert len(record.samples) == record.scores["test"]["n"] == 6
    answers = (study.folder / "answers" / "sft+dpo-seed1.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["right"] for line in answers) == record.scores["test"]["exact_match"] * 6
    assert load(runs["base"].result).scores["test"] != record.scores["test"]


def test_a_shortened_training_has_its_steps_and_says_so(study):
    """Red when: a time budget's share is not trained, or the warmup of the whole training outlasts it."""
    study = replace(study, plan=replace(study.plan, trials=1, training_share=(4 - 0.001) / 6))
    (task,) = [one for one in study.runs() if one.title == "sft, seed 0"]
    task.content["user_data"]["words"] += ["--warmup_steps", "3"]
    do(task)
    record = load(task.result)
    steps = [point["step"] for point in record.curves if "loss" in point]
    assert steps == [1, 2, 3, 4]  # of six: 21 rows in batches of four
    assert record.config["training_share"] == pytest.approx(0.6665, abs=1e-4)
    assert record.config["warmup_steps"] == 2


@pytest.mark.parametrize(
    ("words", "file", "named"),
    [
        (["--max_steps", "3"], "", True),
        (["--2.num_train_epochs", "3"], "", True),
        ([], "num_train_epochs: 3", True),
        (["--learning_rate", "3"], "learning_rate: 3", False),
    ],
)
def test_a_length_of_the_training_is_found_wherever_it_is_named(words, file, named, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(file)
    words = [*words, *(["--config", str(config)] if file else [])]
    assert any(is_named(words, name) for name in ("max_steps", "num_train_epochs")) == named


def test_flags_with_dashes_are_the_same_flags(rows_file, tmp_path):
    """Red when: --eval-strategy is overridden without a word because only --eval_strategy is refused."""
    words = ["compare", "--model-name-or-path", str(tiny_base_path()), "--dataset-name", str(rows_file)]
    refused = CliRunner().invoke(app, [*words, "--eval-strategy=steps"])
    assert "--eval_strategy is set by the study itself" in " ".join(refused.output.split())
    args, train_words = parse("compare", [*words[1:], "--test-rows", "7"])
    assert args.test_rows == 7
    assert "7" not in train_words


def test_ties_and_diverged_trials():
    tried = [Trial({"nan": 1}, None, None), Trial({"a": 1}, 0.0, -2.0), Trial({"b": 1}, 0.0, -1.0)]
    assert best(tried).config == {"b": 1}
    assert best(tried[:1]).config == {"nan": 1}


@pytest.mark.parametrize(
    ("batch", "accumulation", "steps", "expected"),
    [(8, 1, -1, (4, 1, -1)), (1, 4, 100, (1, 2, 100)), (1, 1, 100, (1, 1, 50))],
)
def test_pairs_are_two_answers(batch, accumulation, steps, expected):
    config = SimpleNamespace(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        num_train_epochs=3.0,
    )
    share_answers(SimpleNamespace(config=config, method=SimpleNamespace(needs_pairs=True)), 4 / 3)
    size = (config.per_device_train_batch_size, config.gradient_accumulation_steps)
    assert size == expected[:2]
    assert config.max_steps == (round(expected[2] * 4 / 3) if steps > 0 else -1)
    assert config.num_train_epochs == pytest.approx(2)


def test_flags_that_only_one_method_knows_are_left_to_it(rows_file):
    words = ["--model_name_or_path", "m", "--dataset_name", str(rows_file), "--residual_lambda", "0.3"]
    words += ["--label_smoothing", "0.1", "--packing", "false"]
    data = UserData(words, ["sft", "ift", "dpo"], {}, "exact_match", None, 1)
    (ift,), (sft,), (dpo,) = (data.stages(method, {}, "out") for method in ("ift", "sft", "dpo"))
    assert (ift.config.residual_lambda, sft.config.residual_lambda) == (0.3, 0.0)
    assert dpo.config.label_smoothing == 0.1
    with pytest.raises(UsageError, match="--residual_lamda; did you mean --residual_lambda"):
        UserData([*words, "--residual_lamda", "1"], data.methods, {}, "", None, 1).stages("sft", {}, "out")


def test_rates_around_the_users_own():
    assert Rates.around(2e-5) == Rates((2e-5, 6e-5, 6.67e-6, 2e-6, 2e-4, 6.67e-7), (2e-6, 6.67e-7, 6.67e-6))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sede", "3"], "unknown flag --sede; did you mean --seeds?"),
        (["--test_rows", "5"], "--test_rows is for your own data"),
        (["MODEL", "--method", "ift"], "--method is set by the study itself; use --methods"),
        (
            ["MODEL", "--eval_score", "text"],
            "--eval_score has no effect in a study, which scores after each training (--score names the scores)",
        ),
        (["MODEL", "--hub_token", "hf_x"], "would be written to its plan; set HF_TOKEN instead"),
        (
            ["MODEL", "--methods", "sft,ift residual only", "--residual_lambda", "0"],
            "ift residual only: with residual_lambda 0 and propagation none it is SFT, which is a contender already",
        ),
        (
            ["MODEL", "--methods", "sft,ift propagation only", "--propagation", "none"],
            "it is SFT, which is a conten",
        ),
        (["MODEL", "--num_processes", "2"], "--num_processes: each training runs in one process"),
        (["MODEL", "--learning_rates", "fast"], "--learning_rates fast: give numbers above 0"),
        (["MODEL", "--seeds", "1"], "an interval needs at least 2"),
        (["MODEL", "--train_rows", "0"], "--train_rows 0: give 1 or more"),
        (["MODEL", "--setting", "arithmetic-small-clean"], "--setting is one of the testbed's"),
        (["MODEL", "--answer_pattern", "("], "is no regular expression"),
        (["MODEL", "--metric", "bleu"], "--metric bleu: choose from exact_match"),
        (["MODEL", "--metric", "exact_match", "--answer_pattern", "none"], "give --answer_pattern"),
        (["MODEL", "--methods", "sft,ipo"], "unknown method 'ipo'"),
        (["ANSWERS", "--methods", "sft,dpo"], "dpo: learns from pairs, and the rows have none"),
        (["ANSWERS", "--metric", "choice_accuracy"], "the rows are not preference pairs"),
    ],
)
def test_wrong_flags_are_usage_errors(words, said, rows_file, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        "".join(json.dumps({"prompt": f"{n}", "completion": f"{n}"}) + "\n" for n in range(20))
    )
    model = ["--model_name_or_path", str(tiny_base_path()), *WORDS, "--dataset_name"]
    shorts = {"MODEL": [*model, str(rows_file)], "ANSWERS": [*model, str(answers)]}
    given = [part for word in words for part in shorts.get(word, [word])]
    found = CliRunner().invoke(app, ["compare", *given, "--output_dir", str(tmp_path / "out")])
    assert found.exit_code == 2, found.output
    assert said in " ".join(found.output.split())
    assert not (tmp_path / "out").exists()


def test_rows_are_checked_as_before_training(rows_file, tmp_path):
    model = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", str(rows_file)]
    words = ["compare", *model, "--max_length", "14", "--output_dir", str(tmp_path / "out")]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1
    assert "ift compare: not started: train: max_length 14 truncates" in found.output
    assert not (tmp_path / "out").exists()


def test_malformed_pairs_are_named_together_before_anything_is_trained(rows_file, tmp_path):
    """SFT alone would read the chosen side only; line 30 is no JSON, which the same message says."""
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    rows[3]["rejected"], rows[7]["chosen"] = None, None
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content, count in (("whole", text, 2), ("cut", text[:-3], 3)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(content)
        model = ["--model_name_or_path", str(tiny_base_path()), *WORDS, "--dataset_name", str(file)]
        words = ["compare", *model, "--methods", "sft,dpo", "--output_dir", str(tmp_path / "out")]
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 1
        assert f"{name}.jsonl: {count} of 30 rows cannot be used." in found.output
        assert 'row 4, column "rejected": found null' in found.output
        assert 'row 8, column "chosen": found null' in found.output
        assert ("line 30: found text that is not JSON" in found.output) == (name == "cut")


def command(rows_file, out, rates="1e-3,3e-4"):
    words = ["compare", "--methods", "sft,ift", "--seeds", "2", "--learning_rates", rates, "--jobs", "2"]
    words += ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", str(rows_file), *WORDS, *QUICK]
    return [sys.executable, "-m", "ift.cli.main", *words, "--output_dir", str(out)]


@pytest.mark.slow
def test_a_killed_study_resumes(rows_file, tmp_path):
    """SIGKILL to the study after the first result: its trial stops. Repeated, it does the rest and nothing twice."""
    out = tmp_path / "out"
    process = subprocess.Popen(command(rows_file, out), stdout=subprocess.DEVNULL)
    while not [*out.glob("search/*.json")]:
        assert process.poll() is None
        time.sleep(0.05)
    trials = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(trials, timeout=60)[1], "a trial computes on beside the repeated study"
    first = {file: file.stat().st_mtime_ns for file in out.glob("search/*.json")}
    done = subprocess.run(command(rows_file, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in first} == first
    assert len([*out.glob("runs/*.json")]) == 5
    assert " at a time: about" in done.stdout
    assert f"answers   {out / 'answers'}" in done.stdout
    assert (out / "report" / "report.html").exists()
    other = subprocess.run(
        [*command(rows_file, out), "--warmup_steps", "2"], capture_output=True, text=True, check=False
    )
    assert other.returncode == 1
    assert "Another --warmup_steps (not given, now 2)" in other.stderr


def test_one_learning_rate_means_no_search(rows_file, tmp_path, monkeypatch):
    """No trial among the tasks of the whole command, and a log has a line for each task that is done."""
    tasks = []
    measured = dict.fromkeys(
        ("step_seconds", "steps", "start_seconds", "validation_row_seconds", "test_row_seconds"), 1.0
    )

    def perform(study, planned, done, started, timed=None):
        for task in planned:
            if task.content["kind"] == "probe" and not task.result.exists():
                found = measured | {"peak_memory_bytes": 1, "weight_bytes": 1, "timed_seconds": 1}
                task.result.write_text(json.dumps(found))
                timed(task, 3.0)
                continue
            tasks.append(task)
            done(task)

    result = StudyResult(SimpleNamespace(splits=[], variants=[]), "exact_match", ["the end"])
    monkeypatch.setattr(Study, "perform", perform)
    monkeypatch.setattr("ift.lab.compare.run_study.report_study", lambda study: result)
    found = CliRunner().invoke(app, command(rows_file, tmp_path / "out", rates="1e-3")[3:])
    assert found.exit_code == 0, found.output
    assert [task.title for task in tasks] == [
        "a first measurement", "base", "sft, seed 0", "ift, seed 0", "sft, seed 1", "ift, seed 1",
    ]  # fmt: skip
    assert all(task.content["chosen"] == {"learning_rate": 1e-3} for task in tasks[2:])
    assert all(task.content["tried"] == [] for task in tasks[2:])
    assert "no search (one candidate for each method), 5 runs over 2 seeds" in found.output
    assert re.search(r"6 of 6 done in 0:00:\d\d  ift, seed 1\nthe end", found.output)
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["own"]["metric"] == "exact_match"


@pytest.mark.slow
def test_runs_without_a_search_end_in_records(rows_file, tmp_path):
    done = subprocess.run(
        command(rows_file, tmp_path / "out", rates="1e-3"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [*(tmp_path / "out" / "search").iterdir()] == []
    record = load(tmp_path / "out" / "runs" / "ift-seed1.json")
    assert record.config["learning_rate"] == 1e-3
    assert record.search is None
