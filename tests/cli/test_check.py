"""`ift check` says what `ift train` would do, exits as it would, and `ift train` refuses what it refuses."""

import io
import json
import logging
import re
import shutil

import pytest
from rich.console import Console
from short_runs import ROWS, SHORT
from transformers.utils import is_torch_tf32_available
from typer.testing import CliRunner

from ift.cli.main import app, is_no_reduction
from ift.cli.show_rows import show_rows
from ift.methods.stage import load_data, prepare_stage
from ift.runs.arguments import parse
from ift.runs.check_run import closing_line

PACKED = ["--packing", "true", "--max_length", "200"]
FLAGS = [f"--{name}={value}" for name, value in SHORT.items()]


@pytest.fixture
def check(chat_model, write_rows, tmp_path):
    """Run `ift check` on rows of a format."""

    def run(*words, form="messages", model=chat_model):
        rows = write_rows(form)
        given = [
            "--model_name_or_path",
            model,
            "--dataset_name",
            rows,
            "--output_dir",
            tmp_path / "out",
            *FLAGS,
        ]
        return CliRunner().invoke(app, ["check", *map(str, given), *map(str, words)])

    return run


def test_a_fine_run(check, tmp_path):
    done = check()
    assert done.exit_code == 0, done.output
    assert "kept 8 of 8 rows" in done.output
    assert "tokens per prompt: median" in done.output
    assert "tokens per answer: median" in done.output
    assert "memory: about " in done.output
    assert " MiB (weights 0.1" in done.output  # some 40,000 parameters of four bytes
    assert "steps: 2 of 2 rows (2 per device x 1 gradient accumulation x 1 process); about " in done.output
    assert "compute: about " in done.output
    assert re.search(r"disk: 0\.\d MB for the trained model\n", done.output)  # save_strategy no
    assert "ok: ift train would start with the same arguments" in done.output
    assert "" not in done.stderr.splitlines()  # rich ends a bar in a file with an empty line
    assert done.output.splitlines()[0]
    assert not (tmp_path / "out").exists()


def test_where_a_step_does_not_fit_the_last_line_says_so_and_the_code_is_that_of_a_start(check, monkeypatch):
    """Red when: it says ok. The first settings of the warning are named again; the JSON says that it does not fit."""
    monkeypatch.setattr("ift.check.findings.available_memory", lambda given: 2**19)
    done = check()
    last = done.output.strip().splitlines()[-1]
    assert done.exit_code == 0
    assert "ok:" not in done.output
    assert last.startswith("ift train would start, and then very likely run out of memory. ")
    assert json.loads(check("--json").stdout)["fits"] is False


def test_more_workers_than_cores_are_noted_but_not_for_another_machine(check):
    done = " ".join(check("--dataloader_num_workers", "4000").output.split())
    assert "note settings: dataloader_num_workers is 4,000, and this machine has" in done
    assert "ok: ift train would start" in done
    assert "4,000" not in check("--dataloader_num_workers", "4000", "--gpu_memory", "8").output


def test_a_long_estimate_is_announced(check, monkeypatch):
    """In a log as one line, with the seconds."""
    monkeypatch.setattr("ift.check.findings.available_memory", lambda given: 2**19)
    monkeypatch.setattr("ift.check.findings.ESTIMATES", 10_000)
    lines = check("--per_device_train_batch_size", "1").stderr.splitlines()
    (line,) = [one for one in lines if "estimating" in one]
    assert re.fullmatch("the step hardly fits: estimating other settings, about \\d+ seconds", line)


@pytest.mark.parametrize(
    ("remedy", "fix"),
    [
        ("--use_peft true", "First fix to try: --use_peft true"),
        ("", "The warning lists the remaining options"),
    ],
)
def test_the_closing_line_names_the_first_settings(remedy, fix):
    finding = {"remedy": remedy}
    line, _ = closing_line([{"refused": False, "fits": False, "findings": [finding]}])
    assert line == f"ift train would start, and then very likely run out of memory. {fix}"


def test_json_is_json_and_says_the_same(check):
    done = check("--json", "--max_length", "40")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert found["refused"] is True
    assert found["findings"][0]["level"] == "refused"
    assert found["data"]["train"]["rows_read"] == 8
    assert found["steps"] == 2
    assert found["memory"]["total"] > found["memory"]["weights"] > 0
    assert found["step_seconds"] is None


def test_an_engine_divides_the_memory_and_the_steps(check):
    """8 rows, 2 processes of 2 rows, 3 passes: 6. Red when: the flags of the launch are passed over."""
    flags = ["--max_steps", "-1", "--num_train_epochs", "3"]
    flags += ["--accelerate_config", "zero3", "--num_processes", "2", "--gpu_memory", "80"]
    found = json.loads(check("--json", *flags).stdout)
    assert found["steps"] == 6
    assert found["engine"] == {"name": "zero3", "processes": 2}
    assert found["available_memory"] == round(0.9 * 80 * 2**30)
    whole = json.loads(check("--json").stdout)["memory"]
    assert found["memory"]["optimizer"] == whole["optimizer"] / 2
    assert "memory on each device (zero3, 2 processes): about" in (said := check(*flags).output)
    assert "72.0 GiB of a 80 GB GPU can be used: it fits" in " ".join(said.split())


def test_what_an_engine_cannot_train_is_refused_in_its_plan(check, tmp_path):
    """Red when: a plan for GPUs ends without a refusal, and the run is refused on the machine that has them."""
    eight_bits, gpu = ["--optim", "adamw_bnb_8bit"], ["--num_processes", "2", "--gpu_memory", "80"]
    done = check(*eight_bits, *gpu, "--accelerate_config", "fsdp2")
    said = " ".join(done.output.split())
    assert done.exit_code == 1
    assert (
        "refused settings: optim adamw_bnb_8bit under FSDP2: bitsandbytes has no step for split weights"
        in said
    )
    assert check(*eight_bits, *gpu, "--accelerate_config", "zero2").exit_code == 0
    old = tmp_path / "fsdp1.yaml"
    old.write_text(
        "distributed_type: FSDP\nfsdp_config: {fsdp_sharding_strategy: FULL_SHARD}\nnum_processes: 2\n"
    )
    assert check(*eight_bits, *gpu, "--accelerate_config", str(old)).exit_code == 0
    done = check("--use_peft", "true", *gpu, "--accelerate_config", str(old))
    assert "LoRA under FSDP1" in " ".join(done.output.split())


def test_a_gpu_is_planned_with_the_precision_that_a_run_has_there(check):
    """Red when: a plan for a GPU is made with the precision of a machine without one."""
    flags = ["--gpu_memory", "24", "--accelerate_config", "ddp"]

    def estimate(*more):
        done = check("--json", *flags, *more)
        found = json.loads(done.stdout)
        return found["memory"]["total"], [
            one["text"] for one in found["findings"] if one["about"] == "memory"
        ]

    (planned, said), (asked, silent) = estimate(), estimate("--bf16", "true")
    full, also_silent = estimate("--bf16", "false")
    assert planned == asked < full
    assert silent == also_silent == []
    assert said[0].startswith("the plan assumes a GPU that computes in bfloat16")


def test_packed_rows_make_fewer_steps(check):
    """The number is that of the trainer."""
    flags = ["--max_steps", "-1", "--num_train_epochs", "3", "--per_device_train_batch_size", "1"]
    unpacked, packed = (json.loads(check("--json", *flags, *more).stdout) for more in ([], PACKED))
    assert (unpacked["steps"], packed["steps"]) == (24, 6)


def test_packing_that_packs_nothing_is_told(check):
    """Each row is alone in its sequence, since the next one does not fit beside it."""
    assert "packing has no effect here" in check("--packing", "true", "--max_length", "45").output
    assert "packing has no effect here" not in check(*PACKED).output


def test_max_steps_beside_epochs_decides(check):
    """Told where both were given, and not where the epochs are a default."""
    unused = "; max_steps takes precedence, num_train_epochs 3 is not used"
    assert f" in all{unused}\n" in check("--max_steps", "5", "--num_train_epochs", "3").output
    assert "is not used" not in check("--max_steps", "5").output


def test_all_settings_that_are_wrong_are_named(check):
    done = check("--learning_rate", "-1", "--per_device_train_batch_size", "0")
    assert done.exit_code == 2
    assert "learning_rate is -1" in done.output
    assert "per_device_train_batch_size is 0" in done.output
    flags = ["--use_liger_kernel", "true", "--gradient_checkpointing", "true"]
    said = " ".join(check(*flags, "--gradient_checkpointing_kwargs", '{"often": 1}').output.split())
    assert "refused settings: not installed: liger-kernel (for use_liger_kernel)" in said
    assert "refused settings: gradient_checkpointing_kwargs: often is no argument" in said


def test_steps_are_those_of_the_run(check):
    """8 rows, 2 at a time, 3 passes: 12."""
    found = json.loads(check("--json", "--max_steps", "-1", "--num_train_epochs", "3").stdout)
    assert found["steps"] == 12


def test_a_timed_step_leaves_nothing_behind(check, tmp_path):
    found = json.loads(check("--json", "--time").stdout.partition("{")[2].join(["{", ""]))
    assert found["step_seconds"] > 0
    said = check("--time", "--max_steps", "3600").output
    each = re.search(
        r"time: ([\d.]+) seconds a step, (\d+):(\d\d):\d\d in all without evaluation and saving", said
    )
    assert 60 * int(each[2]) + int(each[3]) == pytest.approx(
        60 * float(each[1]), abs=1.3
    )  # minutes of 3,600 steps: whole ones, and the seconds of a step are shown to 0.005
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("copies", "said"), [(0, None), (1, "8 evaluation rows (7 without copies): what is measured")]
)
def test_few_evaluation_rows_are_said(check, tmp_path, copies, said):
    """Red when: two copies of one prompt are the whole evaluation, and its curves look like results."""
    rows = [
        {"prompt": f"{number} ", "completion": "yes"}
        for number in [*range(8 - copies), *range(copies), *range(20, 60)]
    ]
    for name, part in (("train", rows[8:]), ("test", rows[:8])):
        (tmp_path / "sets").mkdir(exist_ok=True)
        (tmp_path / "sets" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    output = check("--dataset_name", tmp_path / "sets", "--eval_strategy", "epoch").output
    assert "kept 8 of 8 rows" in output
    assert said is None or said in " ".join(output.split())
    assert ("says little" in output) == (said is not None)


def test_rows_are_shown_with_what_is_trained_and_what_the_model_would_say(check):
    done = check("--show", "2")
    assert "row 1 of the kept rows" in done.output
    assert "row 2 of the kept rows" in done.output
    assert "What is 1 plus 1?" in done.output.replace("\n", "")
    assert "<|im_end|>" in done.output
    assert "‹" in done.output.partition("row 1 of")[2]


@pytest.mark.parametrize("colour", [True, False])
def test_what_is_trained_is_seen_with_and_without_colour(chat_model, write_rows, colour):
    """The rows' answers, in their colour or between brackets; the prompt is neither."""
    words = ["--model_name_or_path", str(chat_model), "--dataset_name", str(write_rows())]
    run_args = parse(words)
    terminal = io.StringIO()
    console = Console(
        file=terminal, force_terminal=True, color_system="standard", no_color=not colour, width=200
    )
    show_rows(run_args, prepare_stage(run_args, load_data(run_args)), 1, console)
    said = terminal.getvalue()
    assert ("⟦" in said) != colour
    assert ("\x1b[32m" in said) == colour  # green
    assert "the model's guess for the token before it" in said
    if not colour:
        prompt, _, answer = re.sub(r"\x1b\[[\d;]*m", "", said).partition("⟦")
        assert "What is 0 plus 0?" in prompt
        assert "<|im_end|>" in answer.partition("⟧")[0]


def test_rows_of_each_data_set_of_a_mixture_are_shown(chat_model, tmp_path):
    """Red when: the first rows are taken, all of the first data set."""
    for name in ("a", "b"):
        rows = ({"prompt": f"{name}{number}?", "completion": " yes"} for number in range(4))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"datasets": [{"path": str(tmp_path / f"{name}.jsonl")} for name in ("a", "b")]}
    (tmp_path / "run.yaml").write_text(json.dumps(config))  # JSON is YAML
    words = ["--config", str(tmp_path / "run.yaml"), "--model_name_or_path", str(chat_model)]
    run_args = parse([*words, "--eval_strategy", "no"])
    terminal = io.StringIO()
    prepared = prepare_stage(run_args, load_data(run_args))
    lines = prepared.sets["train"].report.lines(lengths=True)
    of_part = next(number for number, line in enumerate(lines) if "a.jsonl: format:" in line)
    assert [line.split(":")[0].strip() for line in lines[of_part - 3 : of_part]] == [
        "tokens per row", "tokens per prompt", "tokens per answer",
    ]  # fmt: skip
    show_rows(run_args, prepared, 3, Console(file=terminal, width=200))
    said = terminal.getvalue()
    places = [f"row {row} of {tmp_path / name}.jsonl" for row, name in ((1, "a"), (2, "a"), (1, "b"))]
    assert re.findall(r"^(row \d+ of .*?),", said, re.MULTILINE) == places


def test_memory_is_planned_for_rows_of_another_length(check):
    here = json.loads(check("--json").stdout)
    longer = json.loads(check("--json", "--plan_length", "512", "--max_length", "512").stdout)
    assert longer["memory_of"] == "for a batch of 2 rows of 512 tokens (from --plan_length)"
    assert longer["memory"]["activations"] > here["memory"]["activations"]
    assert "the longest row after --max_length" in " ".join(check().output.split())


def test_steps_and_tokens_are_planned_for_more_rows(check):
    flags = ["--max_steps", "-1", "--num_train_epochs", "3"]
    here, more = (
        json.loads(check("--json", *flags, *words).stdout) for words in ([], ["--plan_rows", "800"])
    )
    assert (here["steps"], more["steps"]) == (12, 1200)
    assert more["trained_tokens"] == 100 * here["trained_tokens"]
    assert more["rows_per_step"] == here["rows_per_step"] == 2
    assert "(number of rows from --plan_rows)" in check(*flags, "--plan_rows", "800").output


def test_a_plan_without_weights_or_deepspeed_does_not_say_that_the_run_would_start(
    check, chat_model, tmp_path, monkeypatch
):
    """A folder with configuration and tokenizer is enough for a plan; without --gpu_memory it is refused."""
    monkeypatch.setattr("ift.check.packages._is_installed", lambda module: module != "deepspeed")
    bare = shutil.copytree(chat_model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    zero = ["--accelerate_config", "zero2", "--num_processes", "8"]
    last = {}
    for name, words, model in (
        ("weights", [], bare), ("both", zero, bare), ("deepspeed", zero, chat_model), ("nothing", [], chat_model),
    ):  # fmt: skip
        done = check("--gpu_memory", "24", *words, model=model)
        assert done.exit_code == 0, done.output
        said, last[name] = " ".join(done.output.split()), done.output.strip().splitlines()[-1]
        assert ("warning model: " in said and "no weights in this folder" in said) == (model == bare)
        assert ("not installed: deepspeed (for zero2). Fix: pip install deepspeed" in said) == (words == zero)
    start = "plan only: ift train would not start on this machine without "
    assert last == {
        "weights": f"{start}the model's weights", "both": f"{start}the model's weights and deepspeed",
        "deepspeed": f"{start}deepspeed", "nothing": "ok: ift train would start with the same arguments",
    }  # fmt: skip
    assert json.loads(check("--json", "--gpu_memory", "24", model=bare).stdout)["missing"] == [
        "the model's weights"
    ]
    assert check(model=bare).exit_code == 1


def test_a_plan_for_a_gpu_may_need_packages_that_are_not_here(check):
    """As DeepSpeed. Red when: a plan on paper is refused for what belongs on the machine of the GPU."""
    flash = ["--attn_implementation", "flash_attention_2", "--optim", "adamw_8bit"]
    done = check("--gpu_memory", "80", *flash)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert (
        "warning settings: not installed: bitsandbytes (for optim adamw_8bit), flash-attn (for attn_impl"
        in said
    )
    assert "memory: about " in said
    assert said.endswith("would not start on this machine without bitsandbytes and flash-attn")
    here = check(*flash)
    assert here.exit_code == 1
    assert "refused settings: not installed: bitsandbytes" in " ".join(here.output.split())


def test_a_plan_with_another_models_tokenizer_is_warned_of(check, chat_model, tmp_path):
    """The rows' tokens decide steps and memory. Red when: 128,256 embeddings and a toy's tokenizer pass in silence."""
    bare = shutil.copytree(chat_model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((bare / "config.json").read_text())
    tokens = config["vocab_size"]
    for size, warned in ((2 * tokens, False), (128_256, True)):
        (bare / "config.json").write_text(json.dumps(config | {"vocab_size": size}))
        said = " ".join(check("--gpu_memory", "24", model=bare).output.split())
        assert ("and the model 128,256 embeddings, so it is hardly the model's own" in said) == warned


def test_deepspeed_is_refused_where_it_would_be_used(check, monkeypatch):
    monkeypatch.setattr("ift.check.packages._is_installed", lambda module: module != "deepspeed")
    zero = ["--accelerate_config", "zero2", "--num_processes", "2"]
    assert "warning settings: not installed: deepspeed" in (on_cpu := " ".join(check(*zero).output.split()))
    assert on_cpu.endswith("ok: ift train would start with the same arguments")  # with DDP
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    done = check(*zero, "--bf16", "false", "--use_cpu", "true")
    assert done.exit_code == 1
    assert "refused settings: not installed: deepspeed (for zero2)" in " ".join(done.output.split())


def test_a_warm_up_that_never_ends_is_a_warning(check):
    done = check("--warmup_steps=20", "--max_steps=4")
    assert "warning warmup_steps: is 20 of 4 steps, so the learning rate is never reached" in done.output
    done = check("--warmup_steps=20", "--max_steps=4", "--lr_scheduler_type=constant")  # has no warm-up
    assert "warning warmup_steps" not in done.output


def test_a_learning_rate_of_0_is_a_warning(check):
    done = check("--learning_rate=0")
    assert done.exit_code == 0
    assert "warning learning_rate: is 0: no weight will change" in done.output


def test_a_learning_rate_that_weights_in_16_bits_do_not_see_is_a_warning(check):
    flags = ["--dtype", "bfloat16", "--learning_rate", "1e-6"]
    assert "warning learning_rate: the weights are trained in bfloat16" in " ".join(
        check(*flags).output.split()
    )


@pytest.mark.parametrize("method", ["dpo", "sft+dpo"])
def test_pairs_and_sequences_are_checked(check, method):
    done = check("--method", method, form="preference, conversational")
    assert done.exit_code == 0, done.output
    assert done.output.count("pairs") >= 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--residual_lamda", "1"], 2, "did you mean --residual_lambda"),
        (["--show", "0"], 2, "--show 0: give 1 or more"),
        (["--gpu_memory", "0"], 2, "--gpu_memory 0: give 1 or more"),
        (["--gpu_tflops", "0"], 2, "--gpu_tflops 0: give 0.01 or more"),
        (
            ["--plan_length", "2000"],
            2,
            "rows are truncated to --max_length 1024. Fix: raise --max_length too",
        ),
        ([*PACKED, "--plan_length", "100"], 2, "packed sequences have --max_length tokens"),
        (["--plan_rows", "0"], 2, "--plan_rows 0: give 1 or more"),
        (["--plan_rows", "9"], 2, "--plan_rows has no effect, because max_steps sets the number of steps"),
        (["--model_name_or_path", "/no/such"], 1, "no such model folder"),
        (["--dataset_columns", "a=b"], 1, 'found no column "a"'),
        (["--max_length", "40"], 1, "refused: ift train would not start"),
    ],
)
def test_exit_codes(check, words, code, said):
    done = check(*words)
    assert done.exit_code == code
    assert said in done.output


def test_a_folder_that_holds_something_is_told_beside_the_rest(check, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    done = check()
    assert done.exit_code == 1
    assert "refused output: " in " ".join(done.output.split())
    assert "the output folder is not empty (thesis.txt)" in " ".join(done.output.split())
    assert "kept 8 of 8 rows" in done.output
    assert check("--overwrite_output_dir").exit_code == 0


def test_a_tokenizer_with_more_words_than_the_model_is_refused(check, chat_model, tmp_path):
    """Rows of the embedding are gone: some ids that the rows hold are beyond it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(chat_model)
    model.resize_token_embeddings(60)
    model.save_pretrained(tmp_path / "cut")
    AutoTokenizer.from_pretrained(chat_model).save_pretrained(tmp_path / "cut")
    done = check(model=tmp_path / "cut")
    assert done.exit_code == 1
    assert "but the model has only 60 embeddings" in " ".join(done.output.split())


def test_train_refuses_what_the_check_refuses_unless_forced_or_allowed(run_tiny):
    refused = run_tiny(max_length=40, out="refused")
    assert refused.code == 1
    assert "not started: train: max_length 40 truncates" in refused.err
    assert not refused.folder.exists()
    forced = run_tiny("--force", max_length=40, out="forced")
    assert forced.code == 0
    assert "starting despite failed checks (--force)" in forced.out
    allowed = run_tiny("--allow_truncation", max_length=40, out="allowed")
    assert allowed.code == 0
    assert "warning train: max_length 40 truncates" in " ".join(allowed.out.split())


def test_train_warns(run_tiny):
    done = run_tiny(form=[*ROWS["messages"], ROWS["messages"][0]])
    assert done.code == 0
    assert "1 of 9 rows is a copy of an earlier one (row 9 is the first, a copy of row" in " ".join(
        done.out.split()
    )


def test_a_run_that_is_refused_names_a_reason_once(run_tiny):
    """Red when: the finding is printed, and again in the message."""
    refused = run_tiny("--use_peft", "true", "--lora_modules_to_save", "nothere")
    said = " ".join((refused.out + refused.err).split())
    assert refused.code == 1
    assert said.count("the model has no module nothere") == 1


def test_the_plan_says_that_max_steps_decides(run_tiny):
    done = run_tiny("--num_train_epochs", "3")
    assert "; max_steps takes precedence, num_train_epochs 3 is not used" in " ".join(done.out.split())


@pytest.mark.parametrize("given", ["flag", "file"])
def test_tf32_of_the_planned_gpu_is_not_refused_here(check, tmp_path, given):
    """transformers refuses it without such a GPU; red when: the plan of another machine stops with exit code 2."""
    (tmp_path / "more.yaml").write_text("tf32: true\n")
    words = ["--tf32", "true"] if given == "flag" else ["--config", str(tmp_path / "more.yaml")]
    done = check(*words, "--gpu_memory", "80")
    assert done.exit_code == 0, done.output
    here = check(*words)
    assert (here.exit_code == 2) is not is_torch_tf32_available()


@pytest.mark.parametrize(("workers", "noted"), [(None, False), (4, True)])
def test_workers_that_cost_packed_sequences_are_noted(check, workers, noted):
    """8 short rows fit one sequence; each of 4 workers packs 2 of them into one of its own."""
    flags = ["--packing", "true", "--max_length", "4096"]
    flags += ["--dataset_num_proc", str(workers)] if workers else []
    said = " ".join(check(*flags).output.split())
    text = "each worker packs its own share of the rows: 4 sequences, where one worker packs 1"
    assert (text in said) is noted


def test_the_message_of_datasets_about_workers_does_not_leak():
    """datasets starts fewer workers where there are fewer rows, and says so in words of its own."""
    record = logging.LogRecord(
        "datasets", logging.WARNING, "", 0, "num_proc must be <= 8. Reducing ...", (), None
    )
    assert not is_no_reduction(record)
    record.msg = "another message"
    assert is_no_reduction(record)
