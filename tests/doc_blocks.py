"""The code blocks of the documents: found with their marks, parsed as the commands parse them, and run.

CONTRIBUTING.md ("Code in the documents") says what a block needs. What is run differs from the page only in this:

* The names of models and data sets (`MODEL`, `Qwen/Qwen2.5-0.5B`) are folders with the shipped tiny base, or with a few
  rows, in the working directory: a name that exists there is never looked up on the Hub (`doc_files.py`).
* `SHORTER` is appended to a command.
* `localhost:8000` is a scripted server.
* The trainings of a study run in one process.
* A training starts in a new folder, although an earlier block of the page has trained into the same one.
* `pip install` is not run: its extras must exist.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from ift.cli.main import app
from ift.runs.argv import value_of

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/records/*.md", "examples/*.md", "recipes/*.md", "experiments/**/*.md")
    for path in ROOT.glob(pattern)
)  # fmt: skip
REASONS = ("needs a GPU", "needs the network", "needs several machines", "needs another program", "minutes")
TRAINING = "--max_steps 1 --per_device_train_batch_size 2"
STUDY = "--budget quick --seeds 2 --learning_rates 1e-5 --validation_rows 2 --test_rows 2 --max_new_tokens 8 --jobs 1"
SHORTER = {
    "train": TRAINING,
    "compare": f"{TRAINING} {STUDY}",
    "demo": "--train_rows 16 --test_rows 4",
    "frozen-lake": "--seeds 2 --steps 2 --no-window",
    "evaluate": "--data benchmarks --limit 1 --num_fewshot 0",
    "generate": "--max_new_tokens 16",
    "chat": "--max_new_tokens 16",
    "judge": "--yes",
}
SERVER = "http://localhost:8000/v1"


@dataclass(frozen=True)
class Block:
    """A fenced block; `reason` says why it is not run, None if it is."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command of a block of bash, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    def shown_commands(self) -> list[list[str]]:
        """The commands of ift in a block of output (after `$ `) or in a job file, variables as 1."""
        text = re.sub(r"\$\(\(.*?\)\)|\$[A-Z_]+", "1", self.text.replace("\\\n", " "))
        start = r"^.*?\b" if self.language == "sbatch" else r"^\$ "
        return [shlex.split(one) for one in re.findall(rf"{start}(ift [^|'\n]+)", text, re.MULTILINE)]

    def file(self) -> str | None:
        """The name of the file that the block shows: its first line is `# NAME.py` or `# NAME.yaml`."""
        found = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None


def blocks_of(page: str, text: str) -> list[Block]:
    """All fenced blocks of a document, whatever their language and indentation."""
    found, lines = [], text.splitlines()
    start = None
    for number, line in enumerate(lines):
        fence = re.match(r"[\s>]*(?:```|~~~)(.*)", line)
        if fence and start is None:
            start, language = number, fence[1].strip()
            mark = re.fullmatch(r"<!-- not run: (.+) -->", lines[number - 1].strip()) if number else None
        elif fence and start is not None:
            body = "".join(f"{one}\n" for one in lines[start + 1 : number])
            found.append(Block(page, start + 1, language, body, mark[1] if mark else None))
            start = None
    assert start is None, f"{page}: a block is not closed"
    return found


BLOCKS = [
    block
    for page in DOCUMENTS
    for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
]


def parse_command(words: Sequence[str]) -> bool:
    """Parses the words of a command as it does when it starts, with its YAML file; raises or exits if it refuses them.

    Targets of make and extras of pip must exist. Returns False for programs of others, which are not parsed.
    """
    program, *rest = words
    if program == "ift":
        _parse_ift(*rest)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), rest
    elif program == "python" and Path(rest[0]).parts[0] in ("benchmarks", "docs", "tools"):
        script = runpy.run_path(str(ROOT / rest[0]))
        if rest[1:]:
            script["make_parser"]().parse_args(rest[1:])
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args([re.sub(r"\$\w+", "1", word) for word in rest])
        assert given.module
        assert given.training_script == "ift.cli.main"
        _parse_ift(*given.training_script_args)
    elif program == "pip":
        check_installation(words)
    else:
        return False
    return True


def _parse_ift(verb: str, *words: str) -> None:
    from ift.cli import check_options, check_study, compare, show
    from ift.runs.arguments import parse_stages
    from ift.runs.known_flags import refuse_unknown_names

    def train(words: list[str]) -> None:
        refuse_unknown_names(words)
        parse_stages(words)

    def study(verb: str, words: list[str]) -> None:
        args, of_training = compare.parse(verb, words)
        args.plan("arithmetic-small-clean")  # refuses unknown methods
        if of_training:
            train(of_training)

    rest = [*words]
    if verb == "check":
        _, rest = check_options.parse_options(rest)
        verb = "compare" if check_study.study_names(rest) else "train"
    if verb == "show":
        given, rest = show.make_parser().parse_known_args(rest)
        verb, rest = "train", ["--model_name_or_path", given.model, "--dataset_name", given.data, *rest]
    if verb == "train":
        train(rest)
    elif verb in ("compare", "ablate"):
        study(verb, rest)
    else:
        group: Any = typer.main.get_command(app)
        group.commands[verb].make_context(verb, rest, parent=group.make_context("ift", [verb]))


def check_installation(words: Sequence[str]) -> None:
    """Asserts that the extras of `pip install 'intuitive-fine-tuning[...]'` exist; another package is left to pip."""
    assert words[:2] == ["pip", "install"], words
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"^intuitive-fine-tuning\[(.+)\]$", words[2]):
        assert set(extras.split(",")) <= set(known), words[2]


@dataclass
class PageRun:
    """Runs the blocks of one page after each other, in one folder."""

    folder: Path
    server: str = SERVER
    names: dict[str, Any] = field(default_factory=dict)  # what the page's Python takes as given
    trained: set[str] = field(default_factory=set)
    ran: list[Block] = field(default_factory=list)

    def run(self, block: Block) -> None:
        """Runs a block; raises AssertionError if a command fails, and what Python raises."""
        with contextlib.chdir(self.folder):
            if name := block.file():
                Path(name).write_text(block.text)
            if block.language == "python":
                for folder in self.trained & set(re.findall(r'"(\w+)"', block.text)):
                    shutil.rmtree(folder)
                exec(compile(block.text, str(block), "exec"), self.names)
            elif block.language == "bash":
                for words in block.commands():
                    self._run_command([word.replace(SERVER, self.server) for word in words])
        self.ran.append(block)

    def _run_command(self, words: list[str]) -> None:
        program, *rest = words
        if program == "ift":
            self._ift(rest)
        elif program == "pip":
            check_installation(words)
        elif program == "export":
            name, _, value = rest[0].partition("=")
            os.environ[name] = value
        elif program == "python":
            done = subprocess.run([sys.executable, *rest], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        else:
            raise AssertionError(f"{program}: mark the block, <!-- not run: needs another program -->")

    def _ift(self, words: list[str]) -> None:
        words, source, target = redirected(words)
        shown = "--help" in words
        if words[0] == "train" and not shown:
            self._new_folder(words)
        words += [] if shown else shorter(words)
        given = Path(source).read_text() if source else "What is 2 plus 2?\n"
        done = CliRunner().invoke(app, words, input=given)
        assert done.exit_code == 0, f"ift {shlex.join(words)}: {done.output}"
        if target:
            Path(target).write_text(done.stdout)
        outputs = [value_of(words, flag) for flag in ("--output_dir", "--output")]
        if words[0] != "check" and not shown:  # a check writes nothing
            missing = [name for name in outputs if name is not None and not Path(name).exists()]
            assert not missing, f"ift {shlex.join(words)} did not write {missing}"

    def _new_folder(self, words: list[str]) -> None:
        """Deletes the folder that a training would write to, if an earlier block has trained into it."""
        from ift.runs.arguments import parse_stages

        stages = parse_stages(words[1:])
        folder = Path(stages[0].config.output_dir)
        folder = folder.parent if len(stages) > 1 else folder
        if str(folder) in self.trained:
            shutil.rmtree(folder)
        self.trained.add(str(folder))


def shorter(words: Sequence[str]) -> list[str]:
    """What is appended to a command."""
    if (
        words[0] == "compare"
        and value_of([*words], "--config") is None
        and "--model_name_or_path" not in words
    ):
        raise AssertionError("a study on the testbed takes minutes: mark it")
    return SHORTER.get(words[0], "").split()


def redirected(words: Sequence[str]) -> tuple[list[str], str | None, str | None]:
    """The words without `< SOURCE` and `> TARGET`, the source and the target."""
    kept, places, waiting = [], dict[str, str](), iter(words)
    for word in waiting:
        if word in ("<", ">"):
            places[word] = next(waiting)
        else:
            kept.append(word)
    return kept, places.get("<"), places.get(">")


def runnable(blocks: Sequence[Block]) -> Iterator[Block]:
    """The blocks that are run, and those that show a file."""
    return (one for one in blocks if not one.reason and (one.language in ("bash", "python") or one.file()))
