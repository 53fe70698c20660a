"""Prepared rows: what is kept, cut, dropped and counted, and that trl takes them as they are."""

import logging

import pytest
from datasets import Dataset, IterableDataset
from small_templates import CHATML, GEMMA
from small_tokenizers import small_tokenizer

from ift.data import DataError, Part, prepare_dataset, prepare_mixture
from ift.data.counts import count_trained


def chat(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


ROWS = [chat("Hi", "one"), chat("What is two plus two?", "four"), chat("More words", "follow the answer")]


@pytest.fixture
def tokenizer():
    return small_tokenizer(CHATML)


def test_rows_and_counts(tokenizer):
    done = prepare_dataset(Dataset.from_list(ROWS), tokenizer)
    assert done.dataset.column_names == ["input_ids", "labels"]
    assert len(done.dataset) == 3
    report = done.report
    assert (report.rows_read, report.rows_kept, len(report.dropped), report.rows_cut) == (3, 3, 0, 0)
    assert report.format == "chat messages"
    assert report.total_tokens == sum(len(row["input_ids"]) for row in done.dataset)
    assert report.trained_tokens == sum(count_trained(row["labels"]) for row in done.dataset)
    assert report.rows_without_end == 0
    assert report.lengths[2] == max(len(row["input_ids"]) for row in done.dataset)
    text = "\n".join(report.lines())
    assert "kept 3 of 3 rows" in text
    assert "format: chat messages; training on all assistant turns" in text


def test_cutting_is_counted_and_rows_left_with_nothing_are_named(tokenizer):
    whole = prepare_dataset(Dataset.from_list(ROWS), tokenizer)
    first = [label != -100 for label in whole.dataset[1]["labels"]].index(True)
    done = prepare_dataset(Dataset.from_list(ROWS), tokenizer, max_length=first)
    report = done.report
    assert report.dropped == {"nothing to learn after truncation to max_length": (2,)}
    assert report.rows_kept == len(done.dataset) == 2
    assert all(len(row["input_ids"]) <= first for row in done.dataset)
    assert report.trained_tokens + report.trained_tokens_lost == whole.report.trained_tokens
    assert 0 < report.share_trained_lost < 1
    assert report.share_cut >= 1 / 3
    assert "row 2" in "\n".join(report.lines())


def test_a_row_cut_in_its_answer_no_longer_ends(tokenizer):
    whole = prepare_dataset(Dataset.from_list(ROWS[2:]), tokenizer).dataset[0]
    last = max(index for index, label in enumerate(whole["labels"]) if label != -100)
    cut = prepare_dataset(Dataset.from_list(ROWS[2:]), tokenizer, max_length=last).report
    assert (cut.rows_cut, cut.rows_without_end, cut.trained_tokens_lost) == (1, 1, 1)
    assert "1 row does not train a token that ends the answer (row 1)" in "\n".join(cut.lines())
    of_evaluation = prepare_dataset(
        Dataset.from_list(ROWS[2:]), tokenizer, max_length=last, name="eval"
    ).report
    said = "\n".join(of_evaluation.lines())
    assert "1 row does not score a token that ends the answer (row 1)" in said
    assert "train" not in said  # nothing of these rows is trained
    kept = prepare_dataset(Dataset.from_list(ROWS[2:]), tokenizer, max_length=last + 1).report
    assert (kept.rows_cut, kept.rows_without_end, kept.trained_tokens_lost) == (1, 0, 0)


def test_rows_with_nothing_to_learn_are_dropped_and_named(tokenizer):
    silent = chat("Hi", "one")
    silent["messages"][1]["train"] = False
    row = {"messages": [{**turn, "train": turn.get("train", True)} for turn in silent["messages"]]}
    rows = [{"messages": [{**turn, "train": True} for turn in ROWS[0]["messages"]]}, row]
    report = prepare_dataset(Dataset.from_list(rows), tokenizer).report
    assert report.dropped == {"nothing to learn": (2,)}
    assert "kept 1 of 2 rows" in "\n".join(report.lines())


def test_no_row_left_is_an_error(tokenizer):
    with pytest.raises(DataError, match=r"none of 3 rows is left .*max_length"):
        prepare_dataset(Dataset.from_list(ROWS), tokenizer, max_length=2)
    with pytest.raises(DataError, match="found no rows"):
        prepare_dataset(Dataset.from_dict({"text": []}), tokenizer)
    empty = Dataset.from_list([{"prompt": "Hi", "completion": ""}])
    with pytest.raises(
        DataError, match=r"max_length data: none of 1 row .*Fix: check that the rows have answers"
    ):
        prepare_dataset(empty, tokenizer, name="max_length")


def test_a_first_token_alone_is_nothing_to_learn():
    """It has nothing before it to be predicted from."""
    with pytest.raises(DataError, match="nothing to learn"):
        prepare_dataset(Dataset.from_list([{"input_ids": [5], "labels": [5]}]), small_tokenizer())


@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_error_names_the_row_and_is_not_wrapped(tokenizer, num_proc):
    rows = [*ROWS, {"messages": [{"role": "narrator", "content": "x"}]}]
    with pytest.raises(DataError, match=r"^train data, row 4, column \"messages\", turn 1, key \"role\""):
        prepare_dataset(Dataset.from_list(rows), tokenizer, num_proc=num_proc)


def test_a_refusal_of_the_template_names_the_row():
    rows = [ROWS[0], {"messages": [{"role": "system", "content": "x"}, *ROWS[0]["messages"]]}]
    with pytest.raises(DataError, match=r"^eval data, row 2: .*System role not supported"):
        prepare_dataset(Dataset.from_list(rows), small_tokenizer(GEMMA), name="eval")


def test_two_processes_give_the_same(tokenizer):
    rows = Dataset.from_list(ROWS * 5)
    one, two = prepare_dataset(rows, tokenizer), prepare_dataset(rows, tokenizer, num_proc=2)
    assert one.dataset.to_list() == two.dataset.to_list()
    assert one.report == two.report


def test_a_stream_is_prepared_as_it_is_read(tokenizer, caplog):
    rows = Dataset.from_list(ROWS)
    whole = prepare_dataset(rows, tokenizer)
    first = [label != -100 for label in whole.dataset[1]["labels"]].index(True)
    expected = prepare_dataset(rows, tokenizer, max_length=first).dataset
    done = prepare_dataset(rows.to_iterable_dataset(), tokenizer, max_length=first)
    assert isinstance(done.dataset, IterableDataset)
    with caplog.at_level(logging.WARNING):
        assert list(done.dataset) == expected.to_list()
    assert "row 2 dropped: nothing to learn" in caplog.text
    assert done.report.streaming
    assert "streaming: rows are checked when they are read" in "\n".join(done.report.lines())


def test_a_stream_from_a_generator_without_known_columns(tokenizer):
    done = prepare_dataset(IterableDataset.from_generator(lambda: iter(ROWS)), tokenizer)
    assert list(done.dataset) == prepare_dataset(Dataset.from_list(ROWS), tokenizer).dataset.to_list()


def test_all_is_said(tokenizer):
    report = prepare_dataset(Dataset.from_list(ROWS), tokenizer, train_on="all").report
    assert "training on every token" in report.lines()[0]


def test_a_mixture_of_formats(tokenizer):
    parts = [
        Part("chat", Dataset.from_list(ROWS)),
        Part("text", Dataset.from_list([{"text": "What is two"}])),
        Part("pairs", Dataset.from_list([{"prompt": "a", "completion": " b"}])),
    ]
    done = prepare_mixture(parts, tokenizer)
    alone = [prepare_dataset(part.rows, tokenizer) for part in parts]
    assert done.dataset.to_list() == [row for part in alone for row in part.dataset]
    assert done.report.rows_kept == 5
    assert done.report.trained_tokens == sum(part.report.trained_tokens for part in alone)
    text = "\n".join(done.report.lines())
    assert "mixture of 3" in text
    assert "train pairs: format: prompt-completion, text" in text
    with pytest.raises(DataError, match="found no data sets"):
        prepare_mixture([], tokenizer)


def test_lengths_of_a_mixture_are_those_of_all_its_rows(tokenizer):
    """Most rows are short. Red when: the total takes the largest median of the parts."""
    parts = [[chat("Hi", "one")] * 5, [chat("What is two plus two?" * 3, "four and more words")] * 2]
    mixed = prepare_mixture(
        [Part("a", Dataset.from_list(parts[0])), Part("b", Dataset.from_list(parts[1]))], tokenizer
    )
    alone = prepare_dataset(Dataset.from_list(parts[0] + parts[1]), tokenizer)
    for name in ("lengths", "prompt_lengths", "answer_lengths"):
        assert getattr(mixed.report, name) == getattr(alone.report, name)
    short, long = mixed.report.parts
    assert mixed.report.lengths[0] == short.lengths[0] < long.lengths[0]


def test_one_part_is_no_mixture(tokenizer):
    part = Part("chat", Dataset.from_list(ROWS))
    assert prepare_mixture([part], tokenizer).report == prepare_dataset(part.rows, tokenizer).report


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize(
    "row", [{"prompt": "What is two", "completion": " plus two?"}, {"text": "What is two"}]
)
def test_text_comes_out_as_trl_makes_it(row, adds_bos):
    """Against the functions of trl that its own preparation calls."""
    from trl.data_utils import _tokenize, common_prefix_length

    tokenizer = small_tokenizer(adds_bos=adds_bos)
    done = prepare_dataset(Dataset.from_list([row]), tokenizer).dataset[0]
    text = row.get("text", row.get("prompt", "") + row.get("completion", "")) + tokenizer.eos_token
    ids = _tokenize(tokenizer, text)["input_ids"]
    start = (
        common_prefix_length(_tokenize(tokenizer, row["prompt"])["input_ids"], ids) if "prompt" in row else 0
    )
    assert done["input_ids"] == ids
    assert done["labels"] == [-100] * start + ids[start:]


def test_rows_with_a_transform_are_refused(tokenizer):
    def answered(batch):
        return {"prompt": batch["question"], "completion": ["yes"] * len(batch["question"])}

    rows = Dataset.from_dict({"question": ["is it?", "are they?"]})
    for changed in (rows.with_transform(answered), rows.map(answered, batched=True).with_transform(answered)):
        with pytest.raises(DataError, match=r"with_transform or set_transform.*dataset\.map"):
            prepare_dataset(changed, tokenizer)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_format_changes_no_row(tokenizer, kind):
    rows = Dataset.from_dict(
        {"input_ids": [[5, 6, 7], [8, 9, 10]], "labels": [[-100, 6, 7], [-100, -100, 10]]}
    )
    plain = prepare_dataset(rows, tokenizer).dataset
    formatted = prepare_dataset(rows.with_format(kind), tokenizer).dataset
    assert [*formatted] == [*plain] == [*rows]
