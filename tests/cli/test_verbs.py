"""The verbs as a user starts them: help without weight, env without secrets, chat, and two processes on a CPU."""

import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from typer.main import get_command
from typer.testing import CliRunner

from ift.cli.main import app, main
from ift.generation import prompts
from ift.lab.testbed import tiny_base_path
from ift.runs import launch, same_versions
from ift.runs.arguments import UsageError


def ift(*words, **options):
    command = [sys.executable, "-m", "ift.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, **options)


HELP_OF_EVERY_VERB = """
import contextlib, sys
import ift, ift.cli.main
from typer.main import get_command
for verb in get_command(ift.cli.main.app).commands:
    if verb not in ("train", "precompute-lookahead"):
        with contextlib.suppress(SystemExit):
            ift.cli.main.app([verb, "--help"])
heavy = {"torch", "transformers", "trl", "datasets", "peft", "accelerate", "numpy", "matplotlib", "jinja2"}
print(sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""


def test_help_imports_nothing_heavy():
    """`ift --help` and that of a verb answer at once only as long as this holds; train lists fields of libraries."""
    done = subprocess.run([sys.executable, "-c", HELP_OF_EVERY_VERB], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "ift show MODEL DATA" in done.stdout


def test_help_names_every_verb_and_a_typo_gets_a_suggestion():
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    for verb in ("train", "demo", "chat", "report", "env"):
        assert re.search(rf"\b{verb}\b", done.output)
    done = CliRunner().invoke(app, ["trian"])
    assert done.exit_code == 2
    assert "did you mean train?" in done.output


def test_help_of_train_shows_the_method_s_fields(train):
    from ift.training.config import METHOD_FIELDS

    done = train("--help")
    assert done.code == 0
    for name in (*METHOD_FIELDS, "residual_noise_std", "model_name_or_path", "dataset_name"):
        assert f"--{name} " in done.out
    whole = train("--help-all")
    assert whole.code == 0
    assert "--adam_beta1" in whole.out


WITH_LONG_USAGE = ("compare", "ablate")  # argparse does not break the usage text that these give


@pytest.mark.parametrize("verb", sorted({*get_command(app).commands} - {"precompute-lookahead"}))
def test_help_cuts_nothing_at_80_columns(verb, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, [verb, "--help"])
    assert done.exit_code == 0, done.output
    text = done.output + capfd.readouterr().out
    assert "…" not in text
    lines = text.splitlines()[2 if verb in WITH_LONG_USAGE else 0 :]
    assert all(len(line) <= 80 for line in lines), text


@pytest.mark.parametrize("verb", sorted({*get_command(app).commands} - {"precompute-lookahead", "train"}))
def test_every_verb_has_the_short_flag_for_help(verb, capfd):
    texts = []
    for flag in ("-h", "--help"):
        done = CliRunner().invoke(app, [verb, flag])
        assert done.exit_code == 0, done.output
        texts.append(done.output + capfd.readouterr().out)
    assert texts[0] == texts[1] != ""


def test_bars_of_libraries_do_not_reach_the_terminal(chat_model, write_rows, tmp_path):
    """datasets and transformers show a bar for each file and each step; only slow steps may show one."""
    hidden = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY", "TQDM_DELAY")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    words = [f"--model_name_or_path={chat_model}", f"--dataset_name={write_rows()}", "--max_steps=2"]
    words += [f"--output_dir={tmp_path / 'out'}", "--report_to=none", "--per_device_train_batch_size=2"]
    done = ift("train", *words, env=environment)
    assert done.returncode == 0, done.stderr
    assert "done in" in done.stdout
    for bar in ("%|", "Loading weights", "Writing model shards", "Truncating", "Generating train split"):
        assert bar not in done.stdout + done.stderr


def test_env_prints_versions_and_nothing_of_the_environment(monkeypatch, capsys):
    from ift.cli.env import command as main

    monkeypatch.setenv("HF_TOKEN", "sesame-open")
    monkeypatch.setenv("SOME_SETTING", "very-private-value")
    assert main() == 0
    said = capsys.readouterr().out
    assert f"torch: {torch.__version__}" in said
    for name in ("python", "intuitive-fine-tuning", "transformers", "trl", "cpu", "memory"):
        assert f"{name}: " in said
    assert "sesame" not in said
    assert "very-private-value" not in said
    for path in (os.getcwd(), sys.prefix, os.path.expanduser("~"), "/usr"):
        assert path not in said


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, ift):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IFT_JUDGE_BASE_URL", "http://localhost:9/v1")
    for words in (
        ("report", "~/none"),
        ("judge", "~/none", "--judge=x"),
        ("evaluate", str(tiny_base_path()), "--data=~/none"),
    ):
        done = ift(*words)
        assert done.code == 1, done.out
        assert f"{tmp_path}/none" in done.err
        assert "~" not in done.err


def test_chat_answers_one_prompt(chat_model):
    done = CliRunner().invoke(app, ["chat", str(chat_model), "--prompt", "Hi", "--max-new-tokens", "4"])
    assert done.exit_code == 0, done.output
    assert done.output.strip()


def test_chat_goes_on_until_the_end_of_the_input(chat_model, monkeypatch, capsys):
    from ift.cli.chat import main
    from ift.models.loading import LoadOptions

    said = iter(["Hi", "  ", "And then?"])

    def listen(prompt):
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", listen)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    assert main(str(chat_model), None, 3, LoadOptions()) == 0
    found = capsys.readouterr()
    assert "Ctrl-D ends the conversation." in found.err
    lines = [line for line in found.out.splitlines() if line.strip()]
    assert lines[1::2] == ["[cut after 3 tokens: --max_new_tokens]"] * 2  # an empty line is not asked
    assert len(lines) == 4


def test_piped_lines_give_a_transcript_of_one_conversation(chat_model, monkeypatch, capsys):
    """Red when: a banner, a prompt sign or an answer without its question is printed, or a cut answer is not marked."""
    from ift.cli.chat import main
    from ift.models.loading import LoadOptions

    asked, write = [], prompts.prompt_ids

    def record(tokenizer, messages, style):
        asked.append([one["role"] for one in messages])
        return write(tokenizer, messages, style)

    monkeypatch.setattr(prompts, "prompt_ids", record)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n\nAnd then?\n"))
    assert main(str(chat_model), None, 3, LoadOptions()) == 0
    found = capsys.readouterr()
    assert "Ctrl-D" not in found.err
    assert re.fullmatch(
        r"user: Hi\nassistant: .*\n\[cut after 3 tokens: --max_new_tokens\]\n\n"
        r"user: And then\?\nassistant: .*\n\[cut after 3 tokens: --max_new_tokens\]\n\n",
        found.out,
    )
    assert asked == [["user"], ["user", "assistant", "user"]]
    assert main(str(chat_model), "Hi", 1, LoadOptions()) == 0
    found = capsys.readouterr()
    assert "cut" not in found.out
    assert "[cut after 1 token: --max_new_tokens]" in found.err


def test_chat_takes_a_system_message_and_marks_an_answer_without_text(
    chat_model, monkeypatch, capsys, tmp_path
):
    from transformers import PreTrainedTokenizerBase

    from ift.cli.chat import main
    from ift.models.loading import LoadOptions
    from ift.models.record import ModelRecord, write_record

    asked, write = [], prompts.prompt_ids
    monkeypatch.setattr(
        prompts,
        "prompt_ids",
        lambda tokenizer, messages, style: asked.append([*messages]) or write(tokenizer, messages, style),
    )
    monkeypatch.setattr(PreTrainedTokenizerBase, "decode", lambda self, ids, **settings: " \n")
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    assert main(str(chat_model), None, 3, LoadOptions(), "Be brief.") == 0
    assert "[answer without text]" in capsys.readouterr().out
    assert asked == [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]]
    plain = shutil.copytree(chat_model, tmp_path / "plain")
    write_record(plain, ModelRecord(prompts="plain text"))
    done = CliRunner().invoke(app, ["chat", str(plain), "--prompt", "Hi", "--system", "Be brief."])
    assert done.exit_code == 1
    assert "was trained on plain text. Fix: write it into the prompt" in " ".join(done.output.split())


def test_chat_with_what_is_no_model_is_one_line(tmp_path):
    done = CliRunner().invoke(app, ["chat", str(tmp_path / "nowhere"), "--prompt", "Hi"])
    assert done.exit_code == 1
    assert "nowhere: no such model folder" in done.output
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_two_processes_run_and_train_what_one_does(run_tiny, chat_model, tmp_path):
    """Rows of different lengths; 2 processes x 1 row x 2 steps against 1 process x 2 rows.

    Not with Adam, which makes much of the rounding of a gradient near 0: a row is cut where its batch begins to train.
    """
    flags = {"max_steps": 2, "learning_rate": 1e-2, "optim": "sgd"}
    alone = run_tiny(**flags, per_device_train_batch_size=2, out="alone")
    assert alone.code == 0
    words = [
        f"--model_name_or_path={chat_model}", f"--dataset_name={tmp_path / 'rows.jsonl'}", "--save_strategy=no",
        f"--output_dir={tmp_path / 'two'}", "--max_steps=2", "--learning_rate=1e-2", "--report_to=none",
        "--per_device_train_batch_size=1", "--logging_steps=1", "--gradient_checkpointing=false",
        "--lr_scheduler_type=linear", "--optim=sgd", "--num_processes", "2",
    ]  # fmt: skip
    done = ift("train", *words)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert "2 steps of 2 rows (1 per device x 1 gradient accumulation x 2 processes)" in done.stdout
    assert done.stdout.count("done in") == 1
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "two"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=1e-5)
    found = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in found if "end_nll" not in line]
    assert [line["step"] for line in lines] == [1, 2, 2]
    for line, other in zip(lines[:2], alone.metrics, strict=False):
        for metric in ("loss", "nll", "residual_nll", "eos_nll", "num_tokens"):
            assert line[metric] == pytest.approx(other[metric], rel=1e-5), metric


def test_a_count_of_processes_that_does_not_run_is_refused(monkeypatch):
    monkeypatch.setenv(launch.NUM_PROCESSES, "2")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UsageError, match="2 processes were requested, but 1 is running"):
        launch.check_world_size()


@pytest.mark.parametrize("other", ["1.16.0", "1.15.0"])
def test_versions_that_differ_between_processes_are_refused(monkeypatch, other):
    """Every process has all versions, so all refuse alike."""
    import torch.distributed
    from accelerate import PartialState

    def gather(found, ours):
        found[:] = [("one", ours[1]), ("two", ours[1] | {"trl": other})]

    PartialState()
    monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(same_versions, "version", lambda name: "1.16.0")
    if other == "1.16.0":
        same_versions.check_versions()
    else:
        with pytest.raises(
            UsageError, match=r"different versions: trl 1\.15\.0 on two, 1\.16\.0 on one\. Fix"
        ):
            same_versions.check_versions()


def test_the_words_of_torchrun_on_a_cpu():
    assert launch._torchrun_flags(["--num_processes", "2"]) == ["--standalone"]
    assert launch._torchrun_flags(["--main_process_port", "0"]) == ["--standalone"]
    assert launch._torchrun_flags(["--main_process_port", "1234"]) == ["--master-port=1234"]
    with pytest.raises(UsageError, match="--gpu_ids has no effect without an accelerator"):
        launch._torchrun_flags(["--gpu_ids", "0"])


def test_shipped_configurations_are_found_by_name_before_trl_s():
    from importlib.resources import files

    from accelerate.commands.launch import launch_command_parser

    names = ("one_gpu", "ddp", "fsdp2", "zero2", "zero3", "multi_node")
    for name in names:
        flags = launch.resolve_config(["--accelerate_config", name, "--num_processes", "4"])
        assert flags == [
            "--config_file",
            str(files("ift.runs.accelerate_configs") / f"{name}.yaml"),
            "--num_processes",
            "4",
        ]
        launch_command_parser().parse_args([*flags, "script.py"])
        assert launch._processes(flags) == 4
    assert "trl" in launch.resolve_config(["--accelerate_config", "zero1"])[1]
    with pytest.raises(UsageError, match=f"ift has: {', '.join(sorted(names))}"):
        launch.resolve_config(["--accelerate_config", "zero9"])


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        ([], ("zero3", 2)),
        (["--num_processes", "8"], ("zero3", 8)),
        (["--num-processes=8", "--accelerate-config", "fsdp2"], ("fsdp2", 8)),
        (["--accelerate_config", "fsdp2", "--accelerate_config", "ddp"], ("ddp", 2)),
        (["--config_file", "own.yaml"], ("fsdp2", 2)),
        (["--num_processes", "8", "first"], ("zero3", 8)),
    ],
    ids=range(6),
)
def test_launch_flags_of_the_command_line_win_over_those_of_the_file(tmp_path, monkeypatch, words, engine):
    """Red when: the engine or the number of processes of the YAML file is kept, or a flag with dashes is lost."""
    from ift.runs.arguments import parse

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(
        "{distributed_type: FSDP, fsdp_config: {fsdp_version: 2}, num_processes: 3}"
    )
    (tmp_path / "run.yaml").write_text(
        "{model_name_or_path: m, dataset_name: d, num_processes: 2, accelerate_config: zero3}"
    )
    config = ["--config", "run.yaml"]
    words = [*words[:-1], *config] if words[-1:] == ["first"] else [*config, *words]
    found = launch.wanted_engine(parse(words).launch)
    assert (found.name, found.processes) == engine


def test_the_exit_code_is_that_of_the_process_that_failed(capfd):
    assert (
        launch.launch(
            ["--num_processes", "2"], "ift.cli.main", ["train", "--no_such_flag", "1"], use_cpu=True
        )
        == 2
    )
    said = capfd.readouterr()
    assert "unknown flag --no_such_flag" in said.err
    assert "Traceback" not in said.err


def test_control_c_ends_with_one_line(run_tiny, monkeypatch):
    """Also red when: the line of the last step has no loss. In a process of its own: tests/cli/test_resume.py, slow."""
    from ift.training.trainer import IFTTrainer

    real = IFTTrainer.training_step

    def interrupted(self, *args):
        if self.state.global_step == 1:  # the first step is always logged
            signal.raise_signal(signal.SIGINT)
        return real(self, *args)

    monkeypatch.setattr(IFTTrainer, "training_step", interrupted)
    # SIGINT is ignored where the tests run in the background
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done = run_tiny(max_steps=1_000_000, logging_steps=1000)
    signal.signal(signal.SIGINT, before)
    assert done.code == 130
    assert "ift train: stopped by SIGINT; saved to" in done.err
    assert "--resume auto" in done.err
    assert "Traceback" not in done.err
    assert re.search(r"^step 2/1000000  loss [\d.]+  nll ", done.out, re.MULTILINE)


def test_a_library_s_note_on_kernels_is_not_shown_to_commands_that_need_none(monkeypatch):
    """Red when: with bitsandbytes installed, every command begins with "Failed to load CPU gemm_4bit_forward"."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    monkeypatch.setattr("ift.cli.main.app", lambda words: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # `main` sets variables
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    main()
    assert not logger.isEnabledFor(logging.WARNING)
    assert logger.isEnabledFor(logging.ERROR)
