"""The plan of docs/check.md for one GPU of 24 GB: its output, and its table of memory by item, made again."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from ift.check.engines import Engine
from ift.check.memory import estimate_memory
from ift.cli import check
from ift.cli.exit_codes import run_verb
from ift.lab.testbed import problems, tiny_base_path
from ift.runs.arguments import parse_stages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "check.md").read_text()
SECTION = PAGE[PAGE.index("## One GPU of 24 GB") : PAGE.index("## Steps, trained tokens, disk")]
COMMAND = shlex.split(re.search(r"```bash\n(.*?)```", SECTION, re.DOTALL)[1].replace("\\\n", " "))[2:]
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in re.findall(r"^\| .* \|$", SECTION, re.MULTILINE)
][1:]
USABLE = 21.6  # GiB


def published(name, folder):
    """A folder with the published config.json, no weights, and the testbed's tokenizer."""
    folder.mkdir()
    shutil.copy(ROOT / "tests" / "recipes" / f"{name}.json", folder / "config.json")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_base_path() / file, folder)
    return folder


def test_the_command_prints_the_line_on_the_page(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    published("Qwen3-8B-Base", tmp_path / "Qwen3-8B-Base")
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(p.row) + "\n" for p in problems("train", 8)))
    assert run_verb("check", lambda: check.main(COMMAND)) == 0, capfd.readouterr()
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("memory: ")]
    (written,) = re.findall(r"^memory: .*$", SECTION, re.MULTILINE)
    assert line == written
    items = re.search(r"about ([\d.]+) GiB \(weights ([\d.]+), .* ([\d.]+), .* ([\d.]+), .* ([\d.]+)\)", line)
    (same,) = [row for row in ROWS if row[:2] == ["Qwen3-8B-Base", ""]]
    assert same[2:7] == list(items.groups())


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:2]))
def test_a_line_of_the_table_is_the_estimate(row, tmp_path):
    name, changed, *numbers, fits = row
    words = [
        str(published(name, tmp_path / "model")) if word == "Qwen3-8B-Base" else word for word in COMMAND
    ]
    del words[words.index("--gpu_memory") :]
    changed = shlex.split(changed.strip("`"))
    (stage,) = parse_stages([*words, "--bf16", "true", "--output_dir", str(tmp_path / "out"), *changed])
    memory = estimate_memory(stage, 2048, torch.device("cuda"), Engine())
    found = dict(re.findall(r"(\w+) ([\d.]+)", memory.summary()))
    items = [found.get(item, "0") for item in ("about", "weights", "gradients", "optimizer", "activations")]
    assert items == numbers
    assert fits == ("fits" if float(found["about"]) <= USABLE else "does not")
