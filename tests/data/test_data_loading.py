"""Files, folders, splits and mixtures, all local; and that nothing local is looked for on the Hub."""

import json
import re
import subprocess
import sys

import pytest
from datasets import Dataset, DatasetDict
from small_files import arguments, numbered, write
from small_templates import CHATML
from small_tokenizers import small_tokenizer

from ift.data import DataError, detect_format, load_rows, load_train_and_eval, prepare_dataset, split_names
from ift.data.loading import files_left_out, is_local

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "one"}
ROWS = [{"prompt": "2+1=", "completion": "3"}, {"prompt": "2+2=", "completion": "é"}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "tsv"])
@pytest.mark.parametrize("streaming", [False, True])
def test_files(tmp_path, kind, streaming):
    path = tmp_path / f"rows.{kind}"
    rows = Dataset.from_list(numbered(3))
    if kind == "json":
        path.write_text(json.dumps(numbered(3)))
    else:
        {"jsonl": rows.to_json, "parquet": rows.to_parquet, "csv": rows.to_csv, "tsv": rows.to_csv}[kind](
            str(path)
        )
    assert [row["text"] for row in load_rows(str(path), streaming=streaming)] == ["row 0", "row 1", "row 2"]


@pytest.mark.parametrize("streaming", [False, True])
def test_folders(tmp_path, streaming):
    rows = Dataset.from_list(numbered(2))
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "extra": rows.select([1])}).save_to_disk(tmp_path / "many")
    write(tmp_path / "hub" / "data" / "train_sft-00000-of-00001.jsonl", numbered(2))
    write(tmp_path / "hub" / "data" / "test_sft-00000-of-00001.jsonl", numbered(1))
    assert len(list(load_rows(str(tmp_path / "one"), streaming=streaming))) == 2
    assert len(list(load_rows(str(tmp_path / "many"), split="extra", streaming=streaming))) == 1
    assert len(list(load_rows(str(tmp_path / "hub"), streaming=streaming))) == 2
    assert len(list(load_rows(str(tmp_path / "hub"), split="test", streaming=streaming))) == 1
    assert sorted(split_names(str(tmp_path / "hub"))) == ["test_sft", "train_sft"]
    assert split_names(str(tmp_path / "one")) == ["train"]
    assert split_names(str(tmp_path / "many")) == ["train", "extra"]
    with pytest.raises(DataError, match='no split "validation", only train, extra'):
        load_rows(str(tmp_path / "many"), split="validation")


def test_a_part_of_a_split(tmp_path):
    path = write(tmp_path / "rows.jsonl", numbered(5))
    assert len(load_rows(path, split="train[:2]")) == 2
    Dataset.from_list(numbered(2)).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match="save_to_disk"):
        load_rows(str(tmp_path / "one"), split="train[:1]")


@pytest.mark.parametrize(
    "name", ["./rows.jsonl", "rows.jsonl", "data/rows.parquet", "a/b/c", "../x", "~/x", "/x/y", "x.csv"]
)
def test_what_looks_local_and_is_missing_is_never_asked_of_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked datasets"))
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(DataError, match="no such file or folder") as caught:
        load_rows(name)
    assert str(caught.value).startswith(name)


def test_hub_ids_and_local_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_local("HuggingFaceH4/ultrachat_200k")
    assert not is_local("imdb")
    (tmp_path / "owner" / "rows").mkdir(parents=True)
    assert is_local("owner/rows")


def test_a_hub_id_goes_to_the_hub_with_its_split(monkeypatch):
    asked = {}
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["train_sft", "test_sft"])
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *given, **options: asked.update(given=given, **options)
    )
    load_rows("HuggingFaceH4/ultrachat_200k")
    assert asked == {
        "given": ("HuggingFaceH4/ultrachat_200k", None),
        "split": "train_sft",
        "streaming": False,
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('{"text": "a"}\n{"text": "b"\n{"text": "c"}\n', 2, "not JSON"),
        ('{"text": "a"}\n\n{"text": "b"}\nnonsense\n', 4, "not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, text, line, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"rows.jsonl, line {line}: .*{words}.*Fix:"):
        load_rows(str(path))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.jsonl").write_text(text)
    with pytest.raises(DataError, match=rf"train.jsonl, line {line}: "):
        load_rows(str(folder))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DataError, match=r"ends in .txt, expected .jsonl"):
        load_rows(str(tmp_path / "rows.txt"))
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(DataError, match="empty file"):
        load_rows(str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        load_rows(str(tmp_path / "rows.parquet"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing"):
        load_rows(str(tmp_path / "nothing"))


def test_the_encoding_that_is_named_brings_every_character_back(tmp_path):
    """LATIN1, which was named before, turns the euro sign of a Windows program into U+0080."""
    text = "prompt,completion\nWas kostet das?,„5 €“ – für Häuser\n"
    (tmp_path / "rows.csv").write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match=r"line 2: found bytes that are not UTF-8 \(84\)") as refused:
        load_rows(str(tmp_path / "rows.csv"))
    command = re.search("iconv .*new.csv", str(refused.value))[0]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert load_rows(str(tmp_path / "new.csv"))[0]["completion"] == "„5 €“ – für Häuser"


def test_damaged_text_is_noted_only_where_it_is_used():
    rows = [
        {"text": "a", "more": "\x80"},
        {"text": "b\x85", "more": ""},
        {"text": "\ufffd", "more": ""},
        {"text": "c\r\nd", "more": ""},
        {"text": "\tpage\n\x0c", "more": "\x1b[31m"},
        {"text": "e\ufefff", "more": ""},
    ]
    notes = prepare_dataset(Dataset.from_list(rows), small_tokenizer()).report.notes
    assert notes == {
        "column more: not used in training": (1, 5),
        "text with control characters (U+0080 to U+009F)": (2,),
        "text with the replacement character (U+FFFD)": (3,),
        "text with carriage returns (U+000D)": (4,),
        "text with control characters (U+0000 to U+001F, U+007F)": (5,),
        "text with a byte order mark (U+FEFF)": (6,),
    }


@pytest.mark.parametrize(
    "whole", [{"version": 1, "data": ROWS}, {str(index): row for index, row in enumerate(ROWS)}]
)
def test_a_file_that_is_one_object_is_refused_with_the_command_that_takes_the_rows_out(tmp_path, whole):
    (tmp_path / "rows.json").write_text(json.dumps(whole, indent=1))
    loaded = load_rows(str(tmp_path / "rows.json"))
    with pytest.raises(DataError, match="found one object, with ") as refused:
        prepare_dataset(loaded, small_tokenizer())
    command = re.search("python -c .*", str(refused.value))[0].replace("FILE", "rows.json")
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, cwd=tmp_path, check=True)
    assert load_rows(str(tmp_path / "rows.jsonl")).to_list() == ROWS


def test_tool_calls_of_different_shapes_survive_the_file(tmp_path):
    """Arrow would give every call the keys of all others."""
    rows = [
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": name, "arguments": given}}],
                },
            ]
        }
        for name, given in (("f", {"a": 1}), ("g", {"b": "x"}))
    ]
    loaded = load_rows(write(tmp_path / "calls.jsonl", rows))
    form = detect_format(loaded.column_names, loaded)
    calls = [form.convert(row, 1)["messages"][1]["tool_calls"][0]["function"]["arguments"] for row in loaded]
    assert calls == [{"a": 1}, {"b": "x"}]
    template = CHATML.replace("m.content +", "m.content + (m.tool_calls | tojson if m.tool_calls else '') +")
    assert len(prepare_dataset(loaded, small_tokenizer(template)).dataset) == 2


ODD = "rows [1] *? ~.jsonl"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_path_is_a_path_and_no_pattern(tmp_path, kind, streaming):
    """`[1]` matches "1" as a pattern: the file beside it, which is not meant, would be read."""
    folder = tmp_path / "a [x]*"
    folder.mkdir()
    write_as(folder / f"rows[1] ?.{kind}", numbered(2))
    write_as(folder / f"rows1 a.{kind}", numbered(1, 7))
    found = load_rows(str(folder / f"rows[1] ?.{kind}"), streaming=streaming)
    assert [row["text"] for row in found] == ["row 0", "row 1"]
    assert len(list(load_rows(str(folder), streaming=streaming))) == 3


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ODD, numbered(2))
    assert len(load_rows(f"~/{ODD}")) == 2


def write_as(path, rows):
    data = Dataset.from_list(rows)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        {".jsonl": data.to_json, ".parquet": data.to_parquet, ".csv": data.to_csv}[path.suffix](str(path))


@pytest.mark.parametrize("streaming", [False, True])
def test_csv_is_text(tmp_path, streaming):
    cells = [
        "42",
        "007",
        "NA",
        "None",
        "nan",
        "True",
        "2024-10-05",
        "1.10",
        "1e5",
        " x ",
        'a "b"',
        "a,\nb",
        "null",
    ]
    path = tmp_path / "rows.csv"
    lines = [f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in cells]
    path.write_text("\ufeffprompt,completion\r\n" + "".join(f"p,{line}\r\n" for line in lines), newline="")
    rows = list(load_rows(str(path), streaming=streaming))
    assert [row["completion"] for row in rows] == cells
    assert {row["prompt"] for row in rows} == {"p"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2,3\n", "line 2: found 3 fields, expected 2"),
        ("a,b,c\n1,2,3\n\n1,2\n", "line 4: found 2 fields, expected 3"),
        ('a,b\n"1\n2",3\n4\n', "line 4: found 1 fields"),
        ("a,a\n1,2\n", "line 1: found the column 'a' twice"),
        ('a,b\n1,2\n"x,3\n4,5\n', "line 3: cannot be read as CSV"),
        ('a,b\n"x"y,3\n', "line 2: cannot be read as CSV"),
        ("a;b\n1;2;3\n", '(?=.*contains a semicolon.*"a; b")line 2: found 3 fields, expected 2 .a, b.'),
    ],
)
def test_a_csv_row_that_does_not_fit_is_named_by_its_line(tmp_path, text, said, streaming):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=rf"rows.csv, {said}.*Fix:"):
        list(load_rows(str(tmp_path / "rows.csv"), streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        (
            "rows.csv",
            'Frage;Antwort\nWas, wo?;"da; dort"\n',
            "rows.csv: row 1 is the first below the header; the fields are separated by a semicolon",
        ),
        ("rows.csv", 'Was, wann, wo;Antwort\nWas, wo?;"da; dort"\n', "a semicolon"),
        ("rows.csv", '"Frage, kurz";Antwort\nWas, wo?;"da; dort"\n', "a semicolon"),
        ("rows.csv", "Frage\tAntwort\nWas, wo?\tda; dort\n", "a tab"),
        ("rows.csv", "sep=|\nFrage|Antwort\nWas, wo?|da; dort\n", "'|'"),
        ("rows.tsv", 'Frage\tAntwort\n"Was, wo?"\tda; dort\n', ""),
        ("rows.csv", 'Frage,Antwort\n"Was, wo?",da; dort\n', ""),
        ("rows.csv", '"Frage;x",Antwort\n"Was, wo?",da; dort\n', ""),
    ],
)
def test_the_separator_is_found_in_the_header_and_named(tmp_path, name, text, note, streaming):
    (tmp_path / name).write_text("\ufeff" + text)
    script, mixture, config = arguments(str(tmp_path / name))
    script.dataset_streaming = streaming
    data = load_train_and_eval(script, mixture, config)
    (row,) = data.train[0].rows
    assert list(row.values()) == ["Was, wo?", "da; dort"]
    (line,) = data.notes
    assert line.startswith(f"{name}: row 1 is the first below the header")
    assert note in line
    assert ("separated" in line) == bool(note)


def test_a_header_with_one_column_has_no_other_separator(tmp_path):
    (tmp_path / "rows.csv").write_text("text\na; b\n")
    assert list(load_rows(str(tmp_path / "rows.csv"))) == [{"text": "a; b"}]
    (tmp_path / "open.csv").write_text('"text;more\na,b\n')
    with pytest.raises(DataError, match="cannot be read as CSV"):
        load_rows(str(tmp_path / "open.csv"))


def test_an_empty_cell_is_what_an_empty_string_is(tmp_path):
    """Red when: an empty cell refuses a whole file, as null does."""
    cells = [("a", "b", ""), ("a", "", ""), ("", "b", ""), ("", "b", "c")]
    rows = [dict(zip(("instruction", "output", "input"), row, strict=True)) for row in cells]
    (tmp_path / "rows.csv").write_text("instruction,output,input\na,b,\na,,\n,b,\n,b,c\n")
    files = [str(tmp_path / "rows.csv"), write(tmp_path / "rows.jsonl", rows)]
    reports = [prepare_dataset(load_rows(file), small_tokenizer(CHATML)).report for file in files]
    assert reports[0] == reports[1]
    assert reports[0].dropped == {"the answer is empty": (2,), "the question is empty": (3,)}


def test_a_completion_without_a_prompt_is_noted(tmp_path):
    rows = Dataset.from_list([{"prompt": "", "completion": "a"}, {"prompt": "b", "completion": ""}])
    report = prepare_dataset(rows, small_tokenizer()).report
    assert report.notes == {"column prompt is empty: the completion is trained without a prompt": (1,)}
    assert report.dropped == {"the answer is empty": (2,)}


def test_the_index_that_pandas_writes_is_a_column(tmp_path):
    (tmp_path / "rows.csv").write_text(",text\n0,a\n1,b\n")
    assert list(load_rows(str(tmp_path / "rows.csv"))) == [
        {"column 1": "0", "text": "a"},
        {"column 1": "1", "text": "b"},
    ]


# What a library would convert: dates, numbers that are too long for a float, null and absent, mixed types
EXACT = [
    {
        "messages": [{"role": "user", "content": "2024-10-05", "date": "2020-01-01T00:00:00Z"}],
        "day": "1999-12-31",
    },
    {
        "messages": [{"role": "user", "content": "\u2028a\x85b", "n": 1.2345678901234567, "none": None}],
        "mixed": 1,
    },
    {"messages": "text", "mixed": "1", "day": "2000-01-01"},
    {"messages": [{"arguments": {"a": [1, 1.5, "1"]}}], "mixed": None, "whole": 2**62},
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_json_values_are_what_is_written(tmp_path, kind, streaming):
    path = tmp_path / f"rows.{kind}"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in EXACT)
    path.write_text(
        "\ufeff" + (lines if kind == "jsonl" else json.dumps(EXACT, ensure_ascii=False)), encoding="utf-8"
    )
    empty = {"messages": None, "day": None, "mixed": None, "whole": None}
    assert list(load_rows(str(path), streaming=streaming)) == [{**empty, **row} for row in EXACT]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_key_and_a_type_that_come_late_are_read(tmp_path, streaming):
    """Behind the first 10 MB, from which the library would take the columns and their types."""
    late = [{"text": "row", "late": "yes"}, {"text": ["a list"], "late": 3}]
    path = write(tmp_path / "rows.jsonl", [{"text": "x" * 4000}] * 3000 + late)
    rows = list(load_rows(path, streaming=streaming))
    assert rows[3000:] == late
    assert rows[0].get("late") is None


def test_a_bad_row_of_a_stream_is_named_when_it_comes(tmp_path):
    path = write(tmp_path / "rows.jsonl", numbered(2000))
    with open(path, "a") as file:
        file.write("{broken\n")
    rows = iter(load_rows(path, streaming=True))
    assert [next(rows)["text"] for _ in range(2000)][-1] == "row 1999"
    with pytest.raises(DataError, match=r"rows.jsonl, line 2001: found text that is not JSON"):
        next(rows)


def test_every_file_of_a_folder_is_read_or_named(tmp_path):
    mixed = tmp_path / "mixed"
    write(mixed / "one.jsonl", numbered(2))
    write_as(mixed / "two.csv", numbered(3, 2))
    write_as(mixed / "deep.json", numbered(1, 5))
    (mixed / "notes.txt").write_text("x")
    (mixed / ".hidden.jsonl").write_text("{")
    (mixed / "README.md").write_text("# Rows")
    assert sorted(row["text"] for row in load_rows(str(mixed))) == [f"row {n}" for n in range(6)]
    assert files_left_out(str(mixed))[0].startswith(f"{mixed}: not read: notes.txt (")
    named = tmp_path / "named"
    for file in ("train.jsonl", "val-1.jsonl", "test/a.jsonl", "extra.jsonl", "pretrained.jsonl"):
        write(named / file, numbered(1))
    assert split_names(str(named)) == ["train", "validation", "test"]
    assert "not read: extra.jsonl, pretrained.jsonl (" in files_left_out(str(named))[0]
    assert files_left_out(str(mixed / "one.jsonl")) == []
    Dataset.from_list(numbered(1)).to_parquet(str(mixed / "three.parquet"))
    with pytest.raises(DataError, match=r"\.parquet files together with"):
        load_rows(str(mixed))


def test_configurations_of_a_readme(tmp_path):
    write(tmp_path / "a" / "x-1.jsonl", numbered(1))
    write(tmp_path / "a" / "x-2.jsonl", numbered(2))
    write(tmp_path / "b.jsonl", numbered(4))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  data_files:\n  - split: train\n    path: a/x-*.jsonl\n"
        "- config_name: second\n  data_files: b.jsonl\n---\n"
    )
    assert len(load_rows(str(tmp_path), config="first")) == 3
    assert len(load_rows(str(tmp_path), config="second")) == 4
    with pytest.raises(DataError, match=r"the configurations first, second.*--dataset_config"):
        load_rows(str(tmp_path))


@pytest.mark.parametrize(
    ("split", "count"), [("train[1:3]+train[4:]", 3), ("train[:50%]", 2), ("train[-1:]", 1)]
)
def test_parts_of_a_split(tmp_path, split, count):
    assert len(load_rows(write(tmp_path / "rows.jsonl", numbered(5)), split=split)) == count
    with pytest.raises(DataError, match="train\\[:100\\]"):
        load_rows(str(tmp_path / "rows.jsonl"), split="train[x")


def test_a_changed_file_is_read_anew_and_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.jsonl", numbered(2))
    assert len(load_rows(path)) == 2
    write(tmp_path / "rows.jsonl", numbered(3))
    assert len(load_rows(path)) == 3
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/dev/null/x")
    with pytest.raises(DataError, match=r"cache of datasets, /dev/null/x.*HF_DATASETS_CACHE"):
        load_rows(path)


def test_rows_that_other_code_has_prepared_are_prepared_again(tmp_path, monkeypatch):
    """Red when: after an upgrade, token ids and remarks of the earlier version come from the cache of datasets."""
    path, tokenizer = write(tmp_path / "rows.jsonl", numbered(3)), small_tokenizer(CHATML)

    def prepared_files():
        prepare_dataset(load_rows(path), tokenizer)
        return {file.name for file in (tmp_path / "cache").rglob("cache-*.arrow")}

    first = prepared_files()
    assert first
    assert prepared_files() == first  # the same code: read from the cache
    monkeypatch.setattr("ift.data.origin.code_of_rows", lambda: "of another version")
    assert len(prepared_files()) > len(first)


def test_a_number_that_cannot_be_stored_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"text": "a", "n": [2**70]}])
    with pytest.raises(DataError, match="more than 64 bits"):
        load_rows(path)


def test_a_table_is_read_as_written_and_not_as_datasets_converts_it(tmp_path):
    """Red when: `ift.data.load_rows`, which docs/data.md names for Python, reads `N/A` or an empty cell as null."""
    from datasets import load_dataset

    (tmp_path / "rows.csv").write_text("instruction,output\na,N/A\nb,\n")
    rows = load_rows(str(tmp_path / "rows.csv"))
    assert rows["output"][:] == ["N/A", ""]
    read = load_dataset(
        "csv", data_files=str(tmp_path / "rows.csv"), split="train", cache_dir=str(tmp_path / "own")
    )
    assert read["output"][:] == [None, None]
