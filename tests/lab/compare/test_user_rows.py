"""The user's rows are split once, without a prompt on two sides, and final answers are found where they are."""

import json
import sys

import pytest
from datasets import Dataset

from ift.data import DataError, Part
from ift.generation.final_answer import FinalAnswer, final_answer_of, last_answer, normalised
from ift.lab.compare.split import Split
from ift.lab.compare.user_rows import split_rows
from ift.lab.testbed import tiny_base_path


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base_path())


def part(rows, name="train"):
    return Part(name, Dataset.from_list(rows))


def numbers(rows):
    return [row["row"] for row in rows]


ROWS = [
    {"prompt": f"{n % 30} plus 2 =", "completion": f" {n} and so on"} for n in range(40)
]  # 10 prompts twice


def prompts_of(rows):
    return {row["prompt"] for row in rows}


def test_no_prompt_stands_on_two_sides_and_no_row_is_lost(tokenizer):
    split = split_rows([part(ROWS)], None, tokenizer, max_length=64)
    sides = [
        prompts_of(split.train[0].rows),
        prompts_of(ROWS[number - 1] for number in numbers(split.validation)),
        prompts_of(ROWS[number - 1] for number in numbers(split.test)),
    ]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert split.train_rows + len(split.validation) + len(split.test) == len(ROWS)
    assert len(split.validation) in (4, 5)  # a tenth; one more where the last prompt stood twice
    assert len(split.test) in (8, 9)
    again = split_rows([part(ROWS)], None, tokenizer, max_length=64)
    assert again.sha256 == split.sha256
    assert len({*split.sha256.values()}) == 3


def test_held_out_ids_are_those_of_their_rows(tokenizer):
    split = split_rows([part(ROWS)], None, tokenizer, max_length=64)
    for row in split.test:
        text, source = tokenizer.decode(row["input_ids"]), ROWS[row["row"] - 1]
        assert source["prompt"] in text
        assert source["completion"].strip() in text
        prompt, target = last_answer(row["input_ids"], row["labels"])
        assert tokenizer.decode(prompt).strip() == source["prompt"]
        assert source["completion"].strip() in tokenizer.decode(target)


def test_the_column_of_plain_text_may_have_any_name(tokenizer):
    rows = [{"story": f"{n} plus 2 is what {n} plus 2 is"} for n in range(20)]
    split = split_rows([part(rows)], None, tokenizer, max_length=64, text_field="story")
    assert split.train[0].rows.column_names == ["story"]
    assert split.train_rows + len(split.validation) + len(split.test) == 20


def test_rows_that_do_not_fit_are_trained_and_not_held_out(tokenizer):
    """Rows 1-5 are long, row 6 has nothing to learn: places among the kept rows are not places in the file."""
    rows = [{"text": "long " * 60}] * 5 + [{"text": ""}] + [{"text": f"row {n}"} for n in range(20)]
    for index in range(5):
        rows[index] = {"text": f"{index} " + "long " * 60}
    split = split_rows([part(rows)], None, tokenizer, max_length=40, validation_rows=10, test_rows=9)
    assert min(numbers(split.validation) + numbers(split.test)) > 6
    assert len(split.train[0].rows) == 25 - 19
    assert all(row["text"].startswith(("0 ", "1 ", "2 ", "3 ", "4 ", "row")) for row in split.train[0].rows)
    for row in split.test:
        assert rows[row["row"] - 1]["text"] in tokenizer.decode(row["input_ids"])


def test_a_row_that_truncation_empties_is_not_counted_among_those_to_train_on(tokenizer):
    """Training drops it, so the numbers of a study and of its runs agree."""
    emptied = {"prompt": "1 plus 2 " * 64 + "=", "completion": " 3"}
    split = split_rows([part([*ROWS, emptied])], None, tokenizer, max_length=64)
    assert split.sha256 == split_rows([part(ROWS)], None, tokenizer, max_length=64).sha256
    assert emptied["prompt"] not in prompts_of(split.train[0].rows)


def test_dropped_rows_are_told_once_those_of_training_by_the_check_before(tokenizer):
    train = [{"text": ""}, *({"text": f"row {n}"} for n in range(20))]
    other = [{"text": "one"}, {"text": ""}, {"text": "two"}]
    split = split_rows([part(train)], [part(other, "test")], tokenizer, max_length=64, validation_rows=3)
    assert [note for note in split.notes if "dropped" in note] == [
        "test: 1 row is dropped: the text is empty (the first is row 2)"
    ]


def test_a_test_split_is_taken_and_its_prompts_leave_training(tokenizer):
    other = [
        {"prompt": f"{n} plus 2 =", "completion": " yes"} for n in range(25, 35)
    ]  # 25-29 are trained, too
    split = split_rows([part(ROWS)], [part(other, "test")], tokenizer, max_length=64, validation_rows=3)
    assert len(split.test) == 10
    assert not prompts_of(split.train[0].rows) & prompts_of(other)
    assert "5 training rows left out: the test rows have the same prompts" in split.notes


def test_fewer_rows_of_a_test_split_are_those_of_a_time_budget_with_this_number(tokenizer):
    """Red when: a study that a budget has planned cannot be repeated with `--test_rows` and the number it printed."""
    test = [{"prompt": f"{n} plus 3 =", "completion": f" {n} and so on"} for n in range(20)]
    same_prompt = {"prompt": "long or short"}  # one of the two does not fit, so neither is held out
    test += [same_prompt | {"completion": " a"}, same_prompt | {"completion": " and so on" * 60}]
    train = [*ROWS, *test[:10]]
    whole = split_rows([part(train)], [part(test, "test")], tokenizer, max_length=80)
    fewer = split_rows([part(train)], [part(test, "test")], tokenizer, max_length=80, test_rows=6)
    budget = whole.first(len(whole.validation), 6)
    assert len(whole.test) == 20
    assert numbers(fewer.test) == numbers(budget.test)
    assert len(fewer.test) == 6
    assert fewer.sha256 == budget.sha256
    trained_or_validated = fewer.train_rows + len(fewer.validation)
    assert trained_or_validated == len(ROWS)  # no row of the test split is trained, scored or not
    assert fewer.notes[-1].endswith("6 to test on (of the test split)")


def test_sizes_and_mixtures(tokenizer):
    alpaca = [{"instruction": f"say {n}", "output": f"{n} it is"} for n in range(10)]
    split = split_rows(
        [part(ROWS, "a"), part(alpaca, "b")], None, tokenizer, max_length=64, train_rows=20, test_rows=5
    )
    assert split.train_rows == 20
    assert [one.name for one in split.train] == ["a", "b"]
    assert len(split.test) in (5, 6)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"test_rows": 39}, "too few to hold out 39 for the test and 4 for validation"),
        ({"train_rows": 1000}, "--train_rows 1,000: 2[78] rows are left"),
    ],
)
def test_too_few_rows_are_told(tokenizer, sizes, said):
    with pytest.raises(DataError, match=said):
        split_rows([part(ROWS)], None, tokenizer, max_length=64, **sizes)


def test_a_stream_is_refused(tokenizer):
    stream = Part("train", Dataset.from_list(ROWS).to_iterable_dataset())
    with pytest.raises(DataError, match="a stream cannot be split"):
        split_rows([stream], None, tokenizer, max_length=64)


def test_saved_and_loaded_again(tokenizer, tmp_path):
    pairs = [{"prompt": f"{n} plus 2 =", "chosen": f" {n + 2}", "rejected": f" {n + 3}"} for n in range(20)]
    split = split_rows([part(pairs)], None, tokenizer, max_length=64)
    split.save(tmp_path / "rows")
    (tmp_path / "rows" / "mark").write_text("")
    split.save(tmp_path / "rows")  # it is all there: nothing is written again
    assert (tmp_path / "rows" / "mark").exists()
    loaded = Split.load(tmp_path / "rows")
    assert loaded.sha256 == split.sha256
    assert loaded.train[0].rows.to_list() == split.train[0].rows.to_list()
    assert numbers(loaded.test) == numbers(split.test)
    assert len(loaded.pairs["test"]) == len(split.test)
    for row, pair in zip(loaded.test, loaded.pairs["test"], strict=True):
        assert row["input_ids"] == pair["chosen_input_ids"]
    done = tmp_path / "rows" / "split.json"
    done.write_text(json.dumps({**json.loads(done.read_text()), "sha256": {}}))
    split.save(tmp_path / "rows")  # of other rows, or half done: written again
    assert not (tmp_path / "rows" / "mark").exists()


def test_a_study_knows_the_rejected_answers_of_its_pairs(tokenizer, tmp_path):
    """Red when: a grown study trains and scores on the old rejected answers, because only chosen ones are hashed."""

    def split_of(wrong, columns=False):
        pairs = [
            {"prompt": f"{n} plus 2 =", "chosen": f" {n + 2}", "rejected": f" {n + wrong}"} for n in range(20)
        ]
        return split_rows([part(pairs)], None, tokenizer, max_length=64, keep_columns=columns)

    before, after = split_of(3), split_of(4)
    assert [name for name in before.sha256 if before.sha256[name] == after.sha256[name]] == []
    assert split_of(3).sha256 == before.sha256
    before.save(tmp_path)
    after.save(tmp_path)
    assert Split.load(tmp_path).pairs["test"].to_list() == after.pairs["test"].to_list()
    assert before.pairs["test"].to_list() != after.pairs["test"].to_list()
    kept = [json.loads(one) for one in split_of(3, columns=True).test["columns"]]
    assert all(one["rejected"] == f" {int(one['chosen']) + 1}" for one in kept)


def test_rows_without_pairs_keep_the_hashes_that_records_have(tokenizer):
    """Computed before the rejected answers were hashed."""
    rows = [{"input_ids": [5 + n, 6, 7], "labels": [-100, 6, 7]} for n in range(20)]
    found = split_rows([part(rows)], None, tokenizer, max_length=64).sha256
    assert found["train"] == "4e7a8d85345ccd37107a9dc5388e38665a1bbfb5ef4fb5715bb489b8329d1e6c"
    assert found["validation"] == "07abafa2c93ca72961e8ef7d467d2b4c740e789d72709d8ee77ae03fddcbc293"
    assert found["test"] == "fa13149f75b5dd38db261ed2c6c608824ed06240e8fc9953f9253eda6daffec6"


def test_saving_shows_no_bar(tokenizer, tmp_path, monkeypatch, capfd):
    """The bar of `save_to_disk` would take no notice of TQDM_DELAY, and the next line would begin in its line."""
    bars = sys.modules["datasets.utils.tqdm"]
    monkeypatch.setattr(bars, "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(bars, "_hf_datasets_progress_bars_disabled", False)
    split_rows([part(ROWS)], None, tokenizer, max_length=64).save(tmp_path / "rows")
    assert "Saving the dataset" not in capfd.readouterr().err
    assert not bars.are_progress_bars_disabled()


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("####", "2 + 2 = 4\n#### 1,004.50\n", "1004.5"),
        ("####", "#### 3\nor rather\n#### $7", "7"),
        ("####", "no end", None),
        ("boxed", r"so \boxed{\frac{1}{2}} or \boxed{ 12 }", "12"),
        ("boxed", r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"never closed \boxed{\frac{1}{2}", None),
        (r"answer is (\w+)", "The answer is Yes. The answer is NO.", "no"),
        (r"[A-D]\b", "A or B", "b"),
    ],
)
def test_final_answers(pattern, text, found):
    assert FinalAnswer(pattern).find(text) == found


def test_numbers_are_compared_as_numbers():
    assert normalised("007") == normalised(" 7.00 ") == normalised("$7.") == "7"
    assert normalised("-0") == normalised("0.0") == "0"
    assert normalised("1,000,000") == "1000000"
    assert normalised("1,5") == "1,5"
    assert normalised("1e999999") == "1e999999"
    assert normalised("NaN") == "nan"
    assert normalised("Red", cased=True) == "Red"


def test_the_pattern_is_found_in_the_targets():
    assert final_answer_of(["#### 1", "x\n#### 2"]) == FinalAnswer("####")
    assert final_answer_of([r"\boxed{1}", r"\boxed{2}"]) == FinalAnswer("boxed")
    assert final_answer_of(["#### 1", "2"]) is None
    assert final_answer_of(["#### 1"], "none") is None
    with pytest.raises(ValueError, match=r"1 of 2 target answers has no match.*ends in 'but two'"):
        final_answer_of(["it is 1", "but two"], r"\d")
    with pytest.raises(ValueError, match="no regular expression"):
        final_answer_of(["x"], "(")


def test_held_out_rows_keep_their_columns_where_scores_need_them(tokenizer, tmp_path):
    rows = [{**row, "references": [row["completion"], f"or {n}"], "gold": n} for n, row in enumerate(ROWS)]
    alpaca = [{"instruction": f"say {n}", "output": f"{n} it is"} for n in range(20)]
    parts = [part(rows, "a"), part(alpaca, "b")]
    plain = split_rows(parts, None, tokenizer, max_length=64)
    split = split_rows(parts, None, tokenizer, max_length=64, keep_columns=True)
    assert "columns" not in plain.test.column_names
    assert {name: split.sha256[name] for name in plain.sha256} == plain.sha256
    split.save(tmp_path / "rows")
    for name in ("validation", "test"):
        for row in getattr(Split.load(tmp_path / "rows"), name):
            source = json.loads(row["columns"])
            assert source in (rows[row["row"] - 1], *alpaca[row["row"] - 1 : row["row"]])
            answer = source.get("completion", source.get("output")).strip()
            _, target = last_answer(row["input_ids"], row["labels"])
            assert answer in tokenizer.decode(target)
    for row in rows:
        row["gold"] += 1
    other = split_rows(
        [part(rows, "a"), part(alpaca, "b")], None, tokenizer, max_length=64, keep_columns=True
    )
    assert other.sha256["test"] == split.sha256["test"]
    assert other.sha256["test columns"] != split.sha256["test columns"]
