"""docs/footguns.md: every entry has a wrong and a right way and a consequence, and its commands and code are valid."""

import re
import shlex
from pathlib import Path

import pytest

from ift.cli.compare import parse as parse_study
from ift.lab.testbed import tiny_base_path
from ift.runs.arguments import parse_stages
from ift.runs.known_flags import refuse_unknown_names

ENTRIES = re.findall(
    r"^## (.+?)\n(.*?)(?=^## |\Z)",
    (Path(__file__).parent.parent / "docs" / "footguns.md").read_text(),
    re.DOTALL | re.MULTILINE,
)
BLOCK = r"(?:<!-- [^\n]* -->\n)?```(?:bash|python)\n(.*?)```\n"
PAIR = re.compile(rf"\s*Wrong:\n\n{BLOCK}\nRight:\n\n{BLOCK}\n(.+)", re.DOTALL)
CODE = [(title, code) for title, text in ENTRIES for code in PAIR.fullmatch(text).groups()[:2]]


@pytest.mark.parametrize(("title", "text"), ENTRIES, ids=[title for title, _ in ENTRIES])
def test_an_entry_is_a_pair_with_its_consequence(title, text):
    wrong, right, consequence = PAIR.fullmatch(text).groups()
    assert wrong != right
    assert len(consequence) > 100


@pytest.mark.parametrize(("title", "code"), CODE, ids=[title for title, _ in CODE])
def test_commands_parse_and_code_runs(title, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "model_name_or_path: MODEL\ndataset_name: answers.jsonl\noutput_dir: run\n"
    )
    if "import" in code:
        (tmp_path / "MODEL").symlink_to(tiny_base_path())
        names = {}
        exec(code, names)
        assert (names["ids"][0] == names["tokenizer"].convert_tokens_to_ids("<|user|>")) == ("turns" in names)
        return
    for line in code.replace("\\\n", " ").splitlines():
        program, verb, *words = shlex.split(line, comments=True)
        if program == "ift" and verb in ("train", "check"):
            refuse_unknown_names(words)
            parse_stages(words)
        elif program == "ift" and verb in ("ablate", "compare"):
            args, of_training = parse_study(verb, words)
            args.plan("arithmetic-small-clean")
            parse_stages(of_training)
        else:
            assert [program, verb] in (
                ["jq", ".loss"],
                ["jq", ".eval_nll"],
                ["ift", "report"],
                ["trl", "sft"],
            )
