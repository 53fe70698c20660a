"""Nothing is sent or fetched unasked, no secret is printed or saved, foreign code and control characters stay inert."""

import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from short_runs import SHORT

from ift.training.telemetry import NoTelemetry
from ift.training.trainer import IFTTrainer

SWITCHES = ("OFFLINE", "TELEMETRY", "DO_NOT_TRACK", "CI", "DISABLE_SAFETENSORS_CONVERSION")
TOKEN = "hf_" + "sesame" * 6


@pytest.fixture(scope="module")
def blocked(chat_model, tmp_path_factory):
    """What each command did in one process without a network, with nothing switched off for it."""
    folder = tmp_path_factory.mktemp("blocked")
    rows = folder / "rows.jsonl"
    turns = [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "2."}]
    rows.write_text(
        json.dumps({"messages": turns}) * 1
        + "\n"
        + json.dumps({"messages": turns[:1] * 2 + turns[1:]})
        + "\n"
    )
    flags = [f"--{name}={value}" for name, value in SHORT.items()]

    def words(verb, model=chat_model, data=rows, *more):
        given = {"model_name_or_path": model, "dataset_name": data, "output_dir": folder / "out"}
        return [verb, *(f"--{name}={value}" for name, value in given.items()), *flags, *more]

    commands = {
        "check": words("check"),
        "train": words(
            "train", chat_model, rows, "--use_peft", "true", "--lora_target_modules", "all-linear"
        ),
        "chat": ["chat", str(folder / "out"), "--prompt", "Hi", "--max-new-tokens", "2"],
        "hub model": words("check", "owner/model"),
        "hub rows": words("check", chat_model, "owner/rows"),
        "hub chat": ["chat", "owner/model", "--prompt", "Hi"],
    }
    clean = {
        name: value for name, value in os.environ.items() if not any(switch in name for switch in SWITCHES)
    }
    clean |= {"HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN, "WANDB_API_KEY": TOKEN}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "blocked_process.py"), json.dumps(list(commands.values()))],
        capture_output=True, text=True, env=clean, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))
    return found, folder, done.stderr


@pytest.mark.parametrize("verb", ["check", "train", "chat"])
def test_local_files_are_worked_on_without_a_single_connection(blocked, verb):
    found = blocked[0][verb]
    assert found["code"] == 0, found["said"]
    assert found["tried"] == []


@pytest.mark.parametrize("case", ["hub model", "hub rows", "hub chat"])
def test_without_a_network_a_hub_id_is_refused_soon_and_by_name(blocked, case):
    found = blocked[0][case]
    assert found["code"] == 1, found["said"]
    assert found["tried"] or case != "hub model", "the Hub was not asked: nothing is tested"
    kind, name = ("dataset", "owner/rows") if case == "hub rows" else ("model", "owner/model")
    said = " ".join(found["said"].split())
    assert f"ift {'chat' if 'chat' in case else 'check'}: {name}: " in said
    assert f"hf download {name} --repo-type {kind}" in said
    assert "Traceback" not in said
    assert found["seconds"] < 20  # its library tries again for half a minute, for each file


def test_no_token_of_the_environment_is_printed_or_saved(blocked):
    found, folder, errors = blocked
    assert TOKEN not in json.dumps(found) + errors
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_files_to_publish_hold_no_local_path_but_that_of_an_adapter_s_base(blocked):
    """The files that the printed `hf upload` uploads. Red when: run.json, with local paths, is not left out."""
    found, folder, _ = blocked
    said = " ".join(found["train"]["said"].split())
    push = next(line for line in [said[said.index("push ") :]])
    assert "write the base's Hub id there, then hf upload USER/out" in push
    left_out = push.split("--exclude ")[1:]
    patterns = [words.split()[0].strip("'") for words in left_out]
    assert "run.json" in patterns
    files = [
        path
        for path in (folder / "out").rglob("*")
        if path.is_file()
        and not any(fnmatch(str(path.relative_to(folder / "out")), f"{pattern}*") for pattern in patterns)
    ]
    assert {"ift_model.json", "README.md"} <= {path.name for path in files}
    private = str(folder).encode(), str(Path(sys.prefix)).encode(), str(folder.parent).encode()
    holding = [path.name for path in files if any(one in path.read_bytes() for one in private)]
    assert set(holding) <= {"adapter_config.json"}


def test_every_trainer_of_ours_sends_nothing(chat_model, run_tiny, monkeypatch):
    """trl calls `_send_telemetry` whenever a trainer is made; the mixin NoTelemetry overrides it."""
    from trl.trainer import base_trainer

    sent = []
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda **said: sent.append(said))
    monkeypatch.delenv("CI", raising=False)
    assert issubclass(IFTTrainer, NoTelemetry)
    assert run_tiny(max_steps=1).code == 0
    assert run_tiny(max_steps=1, method="dpo", form="preference, conversational", out="dpo").code == 0
    assert sent == []


def test_foreign_code_is_said_aloud_where_it_may_run(run_tiny, chat_model):
    done = run_tiny("--trust_remote_code", max_steps=1)
    assert (
        f"trust_remote_code is on: Python code that comes with {chat_model} runs with your permissions"
        in done.err
    )
    assert "trust_remote_code" not in run_tiny(max_steps=1, out="without").err


def test_rows_cannot_command_the_terminal(ift, chat_model, write_rows, tmp_path):
    turns = [
        {"role": "user", "content": "\x1b[2J"},
        {"role": "assistant", "content": "a\x1b]0;title\x07b\u202e"},
    ]
    rows = write_rows([{"messages": turns}])
    done = ift(
        "check", "--show", "1", model_name_or_path=chat_model, dataset_name=rows, output_dir=tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert "[U+001B]" in done.out
    spoken = write_rows([{"messages": [{"role": "\x1b[2J", "content": ""}, turns[1]]}])
    done = ift("check", model_name_or_path=chat_model, dataset_name=spoken, output_dir=tmp_path / "out")
    assert done.code == 1
    assert "\x1b" not in done.out + done.err
