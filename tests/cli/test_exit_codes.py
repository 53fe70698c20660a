"""How verbs end: one message, a code, and with --debug the traceback."""

import importlib.metadata
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from ift.cli import exit_codes
from ift.cli.main import app
from ift.data import DataError
from ift.runs.argv import UsageError

VERBS = [command.name or command.callback.__name__ for command in app.registered_commands]


def raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("row 3: found null"), 1, "ift try: row 3: found null\n"),
        (ValueError("of a library"), 1, "ift try: of a library\n(--debug shows where this was raised.)\n"),
        (OSError("no such thing"), 1, "ift try: no such thing\n(--debug"),
        (MemoryError(), 1, "ift try: MemoryError\n(--debug"),
        (UsageError("--x: give 1"), 2, "ift try: --x: give 1\n"),
        (KeyboardInterrupt(), 130, "\nift try: stopped.\n"),
        (typer.Exit(5), 5, ""),
        (KeyError("x"), 70, "ift try: KeyError: 'x'\nThis is a bug in ift. Please report it"),
        (AssertionError(), 70, "ift try: AssertionError: AssertionError\nThis is a bug in ift."),
    ],
)
def test_one_message_and_the_code_of_each_ending(capsys, error, code, said):
    assert exit_codes.run_verb("try", raising(error)) == code
    found = capsys.readouterr().err
    assert found == said or (said and found.startswith(said))
    assert "Traceback" not in found
    assert exit_codes.run_verb("try", raising(error), debug=True) == code
    assert ("Traceback" in capsys.readouterr().err) == bool(said)


def test_a_bug_is_reported_where_the_package_says(capsys, monkeypatch):
    urls = ["Homepage, https://example.org", "Issues, https://example.org/issues"]
    monkeypatch.setattr(exit_codes, "metadata", lambda name: SimpleNamespace(get_all=lambda key: urls))
    exit_codes.run_verb("try", raising(IndexError("list index")))
    said = capsys.readouterr().err
    assert (
        "Please report it at https://example.org/issues, with the output of `ift env` and of the same command with"
        in said
    )
    monkeypatch.setattr(exit_codes, "metadata", raising_not_found)
    exit_codes.run_verb("try", raising(IndexError("list index")))
    assert "Please report it, with the output" in capsys.readouterr().err


def raising_not_found(name):
    raise importlib.metadata.PackageNotFoundError(name)


def test_one_process_says_what_all_are_refused_for_and_each_says_its_own_bug(capsys, monkeypatch):
    """The launcher ends the second process while it waits. Red when: it ends first, and the first with it, unheard."""
    waited = []

    def sleep(seconds):
        waited.append((seconds, capsys.readouterr().err))

    monkeypatch.setattr("time.sleep", sleep)
    for rank, error, seconds in (
        ("0", DataError("row 3"), 0),
        ("1", DataError("row 4"), 10),
        ("1", UsageError("x"), 10),
    ):
        monkeypatch.setenv("LOCAL_RANK", rank)
        exit_codes.run_verb("try", raising(error))
        assert waited.pop() == (seconds, "")
        assert str(error) in capsys.readouterr().err  # where nobody has ended it, it has failed alone
    assert exit_codes.run_verb("try", raising(KeyError("x"))) == 70
    assert "KeyError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "merge adapter --outptu_dir x",
            "ift merge: No such option: --outptu_dir (Possible options: --output_dir)",
        ),
        ("generate", "ift generate: Missing argument 'model'."),
        ("generate m p --batch_size x", "ift generate: Invalid value for '--batch_size': "),
        ("trian", "ift: No such command: trian; did you mean train?"),
        ("frozen_lake", "ift: No such command: frozen_lake; did you mean frozen-lake?"),
        ("nosuchcommand", "ift: No such command: nosuchcommand; give one of train, check, demo, "),
        ("--foo", "ift: No such option: --foo; the options of a command follow its name, as in `ift train "),
        (
            "--output-dir x train",
            "ift: No such option: --output_dir; the options of a command follow its name",
        ),
        ("--version=3", "ift: Option '--version' does not take a value; the options of"),
    ],
)
def test_a_wrong_command_line_is_named_in_one_line_and_points_to_the_help(words, said):
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 2
    first, second = done.output.splitlines()
    assert first.startswith(said)
    assert second == f"`{said.partition(':')[0]} --help` shows what it takes."


def test_ift_alone_shows_the_help():
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert "Usage: " in done.output
    assert "precompute" not in done.output + CliRunner().invoke(app, ["nosuchcommand"]).output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_debug(verb, monkeypatch):
    """Whatever a verb does in its first line, it does it with the switch on, which its processes inherit."""
    import os

    seen = []
    real = exit_codes.run_verb

    def run_verb(name, run, debug):
        return real(name, lambda: seen.append((name, os.environ.get("IFT_DEBUG"))), debug)

    monkeypatch.setattr(exit_codes, "run_verb", run_verb)
    monkeypatch.delenv("IFT_DEBUG", raising=False)
    words = {
        "chat": ["model"],
        "report": ["runs"],
        "train": ["--unknown", "1"],
        "check": ["--seed=1"],
        "evaluate": ["model"],
        "generate": ["model", "prompts"],
        "judge": ["answers", "--judge", "name"],
        "score": ["answers", "--score", "text"],
        "convert-config": ["file.yml"],
        "merge": ["adapter", "--output_dir", "merged"],
        "modelfile": ["model", "--weights", "model.gguf"],
    }.get(verb, [])
    for given in (["--debug", *words], [*words, "--debug"]):
        done = CliRunner().invoke(app, [verb, *given])
        assert done.exit_code == 0, done.output
    assert seen == [(verb, "1"), (verb, "1")]
    assert "IFT_DEBUG" not in os.environ


def test_debug_shows_the_traceback_of_a_refusal_and_of_a_bug(ift, run_tiny, monkeypatch):
    quiet = run_tiny(dataset_name="missing.jsonl")
    assert (quiet.code, "Traceback" in quiet.err) == (1, False)
    loud = run_tiny("--debug", dataset_name="missing.jsonl")
    assert loud.code == 1
    assert "Traceback" in loud.err
    assert "missing.jsonl: no such file" in loud.err.splitlines()[-1]
    monkeypatch.setattr("ift.cli.env._memory_gib", raising(ZeroDivisionError("a bug")))
    bug = ift("env")
    assert bug.code == 70
    assert "ift env: ZeroDivisionError: a bug" in bug.err
    assert "Traceback" not in bug.err
    assert "Traceback" in ift("env", "--debug").err
