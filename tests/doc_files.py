"""The files that the documents take as given: models, rows, prompts, answers and records, in the pages' formats."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import doc_blocks
from ift.lab.testbed import problems, tiny_base_path

MODELS = (
    "MODEL", "SMOLLM2", "GEMMA", "Qwen/Qwen2.5-0.5B", "HuggingFaceTB/SmolLM2-135M-Instruct",
    "mistralai/Mistral-7B-v0.1",
)  # fmt: skip
# folders that the page names, but in which it trains nothing
TRAINED = {
    "docs/evaluate.md": ("base", "sft", "aligned"),
    "docs/generate.md": ("aligned",),
    "docs/serving.md": ("aligned",),
}


def write_files(page: str, folder: Path) -> None:
    """Writes the files that all pages name, and those of one page."""
    rows = [problem.row for problem in problems("train", 16)]
    prompts = [row["messages"][0]["content"] for row in rows[:2]]
    write_jsonl(folder / "answers.jsonl", rows)
    write_jsonl(folder / "pairs.jsonl", map(pair, rows[:4]))
    write_jsonl(folder / "prompts.jsonl", [{"prompt": one} for one in prompts])
    (folder / "questions.txt").write_text("\n".join(prompts))
    (folder / "run.yaml").write_text(block_file("docs/cli.md", "run.yaml"))
    for name in (*MODELS, *TRAINED.get(page, ())):
        shutil.copytree(tiny_base_path(), folder / name)
    if page in OF_PAGE:
        OF_PAGE[page](folder)
    for block in doc_blocks.BLOCKS:  # also those that follow the commands
        if block.page == page and (name := block.file()) and not (folder / name).exists():
            (folder / name).write_text(block.text)


def write_jsonl(file: Path, rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def block_file(page: str, name: str) -> str:
    (text,) = (one.text for one in doc_blocks.BLOCKS if one.page == page and one.file() == name)
    return text


def example_rows(page: str, key: str) -> list[dict]:
    """The rows that a page shows as JSON and that have a key."""
    shown = [json.loads(one.text) for one in doc_blocks.BLOCKS if one.page == page and one.language == "json"]
    return [row for row in shown if key in row]


def pair(row: dict) -> dict:
    asked, answered = row["messages"]
    return {"prompt": [asked], "chosen": [answered], "rejected": [{**answered, "content": "I do not know."}]}


def chat(question: str, answer: str) -> dict:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def alpaca_outputs(file: Path, output: str) -> None:
    rows = [
        {"dataset": "d", "instruction": f"Question {n}?", "output": output, "generator": file.stem}
        for n in (1, 2)
    ]
    file.write_text(json.dumps(rows))


def mt_bench(folder: Path) -> None:
    """One question, and GPT-4's answers to it, in FastChat's formats."""
    (question,) = example_rows("docs/benchmarks.md", "turns")
    write_jsonl(folder / "question.jsonl", [question])
    answers = {"model_id": "gpt-4", "choices": [{"index": 0, "turns": question["reference"]}]}
    write_jsonl(
        folder / "gpt-4.jsonl", [{"question_id": question["question_id"], "answer_id": "a", **answers}]
    )


def benchmark_files(folder: Path) -> None:
    import local_rows

    local_rows.write_all(folder / "benchmarks", 1)
    (row,) = example_rows("docs/benchmarks.md", "dataset")
    (folder / "alpaca_eval.json").write_text(json.dumps([row]))
    (folder / "baseline_outputs.json").write_text(
        json.dumps([{**row, "output": "Some.", "generator": "baseline"}])
    )
    write_jsonl(folder / "tldr.jsonl", example_rows("docs/benchmarks.md", "prompt"))
    mt_bench(folder)


def judge_files(folder: Path) -> None:
    """Answers in the formats of AlpacaEval, of `ift generate` to prompts with a summary, and of MT-Bench."""
    for name in ("ours", "theirs"):
        alpaca_outputs(folder / f"{name}.json", name)
    (row,) = example_rows("docs/benchmarks.md", "reference")[:1]
    turns = chat(row["prompt"], "Ours.")["messages"]
    answer = {
        "id": 1,
        "model": "ours",
        "messages": turns,
        "output": "Ours.",
        "stopped": True,
        "tokens": 1,
        "row": row,
    }
    write_jsonl(folder / "summaries.jsonl", [answer])
    mt_bench(folder)
    shutil.copy(folder / "gpt-4.jsonl", folder / "mt-bench.jsonl")


def spreadsheet(folder: Path) -> None:
    (sheet,) = (one.text for one in doc_blocks.BLOCKS if one.page == "docs/data.md" and one.language == "csv")
    (folder / "questions.csv").write_text(f"\ufeff{sheet}", encoding="utf-8")
    turns = [{"speaker": "user", "text": "Hi"}, {"speaker": "assistant", "text": "Hello."}]
    write_jsonl(folder / "dialogs.jsonl", [{"dialog": turns}] * 4)
    write_jsonl(folder / "tickets.jsonl", [{"question": "Where is my parcel?", "answer": "On its way."}])
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(4)]
    write_jsonl(folder / "named.jsonl", rows)
    run = (folder / "run.yaml").read_text().replace("answers.jsonl", "named.jsonl")
    (folder / "run.yaml").write_text(run)
    hub_rows(folder / "HuggingFaceH4/ultrachat_200k", "train_sft", [chat("Hi", "Hello.")] * 4)
    hub_rows(
        folder / "HuggingFaceH4/ultrafeedback_binarized", "train_prefs", map(pair, [chat("Hi", "Hello.")] * 4)
    )


def hub_rows(folder: Path, split: str, rows, *more: str) -> None:
    """A data set as its repository on the Hub has it, whose README names the splits."""
    rows = [*rows]
    lines = [f"  - split: {name}\n    path: {name}.jsonl\n" for name in (split, *more)]
    for name in (split, *more):
        write_jsonl(folder / f"{name}.jsonl", rows)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{''.join(lines)}---\n"
    )


def database(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE city (name TEXT, state TEXT)")
        connection.executemany(
            "INSERT INTO city VALUES (?, ?)", [(f"city{n}", f"state{n % 3}") for n in range(12)]
        )
    connection.close()


def scored_rows(folder: Path) -> None:
    database(folder / "geo.sqlite")
    query = "SELECT name FROM city WHERE state = 'state{}'"
    asked = [(f"Which cities are in state{n}?", query.format(n % 3)) for n in range(12)]
    write_jsonl(folder / "geo.jsonl", [chat(*one) for one in asked])
    facts = [
        chat(f"Where is city{n}?", f"city{n} is in state{n % 3}.") | {"gold": [f"city{n}"]} for n in range(12)
    ]
    write_jsonl(folder / "facts.jsonl", facts)
    answered = [
        {"id": n, "messages": row["messages"], "output": "city1", "stopped": True, "tokens": 1, "row": row}
        for n, row in enumerate(facts, 1)
    ]
    write_jsonl(folder / "answers.jsonl", answered)


def geoquery(folder: Path) -> None:
    copy_experiment("geoquery", folder)
    database(folder / "geography.sqlite")
    asked = {"text": "which city is name0"}
    sentences = [
        asked | {"variables": {"name0": f"city{n % 12}"}, "question-split": "test" if n % 3 else "train"}
        for n in range(36)
    ]
    query = 'SELECT name FROM city WHERE name = "name0" ;'
    (folder / "geography.json").write_text(json.dumps([{"sql": [query], "sentences": sentences}]))


def e2e(folder: Path) -> None:
    copy_experiment("e2e", folder)
    for name in ("devset.csv", "testset_w_refs.csv"):
        lines = [f'"name[{name} {n}]",It is {n}.' for n in range(12)]
        (folder / name).write_text("\n".join(["mr,ref", *lines]))


def generate_files(folder: Path) -> None:
    benchmark_files(folder)
    (folder / "answers.jsonl").unlink()  # here it is what the first command writes, not rows to train on


def gsm8k(folder: Path) -> None:
    copy_experiment("gsm8k", folder)
    rows = [
        {"question": f"What is {n} plus 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(260)
    ]
    write_jsonl(folder / "train.jsonl", rows)


def copy_experiment(name: str, folder: Path) -> None:
    for file in (doc_blocks.ROOT / "experiments" / name).glob("*.*"):
        shutil.copy(file, folder)


def axolotl(folder: Path) -> None:
    lines = ("base_model: MODEL", "datasets:", "  - path: answers.jsonl", "    type: chat_template",
             "sequence_len: 256", "micro_batch_size: 2", "num_epochs: 1", "output_dir: ./aligned")  # fmt: skip
    (folder / "theirs.yml").write_text("\n".join(lines))


def records(folder: Path) -> None:
    """A packed study, and the folders of two trainings as they are read: whether one ended, and its metrics."""
    (folder / "runs").mkdir()
    shutil.copy(doc_blocks.ROOT / "docs/records/compare-quick.jsonl", folder / "runs")
    for name in ("sft-run", "ift-run"):
        write_jsonl(
            folder / name / "metrics.jsonl", [{"step": n, "loss": 2 / n, "nll": 1 / n} for n in (1, 2, 3)]
        )
        (folder / name / "run.json").write_text(json.dumps({"finished": True}))


def recipe_files(folder: Path) -> None:
    """The recipes; a small Qwen3, and a small Gemma 3 that reads images, under the names of the Hub."""
    import transformers

    from recipe_models import save_small

    shutil.copytree(doc_blocks.ROOT / "recipes", folder / "recipes")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base_path())
    (folder / "Qwen").mkdir(exist_ok=True)
    save_small(doc_blocks.ROOT / "recipes/qwen3-0.6b-full.yaml", tokenizer, folder / "Qwen/Qwen3-0.6B-Base")
    rows = [problem.row for problem in problems("train", 4)]
    hub_rows(folder / "HuggingFaceH4/ultrachat_200k", "train_sft", rows, "test_sft")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 512, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8}
    config = transformers.Gemma3Config(
        text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}, mm_tokens_per_image=4,
        image_token_index=39, boi_token_index=38, eoi_token_index=37,
    )  # fmt: skip
    whole = folder / "google/gemma-3-4b-pt"
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(whole)
    tokenizer.save_pretrained(whole)


OF_PAGE = {
    "docs/benchmarks.md": benchmark_files,
    "docs/coming_from.md": axolotl,
    "docs/data.md": spreadsheet,
    "docs/evaluate.md": benchmark_files,
    "docs/generate.md": generate_files,
    "docs/judge.md": judge_files,
    "docs/report.md": records,
    "docs/scores.md": scored_rows,
    "experiments/e2e/README.md": e2e,
    "experiments/geoquery/README.md": geoquery,
    "experiments/gsm8k/README.md": gsm8k,
    "recipes/README.md": recipe_files,
}


def given_names(page: str) -> dict:
    """What the Python of a page takes as given, as the text around it says."""
    if page == "docs/index.md":
        from datasets import Dataset

        return {"rows": Dataset.from_list([problem.row for problem in problems("train", 4)])}
    if page == "docs/examples.md":
        import torch
        from transformers import AutoModelForCausalLM

        ids = torch.arange(10, 20)[None]
        batch = {"input_ids": ids, "labels": ids.clone()}
        return {"model": AutoModelForCausalLM.from_pretrained(tiny_base_path()), "batch": batch, "step": 0}
    return {}
