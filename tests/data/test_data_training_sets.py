"""What is trained and evaluated on: splits found by themselves, cuts, mixtures."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from small_files import arguments, numbered, texts, write
from small_templates import CHATML
from small_tokenizers import small_tokenizer

from ift.data import DataError, detect_format, load_train_and_eval, prepare_mixture
from ift.data.pairs import prepare_pairs
from ift.runs.mixture import DatasetEntry

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "one"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_ultrachat_and_ultrafeedback_schemas(tmp_path):
    """Their split names and columns, on small files."""
    chat = {"prompt": "Hi", "prompt_id": "x", "messages": [USER, ANSWER]}
    pair = {
        **chat,
        "chosen": [USER, ANSWER],
        "rejected": [USER, {**ANSWER, "content": "bad"}],
        "score_chosen": 8.0,
    }
    for split in ("train_sft", "test_sft", "train_gen"):
        write(tmp_path / "chat" / "data" / f"{split}-00000-of-00001.jsonl", [chat] * 2)
    for split in ("train_prefs", "test_prefs"):
        write(tmp_path / "pairs" / "data" / f"{split}-00000-of-00001.jsonl", [pair] * 2)
    tokenizer = small_tokenizer(CHATML)
    done = {}
    for name, split, form in (
        ("chat", "train_sft", "chat messages"),
        ("pairs", "train_prefs", "preference, conversational"),
    ):
        data = load_train_and_eval(*arguments(str(tmp_path / name), strategy="steps"))
        assert data.train[0].name == split
        assert data.evaluation[0].name == split.replace("train", "test")
        assert any(f'using "{split}"' in note for note in data.notes)
        done[name] = prepare_mixture(data.train, tokenizer)
        assert done[name].report.format == form
    assert done["chat"].dataset.to_list() == done["pairs"].dataset.to_list()


def test_rows_keep_their_numbers_where_others_are_held_out(tmp_path):
    """Of 60 rows three are held out, so that those behind them are at other places."""
    tokenizer = small_tokenizer(CHATML)
    rows = [{"prompt": f"q {n}", "completion": f" a {n}"} for n in range(1, 61)]
    rows[57]["completion"] = ""
    path = write(tmp_path / "rows.jsonl", rows)
    data = load_train_and_eval(*arguments(path, strategy="epoch"))
    (train,), (evaluation,) = data.train, data.evaluation
    assert max(evaluation.numbers) < 58  # else nothing would be shown
    for part in (train, evaluation):
        assert [row["prompt"] for row in part.rows] == [f"q {n}" for n in part.numbers]
    assert prepare_mixture(data.train, tokenizer).report.dropped == {"the answer is empty": (58,)}
    rows[57]["completion"] = None
    data = load_train_and_eval(*arguments(write(tmp_path / "rows.jsonl", rows), strategy="epoch"))
    with pytest.raises(DataError, match=r'row 58, column "completion": found null'):
        prepare_mixture(data.train, tokenizer)


def test_pairs_keep_their_numbers_where_others_are_held_out(tmp_path):
    rows = [{"prompt": f"q {n}", "chosen": f" a {n}", "rejected": " no"} for n in range(1, 61)]
    rows[57]["rejected"] = None
    data = load_train_and_eval(*arguments(write(tmp_path / "rows.jsonl", rows), strategy="epoch"))
    with pytest.raises(DataError, match=r'row 58, column "rejected"'):
        prepare_pairs(data.train, small_tokenizer(CHATML), name="train")


def test_an_evaluation_split_that_is_not_used_is_named(tmp_path):
    write(tmp_path / "rows" / "train.jsonl", numbered(4))
    write(tmp_path / "rows" / "held.jsonl", numbered(2))
    script, mixture, training = arguments(str(tmp_path / "rows"))
    script.dataset_test_split = "held"
    said = load_train_and_eval(script, mixture, training).notes
    assert any(
        note.startswith("dataset_test_split held: not used, because eval_strategy is no") for note in said
    )
    script, mixture, training = arguments(str(tmp_path / "rows"))
    assert not any(
        "dataset_test_split" in note for note in load_train_and_eval(script, mixture, training).notes
    )


def test_evaluation_rows_are_cut_only_when_asked_for(tmp_path):
    path = write(tmp_path / "rows.jsonl", numbered(100))
    data = load_train_and_eval(*arguments(path))
    assert data.evaluation is None
    assert len(texts(data.train)) == 100
    cut = load_train_and_eval(*arguments(path, strategy="epoch"))
    assert len(texts(cut.evaluation)) == 5
    assert sorted(texts(cut.train) + texts(cut.evaluation)) == sorted(texts(data.train))
    assert any("5 of 100 rows held out" in note for note in cut.notes)
    assert texts(load_train_and_eval(*arguments(path, strategy="epoch")).evaluation) == texts(cut.evaluation)
    assert texts(load_train_and_eval(*arguments(path, strategy="epoch", seed=8)).evaluation) != texts(
        cut.evaluation
    )


@pytest.mark.parametrize(("size", "rows"), [(0.25, 10), (7, 7)])
def test_rows_are_held_out_of_one_plain_file(tmp_path, size, rows):
    """Each row is on one side, the same ones for the same seed, and both sides keep the numbers in the file."""
    path = write(tmp_path / "rows.jsonl", numbered(40))
    script, _, training = arguments(path, strategy="epoch")
    data = load_train_and_eval(script, mixture([], test_split_size=size), training)
    assert len(texts(data.evaluation)) == rows
    assert sorted(texts(data.train) + texts(data.evaluation)) == sorted(one["text"] for one in numbered(40))
    for part in (*data.train, *data.evaluation):
        assert texts([part]) == [numbered(40)[number - 1]["text"] for number in part.numbers]
    assert data.notes == [
        f"test_split_size {size:g}: {rows} of 40 rows held out from the training data, not trained (seed 7)"
    ]
    again = load_train_and_eval(script, mixture([], test_split_size=size), training)
    assert texts(again.evaluation) == texts(data.evaluation)
    script, _, training = arguments(path)
    unused = load_train_and_eval(script, mixture([], test_split_size=size), training)
    assert unused.evaluation is None
    assert texts(unused.train) == texts(data.train)
    assert "not evaluated, because eval_strategy is no" in unused.notes[-1]


def test_rows_are_held_out_beside_an_evaluation_split_only_if_none_is_named(tmp_path):
    for name, count in (("train", 20), ("test", 4), ("held", 4)):
        write(tmp_path / "rows" / f"{name}.jsonl", numbered(count))
    script, _, training = arguments(str(tmp_path / "rows"), strategy="epoch")
    data = load_train_and_eval(script, mixture([], test_split_size=0.5), training)
    assert len(texts(data.evaluation)) == 10
    assert 'split "test": not used, because test_split_size holds out training rows' in data.notes
    script.dataset_test_split = "held"
    with pytest.raises(DataError, match=r"dataset_test_split held and test_split_size both name"):
        load_train_and_eval(script, mixture([], test_split_size=0.5), training)


def test_rows_that_are_left_are_found_again_in_their_files(tmp_path):
    """Of a mixture whose second file has an empty row (2) and loses the rows that are held out."""
    one = write(tmp_path / "one.jsonl", [{"prompt": "a", "completion": f" {n}"} for n in range(3)])
    two = [{"text": "" if n == 1 else f"two {n}"} for n in range(8)]
    entries = [{"path": one}, {"path": write(tmp_path / "two.jsonl", two)}]
    script, _, training = arguments(strategy="epoch")
    data = load_train_and_eval(script, mixture(entries, test_split_size=4), training)
    found = 0
    for parts in (data.train, data.evaluation):
        tokenizer = small_tokenizer()
        done = prepare_mixture(parts, tokenizer)
        places = done.places(range(1, len(done.dataset) + 1))
        for place, row in zip(places, done.dataset, strict=True):
            text = (f" {place['file_row'] - 1}", two[place["file_row"] - 1]["text"])[
                place["file"] == "two.jsonl"
            ]
            assert text.strip() in tokenizer.decode(row["input_ids"])
            found += 1
    assert found == 10


SAME = {
    "prompt-completion": lambda n: {"prompt": f"Q {n // 2}", "completion": f"{n}"},
    "Alpaca": lambda n: {"instruction": f"Q {n // 2}" + " " * (n % 2), "output": f"{n}"},
    "messages": lambda n: {
        "messages": [
            {"role": "user", "content": f"{'qQ'[n % 2]} {n // 2}"},
            {"role": "assistant", "content": f"{n}"},
        ]
    },
    "tokenised": lambda n: {"input_ids": [n // 2, 9, n], "labels": [-100, -100, n]},
}


@pytest.mark.parametrize("form", SAME)
def test_rows_with_one_prompt_are_on_one_side(tmp_path, form):
    """Rows 2n and 2n + 1 have one prompt. Red when: a row is held out and its prompt is trained."""
    path = write(tmp_path / "rows.jsonl", [SAME[form](number) for number in range(40)])
    script, _, training = arguments(path, strategy="epoch")
    data = load_train_and_eval(script, mixture([], test_split_size=9), training)
    (train,), (held,) = data.train, data.evaluation
    assert len(held.numbers) == 8  # the ninth would be half a pair
    assert sorted((*train.numbers, *held.numbers)) == [*range(1, 41)]
    assert not {(number + 1) // 2 for number in train.numbers} & {
        (number + 1) // 2 for number in held.numbers
    }
    assert data.notes[-1].startswith("test_split_size 9: 8 of 40 rows held out")
    assert data.notes[-1].endswith("; rows with the same prompt stay together")


@pytest.mark.parametrize("seed", [42, 1, 2])
def test_rows_are_held_out_from_all_data_sets_in_proportion(tmp_path, seed):
    """27 of 86, 104 and 83 rows; copies of a prompt in two data sets stay on one side."""
    sizes = {"a": 86, "b": 104, "c": 83}
    paths = [
        write(
            tmp_path / f"{name}.jsonl", [{"prompt": f"{name} {n}", "completion": " 1"} for n in range(size)]
        )
        for name, size in sizes.items()
    ]
    script, _, training = arguments(strategy="epoch", seed=seed)
    entries = [{"path": path} for path in paths]
    data = load_train_and_eval(script, mixture(entries, test_split_size=27), training)
    assert [len(part.rows) for part in data.evaluation] == [9, 10, 8]
    copies = [{"prompt": f"{'ab'[n % 2]} {n // 2}", "completion": " 2"} for n in range(100)]
    write(tmp_path / "c.jsonl", copies)
    data = load_train_and_eval(script, mixture(entries, test_split_size=27), training)
    held, trained = (
        {row["prompt"] for part in side for row in part.rows} for side in (data.evaluation, data.train)
    )
    assert not held & trained
    assert all(6 <= len(part.rows) <= 10 for part in data.evaluation)


def test_rows_that_all_have_one_prompt_are_held_out_all_the_same(tmp_path):
    path = write(
        tmp_path / "rows.jsonl", [{"prompt": "Tell a story.", "completion": f"{n}"} for n in range(40)]
    )
    data = load_train_and_eval(*arguments(path, strategy="epoch"))
    assert [len(data.train[0].rows), len(data.evaluation[0].rows)] == [38, 2]
    assert data.notes[-1].endswith(
        "; training rows have the same prompts, because each prompt has more rows than are held out"
    )


def test_more_rows_than_there_are_cannot_be_held_out(tmp_path):
    path = write(tmp_path / "rows.jsonl", numbered(4))
    script, _, training = arguments(path, strategy="epoch")
    with pytest.raises(DataError, match=r"cannot hold out 4 of 4 rows.*a smaller test_split_size"):
        load_train_and_eval(script, mixture([], test_split_size=4), training)
    script, _, training = arguments(path, strategy="epoch", streaming=True)
    with pytest.raises(DataError, match=r"rows of a stream cannot be held out.*leave test_split_size out"):
        load_train_and_eval(script, mixture([], test_split_size=2), training)


def test_the_cut_is_at_most_a_thousand_rows(tmp_path):
    path = write(tmp_path / "rows.jsonl", numbered(20_100))
    assert len(texts(load_train_and_eval(*arguments(path, strategy="steps")).evaluation)) == 1000


def test_a_named_evaluation_split_must_exist(tmp_path):
    path = write(tmp_path / "rows.jsonl", numbered(4))
    with pytest.raises(DataError, match=r'no split "dev", only train.*--dataset_test_split'):
        load_train_and_eval(*arguments(path, test="dev", strategy="steps"))
    with pytest.raises(DataError, match=r'no split "dev", only train.*--dataset_train_split'):
        load_train_and_eval(*arguments(path, train="dev"))
    with pytest.raises(DataError, match="both training and evaluation"):
        load_train_and_eval(*arguments(path, test="train", strategy="steps"))
    with pytest.raises(DataError, match="cannot hold out"):
        load_train_and_eval(*arguments(write(tmp_path / "one.jsonl", numbered(1)), strategy="steps"))
    with pytest.raises(DataError, match="stream cannot be held out"):
        load_train_and_eval(*arguments(path, streaming=True, strategy="steps"))
    with pytest.raises(DataError, match="neither dataset_name nor datasets"):
        load_train_and_eval(*arguments())


def test_a_stream_trains_with_an_evaluation_split(tmp_path):
    write(tmp_path / "both" / "train.jsonl", numbered(3))
    write(tmp_path / "both" / "test.jsonl", numbered(2, 3))
    data = load_train_and_eval(*arguments(str(tmp_path / "both"), streaming=True, strategy="steps"))
    assert (len(texts(data.train)), texts(data.evaluation)) == (3, ["row 3", "row 4"])


def test_columns_are_renamed(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"question": "a", "answer": "b"}])
    data = load_train_and_eval(*arguments(path), columns={"question": "prompt", "answer": "completion"})
    rows = data.train[0].rows
    assert detect_format(rows.column_names, rows).name == "prompt-completion, text"


def mixture(entries, **options):
    from trl import DatasetMixtureConfig

    return DatasetMixtureConfig(datasets=entries, **options)


def test_a_mixture_of_local_files_with_fractions(tmp_path):
    one = write(tmp_path / "one.jsonl", numbered(40))
    two = write(tmp_path / "two.jsonl", [{"prompt": f"a {n}", "completion": " b"} for n in range(30)])
    script, _, training = arguments(strategy="steps")
    data = load_train_and_eval(
        script, mixture([{"path": one, "fraction": 0.75}, {"path": two, "fraction": 0.25}]), training
    )
    sizes = [len(part.rows) for part in data.train]
    evaluation = sum(len(part.rows) for part in data.evaluation)
    assert evaluation == round(53 * 0.05)
    assert sum(sizes) + evaluation == 53  # 40 and a third of that
    assert prepare_mixture(data.train, small_tokenizer()).report.rows_kept == sum(sizes)
    whole = load_train_and_eval(
        script, mixture([{"path": one}, {"path": two, "columns": ["prompt", "completion"]}]), arguments()[2]
    )
    assert [len(part.rows) for part in whole.train] == [40, 30]
    share = load_train_and_eval(script, mixture([{"path": one}], test_split_size=0.25), training)
    assert (len(share.train[0].rows), len(share.evaluation[0].rows)) == (30, 10)


def test_a_column_to_rename_must_be_in_a_data_set_of_the_mixture(tmp_path):
    """Red when: a misspelt name is passed over, because not every data set needs to have it."""
    one = write(tmp_path / "one.jsonl", [{"Frage": "a", "Antwort": "b"}] * 4)
    two = write(tmp_path / "two.jsonl", numbered(4))
    script, _, training = arguments()
    entries = mixture([{"path": one}, {"path": two}])
    names = {"Frage": "instruction", "Antwort": "output"}
    assert len(load_train_and_eval(script, entries, training, columns=names).train) == 2
    with pytest.raises(
        DataError, match=r'found no column "frage" in any of the data sets \(.*one\.jsonl has Frage, Antwort'
    ):
        load_train_and_eval(script, entries, training, columns={**names, "frage": "input"})


def renamed_entries(tmp_path, first, second):
    """Two files with columns of different names, and an entry for each with what it renames."""
    one = write(tmp_path / "one.jsonl", [{"prompt": f"a {n}", "answer": "b"} for n in range(4)])
    two = write(tmp_path / "two.jsonl", [{"question": f"c {n}", "answer": "d"} for n in range(4)])
    return mixture([DatasetEntry(one, dataset_columns=first), DatasetEntry(two, dataset_columns=second)])


def test_each_entry_of_a_mixture_may_rename_its_own_columns(tmp_path):
    """The renaming of the run is for entries without one; a stream is renamed too. Red when: one name serves two."""
    script, _, training = arguments()
    first, second = {"prompt": "instruction", "answer": "output"}, {"question": "instruction"}
    entries = renamed_entries(tmp_path, first, {**second, "answer": "output"})
    alike = load_train_and_eval(script, entries, training).train
    assert [set(part.rows.column_names) for part in alike] == [{"instruction", "output"}] * 2
    entries.datasets[0].dataset_columns, entries.streaming = None, True
    of_run = load_train_and_eval(script, entries, training, columns=first).train
    assert [set(next(iter(part.rows))) for part in of_run] == [{"instruction", "output"}] * 2
    with pytest.raises(
        DataError, match=r'datasets, two.jsonl: dataset_columns: found no column "Q" among question'
    ):
        load_train_and_eval(script, renamed_entries(tmp_path, first, {"Q": "prompt"}), training)
    with pytest.raises(DataError, match="no effect, because every entry of datasets has its own"):
        load_train_and_eval(script, renamed_entries(tmp_path, first, {}), training, columns=second)


def test_advice_on_columns_is_for_the_entry_and_names_columns_of_its_file(tmp_path):
    """Red when: the advice for two files cannot be followed together, or names a column that no file has."""
    script, _, training = arguments()
    data = load_train_and_eval(script, renamed_entries(tmp_path, {"answer": "output"}, None), training)
    with pytest.raises(DataError) as refused:
        prepare_mixture(data.train, small_tokenizer())
    first, second = str(refused.value).splitlines()
    assert first.startswith("train one.jsonl data: no known data format")
    assert first.endswith(
        "Fix: dataset_columns: {answer: output, prompt: instruction} in the entry one.jsonl of datasets"
    )
    assert second.endswith(
        "Fix: dataset_columns: {question: instruction, answer: output} in the entry two.jsonl of datasets"
    )
    data = load_train_and_eval(
        *(arguments(str(tmp_path / "two.jsonl"))), columns={"question": "prompt", "answer": "output"}
    )
    with pytest.raises(DataError, match=r"Fix: --dataset_columns question=instruction answer=output$"):
        prepare_mixture(data.train, small_tokenizer())


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (
            [
                {"path": "json", "data_files": "{}/a.jsonl"},
                {"path": "json", "data_files": ["{}/b.jsonl", "{}/a.jsonl"]},
            ],
            ["a.jsonl", "b.jsonl, a.jsonl"],
        ),
        (
            [
                {"path": "{}", "data_files": "b.jsonl"},
                {"path": "json", "data_files": {"train": "{}/a.jsonl"}},
            ],
            ["b.jsonl", "a.jsonl"],
        ),
        ([{"path": "{}/in/a.jsonl"}, {"path": "json", "data_dir": "{}/in"}], ["a.jsonl", "in"]),
        (
            [{"path": "json", "data_files": "{}/a.jsonl"}, {"path": "{}/in/a.jsonl", "split": "train[:1]"}],
            ["{}/a.jsonl train", "{}/in/a.jsonl train[:1]"],
        ),
    ],
)
def test_the_parts_of_a_mixture_are_named_by_their_files(tmp_path, entries, names):
    for name in ("a.jsonl", "b.jsonl", "in/a.jsonl"):
        write(tmp_path / name, numbered(2))

    def placed(value):
        return json.loads(json.dumps(value).replace("{}", str(tmp_path)))

    script, _, training = arguments()
    data = load_train_and_eval(script, mixture(placed(entries)), training)
    assert [part.name for part in data.train] == placed(names)
    report = prepare_mixture(data.train, small_tokenizer()).report
    assert [part.name for part in report.parts] == [f"train {name}" for name in placed(names)]


def test_a_number_of_rows_is_held_out_of_a_mixture_and_never_trained(tmp_path):
    path = write(tmp_path / "one.jsonl", numbered(40))
    for strategy in ("steps", "no"):
        script, _, training = arguments(strategy=strategy)
        data = load_train_and_eval(script, mixture([{"path": path}], test_split_size=3), training)
        assert len(data.train[0].rows) == 37
        assert (data.evaluation is None) == (strategy == "no")


def test_every_key_of_an_entry_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    table = page.partition("| key of an entry |")[2].partition("\n\n")[0]
    assert {one.name for one in fields(DatasetEntry)} == set(
        re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    )


def test_fractions_are_all_or_none_and_not_for_streams(tmp_path):
    path = write(tmp_path / "one.jsonl", numbered(4))
    script, _, training = arguments()
    for entries, options, words in (
        ([{"path": path, "fraction": 0.5}, {"path": path}], {}, "for some entries only"),
        ([{"path": path, "fraction": 0.5}], {"streaming": True}, "with streaming"),
        ([{"path": path, "fraction": 0.0}], {}, "not above 0"),
        ([{"path": "missing.jsonl"}], {}, "no such file"),
    ):
        with pytest.raises(DataError, match=words):
            load_train_and_eval(script, mixture(entries, **options), training)


def test_fractions_pick_the_rows_that_trl_picks(tmp_path):
    from trl import get_dataset

    one = write(tmp_path / "one.jsonl", numbered(20))
    two = write(tmp_path / "two.jsonl", numbered(9, 20))
    shares = [0.6, 0.4]
    ours = mixture(
        [{"path": path, "fraction": share} for path, share in zip((one, two), shares, strict=True)]
    )
    theirs = mixture(
        [
            {"path": "json", "data_files": path, "fraction": share}
            for path, share in zip((one, two), shares, strict=True)
        ]
    )
    script, _, training = arguments()
    picked = texts(load_train_and_eval(script, ours, training).train)
    assert picked == get_dataset(theirs)["train"]["text"][:]
    assert picked == texts(load_train_and_eval(script, theirs, training).train)
