"""Which tasks are asked, and that local rows change nothing about them but where the rows come from."""

from types import SimpleNamespace

import pytest
from local_rows import arc, write, write_all

from ift.generation.errors import EvaluationError
from ift.lab.evaluation.paper import AVERAGED, AVERAGES, BENCHMARKS, COLUMNS
from ift.lab.evaluation.tasks import PAPER, benchmarks, load_task, local_rows, single_tasks, task_manager

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")


@pytest.fixture(scope="module")
def manager():
    return task_manager(PAPER)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("data"))


def test_the_papers_tasks_and_shots():
    """METHOD: ARC 25, MMLU 5, TruthfulQA 0, WinoGrande 5, GSM8K 5; ARC-Gen as ARC."""
    shots = {one.label: one.shots for one in benchmarks("paper")}
    assert shots == {"ARC": 25, "ARC-Gen": 25, "MMLU": 5, "TruthfulQA": 0, "WinoGrande": 5, "GSM8K": 5}
    assert tuple(shots) == COLUMNS


def test_names_in_any_form_each_once_in_their_order():
    assert [one.task for one in benchmarks("gsm8k, arc,gsm8k,hellaswag")] == [
        "gsm8k",
        "arc_challenge",
        "hellaswag",
    ]
    assert [one.shots for one in benchmarks("gsm8k,hellaswag")] == [5, None]
    assert [one.shots for one in benchmarks("gsm8k,hellaswag", shots=2)] == [2, 2]
    with pytest.raises(EvaluationError, match="give paper, or names"):
        benchmarks(" , ")


def test_the_papers_averages_are_those_of_its_columns():
    """To the rounding of the paper; SimPO's is 55.12 where the paper prints 55.15."""
    for method, values in BENCHMARKS.items():
        five = [values[COLUMNS.index(label)] for label in AVERAGED]
        assert sum(five) / 5 == pytest.approx(55.12 if method == "SimPO" else AVERAGES[method], abs=0.0101), (
            method
        )


def test_mmlu_is_its_57_subjects(manager):
    subjects = single_tasks(manager, "mmlu")
    assert len(subjects) == len(set(subjects)) == 57
    assert single_tasks(manager, "gsm8k") == ["gsm8k"]


def test_an_unknown_task_is_refused_with_the_nearest_name(manager):
    with pytest.raises(EvaluationError, match=r"unknown task 'gsm8kk'; did you mean gsm8k\?"):
        single_tasks(manager, "gsm8kk")


@pytest.mark.parametrize(
    "name", ["arc_challenge", "ift_arc_gen", "mmlu_anatomy", "truthfulqa_mc2", "winogrande", "gsm8k"]
)
def test_local_rows_change_where_rows_come_from_and_nothing_else(manager, data, name):
    """The configuration of the loaded task is lm-eval's own, but for the data set and splits without a file."""
    own = dict(manager.task_index[name].cfg)
    changed = local_rows(own, data)
    assert {"custom_dataset"} <= changed.keys() <= {"custom_dataset", "validation_split"}
    loaded = load_task(manager, name, data).config.to_dict()
    for key in (
        "output_type",
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "generation_kwargs",
        "metadata",
    ):
        if isinstance(own.get(key), str) and own[key].startswith("/"):  # a function, which lm-eval resolves
            continue
        kept = (
            {k: v for k, v in loaded[key].items() if k != "config_source"}
            if key == "metadata"
            else loaded.get(key)
        )
        assert kept == own.get(key), key
    assert [one["metric"] for one in loaded["metric_list"]] == [one["metric"] for one in own["metric_list"]]


def test_rows_are_found_by_repository_name_alone_and_absent_ones_are_said(manager, tmp_path):
    config = manager.task_index["arc_challenge"].cfg
    assert local_rows(config, tmp_path) is None
    folder = tmp_path / "ai2_arc" / "ARC-Challenge"
    write(folder, "train", [arc(1)])
    with pytest.raises(
        EvaluationError, match=r"no rows of the split 'test', which arc_challenge asks.*test\.jsonl"
    ):
        local_rows(config, tmp_path)
    write(folder, "test-00000-of-00001", [arc(2)])
    assert {*local_rows(config, tmp_path)["custom_dataset"]()} == {"train", "test"}
    (folder / "validation.csv").write_text("a,b\n")
    with pytest.raises(EvaluationError, match="several formats"):
        local_rows(config, tmp_path)


def test_a_text_that_looks_like_a_date_stays_a_text(manager, tmp_path):
    write(tmp_path / "ai2_arc" / "ARC-Challenge", "test", [arc(2) | {"id": "2024-10-05"}] * 2)
    assert [row["id"] for row in load_task(manager, "arc_challenge", tmp_path).test_docs()] == [
        "2024-10-05"
    ] * 2


def test_arc_gen_asks_with_letters_whatever_the_labels(manager, data):
    """Row 2 has the labels 1 to 4 and the answer 2, which is B."""
    task = load_task(manager, "ift_arc_gen", data)
    row = list(task.test_docs())[2]
    assert row["answerKey"] == "2"
    assert task.doc_to_text(row) == (
        "Question: 2 + 1 is?\nA. 2\nB. 3\nC. 4\nD. 5\nAnswer with the letter of the right choice.\nAnswer:"
    )
    assert task.doc_to_target(row) == "B"


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        (" B", "B"),
        ("B. 3", "B"),
        (" (C) 4", "C"),
        ("**D**", "D"),
        ("B because 2 + 1 = 3", "[invalid]"),  # as "A dog ..." would be: a word follows
        ("A dog is an animal. The answer is C.", "C"),
        ("The correct answer is: (D) 5", "D"),
        ("The Answer is B", "B"),
        ("Because it is so.", "[invalid]"),
        ("answer Be", "[invalid]"),
        ("", "[invalid]"),
    ],
)
def test_the_letter_a_reply_settles_on(manager, data, reply, letter):
    from lm_eval.api.instance import Instance

    task = load_task(manager, "ift_arc_gen", data)
    asked = Instance("generate_until", {}, ("", {}), 0)
    asked.resps = [reply]
    task._filters[0].apply([asked])
    assert asked.filtered_resps["letter"] == letter


def test_rows_that_the_hub_does_not_give_are_named_with_the_way_without_a_network(monkeypatch):
    def unreachable(tasks):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    index = {"gsm8k": SimpleNamespace(cfg={"dataset_path": "openai/gsm8k"})}
    monkeypatch.setattr("ift.lab.evaluation.tasks.go_offline_if_unreachable", lambda: None)
    with pytest.raises(
        EvaluationError, match=r"gsm8k: its rows \(openai/gsm8k\) cannot be.*with --data \(docs"
    ):
        load_task(SimpleNamespace(task_index=index, load=unreachable), "gsm8k", None)
