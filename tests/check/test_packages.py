"""Packages that settings need are named all at once, with one line that installs them."""

import re
import tomllib
from pathlib import Path

import pytest

from ift.check import packages
from ift.check.packages import install_command, missing_packages
from ift.runs.arguments import parse
from ift.runs.argv import UsageError

BASE = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda module: None)


def test_all_are_named_at_once():
    run = parse([*BASE, "--use_peft", "--load_in_4bit=true", "--use_liger_kernel=true", "--optim=adamw_8bit"])
    run.config.report_to = ["wandb"]
    assert missing_packages([run, run]) == (
        "not installed: bitsandbytes (for load_in_4bit, optim adamw_8bit), liger-kernel (for use_liger_kernel), wandb "
        "(for report_to wandb). Fix: pip install 'intuitive-fine-tuning[quant]' liger-kernel wandb, or leave these "
        "settings out"
    )


@pytest.mark.parametrize(
    ("flags", "package"),
    [
        (["--optim=galore_adamw", "--optim_target_modules=all-linear"], "galore-torch"),
        (["--optim=adamw_torch_4bit"], "torchao"),
        (["--optim=schedule_free_adamw"], "schedulefree"),
        (["--optim=paged_lion_8bit"], "'intuitive-fine-tuning[quant]'"),
        (["--attn_implementation=flash_attention_2"], "flash-attn"),
        (
            ["--eval_generate=2", "--eval_strategy=steps", "--eval_score=rouge,f1"],
            "'intuitive-fine-tuning[scores]'",
        ),
        (["--optim=adamw_torch"], ""),
    ],
)
def test_the_package_of_a_setting(flags, package):
    found = missing_packages([parse([*BASE, *flags])])
    assert found.endswith(f"pip install {package}, or leave these settings out") if package else found == ""


def test_a_package_that_is_installed_is_not_named(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda module: module == "kernels" or None)
    assert missing_packages([parse([*BASE, "--attn_implementation=flash_attention_2"])]) == ""


def test_two_sources_of_evaluation_rows_are_refused_with_both_names():
    both = ["--test_split_size=1.5", "--dataset_test_split=test", "--eval_strategy=epoch"]
    with pytest.raises(UsageError) as refused:
        parse([*BASE, *both])
    assert "test_split_size is 1.5; give a share below 1 or a whole number of rows." in str(refused.value)
    assert "dataset_test_split: no effect with test_split_size" in str(refused.value)
    assert parse([*BASE, "--test_split_size=2"]).mixture.test_split_size == 2


def test_mistakes_that_do_not_depend_on_each_other_are_named_together():
    wrong = ["--eval_generate=2", "--final_answers=-1", "--lora_r=4", "--bnb_4bit_quant_type=fp4", "--warmup_steps=1",
             "--learning_rate=-1",
        "--test_split_size=-1"]  # fmt: skip
    with pytest.raises(UsageError) as refused:
        parse(wrong)
    for part in (
        "learning_rate is -1.0",
        "test_split_size is -1.0; give a share below 1 or a number of rows, more than 0.",
        "final_answers must be 0",
        "eval_generate needs evaluation",
        "lora_r: no effect without use_peft",
        "bnb_4bit_quant_type: no effect without load_in_4bit",
        "no model: give",
        "no data: give",
    ):
        assert part in str(refused.value)


ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "recipes").iterdir(),
    *(ROOT / "src").rglob("*.py"),
]


def test_extras_are_spelled_in_one_way():
    """Red when: a page names an extra as `.[x]`, or a package that an extra of ift has, or a module writes the command.

    `pip install 'intuitive-fine-tuning[x]'` works wherever ift was installed from; a package of no extra has its name.
    """
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ours = {
        re.split(r"[<>=\[]", one)[0]
        for name, all_of in extras.items()
        if name not in ("dev", "docs")
        for one in all_of
    }
    for page in PAGES:
        for given in re.findall(r"pip install ((?:-\w+ )?[^`\n]*)", page.read_text()):
            assert ".[" not in given, page
            assert not ours & set(given.split()), page
            extra = re.match(r"'intuitive-fine-tuning\[([\w,-]+)\]'", given)
            assert not extra or set(extra[1].split(",")) <= set(extras), page
            assert page.suffix != ".py" or page.name == "packages.py" or not extra, page


def test_extras_and_packages_are_installed_in_one_command():
    assert install_command("quant", "scores", packages=["wandb"]) == (
        "pip install 'intuitive-fine-tuning[quant,scores]' wandb"
    )
    assert install_command(packages=["wandb"]) == "pip install wandb"
