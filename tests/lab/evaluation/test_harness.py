"""The six benchmarks asked of a model, and what is kept, resumed, refused and shown."""

import json
import re

import pytest
from local_rows import arc, gsm8k, write, write_all
from typer.testing import CliRunner

from ift.cli.main import app
from ift.generation.errors import EvaluationError
from ift.lab.evaluation import harness
from ift.lab.evaluation.harness import Harness, Setting, ask, is_asked
from ift.lab.evaluation.tasks import PAPER, Benchmark, load_task, task_manager
from ift.lab.report import load

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def manager():
    return task_manager(PAPER)


def scripted(answer):
    """A harness whose model writes `answer(prompt)`, and finds the shortest continuation the likeliest."""
    from lm_eval.api.model import TemplateLM

    class Scripted(TemplateLM):
        max_length, max_gen_toks, eot_token_id, tokenizer_name, asked = 10_000, 256, 0, "none", 0

        def generate_until(self, requests, disable_tqdm=False):
            self.asked += len(requests)
            return [answer(one.args[0]) for one in requests]

        def loglikelihood(self, requests, disable_tqdm=False):
            self.asked += len(requests)
            return [(-float(len(one.args[1])), False) for one in requests]

        def apply_chat_template(self, history, add_generation_prompt=True):
            return "".join(f"<{turn['role']}>{turn['content']}" for turn in history)

        def tok_encode(self, text, **options):
            return list(text.encode())

        loglikelihood_rolling = _loglikelihood_tokens = None

    Scripted.__abstractmethods__ = frozenset()
    harness = Harness(lambda: pytest.fail("a model was loaded"), "1")
    harness.model = Scripted()
    return harness


FILTERS = 2  # gsm8k reads each answer in two ways: a line of samples for each


def last_number(prompt):
    return int(re.findall(r"Tom has (\d+) and", prompt)[-1])


def asked(harness, manager, task, data, folder, said=None, shots=2, **setting):
    say = [].append if said is None else said.append
    return ask(
        harness, manager, Benchmark(task, task, shots), Setting(data=data, **setting), "m", folder, say
    )


def test_scores_of_a_model_whose_answers_are_known(manager, tmp_path):
    """GSM8K 0 to 3: right with a comma and a full stop, wrong, no #### (only the flexible filter sees it), right."""
    answers = {0: "#### 2.", 1: "1+2=4\n#### 4", 2: "It is 4", 3: "#### 5\n\nUser: more #### 7"}
    write(tmp_path / "openai/gsm8k/main", "train", map(gsm8k, range(20, 30)))
    write(tmp_path / "openai/gsm8k/main", "test", map(gsm8k, range(4)))
    (found,) = asked(
        scripted(lambda prompt: answers[last_number(prompt)]), manager, "gsm8k", tmp_path, tmp_path / "out"
    )
    assert found.items["exact_match,strict-match"] == [1, 0, 0, 1]
    assert found.items["exact_match,flexible-extract"] == [1, 0, 1, 0]
    assert found.metrics["exact_match,strict-match"] == 0.5
    assert found.shots == 2
    lines = [json.loads(line) for line in (tmp_path / "out/samples/gsm8k.jsonl").read_text().splitlines()]
    prompt = lines[0]["arguments"][0][0]
    assert (
        prompt.count("<user>Question: Tom has") == 3
    )  # two examples and the question, each a turn of its own
    assert prompt.count("<assistant>") == 2


def test_multiple_choice_takes_the_likeliest(manager, tmp_path, data):
    """The shortest choice is the likeliest here: of 8, 9, 10, 11 the first, and the right one is the second."""
    write(tmp_path / "ai2_arc/ARC-Challenge", "train", map(arc, range(100, 110)))
    write(tmp_path / "ai2_arc/ARC-Challenge", "test", [arc(8), {**arc(8), "answerKey": "1"}])
    (found,) = asked(scripted(str), manager, "arc_challenge", tmp_path, tmp_path / "out")
    assert found.items["acc,none"] == [0, 1]


def test_a_second_run_asks_what_has_changed_and_nothing_else(manager, tmp_path):
    rows = tmp_path / "openai/gsm8k/main"
    write(rows, "train", map(gsm8k, range(20, 30)))
    write(rows, "test", map(gsm8k, range(4)))
    harness = scripted(lambda prompt: f"#### {last_number(prompt) + 2}")

    def run(**setting):
        said, before = [], harness.model.asked
        (found,) = asked(harness, manager, "gsm8k", tmp_path, tmp_path / "out", said, **setting)
        return (
            found.metrics["exact_match,strict-match"],
            len(found.questions),
            harness.model.asked - before,
            said,
        )

    assert run() == (1.0, 4, 4, ["gsm8k: asking"])
    assert run() == (1.0, 4, 0, ["gsm8k: done before"])
    assert run(limit=2) == (1.0, 2, 2, ["gsm8k: asking"])
    samples = tmp_path / "out/samples/gsm8k.jsonl"
    assert len(samples.read_text().splitlines()) == 2 * FILTERS
    for setting in (Setting(data=tmp_path), Setting(data=tmp_path, limit=2)):  # in place, or aside
        assert is_asked(manager, Benchmark("gsm8k", "gsm8k", 2), setting, "m", tmp_path / "out")
    assert not is_asked(
        manager, Benchmark("gsm8k", "gsm8k", 2), Setting(tmp_path, limit=3), "m", tmp_path / "out"
    )
    assert run() == (1.0, 4, 0, ["gsm8k: done before"])  # a trial with a limit has replaced nothing
    assert len(samples.read_text().splitlines()) == 4 * FILTERS
    assert run(limit=2) == (1.0, 2, 0, ["gsm8k: done before"])
    write(rows, "test", map(gsm8k, range(5)))
    assert run(limit=2)[2:] == (2, ["gsm8k: asking"])
    (tmp_path / "out/tasks/gsm8k.json").write_text("{")  # half a file
    assert run(limit=2)[2] == 2


def test_of_a_group_the_tasks_that_have_rows_are_asked(manager, data, tmp_path):
    said = []
    found = asked(scripted(str), manager, "mmlu", data, tmp_path, said, shots=5)
    assert [(one.task, len(one.questions)) for one in found] == [("mmlu_anatomy", 3), ("mmlu_virology", 4)]
    assert said[-1] == "mmlu: no rows for 55 of its 57 tasks, which are left out"


def test_missing_rows_and_examples_are_refused(manager, data, tmp_path):
    with pytest.raises(
        EvaluationError, match=r"no rows for gsm8k\. Fix: put its splits into .*openai/gsm8k/main or"
    ):
        asked(scripted(str), manager, "gsm8k", tmp_path / "empty", tmp_path)
    with pytest.raises(
        EvaluationError,
        match=r"gsm8k: its prompts need 11 examples, and outside of the split .* there are 10\.",
    ):
        asked(scripted(str), manager, "gsm8k", data, tmp_path, shots=11)
    write(tmp_path / "gsm8k/main", "test", map(gsm8k, range(4)))
    with pytest.raises(EvaluationError, match=r"need 1 example, and outside of the split 'test' there are 0"):
        asked(scripted(str), manager, "gsm8k", tmp_path, tmp_path, shots=1)


def test_a_task_that_shows_no_examples_keeps_to_it(manager, data, tmp_path):
    (found,) = asked(scripted(str), manager, "truthfulqa_mc2", data, tmp_path, shots=7)
    assert found.shots == 0


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    """Of 4 questions the lines after the first three, and no bar; at the usual 30 seconds none of a short loop."""
    assert [*harness.LogLines(range(4), desc="asking")] == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(harness, "LOG_SECONDS", 0)
    list(harness.LogLines(range(4), desc="asking"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" in ")[0] for line in lines] == [f"asking: {n} of 4" for n in (1, 2, 3)]


def run(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.fixture(scope="module")
def evaluated(data, tmp_path_factory):
    """All six on the shipped model, through the command."""
    from ift.lab.testbed import tiny_base_path

    out = tmp_path_factory.mktemp("out")
    done = run(tiny_base_path(), "--data", data, "--output_dir", out, "--limit", 2)
    assert done.exit_code == 0, done.output
    return done.output, out


def test_the_paper_preset_runs_from_end_to_end(evaluated):
    output, out = evaluated
    record = load(out / "tiny_base" / "record.json")
    assert {name: scores["n"] for name, scores in record.scores.items()} == {
        "ARC": 2, "ARC-Gen": 2, "MMLU": 4, "TruthfulQA": 2, "WinoGrande": 2, "GSM8K": 2,
    }  # fmt: skip
    assert record.config["shots ARC"] == 25
    assert record.experiment == "evaluate"
    assert record.method == "tiny_base"
    assert re.search(r"ARC-Gen +│ 25 +│ 2", output)
    assert "IFT noisy" in output  # the paper's table beside it
    assert "GSM8K: 2 of 2 prompts did not fit the context" in output  # 256 tokens, where 5 examples take more
    assert "--limit 2: not the benchmarks' scores" in output
    five = [record.scores[label]["score"] for label in ("ARC", "MMLU", "TruthfulQA", "WinoGrande", "GSM8K")]
    assert f"{sum(five) / 5:.2%}" in output


def test_its_numbers_are_those_of_lm_evals_own_function(evaluated, data, manager, monkeypatch):
    """`simple_evaluate`, which lm-eval's command calls, on MMLU's two subjects and GSM8K: scores, errors, answers."""
    from lm_eval.evaluator import simple_evaluate

    from ift.lab.testbed import tiny_base_path

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # `pip list`, many seconds
    names = ("mmlu_anatomy", "mmlu_virology", "gsm8k")
    tasks = [load_task(manager, name, data) for name in names]
    theirs = simple_evaluate(
        "hf", {"pretrained": str(tiny_base_path()), "device": "cpu"}, tasks,
        num_fewshot=5, batch_size=8, limit=2, apply_chat_template=True, fewshot_as_multiturn=True,
        task_manager=manager,
    )  # fmt: skip
    ours = load(evaluated[1] / "tiny_base" / "record.json").scores
    accuracies = [theirs["results"][name]["acc,none"] for name in names[:2]]
    assert ours["MMLU"]["score"] == pytest.approx(sum(accuracies) / 2)
    for number in ("exact_match", "exact_match_stderr"):
        assert ours["GSM8K"][f"{number} strict-match"] == theirs["results"]["gsm8k"][f"{number},strict-match"]
    for name in names:
        logged = (evaluated[1] / "tiny_base" / "samples" / f"{name}.jsonl").read_text().splitlines()
        answers = [json.loads(line)["resps"] for line in logged]
        assert json.loads(json.dumps(answers)) == json.loads(
            json.dumps([s["resps"] for s in theirs["samples"][name]])
        )


def test_several_models_are_compared_and_answers_kept_are_not_asked_again(evaluated, data, tmp_path):
    """The same model under another name: no difference. The tasks of the first are read, so no model is loaded."""
    import shutil

    from ift.lab.testbed import tiny_base_path

    shutil.copytree(tiny_base_path(), tmp_path / "again")
    words = ("--data", data, "--output_dir", evaluated[1], "--limit", 2, "--tasks", "winogrande")
    done = run(tiny_base_path(), tmp_path / "again", *words)
    assert done.exit_code == 0, done.output
    assert "tiny_base: winogrande: done before" in done.output
    assert "again: winogrande: asking" in done.output
    assert "Points ahead of tiny_base" in done.output
    assert "+0.00 [+0.00, +0.00]" in done.output
    saved = json.loads((evaluated[1] / "comparison.json").read_text())
    assert saved == {
        "ahead_of": "tiny_base",
        "differences": {"again": {"WinoGrande": {"value": 0, "low": 0, "high": 0}}},
    }


class Inline:
    """An executor that asks the benchmark of every job here, and keeps their titles; see `ift.lab.processes`."""

    def __init__(self):
        self.asked = []

    def run(self, work, jobs, started=None):
        from ift.lab.evaluation.run import main

        for place, job in enumerate(work):
            assert all(one.exists() for one in job.reads)
            part = json.loads(job.reads[0].read_text())
            self.asked.append((part["names"], [one["task"] for one in part["benchmarks"]]))
            yield place, main(job.words[1])


def test_with_an_executor_each_benchmark_of_each_model_is_a_job(data, tmp_path):
    """The record is that of one process. Red when: a result that is there is asked again, or a record is of a part."""
    from ift.lab.evaluation.run import evaluate, plan_evaluation
    from ift.lab.testbed import tiny_base_path
    from ift.models.loading import LoadOptions

    def record_of(folder):
        found = json.loads((folder / "tiny_base" / "record.json").read_text())
        return {name: found[name] for name in ("scores", "row_scores", "config", "samples")}

    out, plain = tmp_path / "out", tmp_path / "plain"
    given = (str(tiny_base_path()),), "winogrande,arc_challenge", None, Setting(data=data, limit=1)
    evaluate(plan_evaluation(*given, plain, LoadOptions()), [].append)
    executor, evaluation = Inline(), plan_evaluation(*given, out, LoadOptions())
    evaluate(evaluation, (said := []).append, executor)
    ended = [f"tiny_base: {name}: finished in a task of its own" for name in ("WinoGrande", "ARC")]
    assert [line for line in said if "task of its own" in line] == [
        f"{ended[0]} (1 of 2)",
        f"{ended[1]} (2 of 2)",
    ]
    assert executor.asked == [(["tiny_base"], ["winogrande"]), (["tiny_base"], ["arc_challenge"])]
    assert record_of(out) == record_of(plain)
    (out / "tiny_base" / "tasks" / "winogrande.json").unlink()
    evaluate(evaluation, [].append, executor)
    assert executor.asked[2:] == [(["tiny_base"], ["winogrande"])]


def test_a_job_that_fails_is_named_with_its_log(data, tmp_path):
    from types import SimpleNamespace

    from ift.lab.evaluation.run import evaluate, plan_evaluation
    from ift.lab.testbed import tiny_base_path
    from ift.models.loading import LoadOptions

    def run(work, jobs):
        yield 0, "failed with exit code 1: no memory"

    given = (str(tiny_base_path()),), "winogrande", None, Setting(data=data, limit=2), tmp_path, LoadOptions()
    said = (
        r"tiny_base: WinoGrande failed with exit code 1: no memory\n.*tiny_base/logs/winogrande.log; repeat"
    )
    with pytest.raises(EvaluationError, match=said):
        evaluate(plan_evaluation(*given), [].append, SimpleNamespace(run=run))


def test_mistakes_are_refused_before_anything_is_loaded(tmp_path):
    for words, message in {
        ("a/tiny", "b/tiny"): "a/tiny, b/tiny: two models of one name",
        ("owner/model", "--limit", "0"): "--limit: found 0",
        ("owner/model", "--batch_size", "many"): "--batch_size: found 'many'",
        ("owner/model", "--data", str(tmp_path / "none")): "no such folder",
        (str(tmp_path),): "no config.json in this folder",
    }.items():
        done = run(*words)
        assert done.exit_code == 1
        assert message in done.output, done.output
