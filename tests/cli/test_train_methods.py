"""`ift train --method`: every method, sequences of them, their flags and their help."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from ift.methods import CONTROLS, METHODS
from ift.runs import train_method
from ift.runs.arguments import UsageError, parse_stages

PAIRS = [
    {"prompt": f"What is {n} plus {n}?", "chosen": [{"role": "user", "content": f"What is {n} plus {n}?"},
     {"role": "assistant", "content": f"The answer is {2 * n}."}],
     "rejected": [{"role": "user", "content": f"What is {n} plus {n}?"},
     {"role": "assistant", "content": f"No idea{', none' * (n % 3)}."}]}
    for n in range(8)
]  # fmt: skip


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", [*METHODS, *CONTROLS])
def test_every_method_trains_and_saves(run_tiny, chat_model, method):
    done = run_tiny(form=PAIRS, method=method, final_answers=2)
    assert done.code == 0, done.err
    assert "of 2 answers stop" in done.out
    assert len((done.folder / "final_answers.jsonl").read_text().splitlines()) == 2
    assert "kept 8 of 8 rows" in done.out
    assert "done in" in done.out
    assert f"method  {method}: " in done.out
    assert not same(weights(chat_model), weights(done.folder))
    assert [line["step"] for line in done.metrics] == [1, 2, 2]
    assert all("loss" in line for line in done.metrics[:2])
    if method in ("sft", "ift"):
        assert ("propagation_weight_max" in done.metrics[0]) == (method == "ift")
    assert [line["step"] for line in done.ends] == [0, 1, 2]
    if METHODS.get(method) and METHODS[method].needs_pairs:
        assert "rewards/margins" in done.metrics[0]
        assert "pairs, conversational" in done.out
    ends = json.loads((done.folder / "generation_config.json").read_text())["eos_token_id"]
    assert len(ends) == 2  # stops at the template's end of turn
    card = (done.folder / "README.md").read_text()
    assert ("2405.11870" in card) == (method == "ift")


@pytest.mark.parametrize(
    ("method", "metric"),
    [
        ("tdpo", "kl/chosen"),
        ("dpo", "rewards/margins"),
        ("orpo", "log_odds_ratio"),
        ("simpo", "logps/chosen"),
    ],
)
def test_evaluation_of_pairs(run_tiny, method, metric):
    done = run_tiny(form=PAIRS, method=method, eval_strategy="steps", eval_steps=1)
    assert done.code == 0, done.err
    assert "evaluation 1/2" in done.out
    assert f"method  {'tdpo2' if method == 'tdpo' else method}: " in done.out
    assert all(f"eval_{metric}" in line for line in done.metrics if "eval_loss" in line)
    assert sum("eval_loss" in line for line in done.metrics) == 2


def test_what_a_stage_fixes_is_left_to_the_stage_that_has_it_free(tmp_path, chat_model, write_rows):
    words = [
        "--model_name_or_path",
        str(chat_model),
        "--dataset_name",
        str(write_rows()),
        "--method",
        "sft+ift",
    ]
    first, second = parse_stages([*words, "--residual_lambda", "0.3"])
    assert (first.config.residual_lambda, second.config.residual_lambda) == (0, 0.3)
    (tmp_path / "run.yaml").write_text("residual_lambda: 0.4\n")
    first, second = parse_stages(["--config", str(tmp_path / "run.yaml"), *words])
    assert (first.config.residual_lambda, second.config.residual_lambda) == (0, 0.4)
    with pytest.raises(UsageError, match=r"method sft fixes it at 0\.0"):
        parse_stages([*words, "--1.residual_lambda", "0.3"])
    settings = {
        "max_steps": 1,
        "save_strategy": "no",
        "logging_steps": 1,
        "residual_lambda": 0.3,
        "per_device_train_batch_size": 2,
    }
    result = train_method("sft+ift", chat_model, str(write_rows()), tmp_path / "out", settings)
    assert [stage.history[0]["lambda"] for stage in result.stages if "lambda" in stage.history[0]] == [0.3]


OWN_WEIGHTS = """
def by_loss(losses, layout):
    return losses.detach() + 0.1

def negative(losses, layout):
    return by_loss(losses, layout) - 100

def centred(losses, layout):
    return losses - losses.mean()
"""


def test_weights_of_the_users_own_from_the_command_line(run_tiny, tmp_path):
    """They are those of the attribute; a function that gives something else, or that is not there, is refused."""
    (tmp_path / "mine.py").write_text(OWN_WEIGHTS)
    plain = run_tiny(out="plain", save_strategy="no")
    done = run_tiny(out="own", token_weights=f"{tmp_path}/mine.py:by_loss", save_strategy="no")
    assert done.code == 0, done.err
    assert f"weights of {tmp_path}/mine.py:by_loss; loss averaged" in " ".join(done.out.split())
    assert "propagation bellman, gamma 0.95" in plain.out
    assert done.metrics[0]["nll"] == plain.metrics[0]["nll"]
    assert done.metrics[0]["loss"] != plain.metrics[0]["loss"]
    card = (done.folder / "README.md").read_text()
    assert "| `propagation` | the function `by_loss` of `mine.py` (SHA-256 " in card
    assert card.count("by_loss") == 1
    assert "token_weights" not in card
    assert str(tmp_path) not in card
    for name, said in (
        ("negative", "token_weights negative: returned -"),
        ("centred", "set centred.may_be_negative = True below the function"),
        ("by_los", "the file has no function 'by_los'; did you mean by_loss?"),
    ):
        done = run_tiny(out=name, token_weights=f"{tmp_path}/mine.py:{name}")
        assert done.code == 1
        assert said in " ".join((done.out + done.err).split())
        assert "--force" not in done.err
        assert "?." not in done.err
        assert "data:" not in done.out  # before the rows
        assert not done.folder.exists()


@pytest.mark.parametrize("at", [1, 2])
def test_a_run_that_fails_before_its_first_step_leaves_no_folder(run_tiny, tmp_path, at):
    """So that the same command can be repeated. What the second step leaves is kept, as something was trained."""
    (tmp_path / "mine.py").write_text(
        "steps = []\n\ndef late(losses, layout):\n    if losses.shape[1] > 12:\n        steps.append(1)\n"
        f"    if len(steps) >= {at}:\n        raise KeyError('step')\n    return losses.detach() + 1\n"
    )
    done = run_tiny(out="out", token_weights=f"{tmp_path}/mine.py:late", max_steps=3, save_strategy="no")
    assert done.code == 1
    assert "token_weights late: KeyError: 'step'" in done.err
    assert done.folder.exists() == (at > 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "sft"], "method sft fixes it at None"),
        (["--propagation_gamma", "0.5"], "takes the place of the propagation"),
    ],
)
def test_weights_of_the_users_own_that_have_no_effect_are_refused(words, said):
    given = ["--model_name_or_path", "m", "--dataset_name", "d", "--token_weights", "mine.py:by_loss"]
    with pytest.raises(UsageError, match=said):
        parse_stages([*given, *words])


def test_a_sequence_starts_from_the_weights_before_it(run_tiny, chat_model, tmp_path):
    """sft+dpo is sft, then dpo on its folder, each with its own learning rate, down to the last bit."""
    flags = {"form": PAIRS, "beta": 0.3}
    both = run_tiny(**flags, method="sft+dpo", out="both", **{"2.learning_rate": 1e-2})
    assert both.code == 0, both.err
    assert "stage 1 of 2: sft" in both.out
    assert f"ift chat {both.folder / '2-dpo'}" in both.out
    assert "beta 0.3" in both.out
    first = run_tiny(form=PAIRS, method="sft", out="first")
    second = run_tiny(
        **flags, method="dpo", out="second", model_name_or_path=first.folder, learning_rate=1e-2
    )
    assert same(weights(both.folder / "1-sft"), weights(first.folder))
    assert same(weights(both.folder / "2-dpo"), weights(second.folder))
    alone = run_tiny(**flags, method="dpo", out="alone", learning_rate=1e-2)
    assert not same(weights(alone.folder), weights(second.folder))
    assert not (both.folder / "model.safetensors").exists()


def test_a_sequence_of_adapters_merges_the_first(run_tiny, chat_model):
    lora = {"use_peft": "true", "lora_r": 2, "lora_target_modules": "all-linear", "learning_rate": 0.1}
    done = run_tiny(form=PAIRS, method="sft+simpo", **lora)
    assert done.code == 0, done.err
    merged = done.folder / "1-sft" / "merged"
    assert not same(weights(chat_model), weights(merged))
    adapter = json.loads((done.folder / "2-simpo" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(merged)


def test_the_yaml_file_may_name_the_method_and_other_stages_settings(train, tmp_path, chat_model, write_rows):
    path = tmp_path / "run.yaml"
    path.write_text(
        f"model_name_or_path: {chat_model}\ndataset_name: {write_rows(PAIRS)}\noutput_dir: {tmp_path / 'out'}\n"
        "method: sft+orpo\nbeta: 0.5\nloss_reduction: token\nlearning_rate: 1e-4\n"
    )
    first, second = parse_stages(["--config", str(path), "--1.max_steps", "3"])
    assert (first.method.name, first.config.loss_reduction, first.config.residual_lambda) == (
        "sft",
        "token",
        0,
    )
    assert (second.method.name, second.config.beta, second.config.learning_rate) == ("orpo", 0.5, 1e-4)
    assert (first.config.max_steps, second.config.max_steps) == (3, -1)
    assert second.config.output_dir == str(tmp_path / "out" / "2-orpo")
    path.write_text(path.read_text().replace("loss_reduction: token\n", ""))  # only SFT knows it
    (flag,) = parse_stages(["--config", str(path), "--method", "simpo"])
    assert (flag.config.beta, flag.config.simpo_gamma, flag.config.cpo_alpha) == (0.5, 1.6, 0.0)


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ({"method": "dpp"}, "unknown method 'dpp'; did you mean dpo?"),
        ({"method": "dpo", "bta": 1}, "unknown flag --bta; did you mean --beta?"),
        ({"beta": 0.1}, "unknown flag --beta"),
        ({"method": "dpo", "residual_lambda": 0.1}, "unknown flag --residual_lambda"),
        ({"method": "sft+dpo", "bta": 1}, "unknown flag --bta; did you mean --beta?"),
        ({"method": "sft+dpo", "3.beta": 1}, "--3.beta: there is no stage 3; the method has 2."),
        ({"method": "sft+dpo", "1.beta": 1}, "unknown flag --beta"),
        ({"method": "sft", "residual_lambda": 0.1}, "residual_lambda is 0.1; method sft fixes it at 0.0."),
        ({"method": "simpo", "cpo_alpha": 1}, "cpo_alpha is 1.0; method simpo fixes it at 0.0."),
        ({"method": "tdpo2", "precompute_ref_log_probs": "true"}, "precompute_ref_log_probs to false"),
        (
            {"method": "sft+dpo", "resume_from_checkpoint": "x"},
            "a sequence cannot resume from a named checkpoint",
        ),
    ],
)
def test_a_wrong_flag_of_a_method_is_a_usage_error(run_tiny, flags, answer):
    done = run_tiny(**flags)
    assert done.code == 2, done.out
    assert answer in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_answers_where_pairs_are_needed_are_refused(run_tiny):
    done = run_tiny(method="orpo")
    assert done.code == 1
    assert "expected pairs in chosen and rejected" in done.err
    done = run_tiny(method="sft+orpo")
    assert done.code == 1
    assert "expected pairs in chosen and rejected" in done.err
    assert not done.folder.exists()  # said before the first stage trains


@pytest.mark.parametrize("method", [*METHODS, "sft+tdpo1"])
def test_help_shows_the_method_s_own_flags(train, method):
    done = train("--method", method, "--help")
    assert done.code == 0
    shown = set(done.out.split())
    own = {"ift": "--residual_lambda", "sft": "--loss_reduction", "neftune": "--neftune_noise_alpha",
           "dft": "--learning_rate", "simpo": "--simpo_gamma", "tdpo2": "--tdpo_alpha"}  # fmt: skip
    assert own.get(method, "--beta") in shown
    assert ("--residual_lambda" in shown) == (method == "ift")
    assert ("--simpo_gamma" in shown) == (method == "simpo")
    if method == "simpo":
        assert "[default: 1.6]" in done.out


def test_help_of_an_unknown_method(train):
    done = train("--method=dpp", "--help")
    assert done.code == 2
    assert "did you mean dpo?" in done.err


def test_from_python_it_is_the_command_line(run_tiny, chat_model, tmp_path):
    settings = {
        "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "save_strategy": "no",
        "gradient_checkpointing": False, "2.beta": 0.3, "logging_steps": 1,
    }  # fmt: skip
    told = run_tiny(form=PAIRS, method="sft+dpo", out="told", beta=0.3)
    assert told.code == 0, told.err
    result = train_method("sft+dpo", chat_model, PAIRS, tmp_path / "called", settings)
    assert result.folder == tmp_path / "called" / "2-dpo"
    assert [stage.method for stage in result.stages] == ["sft", "dpo"]
    assert [stage.steps for stage in result.stages] == [2, 2]
    assert result.stages[1].start == str(result.stages[0].folder)
    assert result.stages[1].report.rows_kept == 8
    assert result.seconds > 0
    assert "rewards/margins" in result.stages[1].history[0]
    assert same(weights(told.folder / "2-dpo"), weights(result.folder))


def test_from_python_each_stage_may_have_rows_of_its_own(chat_model, tmp_path, write_rows):
    answers = [{"prompt": "What?", "completion": " That."}] * 4
    settings = {
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "save_strategy": "no",
        "eval_strategy": "steps",
    }
    result = train_method("sft+dpo", chat_model, (answers, str(write_rows(PAIRS))), tmp_path, settings)
    assert [stage.report.rows_kept for stage in result.stages] == [3, 7]  # one each is cut off for evaluation
    given = train_method("dpo", chat_model, PAIRS, tmp_path / "b", settings, eval_rows=PAIRS[:2])
    assert given.stages[0].report.rows_kept == 8


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("dpo", {"bta": 1}, "unknown setting 'bta'; did you mean beta?"),
        ("sft+dpo", {"3.beta": 1}, "there is no stage '3'"),
        ("sft+dpo", {"1.beta": 1}, "unknown setting '1.beta'"),
        ("sft", {"output_dir": "x"}, "an argument of train_method itself"),
        ("sft", {"residual_lambda": 0.3}, "method sft fixes it at 0.0"),
        ("tdop", {}, "did you mean tdpo"),
    ],
)
def test_from_python_mistakes_are_named(chat_model, tmp_path, method, settings, message):
    with pytest.raises(ValueError, match=message):
        train_method(method, chat_model, PAIRS, tmp_path, settings)


EVALUATED = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "save_strategy": "no",
    "eval_strategy": "steps",
}


@pytest.fixture
def loaded(monkeypatch, tmp_path, chat_model):
    """The rows that `train_method` loads for its only stage, before anything is prepared."""

    def load(rows, settings, **options):
        planned = []
        monkeypatch.setattr(
            "ift.runs.from_python.train_stages", lambda method, stages, *_: planned.extend(stages)
        )
        train_method("sft", chat_model, rows, tmp_path / "out", {**EVALUATED, **settings}, **options)
        ((_, data),) = planned
        return data

    return load


@pytest.fixture
def folder(tmp_path):
    """A data set of 20 training rows and 4 test rows."""
    rows = tmp_path / "rows"
    rows.mkdir()
    for name, count in (("train", 20), ("test", 4)):
        lines = [json.dumps({"prompt": f"{name} {n}?", "completion": f" {n}"}) for n in range(count)]
        (rows / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return rows


def test_from_python_a_named_data_set_is_read_as_the_settings_say(loaded, folder):
    """Red when: with `eval_rows`, all 20 rows are trained."""
    part = {"dataset_train_split": "train[:5]"}
    evaluation = [{"prompt": "Yes?", "completion": " No."}] * 2
    for given, count in ((None, 4), (evaluation, 2), (str(folder), 4), (folder / "train.jsonl", 20)):
        data = loaded(str(folder), part, eval_rows=given)
        assert len(data.train[0].rows) == 5
        assert len(data.evaluation[0].rows) == count
    tested = loaded(evaluation, {"dataset_test_split": "test[:3]"}, eval_rows=folder)
    assert [row["prompt"] for row in tested.evaluation[0].rows] == [f"test {n}?" for n in range(3)]
    stream = loaded(folder, {"dataset_streaming": True}, eval_rows=evaluation)
    assert type(stream.train[0].rows).__name__ == "IterableDataset"
    assert loaded(str(folder), {**part, "eval_strategy": "no"}, eval_rows=evaluation).evaluation is None


def test_from_python_a_configuration_is_passed_on(loaded, folder, monkeypatch):
    from ift.data import loading, training_sets

    asked = []

    def load(name, *, config, split, streaming):
        asked.append((name, config))
        return load_with_origin(name, split=split, streaming=streaming)

    load_with_origin = loading.load_with_origin
    monkeypatch.setattr(training_sets, "load_with_origin", load)
    monkeypatch.setattr(loading, "load_with_origin", load)
    file = str(folder / "train.jsonl")
    loaded(file, {"dataset_config": "main"}, eval_rows=str(folder / "test.jsonl"))
    assert asked == [(file, "main"), (str(folder / "test.jsonl"), "main")]


@pytest.mark.parametrize(
    ("setting", "value", "given", "of"),
    [
        ("dataset_train_split", "train[:5]", False, "rows"),
        ("dataset_train_split", "train[:5]", True, "rows"),
        ("dataset_test_split", "validation", False, "rows"),
        ("dataset_test_split", "validation", True, "eval_rows"),
        ("dataset_config", "main", True, "rows"),
        ("dataset_streaming", True, False, "rows"),
    ],
)
def test_from_python_objects_refuse_settings_of_named_data_sets(loaded, setting, value, given, of):
    """Red when: the setting is passed over, for lists as for a Dataset."""
    from datasets import Dataset

    rows = [{"prompt": "What?", "completion": " That."}] * 4
    for objects in (rows, Dataset.from_list(rows)):
        with pytest.raises(ValueError, match=f"'{setting}' selects .* and {of} are objects. Fix: "):
            loaded(objects, {setting: value}, eval_rows=objects if given else None)
    assert loaded(rows, {"dataset_train_split": "train"}).train


def test_the_table_imports_nothing_heavy():
    code = "import sys, ift.methods; print([m for m in ('torch', 'trl', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
