"""Every block of bash and Python in the documents is run, or says why not; what is not run is parsed."""

import json
import os
from importlib import import_module

import pytest

from doc_blocks import BLOCKS, REASONS, Block, PageRun, blocks_of, parse_command, runnable
from doc_files import block_file, given_names, write_files
from ift.cli.usage_errors import WRONG_WORDS
from ift.runs.argv import UsageError

CODE = [block for block in BLOCKS if block.language in ("bash", "python")]
NOT_RUN = [block for block in CODE if block.reason]
PAGES = list(dict.fromkeys(block.page for block in CODE if not block.reason))
# run with the other tests; every other page takes longer
QUICK = {"README.md", *(f"docs/{name}.md" for name in ("examples", "judge", "method", "serving", "testbed"))}
LANGUAGES = {"bash", "python", "csv", "jinja", "json", "sbatch", "text", "yaml", ""}


@pytest.mark.parametrize("block", CODE, ids=str)
def test_a_block_is_run_or_says_why_not(block):
    """A reason that is not in the list is a spelling mistake, or an excuse."""
    assert block.reason is None or block.reason in REASONS
    if block.language == "python":
        compile(block.text, str(block), "exec")
    elif block.reason is None:
        assert {words[0] for words in block.commands()} <= {"ift", "pip", "export", "python"}
    elif block.reason == "minutes":
        assert {words[0] for words in block.commands()} <= {"ift", "make", "python"}
    else:
        assert block.commands()


def test_every_block_has_a_language_that_is_looked_at():
    """A block of another name for bash or Python would neither be run nor marked."""
    assert {block.language for block in BLOCKS} <= LANGUAGES
    marked = [block for block in BLOCKS if block.reason and block not in CODE]
    assert not marked


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with the file that commands are parsed with."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "run.yaml").write_text(block_file("docs/cli.md", "run.yaml"))
    return folder


@pytest.mark.parametrize("block", NOT_RUN, ids=str)
def test_a_command_that_is_not_run_is_parsed(block, given, monkeypatch):
    monkeypatch.chdir(given)
    monkeypatch.setattr("ift.lab.ray_tasks.missing_extra", lambda *_: None)  # Ray need not be installed
    of_others = [words[0] for words in block.commands() if not parse_command(words)]
    assert not {"ift", "torchrun", "make", "pip"} & set(of_others)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.shown_commands()], ids=str)
def test_commands_shown_with_their_output_and_in_job_files_are_parsed(block, given, monkeypatch):
    monkeypatch.chdir(given)
    assert all(parse_command(words) for words in block.shown_commands())


def test_a_mistake_in_a_command_that_is_not_run_is_found(given, monkeypatch):
    """A flag that exists, but not for this command; a value of the wrong type; an unknown method, target and extra."""
    monkeypatch.chdir(given)
    for words in (
        "ift train --config run.yaml --judge x",
        "ift train --config run.yaml --max_steps many",
        "ift check --config run.yaml --output out",
        "ift compare --methods sft,nothing",
        "ift compare --max_steps 2",
        "ift ablate --methods sft",
        "ift show MODEL answers.jsonl -n two",
    ):
        with pytest.raises(UsageError):
            parse_command(words.split())
    for words in ("ift judge a.json", "ift evaluate aligned --output out", "ift frozen-lake --seeds few"):
        with pytest.raises(WRONG_WORDS):
            parse_command(words.split())
    with pytest.raises(SystemExit):
        parse_command(["python", "benchmarks/reliability.py", "speed"])
    for words in ("make tea", "pip install intuitive-fine-tuning[tea]"):
        with pytest.raises(AssertionError):
            parse_command(words.split())


def test_a_mark_stands_directly_above_its_block():
    mark = "<!-- not run: minutes -->"
    text = (
        f"{mark}\n```bash\na \\\n  b # c\n```\n{mark}\n\n> ```python\n> x\n> ```\n```yaml\n# run.yaml\n```\n"
    )
    first, second, third = blocks_of("page.md", text)
    assert (first.line, first.reason, first.commands()) == (2, "minutes", [["a", "b"]])
    assert (second.line, second.reason, second.language) == (8, None, "python")
    assert third.file() == "run.yaml"
    assert not [*runnable([first])]


def test_a_command_that_fails_fails_its_page(tmp_path):
    for text in ("ift score none.jsonl", "ift compare", "ollama create aligned", "python none.py"):
        with pytest.raises(AssertionError):
            PageRun(tmp_path).run(Block("page.md", 1, "bash", text, None))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Environment and accelerate's state are put back, and rows are cached in the test's folder."""
    import datasets
    from accelerate.state import AcceleratorState, GradientState, PartialState

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    for state in (AcceleratorState, PartialState):
        state._reset_state()
    GradientState._reset_state()


def run_here(self, work, jobs, started=None):
    """`LocalProcesses.run` without processes, each of which would import torch first."""
    for place, job in enumerate(work):
        import_module(job.words[0]).main(*job.words[1:])
        yield place, None


def reply(question, count):
    """A verdict, a grade and an answer at once: what the scripted server says to anything."""
    return '{"verdict": "1", "score": 7}'


@pytest.mark.parametrize(
    "page", [page if page in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in PAGES]
)
def test_the_blocks_of_a_page_run_one_after_the_other(page, machine, tmp_path, monkeypatch):
    from scripted_server import serving

    folder = tmp_path / "page"
    folder.mkdir()
    write_files(page, folder)
    monkeypatch.setattr("ift.lab.processes.LocalProcesses.run", run_here)
    with serving(reply) as server:
        monkeypatch.setenv("IFT_JUDGE_BASE_URL", server.url)
        run = PageRun(folder, server.url, given_names(page))
        for block in runnable([block for block in BLOCKS if block.page == page]):
            run.run(block)
    assert {block for block in CODE if block.page == page and not block.reason} <= set(run.ran)
    if page == "README.md":  # its Python trains last, for four steps
        lines = (folder / "aligned" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == 4
        assert (folder / "aligned" / "model.safetensors").exists()
