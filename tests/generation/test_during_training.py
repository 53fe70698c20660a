"""Answers written at each evaluation: the same rows, scored, in the tracker too, and the training not touched."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from ift.cli.check import main as check
from ift.cli.exit_codes import run_verb
from ift.cli.train import main
from ift.generation.during_training import EvaluationAnswers
from ift.lab.testbed import problems, tiny_base_path


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(problem.row) + "\n" for problem in problems("train", 80)))
    return path


def train(rows, out, *words, verb="train"):
    settings = [
        "--model_name_or_path", str(tiny_base_path()), "--dataset_name", str(rows), "--output_dir", str(out),
        "--max_steps", "4", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--eval_strategy",
        "steps", "--eval_steps", "2", "--report_to", "none", "--save_strategy", "no", *words,
    ]  # fmt: skip
    return run_verb(verb, lambda: (main if verb == "train" else check)(settings))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "with"
    best = ("--save_strategy", "steps", "--save_steps", "2", "--metric_for_best_model", "eval_exact_match")
    words = (
        "--eval_generate",
        "3",
        "--eval_generate_max_new_tokens",
        "48",
        "--greater_is_better",
        "true",
        *best,
    )
    assert train(rows, out, *words) == 0
    return out


def test_the_same_rows_are_answered_at_each_evaluation(run, rows):
    found = lines(run / "answers.jsonl")
    assert [one["step"] for one in found] == [2, 2, 2, 4, 4, 4]
    assert [one["row"] for one in found[:3]] == [one["row"] for one in found[3:]]
    targets = [json.loads(line)["messages"][1]["content"] for line in rows.read_text().splitlines()]
    for one in found:
        assert one["target"] == targets[one["file_row"] - 1]  # rows held out keep their numbers in the file
        assert one["file"] == "rows.jsonl"
        assert one["prompt"].startswith("<|user|>")
        assert one["prompt"].endswith("<|assistant|>")
        assert one["tokens"] <= 48


def test_the_answers_after_training_name_their_rows_in_the_file(run, rows):
    targets = [json.loads(line)["messages"][1]["content"] for line in rows.read_text().splitlines()]
    found = lines(run / "final_answers.jsonl")
    assert [one["target"] for one in found] == [targets[one["file_row"] - 1] for one in found]


def test_more_rows_to_answer_than_there_are_is_said(rows, tmp_path, capsys):
    """80 rows, of which 5 % are 4."""
    words = ("--eval_generate", "9", "--final_answers", "9", "--eval_generate_max_new_tokens", "2")
    assert train(rows, tmp_path / "out", "--max_steps", "1", "--eval_steps", "1", *words) == 0
    said = capsys.readouterr().out
    assert "eval_generate is 9, and there are 4 evaluation rows: all of them are answered" in said
    assert "answering 4 rows with the trained model (each prompt once)" in said
    assert len(lines(tmp_path / "out" / "answers.jsonl")) == 4


@pytest.mark.parametrize("written", [3, 0])
def test_evaluation_rows_without_a_prompt_are_named(tmp_path, capsys, written):
    """The others are answered. Red when: one of them refuses the run, or nobody is told which."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, prompts in (("train", 4), ("test", written)):
        rows = [{"prompt": f"Say {n}:" if n < prompts else "", "completion": f" {n}"} for n in range(4)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (
        "--max_steps",
        "1",
        "--eval_steps",
        "1",
        "--eval_generate",
        "4",
        "--eval_generate_max_new_tokens",
        "2",
    )
    code = train(folder, tmp_path / "out", *words, "--final_answers", "0")
    said = capsys.readouterr()
    if written:
        assert code == 0, said.err
        assert (
            "eval_generate: 1 evaluation row without a prompt (row 4): not answered. Fix: write a" in said.out
        )
        assert [one["row"] for one in lines(tmp_path / "out" / "answers.jsonl")] == [1, 2, 3]
    else:
        assert code == 1
        assert (
            "eval_generate: found only 4 evaluation rows without a prompt (rows 1, 2, 3, 4). Fix: "
            in said.err
        )


@pytest.mark.parametrize(("texts", "share"), [(["12", " \n", "", "4"], 0.5), (["12", "4"], None)])
def test_answers_without_text_are_a_metric_where_there_are_any(tmp_path, texts, share):
    asked = object.__new__(EvaluationAnswers)
    asked.settings, asked.final = SimpleNamespace(scorer=None), None
    asked.trainer = SimpleNamespace(args=SimpleNamespace(output_dir=tmp_path, report_to=[]))
    asked._answers = lambda step: [{"answer": text, "stopped": True} for text in texts]
    assert asked._answer_and_score(1).get("eval_answers_empty") == share


def test_texts_of_rows_that_are_pushed_with_the_model_are_warned_of(rows, tmp_path, monkeypatch):
    from ift.check.findings import _answers_pushed

    def stage(push, count):
        return SimpleNamespace(
            config=SimpleNamespace(push_to_hub=push), answers=SimpleNamespace(eval_generate=count)
        )

    (found,) = _answers_pushed(stage(True, 4))
    assert found.level == "warning"
    assert "answers.jsonl" in found.text
    assert _answers_pushed(stage(False, 4)) == _answers_pushed(stage(True, 0)) == []


def test_the_path_of_a_base_that_is_pushed_with_an_adapter_is_warned_of(tmp_path):
    from ift.check.findings import _path_pushed

    def stage(push, adapter, name):
        model = SimpleNamespace(use_peft=adapter, model_name_or_path=name)
        return SimpleNamespace(config=SimpleNamespace(push_to_hub=push), model=model)

    (found,) = _path_pushed(stage(True, True, tmp_path))
    assert found.level == "warning"
    assert f"names the base by its path here, {tmp_path}. Fix: " in found.text
    others = [(False, True, tmp_path), (True, False, tmp_path), (True, True, "owner/model")]
    assert [_path_pushed(stage(*one)) for one in others] == [[], [], []]


def test_exact_match_is_what_an_independent_look_at_the_answers_says(run):
    """`#### N` against `#### N`, and the shares in metrics.jsonl."""

    def final(text):
        found = re.findall(r"^#### (-?\d+)$", text, re.MULTILINE)
        return found[-1] if found else None

    for step in (2, 4):
        found = [one for one in lines(run / "answers.jsonl") if one["step"] == step]
        right = [final(one["answer"]) == final(one["target"]) for one in found]
        assert [one["right"] for one in found] == right
        (logged,) = [
            one for one in lines(run / "metrics.jsonl") if one["step"] == step and "eval_exact_match" in one
        ]
        assert logged["eval_exact_match"] == sum(right) / 3
        assert logged["eval_answers_stopped"] == sum(one["stopped"] for one in found) / 3
    state = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())
    shares = [one["eval_exact_match"] for one in lines(run / "metrics.jsonl") if "eval_exact_match" in one]
    assert state["best_metric"] == max(shares)  # a checkpoint can be chosen by it


def test_the_training_is_that_of_a_run_without_answers(run, rows, tmp_path):
    """Sampled answers: to the last bit of the weights."""
    words = (
        "--eval_generate",
        "2",
        "--eval_generate_temperature",
        "1",
        "--eval_generate_max_new_tokens",
        "4",
    )
    assert train(rows, tmp_path / "sampled", *words) == 0
    assert train(rows, tmp_path / "without") == 0
    first, *others = (
        load_file(out / "model.safetensors") for out in (tmp_path / "without", run, tmp_path / "sampled")
    )
    for other in others:
        assert all(first[name].equal(other[name]) for name in first)


def test_pairs_are_answered_too_and_a_pattern_finds_the_answer(rows, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(
            json.dumps({"prompt": f"{n} + 1?", "chosen": f"It is {n + 1}", "rejected": f"It is {n}"}) + "\n"
            for n in range(40)
        )
    )
    words = ("--method", "dpo", "--eval_generate", "2", "--answer_pattern", r"is (\d+)", "--max_steps", "2")
    assert train(pairs, tmp_path / "out", *words, "--eval_generate_max_new_tokens", "4") == 0
    found = lines(tmp_path / "out" / "answers.jsonl")
    assert len(found) == 2
    assert all(re.fullmatch(r"It is \d+", one["target"]) and one["right"] in (True, False) for one in found)


def test_a_run_that_goes_on_drops_the_answers_behind_its_checkpoint(tmp_path):
    path = tmp_path / "answers.jsonl"
    trainer = SimpleNamespace(args=SimpleNamespace(output_dir=tmp_path))
    callback = EvaluationAnswers.__new__(EvaluationAnswers)
    callback.trainer = trainer

    def begins(step):
        path.write_text('{"step": 2}\n{"step": 4}\n{"ste')
        callback.on_train_begin(None, SimpleNamespace(is_world_process_zero=True, global_step=step), None)
        return path.read_text()

    assert begins(2) == '{"step": 2}\n'
    assert begins(0) == ""


def test_every_process_learns_the_scores_and_the_first_alone_answers(monkeypatch):
    """Else the others would miss the metric by which checkpoints are chosen."""
    monkeypatch.setattr(
        "ift.generation.during_training.broadcast_object_list",
        lambda found: found.__setitem__(0, {"eval_exact_match": 0.5}),
    )
    logged, metrics = [], {"eval_loss": 1.0}
    callback = EvaluationAnswers.__new__(EvaluationAnswers)
    callback.trainer = SimpleNamespace(log=logged.append)  # no model: it would fail if it answered
    second = SimpleNamespace(is_world_process_zero=False, global_step=2)
    callback.on_evaluate(SimpleNamespace(world_size=2), second, None, metrics)
    assert metrics == {"eval_loss": 1.0, "eval_exact_match": 0.5}
    assert logged == [{"eval_exact_match": 0.5}]


def test_the_trackers_get_a_table(monkeypatch):
    """wandb and trackio have the same two calls; only those that the run reports to are called."""
    logged = []
    for name in ("wandb", "trackio"):
        tracker = SimpleNamespace(Table=lambda dataframe: dataframe, log=logged.append)
        monkeypatch.setitem(sys.modules, name, tracker)
    EvaluationAnswers._log_table(
        [{"step": 1, "answer": "a"}, {"step": 1, "answer": "b"}], ["trackio", "tensorboard"]
    )
    (one,) = logged
    assert one["answers"]["answer"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ("--eval_strategy", "no", "--eval_generate", "2"),
            2,
            "eval_generate needs evaluation; set --eval_strategy",
        ),
        (("--eval_generate", "-1"), 2, "eval_generate must be 0 or more"),
        (("--eval_generate", "2", "--answer_pattern", "Z+"), 1, "target answers have no match"),
        (("--eval_generate", "2", "--answer_pattern", "("), 1, "is no regular expression"),
    ],
)
def test_what_cannot_be_done_is_refused(rows, tmp_path, capsys, words, code, message):
    assert train(rows, tmp_path / "out", *words) == code
    assert message in capsys.readouterr().err


def test_answers_are_scored_by_the_scores_named(rows, tmp_path, monkeypatch):
    """By a name of the table and a function of the user's own; the values are in the file and in the metrics, and a
    checkpoint can be chosen by them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def letters(prompt, answer, row): return len(answer)\n")
    words = (
        "--eval_generate",
        "3",
        "--eval_generate_max_new_tokens",
        "8",
        "--eval_score",
        "f1,mine.py:letters",
        "--metric_for_best_model",
        "eval_letters",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
    )
    assert train(rows, tmp_path / "out", *words) == 0
    found = [one for one in lines(tmp_path / "out" / "answers.jsonl") if one["step"] == 4]
    assert [one["scores"]["letters"] for one in found] == [len(one["answer"]) for one in found]
    (logged,) = [
        one for one in lines(tmp_path / "out" / "metrics.jsonl") if one["step"] == 4 and "eval_letters" in one
    ]
    assert logged["eval_letters"] == sum(len(one["answer"]) for one in found) / 3
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_metric"] >= logged["eval_letters"]
    assert 0 <= logged["eval_f1"] <= 1


def test_scores_see_the_columns_of_the_row(tmp_path, monkeypatch, capsys):
    """`references` take the place of the target, and a function finds `gold`; also with packed rows, of which one
    is dropped. A reference that cannot be scored is refused before the first step."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def gold(prompt, answer, row): return row['gold']\n")
    rows = [
        one.row | {"gold": n, "references": ["#", "###"]} for n, one in enumerate(problems("train", 80), 1)
    ]
    rows[0]["messages"][1]["content"] = ""

    def written():
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        return tmp_path / "rows.jsonl"

    words = (
        "--eval_generate",
        "3",
        "--eval_generate_max_new_tokens",
        "48",
        "--eval_score",
        "contains,mine.py:gold",
    )
    words += ("--packing", "true", "--max_length", "128", "--max_steps", "1", "--eval_steps", "1")
    assert train(written(), tmp_path / "out", *words, "--final_answers", "0") == 0
    found = lines(tmp_path / "out" / "answers.jsonl")
    assert len(found) == 3
    for one in found:
        assert one["scores"] == {"contains": float("#" in one["answer"]), "gold": one["file_row"]}
        assert "gold" not in one  # columns are not written
    assert any(one["scores"]["contains"] and one["target"] not in one["answer"] for one in found)
    capsys.readouterr()
    for one in rows:
        one["references"] = []
    assert train(written(), tmp_path / "refused", *words) == 1
    assert re.search(r"row \d+: the right answer is \[\]; give a text", capsys.readouterr().err)


@pytest.mark.parametrize("verb", ["train", "check"])
def test_the_values_of_a_function_are_known_before_the_first_step(rows, tmp_path, capsys, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def quality(prompt, answer, row): return {'overlap': 1.0 * (answer == row['target']), 'length': len(answer)}\n"
    )
    words = (
        "--eval_generate",
        "2",
        "--eval_score",
        "mine.py:quality",
        "--metric_for_best_model",
        "eval_quality",
    )
    assert train(rows, tmp_path / "out", *words, verb=verb) == 1
    said = capsys.readouterr()
    shown = " ".join((said.out + said.err).split())
    assert "did you mean eval_quality.overlap or eval_quality.length?" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--eval_score", "f1"], 2, "set --eval_generate too"),
        (["--eval_generate", "2", "--eval_score", "f2"], 2, "--eval_score f2: unknown"),
        (["--eval_generate", "2", "--eval_score", "none.py:f"], 1, "--eval_score none.py:f: "),
        (["--eval_generate", "2", "--eval_score", "judge"], 2, "would cost money at each evaluation"),
        (["--eval_generate", "2", "--eval_score", "final-answer"], 2, "is measured anyway"),
        (["--eval_generate", "2", "--eval_score", "json"], 1, "is no JSON"),
        (
            ["--eval_generate", "2", "--eval_score", "f1", "--metric_for_best_model", "eval_sql"],
            1,
            "There are eval_loss",
        ),
    ],
)
def test_scores_that_cannot_be_are_refused_before_the_first_step(rows, tmp_path, capsys, words, code, said):
    assert train(rows, tmp_path / "out", *words) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
