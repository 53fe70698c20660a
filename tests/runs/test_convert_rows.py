"""What convert-config says of evaluation rows, switches, the rows of LLaMA-Factory, and long values."""

import json

import pytest
import yaml

from ift.runs.arguments import parse
from ift.runs.convert_config import convert_file

QUIET = "base_model: m\nmicro_batch_size: 4\n"
FACTORY = "model_name_or_path: m\nstage: sft\nfinetuning_type: full\ncutoff_len: 64\n"
CHANGING, SAME = 0, 1


@pytest.fixture
def converted(tmp_path, monkeypatch):
    def convert(text):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "theirs.yml").write_text(text)
        found = convert_file(tmp_path / "theirs.yml")
        (tmp_path / "ours.yml").write_text(yaml.safe_dump(found.settings))
        return found, parse(["--config", str(tmp_path / "ours.yml")])

    return convert


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rows").mkdir()
    for name in ("train", "test"):
        (tmp_path / "rows" / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 2)
    return tmp_path / "rows"


@pytest.mark.parametrize(
    ("data", "asked", "wanted"),
    [
        ("datasets: [{path: hub/set, name: en, split: train, field_messages: talk}]\n"
         "test_datasets: [{path: hub/set, name: en, field_messages: talk}]\n", "evals_per_epoch: 1\n",
         {"dataset_name": "hub/set", "dataset_config": "en", "dataset_train_split": "train",
          "dataset_test_split": "test", "dataset_columns": {"talk": "messages"}, "eval_strategy": "epoch"}),
        ("datasets: [{path: rows/train.jsonl, split: 'train[:1]'}]\ntest_datasets: [{path: rows/test.jsonl}]\n",
         "eval_steps: 5\n", {"dataset_name": "rows", "dataset_train_split": "train[:1]", "dataset_test_split": "test",
                             "eval_strategy": "steps", "eval_steps": 5}),
        ("datasets: [{path: a, split: train}]\ntest_datasets: [{path: a, split: dev}]\n", "",
         {"dataset_name": "a", "dataset_test_split": "dev", "eval_strategy": "epoch"}),
    ],
)  # fmt: skip
def test_test_datasets_of_axolotl_that_are_a_split_are_evaluated(converted, folder, data, asked, wanted):
    """Red when: the report says that the file asks for no evaluation, and eval_strategy is no."""
    found, args = converted(f"{QUIET}{data}val_set_size: 0\n{asked}")
    assert {name: found.settings.get(name) for name in wanted} == wanted
    assert "datasets" not in found.settings
    assert str(args.config.eval_strategy.value) == wanted["eval_strategy"]
    assert found.lost["val_set_size"] == "ift also holds out nothing"
    assert "test_datasets" not in found.lost


def test_splits_of_a_folder_are_loaded_as_they_are_written(converted, folder):
    from ift.data.training_sets import load_train_and_eval

    data = "datasets: [{path: rows/train.jsonl}]\ntest_datasets: [{path: rows/test.jsonl}]\n"
    _, args = converted(f"{QUIET}{data}val_set_size: 0\n")
    loaded = load_train_and_eval(args.script, args.mixture, args.config)
    assert [len(part.rows) for part in (*loaded.train, *loaded.evaluation)] == [2, 2]


@pytest.mark.parametrize(
    "more", ["val_set_size: 0\nevals_per_epoch: 2\n", "eval_steps: 7\n", "eval_strategy: epoch\n"]
)
def test_test_datasets_that_are_no_split_are_said_to_be_left_out(converted, more):
    """Training rows would be held out for an evaluation that the file wants on other rows."""
    found, _ = converted(f"{QUIET}datasets: [{{path: a}}, {{path: b}}]\ntest_datasets: [{{path: c}}]\n{more}")
    same = found.groups[list(found.groups)[SAME]]
    assert "its rows are not evaluated" in same["test_datasets"]
    assert "dataset_test_split: test" in same["test_datasets"]
    assert found.settings["eval_strategy"] == "no"
    assert "eval_steps" not in found.settings
    asked = more.splitlines()[-1].partition(":")[0]
    assert found.lost[asked] == "there are no evaluation rows: see test_datasets"
    assert asked not in found.translated
    assert not any("asks for no evaluation" in line for line in found.report())


@pytest.mark.parametrize(
    ("text", "key", "group", "said"),
    [
        ("mask_history: false", "mask_history", SAME, "ift also trains every assistant turn"),
        ("mask_history: true", "mask_history", CHANGING, "has no counterpart"),
        (
            "packing: true\nneat_packing: true",
            "neat_packing",
            SAME,
            "always keeps the rows of a sequence apart",
        ),
        ("packing: true\nneat_packing: false", "neat_packing", CHANGING, "they attend to earlier ones"),
        ("use_galore: false", "use_galore", SAME, "it is off"),
        ("pissa_init: false", "pissa_init", SAME, "it is off"),
        ("efficient_eos: false", "efficient_eos", SAME, "it is off"),
        ("use_llama_pro: true", "use_llama_pro", CHANGING, "has no counterpart"),
        ("enable_thinking: false", "enable_thinking", CHANGING, "chat_template_kwargs"),
        ("mix_strategy: concat", "mix_strategy", SAME, "all rows of all data sets"),
        ("mix_strategy: interleave_under", "mix_strategy", CHANGING, "fraction"),
        ("bias: none", "bias", SAME, "trains no bias here either"),
        ("bias: lora_only", "bias", CHANGING, "no bias beside"),
        ("train_on_eos: turn", "train_on_eos", SAME, "also trains the token"),
        ("train_on_eos: none", "train_on_eos", CHANGING, "the token that ends each trained turn"),
        ("dataset_exact_deduplication: true", "dataset_exact_deduplication", CHANGING, "remove the copies"),
        ("dataset_exact_deduplication: false", "dataset_exact_deduplication", SAME, "it is off"),
        ("max_length: 64", "cutoff_len", SAME, "max_length: 64 says the same"),
        ("max_length: 32", "cutoff_len", CHANGING, "max_length: 32 is set too, and is used"),
    ],
)
def test_a_value_that_asks_for_what_ift_does_is_no_loss(converted, text, key, group, said):
    found, _ = converted(f"{FACTORY}dataset: rows\n{text}\n")
    assert said in found.groups[list(found.groups)[group]][key]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("disable_shuffling: true", {"train_sampling_strategy": "sequential"}),
        ("neat_packing: true", {"packing": True}),
        ("train_on_responses_only: false", {"completion_only_loss": False}),
    ],
)
def test_switches_with_a_setting_are_translated(converted, text, wanted):
    found, _ = converted(f"{FACTORY}dataset: rows\n{text}\n")
    assert {name: found.settings.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(("neat", "said"), [("", True), ("neat_packing: true\n", False)])
def test_packing_without_neat_packing_is_a_difference(converted, neat, said):
    found, _ = converted(f"{FACTORY}dataset: rows\npacking: true\n{neat}")
    assert any("lets a row attend to the earlier rows" in one for one in found.differences) is said


@pytest.mark.parametrize(
    ("names", "alpaca", "sharegpt"),
    [
        ("plain", "(plain)", None), ("described", "(described)", None), ("bare", None, None),
        ("chats", None, "(chats)"),
        ("plain,chats", "(plain)", "(chats)"),
        ("other", "(other, whose format is not known)", "(other, whose format is not known)"),
    ],
)  # fmt: skip
def test_what_llama_factory_does_otherwise_with_its_formats_is_named(
    converted, tmp_path, names, alpaca, sharegpt
):
    info = {
        "plain": {"file_name": "plain.jsonl"},
        "described": {"file_name": "x.jsonl", "columns": {"prompt": "q", "query": "more", "response": "a"}},
        "bare": {"file_name": "x.jsonl", "columns": {"prompt": "q", "response": "a"}},
        "chats": {"file_name": "chats.jsonl", "formatting": "sharegpt"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    lines = converted(f"{FACTORY}dataset: {names}\n")[0].report()
    for words, wanted in (
        ("joins instruction and input with one newline", alpaca),
        ("do not alternate", sharegpt),
    ):
        said = [line for line in lines if words in line]
        assert [wanted in line for line in said] == ([True] if wanted else [])


def test_a_value_is_shown_whole_and_once(converted):
    """Red when: a value is cut, or stands there for each key that it is made from."""
    text = f"{FACTORY}dataset: a_rather_long_name_of_rows,b\nmax_samples: 5\ndataset_dir: ONLINE\n"
    found, _ = converted(text)
    (line,) = [one for one in found.report() if "a_rather_long_name_of_rows', " in one]
    assert line.startswith("translated: dataset, max_samples, dataset_dir -> datasets: [{")
    assert line.endswith("'split': 'train[:5]'}]")
    found, _ = converted(text.replace(",b", "".join(f",set_{number}" for number in range(20))))
    assert (
        "translated: dataset, max_samples, dataset_dir -> datasets (long: see the new YAML)" in found.report()
    )
