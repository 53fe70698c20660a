"""The table of bad input: what a user may give, how `ift` must end, and the defect that each line would show."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

USER = {"role": "user", "content": "What is 1 plus 1?"}
ANSWER = {"role": "assistant", "content": "The answer is 2."}


def talk(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


GOOD = talk(USER, ANSWER)
ROWS = [GOOD, GOOD]
ASKED = {"prompt": "1 plus 1?", "completion": " 2."}
LONG = {"role": "user", "content": "long " * 200}


@dataclass(frozen=True)
class Case:
    """One command line with the files it needs.

    Attributes:
        name: of the case.
        said: words that must stand in what is said, white space aside.
        defect: what is broken if it turns red.
        rows: of the data file, or its bytes.
        words: further words of the command line; OUT, ROWS, MODEL and TMP stand for paths.
        code: exit code.
        file: name of the data file.
        model: changes a copy of the tiny model's folder.
        out: makes the output folder as it is before.
        yaml: text of a --config file, behind model, data and folder.
        verb: "check" where the run would be fine, or where the folder does not matter.
    """

    name: str
    said: str | tuple[str, ...]
    defect: str
    rows: list[Any] | bytes = b""
    words: tuple[str, ...] = ()
    code: int = 1
    file: str = "rows.jsonl"
    model: Callable[[Path], Any] | None = None
    out: Callable[[Path], Any] | None = None
    yaml: str | None = None
    verb: str = "train"


def _encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


FILES = [
    Case("broken JSON", ("rows.jsonl, line 2: found text that is not JSON", "one object per line"),
         "the line of broken JSON is lost", b'{"text": "a b"}\n{"text": \n{"text": "c"}\n'),
    Case("last line cut off", "rows.jsonl, line 3: found text that is not JSON",
         "a file cut off in its last line is read without it", b'{"text": "a b"}\n\n{"text": "c'),
    Case("lists for rows", ("2 of 2 rows cannot be used", "line 1: found a list of 2 items"),
         "lines that are no objects become columns", b"[1, 2]\n[3, 4]\n"),
    Case("a key twice", ("rows.jsonl, line 2: found the key 'text' twice",),
         "one of two equal keys wins without a word", b'{"text": "a b"}\n{"text": "a", "text": "b"}\n'),
    Case("half a surrogate pair", "rows.jsonl, line 1: found half of a surrogate pair",
         "text that no tokenizer takes crashes later", b'{"text": "a \\ud800 b"}\n'),
    Case("latin-1", ("rows.jsonl, line 2: found bytes that are not UTF-8 (e9)",
         "Fix: iconv -f WINDOWS-1252 -t UTF-8 rows.jsonl > new.jsonl"),
         "the wrong encoding is found in the middle of a run, or not at all",
         _encoded('{"text": "a b"}\n{"text": "caf\xe9 cr\xe8me"}\n', "latin-1")),
    Case("UTF-16", ("rows.jsonl: found UTF-16, expected UTF-8", "iconv -f UTF-16"),
         "UTF-16 is called broken JSON", _encoded('{"text": "a b"}\n', "utf-16")),
    Case("Excel's Unicode text", ("rows.txt: found UTF-16", 'Excel writes UTF-16 as "Unicode text"', "> new.tsv"),
         "Excel's text is refused for its name alone", _encoded("prompt\tcompletion\na\tb\n", "utf-16"),
         file="rows.txt"),
    Case("a workbook", ("rows.xlsx: found a zip archive", 'save the sheet as "CSV UTF-8"'),
         "a workbook is refused without a way out", b"PK\x03\x04...", file="rows.xlsx"),
    Case("a workbook that is called .csv", ("rows.csv: found a zip archive", 'save the sheet as "CSV UTF-8"'),
         "a workbook is called text in another encoding", b"PK\x03\x04\xe9\xff\n", file="rows.csv"),
    Case("a workbook that is not there", "missing.xlsx: no such file or folder", "a file is looked for on the Hub",
         ROWS, ("--dataset_name", "missing.xlsx")),
    Case("characters of WINDOWS-1252 read as LATIN1",
         ("1 row has text with control characters (U+0080 to U+009F) (row 2 of rows.jsonl)", "iconv -f WINDOWS-1252"),
         "a euro sign becomes a control character, and the check says ok",
         [GOOD, talk(USER, {"role": "assistant", "content": "5 \x80."})], code=0, verb="check"),
    Case("characters that are lost", ("1 row has text with the replacement character (U+FFFD) (row 1 of rows.jsonl)",
         "a character was lost"), "the sign of lost characters is trained", [talk(USER, {"role": "assistant",
         "content": "5 \ufffd."}), GOOD], code=0, verb="check"),
    Case("latin-1 CSV", ("rows.csv, line 2: found bytes that are not UTF-8", 'in Excel save the sheet as "CSV UTF-8"'),
         "a CSV file is read in another encoding", _encoded("text\ncaf\xe9\n", "latin-1"), file="rows.csv"),
    Case("UTF-8 with a mark", "kept 2 of 2 rows", "the mark of Windows editors is no row's fault",
         b'\xef\xbb\xbf{"text": "a b c"}\n{"text": "b d e"}\n', code=0, verb="check"),
    Case("empty file", "rows.jsonl: found an empty file, expected rows", "zero rows are trained", b""),
    Case("blank lines", "rows.jsonl: found no rows", "zero rows are trained", b"\n\n"),
    Case("empty list", "rows.json: found no rows", "zero rows are trained", b"[]", file="rows.json"),
    Case("CSV of a header", "rows.csv: found no rows", "zero rows are trained", b"prompt,completion\n",
         file="rows.csv"),
    Case("broken .json", ("rows.json: found text that is not JSON", "line 1 column"),
         "the place in a .json file is lost", b'[{"text": "a"}, {"text": ', file="rows.json"),
    Case("uneven CSV", ("rows.csv, line 3: found 4 fields, expected 2", "Fix:"), "the line of a CSV file is lost",
         b"prompt,completion\na,b\na,b,c,d\n", file="rows.csv"),
    Case("no Parquet", "rows.parquet: cannot be read", "pyarrow's traceback", b"not parquet", file="rows.parquet"),
    Case("another ending", "found a file that ends in .txt, expected .jsonl, .json, .parquet, .csv, .tsv",
         "a text file is looked for on the Hub", b"x", file="rows.txt"),
    Case("no such file", "missing.jsonl: no such file or folder", "a file is looked for on the Hub", ROWS,
         ("--dataset_name", "missing.jsonl")),
    Case("an empty folder", "holds: found nothing that ends in .jsonl", "a folder without files trains nothing", ROWS,
         ("--dataset_name", "TMP/holds")),
    Case("no such split", 'found no split "validation", only train', "another split is trained", ROWS,
         ("--dataset_train_split", "validation")),
    Case("a stream of broken JSON", ("rows.jsonl, line 2: found text that is not JSON", "Fix:"),
         "a stream's reader ends in a traceback", b'{"text": "a b"}\n{"text": \n', ("--dataset_streaming", "true")),
]  # fmt: skip

COLUMNS = [
    Case("a column missing", ("found columns prompt", "Accepted: chosen"), "trl's KeyError: 'text'", [{"prompt": "a"}]),
    Case("columns of other names",
         ("found columns answer, question", "--dataset_columns question=instruction answer=output"),
         "the remedy for common names is lost", [{"question": "a", "answer": "b"}]),
    Case("renaming what is not there", 'found no column "a" among messages', "a typo in a renaming is passed over",
         ROWS, ("--dataset_columns", "a=text")),
    Case("no pairs for dpo", ("found columns messages", "expected pairs in chosen and rejected"),
         "a preference method ends in a KeyError", ROWS, ("--method", "dpo")),
    Case("formats mixed", ("row 2", 'column "messages": found null', "looks like prompt-completion, text"),
         "the rows of the second format vanish", [GOOD, ASKED]),
    Case("formats mixed, the other first", ("row 1", "looks like text"), "rows of one format hide the other",
         [{"text": "a b c"}, GOOD]),
]  # fmt: skip

CONTENT = [
    Case("null content", 'row 2, column "messages", turn 2, key "content": found null, expected a string',
         "null is trained as the word None", [GOOD, talk(USER, {"role": "assistant", "content": None})]),
    Case("a number for content", 'row 2, column "messages", turn 1, key "content": found the number 3',
         "numbers are trained as text of Python", [GOOD, talk({"role": "user", "content": 3}, ANSWER)]),
    Case("parts for content", ("found a part of type image, expected a string", "join its text parts"),
         "images are left out in silence",
         [talk({"role": "user", "content": [{"type": "image", "image": "a.png"}]}, ANSWER)]),
    Case("null for a conversation", 'row 2, column "messages": found null, expected a list of turns',
         "a null row is dropped in silence", [GOOD, {"messages": None}]),
    Case("text for a conversation", 'row 1, column "messages": found the string', "letters are read as turns",
         [{"messages": "hello"}]),
    Case("text for a turn", 'row 1, column "messages", turn 1: found the string', "AttributeError of a str",
         [{"messages": ["hi", "there"]}]),
    Case("a turn without role", "turn 1: found an object with keys content", "KeyError: 'role'",
         [talk({"content": "x"}, ANSWER)]),
    Case("an unknown role", ("row 2", "found the string 'narrator', expected one of system, developer, user"),
         "the turn of an unknown role vanishes", [GOOD, talk({"role": "narrator", "content": "x"}, ANSWER)]),
    Case("ShareGPT's roles in messages", "found turns of user only", "whole data sets vanish",
         [talk({"role": "human", "content": "x"})]),
    Case("no assistant", 'row 2, column "messages": found turns of user only, expected at least one assistant turn',
         "rows without an answer are dropped in silence", [GOOD, talk(USER)]),
    Case("no turn", 'row 2, column "messages": found an empty conversation', "IndexError", [GOOD, talk()]),
    Case("assistant first", "kept 2 of 2 rows", "a conversation that the assistant opens is refused",
         [GOOD, talk(ANSWER, USER, ANSWER)], code=0, verb="check"),
    Case("tools that are no JSON", 'row 1, column "tools": found text that is not JSON', "tools are dropped in silence",
         [talk(USER, ANSWER, tools="{nope")]),
    Case("an empty completion", "none of 2 rows is left (the answer is empty: 2 rows)",
         "silence is trained as the answer", [{"prompt": "a", "completion": ""}, {"prompt": "b", "completion": " "}]),
    Case("one empty answer", ("kept 1 of 2 rows", "1 row is dropped: the answer is empty (row 2)"),
         "silence is trained as the answer",
         [GOOD, talk(USER, {"role": "assistant", "content": ""})], code=0, verb="check"),
    Case("empty text", "none of 1 row is left (the text is empty: 1 row)", "a run without a loss succeeds",
         [{"text": ""}]),
    Case("a null output", 'row 1, column "output": found null', "None is trained",
         [{"instruction": "a", "output": None}]),
    Case("empty cells", ("kept 1 of 4 rows", "1 row is dropped: the answer is empty (row 2)",
         "1 row is dropped: the question is empty (row 3)", "1 row is dropped: question and answer are empty (row 4)"),
         "an empty CSV cell is trained as nan, or refuses the file",
         b"instruction,output\nhi,ho\nhi,\n,ho\n,\n", ("--per_device_train_batch_size", "1"), file="rows.csv", code=0,
         verb="check"),
    Case("rejected is null", 'row 2, column "rejected": found null', "a pair of one side is trained",
         [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": None}],
         ("--method", "dpo")),
    Case("pairs that do not differ", "none of 1 pair is left (chosen and rejected are the same: 1 row)",
         "a preference of nothing over itself", [{"prompt": "a", "chosen": "b", "rejected": "b"}], ("--method",
                                                                                                    "orpo")),
]  # fmt: skip

LENGTHS = [
    Case("a prompt longer than max_length", ("max_length 64 truncates 33.3% of the rows (row 3;",
         "1 row is dropped, with nothing left to learn (row 3), and"), "answers behind max_length are lost in silence",
         [GOOD, GOOD, talk(LONG, ANSWER)], ("--max_length", "64"), verb="check"),
    Case("every row dropped", ("none of 2 rows is left (nothing to learn after truncation to max_length: 2 rows)",
         "raise --max_length"), "the loss is 0 and the run succeeds", [talk(LONG, ANSWER)] * 2, ("--max_length", "64")),
    Case("a row of a million characters", ("1 row is longer than the 256 positions", "the longest row has", "(row 2;"),
         "one huge row is cut without a word", [GOOD, talk(USER, {"role": "assistant", "content": "a" * 1_000_000})]),
    Case("too few rows to hold out", "cannot hold out 1 of 1 row for evaluation",
         "training and evaluation share a row", [GOOD],
         ("--eval_strategy", "steps", "--eval_steps", "1")),
]  # fmt: skip

IDS = [
    Case("ids that are words", 'row 1, column "input_ids"', "words are taken for ids", [{"input_ids": ["a"]}]),
    Case("an id below 0", 'row 1, column "input_ids": found the number -3, expected 0 or more',
         "an IndexError of the embedding, after loading", [{"input_ids": [1, 2, -3]}]),
    Case("an id that the model lacks", ("the token id 999,999", "but the model has only"),
         "an IndexError of the embedding, after loading", [{"input_ids": [1, 2, 999_999]}]),
    Case("a label that the model lacks", ("the token id 99,999", "but the model has only"),
         "a label out of range is trained as something else",
         [{"input_ids": [1, 2, 3], "labels": [-100, 2, 99_999]}]),
    Case("a label of -1", 'row 1, column "labels": found the number -1, expected 0 or more, or -100',
         "-1 is taken for a token", [{"input_ids": [1, 2, 3], "labels": [-1, 2, 3]}]),
    Case("fewer labels than ids", 'row 1, column "labels": found 1 entry, expected 3', "labels are shifted",
         [{"input_ids": [1, 2, 3], "labels": [1]}]),
    Case("no label", "none of 1 row is left (nothing to learn: 1 row)", "the loss is nan",
         [{"input_ids": [1, 2, 3], "labels": [-100] * 3}]),
]  # fmt: skip


def option(
    name: str, said: str | tuple[str, ...], defect: str, *words: str, code: int = 2, **more: Any
) -> Case:
    return Case(name, said, defect, more.pop("rows", ROWS), words, code, **more)


OPTIONS = [
    option("unknown flag", "unknown flag --learnig_rate; did you mean --learning_rate?",
           "a typo trains with the default",
           "--learnig_rate", "1"),
    option("unknown key", "run.yaml, line 4: unknown key 'learnig_rate'; did you mean learning_rate?",
           "a typo trains with the default", yaml="learnig_rate: 1\n"),
    option("a key twice in YAML", "run.yaml, line 5: seed was already set on line 4", "YAML keeps the last of two",
           yaml="seed: 1\nseed: 2\n"),
    option("a key twice below", "run.yaml, line 6: path was already set on line 5", "YAML keeps the last of two",
           yaml="datasets:\n  - path: a.jsonl\n    path: b.jsonl\n"),
    option("broken YAML", "run.yaml is not YAML", "yaml's traceback", yaml="a: [\n"),
    option("YAML that makes objects", "run.yaml is not YAML", "a YAML file runs code",
           yaml="seed: !!python/object/apply:os.system ['true']\n"),
    option("no such YAML", "--config nowhere.yaml: No such file", "a traceback", "--config", "nowhere.yaml"),
    option("a wrong type in YAML", "run.yaml, line 4: seed is 1.5; give a whole number.", "1.5 is taken for a seed",
           yaml="seed: 1.5\n"),
    option("a wrong type", "invalid int value: '1.5'", "argparse's usage of 300 flags", "--max_steps", "1.5"),
    option("a word of no choice", "--lr_scheduler_type/--lr-scheduler-type: invalid choice: 'nosuch'",
           "a run starts with another schedule", "--lr_scheduler_type", "nosuch"),
    option("lambda out of range", "residual_lambda is 2.0; give a value in [0, 1], such as 0.2.",
           "lambda 2 extrapolates", "--residual_lambda", "2"),
    option("no accumulation", "gradient_accumulation_steps is 0; give 1 or more.", "ZeroDivisionError",
           "--gradient_accumulation_steps", "0"),
    option("an empty batch", "per_device_train_batch_size is 0; give 1 or more.", "torch's error after loading",
           "--per_device_train_batch_size", "0"),
    option("a negative learning rate", "learning_rate is -1.0; give a number, 0 or more.",
           "torch's error after loading",
           "--learning_rate", "-1"),
    option("a learning rate of nan", "invalid float value: 'nan'. Fix: give a number", "weights of nan",
           "--learning_rate", "nan"),
    option("a negative max_length", "max_length is -5; give 2 or more", "every row is cut from its end",
           "--max_length", "-5"),
    option("no steps", "max_steps is 0; give 1 or more, or -1", "0 steps train three epochs", "--max_steps", "0"),
    option("no seed", "seed is -1; give a whole number from 0", "an error after loading", "--seed", "-1"),
    option("no output folder", "output_dir is empty; name a folder.", "the working directory is trained into",
           "--output_dir", ""),
    option("options in conflict", "residual_warmup_ratio above 0", "one of two options is passed over",
           "--residual_lambda_start", "0.1"),
    option("two autocasts", "fp16 and bf16", "one of two options is passed over", "--bf16", "true", "--fp16", "true"),
    option("an accelerate file that is not YAML", "is not YAML", "yaml's traceback", "--config_file", "ROWS",
           rows=b"a: [\n"),
    option("an unknown method", "psychic", "KeyError", "--method", "psychic"),
    option("a template that is not there", "--chat_template_path nosuch.jinja: no such file",
           "a template's path is looked for on the Hub", "--chat_template_path", "nosuch.jinja", code=1),
    option("an end token that is not there", ("eos_token", "<nosuch>"), "an unknown token ends no answer",
           "--eos_token", "<nosuch>", code=1),
    option("LoRA on nothing", "Target modules nix not found", "peft's traceback", "--use_peft", "true",
           "--lora_target_modules", "nix", code=1),
    option("a stream without an end", "max_steps", "a stream's length is asked for", "--dataset_streaming", "true",
           "--max_steps", "-1", code=1),
]  # fmt: skip


def model(
    name: str,
    said: str | tuple[str, ...],
    defect: str,
    change: Callable[[Path], Any],
    *words: str,
    **more: Any,
) -> Case:
    return Case(name, said, defect, ROWS, words, model=change, **more)


def drop_words(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def holding(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


def truncated(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


class Opens:
    """A pickle that writes a file when it is loaded as Python loads pickles."""

    def __reduce__(self) -> Any:
        return open, (str(Path(__file__).parent / "opened"), "w")


def poisoned(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Opens()))
    (folder / "model.safetensors").unlink()


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def adapter(**more: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").unlink()
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **more}))
        (folder / "adapter_model.bin").write_bytes(b"pickle")

    return change


def remote(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    maps = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": maps}))


def smaller(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder)
    network.resize_token_embeddings(60)
    network.save_pretrained(folder)


MODELS = [
    Case("an end token of another model", "eos_token is '<|eot|>', which is not in the tokenizer's vocabulary",
         "the fault is found after the rows are prepared, or the unknown token is trained", ROWS,
         ("--eos_token", "<|eot|>")),
    Case("a padding token of another model", "pad_token is '<|fim_pad|>', which is not in the tokenizer's vocabulary",
         "trl's message has no fix", ROWS, ("--pad_token", "<|fim_pad|>")),
    option("no such model", "./nowhere: no such model folder", "a path is looked for on the Hub",
           "--model_name_or_path", "./nowhere", code=1),
    option("a file for a model", "no such model folder", "a file is opened as a folder",
           "--model_name_or_path", "ROWS", code=1),
    option("a model that is not at hand, offline",
           ("owner/model: there is no such folder, and no tokenizer of this name", "hf download owner/model"),
           "the message names neither the model nor what to do", "--model_name_or_path", "owner/model", code=1),
    option("a typo in the name of a shipped model", "Fix: tiny_base may be meant",
           "the user is told to download it", "--model_name_or_path", "tinybase", code=1),
    option("a typo in the ending of a file here", "no data set on the Hub; did you mean rows.jsonl?",
           "the user is told to download it", "--dataset_name", "rows.jsnl", code=1),
    option("rows that were not downloaded, offline", (
           "owner/rows: cannot load this data set from the Hub", "--repo-type dataset"),
           "the message names neither the data set nor what to do", "--dataset_name", "owner/rows", code=1),
    model("no config.json", "no config.json in this folder", "transformers' paragraph", drop_words("config.json")),
    model("a broken config.json", "config.json: found text that is not JSON", "transformers' paragraph",
          holding("config.json", "{")),
    model("a list for config.json", "config.json: found an empty list", "a TypeError of transformers",
          holding("config.json", "[]")),
    model("an unknown architecture", "model type `martian`", "KeyError: 'martian'",
          holding("config.json", '{"model_type": "martian"}')),
    model("no weights", "no weights in this folder: no model.safetensors", "found after all rows are prepared",
          drop_words("model.safetensors")),
    model("no tokenizer", "its tokenizer cannot be loaded", "the message names no folder",
          drop_words("tokenizer.json", "tokenizer_config.json")),
    model("a broken tokenizer", ("its tokenizer cannot be loaded", "tokenizer.save_pretrained"),
          "a bare JSON error", holding("tokenizer.json", "{")),
    model("truncated safetensors", ("model.safetensors: cannot be read as safetensors", "cut short"),
          "SafetensorError's traceback, after all rows are prepared", truncated),
    model("empty safetensors", "model.safetensors: cannot be read as safetensors", "SafetensorError's traceback",
          holding("model.safetensors", "")),
    model("a shard is missing", "model-00001-of-00002.safetensors is missing", "found after all rows are prepared",
          sharded),
    model("a vocabulary smaller than the tokenizer's", ("the rows hold the token id", "has only 60 embeddings"),
          "an IndexError of the embedding", smaller),
    model("pickle weights", ("its weights are a pickle (pytorch_model.bin)", "--allow_pickle_weights"),
          "pickles are loaded unasked", pickled),
    model("pickle weights, asked for", "ok: ift train would start", "--allow_pickle_weights does nothing", pickled,
          "--allow_pickle_weights", "--show", "1", code=0, verb="check"),
    model("a pickle with code in it, asked for", "its weights cannot be loaded", "a pickle's code is run", poisoned,
          "--allow_pickle_weights"),
    model("a pickled adapter", "its weights are a pickle (adapter_model.bin)", "pickled adapters are loaded unasked",
          adapter()),
    model("an adapter without its base", ("the base of this adapter", "/no/base: no such model folder"),
          "the base is looked for on the Hub", adapter(base_model_name_or_path="/no/base"), "--allow_pickle_weights"),
    model("code of the model's own", "trust_remote_code", "code of a stranger is run unasked", remote),
    model("a broken template", ("row 1: the chat template refuses", "unexpected 'end of template'"),
          "jinja's traceback", holding("chat_template.jinja", "{% for")),
]  # fmt: skip


def file_in(name: str, text: str = "") -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / name).write_text(text)

    return make


FOLDERS = [
    option("a folder that holds something", ("the output folder is not empty (thesis.txt)", "--overwrite_output_dir"),
           "years of work are overwritten", code=1, out=file_in("thesis.txt", "years of work")),
    option("a file for a folder", ("is a file, expected a folder", "--output_dir"), "Errno 20", code=1,
           out=lambda folder: folder.write_text("thesis")),
    option("a file above the folder", "is a file, expected a folder", "Errno 20, after hours", "--output_dir",
           "OUT/below",
           code=1, out=lambda folder: folder.write_text("thesis")),
    option("resuming what is no run", ("is not empty and has no run.json", "it is not a run of ift train"),
           "a foreign folder is trained into", "--resume", "auto", code=1, out=file_in("thesis.txt")),
    option("resuming a finished run", "this run is finished: the model is in", "a finished run trains again",
           "--resume", "auto", code=0, out=file_in("run.json", '{"finished": true}')),
    option("resuming a run without a checkpoint", "no complete checkpoint in",
           "a run that was stopped early cannot be repeated",
           "--resume", "auto", code=0, verb="check", out=file_in("run.json", '{"finished": false}')),
    option("a broken run.json", "run.json cannot be read", "a bare JSON error", "--resume", "auto", code=1,
           out=file_in("run.json", "{")),
    option("resuming from nothing", "--resume nosuch: there is no such folder", "the run begins anew in silence",
           "--resume", "nosuch", code=1),
    option("resuming from half a checkpoint", "it has no manifest", "half a checkpoint is loaded", "--resume",
           "OUT/checkpoint-2", code=1, out=lambda folder: (folder / "checkpoint-2").mkdir(parents=True)),
]  # fmt: skip

CASES = [*FILES, *COLUMNS, *CONTENT, *LENGTHS, *IDS, *OPTIONS, *MODELS, *FOLDERS]
