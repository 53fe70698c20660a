"""Pairs are tokenised and masked as the SFT and IFT rows of the same answers; what is wrong or left out is said."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from ift.data import DataError, Part, prepare_dataset
from ift.data.pairs import IDENTICAL, PairCollator, prepare_pairs
from ift.data.report import CUT_AWAY
from ift.lab.testbed import problems, tiny_base_path


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base_path())


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def prepare(rows, tokenizer, **options):
    return prepare_pairs([Part("train", Dataset.from_list(rows))], tokenizer, **options)


QUESTIONS = [problem.row["messages"][0]["content"] for problem in problems("train", 6)]
ANSWERS = [problem.row["messages"][1]["content"] for problem in problems("train", 6)]
WRONG = [*ANSWERS[1:], ANSWERS[0]]
FORMS = {
    "prompt text, answers text": lambda q, a, b: {"prompt": q, "chosen": a, "rejected": b},
    "prompt turns, answers turns": lambda q, a, b: {
        "prompt": [user(q)], "chosen": [assistant(a)], "rejected": [assistant(b)]
    },
    "whole conversations": lambda q, a, b: {
        "prompt": q, "chosen": [user(q), assistant(a)], "rejected": [user(q), assistant(b)]
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_length", [None, 60])
def test_both_sides_are_the_sft_rows_of_their_answers(tokenizer, form, max_length):
    """Token ids and labels, the end-of-turn token included, in every form, cut or not."""
    rows = [FORMS[form](*row) for row in zip(QUESTIONS, ANSWERS, WRONG, strict=True)]
    pairs = prepare(rows, tokenizer, max_length=max_length).dataset
    for side in ("chosen", "rejected"):
        alone = [{**row, "chosen": row[side]} for row in rows]
        sft = prepare_dataset(Dataset.from_list(alone), tokenizer, max_length=max_length).dataset
        assert pairs[f"{side}_input_ids"] == sft["input_ids"]
        assert pairs[f"{side}_labels"] == sft["labels"]
    if max_length is None:
        assert all(labels[-1] == tokenizer.eos_token_id for labels in pairs["chosen_labels"])
        assert pairs["chosen_labels"] != pairs["rejected_labels"]


def test_the_messages_rows_are_the_same_text_too(tokenizer):
    sft = prepare_dataset(Dataset.from_list([p.row for p in problems("train", 6)]), tokenizer).dataset
    rows = [FORMS["whole conversations"](*row) for row in zip(QUESTIONS, ANSWERS, WRONG, strict=True)]
    pairs = prepare(rows, tokenizer).dataset
    assert pairs["chosen_input_ids"] == sft["input_ids"]
    assert pairs["chosen_labels"] == sft["labels"]


def test_turns_that_both_sides_share_are_the_prompt(tokenizer):
    before = [user(QUESTIONS[0]), assistant(ANSWERS[0]), user(QUESTIONS[1])]
    row = {"chosen": [*before, assistant(ANSWERS[1])], "rejected": [*before, assistant(ANSWERS[2])]}
    (chosen,) = prepare([row], tokenizer).dataset["chosen_labels"]
    text = tokenizer.decode([label for label in chosen if label != -100])
    assert ANSWERS[1].strip() in text
    assert ANSWERS[0].splitlines()[0] not in text


def test_nothing_is_dropped_or_cut_without_a_count(tokenizer):
    rows = [FORMS["whole conversations"](*row) for row in zip(QUESTIONS, ANSWERS, WRONG, strict=True)]
    rows[2]["rejected"] = rows[2]["chosen"]
    whole = prepare(rows, tokenizer)
    assert whole.report.dropped == {IDENTICAL: (3,)}
    assert (whole.report.rows_read, whole.report.rows_kept, whole.report.rows_cut) == (6, 5, 0)
    labels = [labels for side in ("chosen", "rejected") for labels in whole.dataset[f"{side}_labels"]]
    assert whole.report.trained_tokens == sum(label != -100 for row in labels for label in row)
    assert any("chosen and rejected are the same" in line for line in whole.report.lines())
    rows = rows[:2]
    rows[1]["rejected"] = [user(QUESTIONS[1]), assistant("1 + 1 = 2\n" * 40)]
    cut = prepare(rows, tokenizer, max_length=120)
    assert cut.report.rows_cut == 1
    assert cut.report.trained_tokens_lost > 0
    assert max(map(len, cut.dataset["rejected_input_ids"])) == 120
    with pytest.raises(DataError, match=f"none of 2 pairs is left.*{CUT_AWAY}: 2 rows.*max_length"):
        prepare(rows, tokenizer, max_length=5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "a", "chosen": "b"}],
            "found columns .*expected pairs in chosen and rejected.*--dataset_columns",
        ),
        (
            [
                {"prompt": "a", "chosen": "b", "rejected": "c"},
                {"prompt": "a", "chosen": "b", "rejected": None},
            ],
            'train data, row 2, column "rejected": found null, expected an answer. Fix:',
        ),
        ([{"chosen": "b", "rejected": "c"}], 'row 1, column "prompt": found null or no such column'),
        (
            [{"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("c")]}],
            'row 1, column "chosen", turn 1: found user where the other side differs',
        ),
        (
            [{"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b"), user("c")]}],
            'row 1, column "chosen", turn 3: found no further turn',
        ),
        (
            [{"prompt": "a", "chosen": [assistant("b")], "rejected": [{"role": "narrator", "content": "b"}]}],
            'row 1, column "rejected", turn 1, key "role"',
        ),
        (
            [
                {
                    "prompt": "a",
                    "chosen": [assistant("b")],
                    "rejected": [{"role": "assistant", "content": None}],
                }
            ],
            'row 1, column "rejected", turn 1, key "content": found null',
        ),
    ],
)
def test_a_malformed_pair_is_named(tokenizer, rows, message):
    with pytest.raises(DataError, match=message):
        prepare(rows, tokenizer)


def test_a_stream_is_refused(tokenizer):
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]).to_iterable_dataset()
    with pytest.raises(DataError, match="pairs cannot be streamed"):
        prepare_pairs([Part("train", rows)], tokenizer)


def test_the_collator_puts_chosen_before_rejected_and_masks_answers():
    def side(name, ids, labels):
        return {f"{name}_input_ids": ids, f"{name}_labels": labels, f"{name}_attention_mask": [1] * len(ids)}

    first = side("chosen", [5, 6, 7], [-100, 6, -100]) | side("rejected", [5, 8], [-100, 8])
    second = side("chosen", [9, 4], [-100, 4]) | side("rejected", [9, 3, 3], [-100, 3, 3])
    batch = PairCollator(0)([first, second])
    assert torch.equal(batch["input_ids"], torch.tensor([[5, 6, 7], [9, 4, 0], [5, 8, 0], [9, 3, 3]]))
    assert torch.equal(batch["attention_mask"], torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1]]))
    assert torch.equal(batch["completion_mask"], torch.tensor([[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 1]]))
