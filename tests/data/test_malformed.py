"""Malformed rows are named together, grouped by what is wrong with them, with their file and their place in it."""

import json

import pytest
from datasets import Dataset
from small_files import arguments, write
from small_templates import CHATML
from small_tokenizers import small_tokenizer

from ift.data import DataError, RowTokenizer, load_train_and_eval, prepare_mixture
from ift.data import origin as origins
from ift.data.errors import RowFault, RowsRefused, call_for_each, refuse_rows
from ift.data.lengths import length_limit
from ift.data.pairs import prepare_pairs
from ift.data.prepare import PrepareRow
from ift.data.text_files import read_all_rows


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def talk(number, role="user", answer="Yes."):
    return {"messages": [{"role": role, "content": f"{number}?"}, {"role": "assistant", "content": answer}]}


def refused(path, *, pairs=False, split="train", prepare=prepare_mixture, **options):
    """The message of the refusal of a file or folder."""

    def run():
        data = load_train_and_eval(*arguments(str(path), train=split), pairs=pairs)
        prepare(data.train, small_tokenizer(CHATML), **options)

    with pytest.raises(RowsRefused) as caught:
        run()
    return str(caught.value).replace(str(path.parent) + "/", "")


def test_two_kinds_of_fault_are_two_groups_with_their_rows(tmp_path):
    rows = [talk(n, "narrator" if n in (1, 4) else "user", None if n in (2, 5) else "Yes.") for n in range(8)]
    write(tmp_path / "rows.jsonl", rows)
    lines = refused(tmp_path / "rows.jsonl").splitlines()
    assert lines[0] == "rows.jsonl: 4 of 8 rows cannot be used."
    assert lines[1].startswith(
        '2 rows: column "messages", key "role", expected one of system, developer, user'
    )
    assert lines[2:4] == [f"  row {n}, turn 1: found the string 'narrator'" for n in (2, 5)]
    assert lines[4].startswith('2 rows: column "messages", key "content", expected a string. Fix: ')
    assert lines[5:] == [f"  row {n}, turn 2: found null" for n in (3, 6)]


@pytest.mark.parametrize("num_proc", [None, 2])
def test_one_malformed_row_is_one_line_with_the_file(tmp_path, num_proc):
    write(tmp_path / "rows.jsonl", [talk(1), talk(2), talk(3, "narrator")])
    said = refused(tmp_path / "rows.jsonl", num_proc=num_proc)
    assert said.startswith('rows.jsonl, row 3, column "messages", turn 1, key "role": found the string')
    assert "\n" not in said


def test_unreadable_and_malformed_rows_are_named_together(tmp_path):
    """Line 3 is no JSON; line 4 is empty, so that row 4 is on line 5."""
    lines = [json.dumps(talk(n, "narrator" if n == 4 else "user")) for n in (1, 2, 3, 4)]
    lines[2] = lines[2][:-1]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines[:3], "", lines[3]]))
    said = refused(tmp_path / "rows.jsonl").splitlines()
    assert said[0] == "rows.jsonl: 2 of 4 rows cannot be used."
    assert said[1].startswith("line 3: found text that is not JSON")
    assert said[2].startswith('row 4 (line 5), column "messages", turn 1, key "role": found the string')


@pytest.mark.parametrize("broken", [False, True])
def test_rows_that_are_too_long_refused_by_the_template_or_dropped_are_named_in_the_same_round(
    tmp_path, broken
):
    """Beside a malformed row, and beside a line that is no JSON, which is found before there are any tokens."""
    rows = [talk(n) for n in range(6)]
    rows[0], rows[2] = talk(0, "narrator"), talk(2, answer="one " * 90)
    rows[3]["messages"].insert(1, {"role": "tool", "content": "x"})
    rows[4]["messages"][1]["content"] = ""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text + "{\n" * broken)
    refusal = "{% if one.role == 'tool' %}{{ raise_exception('no tools.') }}{% endif %}"
    template = f"{{% for one in messages %}}{refusal}{{% endfor %}}" + CHATML
    tokenizer = small_tokenizer(template)

    def preparation(form, pairs):
        return PrepareRow(form, RowTokenizer(tokenizer), length_limit(60, ("n_positions", 80)), "", {})

    def run():
        data = load_train_and_eval(*arguments(str(tmp_path / "rows.jsonl")), preparation=preparation)
        prepare_mixture(data.train, tokenizer, max_length=60, positions=("n_positions", 80))

    with pytest.raises(RowsRefused) as caught:
        run()
    said = str(caught.value)
    assert said.count("narrator") == 1
    assert ("line 7: found text that is not JSON" in said) == broken
    assert "row 4: the chat template refuses this conversation" in said
    assert "no tools. Fix: " in said
    assert "with --chat_template_path FILE.jinja" in said
    assert "1 other row is too long, with up to " in said
    assert "for --max_length 60 (row 3). Fix: shorten or drop these rows" in said
    assert said.endswith("1 other row is dropped: the answer is empty (row 5)")


def test_ten_rows_are_named_and_every_kind_among_them():
    faults = [RowFault(n, "", "found 1", "expected 2", "write 2") for n in range(1, 31)]
    faults.append(RowFault(31, 'column "a"', "found null", "expected text", "fill it in"))
    lines = str(refuse_rows(faults, "40 rows", "train data")).splitlines()
    assert lines[0] == "train data: 31 of 40 rows cannot be used."
    assert sum(": found" in line for line in lines) == 10
    assert 'row 31, column "a": found null, expected text. Fix: fill it in' in lines
    assert lines[-2:] == [
        "  and 21 more of these",
        'row 31, column "a": found null, expected text. Fix: fill it in',
    ]
    kinds = [RowFault(n, f'column "{n}"', "found 1", "expected 2", "write 2") for n in range(1, 15)]
    lines = str(refuse_rows([*kinds, kinds[-1]], "40 rows", "train data")).splitlines()
    assert lines[-1] == "and 5 rows of 40 rows with 4 other problems"


def test_pairs_of_a_file_are_named_together(tmp_path):
    rows = [{"prompt": f"q {n}", "chosen": " a", "rejected": " b"} for n in range(6)]
    rows[1]["rejected"] = rows[4]["rejected"] = None
    path = tmp_path / "pairs.jsonl"
    write(path, rows)
    said = refused(path, pairs=True, prepare=prepare_pairs).splitlines()
    assert said[0] == "pairs.jsonl: 2 of 6 rows cannot be used."
    assert said[1] == '2 rows: column "rejected", expected an answer. Fix: fill it in or drop the row'
    assert said[2:] == ["  row 2: found null", "  row 5: found null"]
    path.write_text(path.read_text() + "{\n")
    said = refused(path, pairs=True).splitlines()
    assert said[0] == "pairs.jsonl: 3 of 7 rows cannot be used."
    assert "line 7: found text that is not JSON" in said[-1]


def test_the_files_of_a_folder_are_named_row_by_row(tmp_path):
    write(tmp_path / "rows" / "a.jsonl", [talk(1), talk(2, "narrator")])
    write(tmp_path / "rows" / "b.jsonl", [talk(3, "narrator"), talk(4)])
    said = refused(tmp_path / "rows").splitlines()
    assert said[0] == "rows/a.jsonl, rows/b.jsonl: 2 of 4 rows cannot be used."
    assert said[2:] == [
        "  rows/a.jsonl, row 2, turn 1: found the string 'narrator'",
        "  rows/b.jsonl, row 1, turn 1: found the string 'narrator'",
    ]


def test_rows_of_a_slice_a_csv_and_a_parquet_file_keep_their_places(tmp_path):
    write(tmp_path / "rows.jsonl", [talk(n, "narrator" if n == 7 else "user") for n in range(10)])
    assert refused(tmp_path / "rows.jsonl", split="train[50%:]").startswith("rows.jsonl, row 8, column")
    (tmp_path / "rows.csv").write_text('prompt,completion,tools\n"a\nb",c,\nd,e,f\n')
    assert refused(tmp_path / "rows.csv").startswith(
        'rows.csv, row 2 (line 4), column "tools": found the string'
    )
    parquet = tmp_path / "rows.parquet"
    Dataset.from_list([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}]).to_parquet(
        parquet
    )
    assert refused(parquet).startswith('rows.parquet, row 2, column "completion": found null')


def test_a_stream_stops_at_the_first_malformed_row_and_names_its_file(tmp_path):
    write(tmp_path / "rows.jsonl", [talk(1), talk(2, "narrator"), talk(3, "narrator")])
    data = load_train_and_eval(*arguments(str(tmp_path / "rows.jsonl"), streaming=True))
    prepared = prepare_mixture(data.train, small_tokenizer(CHATML))
    with pytest.raises(DataError, match=r'rows.jsonl, row 2, column "messages", turn 1, key "role"'):
        list(prepared.dataset)


def test_numbers_that_cannot_be_stored_are_named(tmp_path):
    write(tmp_path / "rows.jsonl", [{"text": "a", "id": [1]}, {"text": "b", "id": [2**70]}])
    said = refused(tmp_path / "rows.jsonl")
    assert said.startswith('rows.jsonl, row 2, column "id": found a number of more than 64 bits')


def test_parts_of_a_mixture_are_refused_together():
    def check(part):
        if part != "good":
            raise RowsRefused(f"{part}: refused")
        return part

    assert call_for_each(["good", "good"], check) == ["good", "good"]
    with pytest.raises(RowsRefused, match=r"^a: refused\nb: refused$"):
        call_for_each(["a", "good", "b"], check)
    shortened = []
    with pytest.raises(RowsRefused, match=r"^a: refused$"):
        call_for_each(["a", "long"], check, lambda part: shortened.append(part) or "good")
    assert shortened == ["long"]


def test_a_long_data_set_is_not_checked_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(origins, "CHECKED_ROWS", 4)
    write(tmp_path / "rows.jsonl", [talk(n, "narrator" if n in (1, 2, 5) else "user") for n in range(8)])
    assert refused(tmp_path / "rows.jsonl").startswith("rows.jsonl: 2 of the first 4 rows cannot be used.")
    write(tmp_path / "later.jsonl", [talk(n, "narrator" if n > 5 else "user") for n in range(8)])
    assert refused(tmp_path / "later.jsonl").startswith("later.jsonl, row 7, column")


def test_rows_read_whole_are_refused_together(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n[1]\n{"text": "b"}\n{\n')
    with pytest.raises(
        RowsRefused, match=r"rows.jsonl: 2 of 4 rows cannot be used.\n(.*\n)?.*line 2: found a list"
    ):
        read_all_rows(tmp_path / "rows.jsonl")


def test_a_missing_key_or_column_is_named_with_the_one_in_its_place(tmp_path):
    """Red when: a row with `text` for `content`, or `Prompt` for `prompt`, is said to hold null."""
    rows = [talk(number) for number in range(7)]
    rows[6]["messages"][0] = {"speaker": "user", "text": "2?"}
    rows[1]["messages"][1] = {"role": "assistant", "text": "Yes."}
    rows[2]["messages"][0] = {"speaker": "user", "content": "2?"}
    rows[3]["messages"][0] = {"role": "user", "id": 7}
    rows[4]["messages"][1]["content"] = None
    write(tmp_path / "rows.jsonl", rows)
    said = refused(tmp_path / "rows.jsonl")
    assert (
        'key "content": found no such key, only role, text, expected a string. Fix: rename the key text to'
        in said
    )
    assert "from and value. Fix: rename the key speaker to role" in said
    assert "rename the key speaker to role and rename the key text to content" in said
    assert (
        '2 rows: column "messages", key "content", expected a string. Fix: fill it in or drop the row' in said
    )
    assert "  row 4, turn 1: found no such key, only role, id" in said
    assert "  row 5, turn 2: found null" in said
    columns = [{"prompt": "a", "completion": "b"}, {"Prompt": "a", "completion": "b"}, {"completion": "b"}]
    write(tmp_path / "text.jsonl", [*columns, {"prompt": "a", "answer": "b"}])
    lines = refused(tmp_path / "text.jsonl").splitlines()
    assert (
        'row 2, column "prompt": found nothing there, but a column "Prompt", expected a string or' in lines[1]
    )
    assert lines[1].endswith('Fix: rename "Prompt" to "prompt" in these rows')
    assert (
        'row 3, column "prompt": found null, expected a string or a list of turns. Fix: fill it in'
        in lines[2]
    )
    assert 'column "completion": found nothing there, but a column "answer"' in lines[3]


def test_independent_findings_are_named_in_the_same_round(tmp_path):
    """Unknown columns beside a broken line of a CSV file; copies and damaged text beside a malformed row."""
    (tmp_path / "rows.csv").write_text("Frage,Antwort\na,b\nc,d,e\n")
    lines = refused(tmp_path / "rows.csv").splitlines()
    assert "line 3: found 3 fields, expected 2" in lines[0]
    assert lines[1].startswith("no known data format: found columns Antwort, Frage.")
    rows = [talk(0, "narrator"), talk(1), talk(1), talk(2, answer="Caf\ufffd"), talk(1)]
    write(tmp_path / "rows.jsonl", rows)
    lines = refused(tmp_path / "rows.jsonl").splitlines()
    assert (
        lines[1]
        == "2 other rows are copies of earlier ones (row 3, row 5). Fix: remove them, unless they should "
        "count more"
    )
    assert lines[2].startswith(
        "1 other row has text with the replacement character (U+FFFD) (row 4): a character was"
    )


def test_a_conversation_that_ends_with_a_question_is_kept_and_named(tmp_path):
    rows = [talk(number) for number in range(3)]
    rows[1]["messages"].append({"role": "user", "content": "And now?"})
    write(tmp_path / "rows.jsonl", rows)
    report = prepare_mixture(
        load_train_and_eval(*arguments(str(tmp_path / "rows.jsonl"))).train, small_tokenizer(CHATML)
    ).report
    assert report.notes == {"the conversation ends with a user turn, of which nothing is trained": (2,)}
    assert report.rows_kept == 3


def test_a_user_turn_without_text_is_named(tmp_path):
    """In a conversation it is trained as it is; a whole question without text is dropped, and named once."""
    rows = [talk(number) for number in range(3)]
    rows[2]["messages"][0]["content"] = " \n"
    alpaca = [{"instruction": "Hi", "output": "Hello"}, {"instruction": "", "output": "Hello"}]
    reports = [
        prepare_mixture(
            load_train_and_eval(*arguments(write(tmp_path / name, data))).train, small_tokenizer(CHATML)
        ).report
        for name, data in (("talks.jsonl", rows), ("alpaca.jsonl", alpaca))
    ]
    assert [report.notes for report in reports] == [{"a user turn has no text": (3,)}, {}]
    assert [report.rows_kept for report in reports] == [3, 1]
    assert reports[1].dropped == {"the question is empty": (2,)}


def test_the_fix_of_what_is_not_rendered_stands_below_it(tmp_path):
    """Red when: it stands below another note, to which it does not belong."""
    rows = [talk(number) for number in range(2)]
    rows[0]["messages"][1]["thinking"] = "so"
    rows[0]["messages"].insert(0, {"role": "assistant", "content": ""})
    rows[1]["messages"].append({"role": "user", "content": "And now?"})
    write(tmp_path / "rows.jsonl", rows)
    loaded = load_train_and_eval(*arguments(str(tmp_path / "rows.jsonl")))
    lines = prepare_mixture(loaded.train, small_tokenizer(CHATML)).report.lines()
    (place,) = [number for number, line in enumerate(lines) if "give a template that renders it" in line]
    assert "not rendered by the chat template" in lines[place - 1]
    assert sum("not rendered" in line for line in lines) == 1
    assert sum("row" in line and "(row " in line for line in lines) > 1
