"""The commands of docs/lambda_gamma.md: `ift check` takes each of them as a study, and the values are those said."""

import json
import re
import shlex
from pathlib import Path

import pytest

from ift.cli import check
from ift.cli.exit_codes import run_verb
from ift.lab.compare.plan import CONTENDERS
from ift.lab.testbed import problems, tiny_base_path
from ift.runs.arguments import parse_stages

PAGE = (Path(__file__).parents[3] / "docs" / "lambda_gamma.md").read_text()
COMMANDS = [
    shlex.split(block.replace("\\\n", " ")) for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
]


def test_the_page_has_a_search_a_comparison_and_a_value_without_a_name():
    assert [words[:2] for words in COMMANDS] == [["ift", "ablate"], ["ift", "compare"], ["ift", "compare"]]
    assert CONTENDERS["ift lambda 0.1"].settings == {"residual_lambda": 0.1}
    assert not any("0.15" in name for name in CONTENDERS)
    flags = COMMANDS[2][COMMANDS[2].index("--residual_lambda") :][:2]
    (stage,) = parse_stages(["--model_name_or_path", "M", "--dataset_name", "D", "--output_dir", "O", *flags])
    assert stage.config.residual_lambda == 0.15


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[-1])
def test_a_command_is_a_study_that_would_start(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rows = (json.dumps(problem.row) + "\n" for problem in problems("train", 60))
    (tmp_path / "answers.jsonl").write_text("".join(rows))
    taken = [str(tiny_base_path()) if word == "MODEL" else word for word in words[2:]]
    assert run_verb("check", lambda: check.main(taken)) == 0, capfd.readouterr()
    said = capfd.readouterr().out
    methods = "sft, ift, " + ", ".join(
        words[words.index("--variants" if words[1] == "ablate" else "--methods") + 1]
        .removeprefix("sft,ift,")
        .split(",")
    )
    assert f"{methods}: {words[words.index('--seeds') + 1]} seeds each" in said
    assert f"ok: ift {words[1]} would start" in said
