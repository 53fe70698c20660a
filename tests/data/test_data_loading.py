"""Files, folders, splits and mixtures, all local; and that nothing local is looked for on the Hub."""

import json

import pytest
from datasets import Dataset, DatasetDict
from small_files import numbered, write
from small_templates import CHATML
from small_tokenizers import small_tokenizer

from ift.data import DataError, detect_format, load_rows, prepare_dataset, split_names
from ift.data.loading import is_local

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "one"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv"])
@pytest.mark.parametrize("streaming", [False, True])
def test_files(tmp_path, kind, streaming):
    path = tmp_path / f"rows.{kind}"
    rows = Dataset.from_list(numbered(3))
    if kind == "json":
        path.write_text(json.dumps(numbered(3)))
    else:
        {"jsonl": rows.to_json, "parquet": rows.to_parquet, "csv": rows.to_csv}[kind](str(path))
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
