"""Unknown names are refused before torch and trl are imported, and no known one is refused."""

import json
import subprocess
import sys

import pytest
from accelerate.commands.launch import launch_command_parser

from ift.methods import METHODS
from ift.runs import known_flags
from ift.runs.arguments import make_parser
from ift.runs.argv import UsageError
from ift.runs.known_flags import known_names, refuse_unknown_names


@pytest.mark.parametrize("method", [one for one in METHODS.values() if one.config == METHODS["ift"].config])
def test_every_flag_of_the_parser_is_known(method):
    """Red when trl, transformers or accelerate define a flag elsewhere: see SOURCES."""
    options = [one for one in make_parser(method)._option_string_actions if one.startswith("--")]
    options += [
        one
        for action in launch_command_parser()._actions
        for one in action.option_strings
        if one.startswith("--")
    ]
    assert len(options) > 300
    given = {*options, "--accelerate_config", "--2.learning_rate"} - {"--method", "--config"}
    refuse_unknown_names(["--method", method.name, *given])


def test_few_names_are_known_that_are_no_flags():
    """The names are read from source files, so some other names of these may be among them."""
    flags = {one.lstrip("-").replace("-", "_") for one in make_parser()._option_string_actions}
    assert len(flags & known_names()) > len(known_names()) / 2


MISTAKES = [
    (["--model_nam", "x"], "unknown flag --model_nam; did you mean --model_name_or_path?"),
    (["--learning-rat=1"], "unknown flag --learning-rat; did you mean --learning_rate?"),
    (["--2.learning_rat", "1"], "unknown flag --learning_rat; did you mean --learning_rate?"),
    (["--sequence_len", "8"], "unknown flag --sequence_len; in ift it is --max_length."),
    (["--method", "stf"], "unknown method 'stf'; did you mean sft?"),
    (["--model_nam", "x", "--sequence_len", "8"], "--model_name_or_path?\nunknown flag --sequence_len; in"),
]
IN_A_NEW_PROCESS = """
import contextlib, io, json, sys
from ift.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as done:
            print(json.dumps([done.code, said.getvalue()]))
print(json.dumps([name for name in ("torch", "trl", "transformers") if name in sys.modules]))
"""


def test_unknown_names_are_refused_without_torch(tmp_path):
    commands = [[verb, *words] for words, _ in MISTAKES for verb in ("train", "check")]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS, json.dumps(commands)],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    *answers, loaded = map(json.loads, done.stdout.splitlines())
    expected = [(verb, said) for _, said in MISTAKES for verb in ("train", "check")]
    for (verb, said), (code, text) in zip(expected, answers, strict=True):
        assert code == 2
        assert f"ift {verb}: " in text
        assert said in text
    assert loaded == []


def test_names_of_other_methods_are_left_to_the_parser(monkeypatch):
    refuse_unknown_names(["--method", "dpo", "--no_such_flag", "1"])
    refuse_unknown_names(["--method", "sft+dpo", "--no_such_flag", "1"])
    monkeypatch.setattr(known_flags, "SOURCES", (("trl", "no/such/file.py", ""),))
    refuse_unknown_names(["--no_such_flag", "1"])
    with pytest.raises(UsageError, match="--method needs a value"):
        refuse_unknown_names(["--method"])
