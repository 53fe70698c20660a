"""What `ift train` is told: YAML as `trl sft` has it, and every mistake answered by one line and its exit code."""

import json
import os
import warnings
from pathlib import Path

import pytest

from ift.methods.table import METHODS
from ift.runs.arguments import UsageError, make_parser, parse, parse_stages
from ift.runs.plan import without_effect_lines
from ift.runs.removed import REMOVED
from ift.training.other_tools import EXPLAINED, RENAMED, table
from models import tiny_model

TRL_CONFIG = """\
# written for `trl sft`
model_name_or_path: {model}
dataset_name: {rows}
output_dir: {out}
learning_rate: 2.0e-4
lr_scheduler_type: cosine
warmup_steps: 1
packing: true
max_length: 64
assistant_only_loss: true
max_steps: 2
per_device_train_batch_size: 1
gradient_accumulation_steps: 2
logging_steps: 1
eval_strategy: no
save_strategy: steps
save_steps: 2
use_peft: yes
lora_r: 4
lora_target_modules: [q_proj, v_proj]
report_to: none
seed: 7
"""


@pytest.fixture
def config(tmp_path, chat_model, write_rows):
    """Write a YAML file: model, rows and folder, then `text`."""

    def write(text=""):
        path = tmp_path / "run.yaml"
        names = {
            "model_name_or_path": chat_model,
            "dataset_name": write_rows(),
            "output_dir": tmp_path / "out",
        }
        path.write_text("".join(f"{key}: {value}\n" for key, value in names.items()) + text)
        return path

    return write


def test_a_trl_sft_config_works_and_flags_win(train, tmp_path, chat_model, write_rows):
    path = tmp_path / "sft.yaml"
    path.write_text(TRL_CONFIG.format(model=chat_model, rows=write_rows(), out=tmp_path / "out"))
    done = train("--config", path, learning_rate=1e-3, residual_lambda=0.4)
    assert done.code == 0, done.err
    assert "learning rate 0.001 (cosine)" in done.out
    assert "lambda 0.4, greedy look-ahead" in done.out
    assert "2 steps of 2 packed sequences (1 per device x 2 gradient accumulation x 1 process)" in done.out
    assert (tmp_path / "out" / "checkpoint-2").is_dir()
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert adapter["r"] == 4
    assert sorted(adapter["target_modules"]) == ["q_proj", "v_proj"]


def test_values_of_yaml_are_read_as_flags_are(config):
    told = parse(
        [
            "--config",
            str(
                config(
                    "learning_rate: 1e-4\nsave_strategy: no\nuse_peft: yes\nlora_target_modules: all-linear\n"
                )
            ),
        ]
    )
    assert told.config.learning_rate == 1e-4  # a string in YAML
    assert str(told.config.save_strategy.value) == "no"  # false in YAML
    assert told.model.lora_target_modules == "all-linear"
    assert parse(["--config", str(config("dataset_columns: a=text\n"))]).columns == {"a": "text"}
    for text in ("{a=1: text, 007: more}", "\n  a=1: text\n  007: more"):
        given = ["--config", str(config(f"dataset_columns: {text}\n"))]
        assert parse(given).columns == {"a=1": "text", "007": "more"}
        assert parse([*given, "--dataset_columns", "b=text"]).columns == {"b": "text"}
    assert parse(["--config", str(config("max_length: null\n"))]).config.max_length is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "dataset_columns: {a: [b]}\n",
            "run.yaml, line 4: dataset_columns: found a list or a mapping in place of a name",
        ),
        ("dataset_columns: [a]\n", "run.yaml, line 4: dataset_columns: found 'a', expected old=new"),
        (
            "dataset_columns: a=prompt b=completion\n",
            "line 4: dataset_columns: found 'a=prompt b=completion', which",
        ),
        ("dataset_columns:\n  a: c\n  b: c\n", "dataset_columns: 'b=c' names a column a second time"),
        ("learnig_rate: 1\n", "run.yaml, line 4: unknown key 'learnig_rate'; did you mean learning_rate?"),
        (
            "\nresidual_lamda: 1\n",
            "run.yaml, line 5: unknown key 'residual_lamda'; did you mean residual_lambda?",
        ),
        (
            "warmup_ratio: 0.1\n",
            "line 4: unknown key 'warmup_ratio'; in ift it is warmup_steps, where below 1 is a share of the steps.",
        ),
        ("base_model: x\n", "line 4: unknown key 'base_model'; in ift it is model_name_or_path."),
        (
            "dataset: x\n",
            "line 4: unknown key 'dataset'; in ift it is dataset_name, or datasets for a list of them.",
        ),
        (
            "train_on_inputs: false\n",
            "unknown key 'train_on_inputs'; it is not needed: only answers are trained",
        ),
        ("lora_r: 8\n", "lora_r: no effect without use_peft: true. Change that, or leave lora_r out."),
        ("bnb_4bit_quant_type: fp4\n", "bnb_4bit_quant_type: no effect without load_in_4bit: true."),
        ("streaming: true\n", "streaming: no effect without datasets:"),
        ("datasets:\n  - path: x\n", "dataset_name: no effect with datasets:"),
        ("datasets:\n  - x.jsonl\n", "run.yaml, line 5: datasets: give a list of entries such as"),
        (
            "datasets:\n  - path: x\n    fraction: some\n",
            "line 5: datasets: fraction is 'some'; give a number.",
        ),
        ("datasets:\n  - path: x\n    weight: 1\n", "line 6: datasets: unknown key 'weight'; an entry has"),
        (
            "datasets:\n  - path: x\n    dataset_columns: {a: b, c: b}\n",
            "line 6: dataset_columns: 'c=b' names a column a second time",
        ),
        ("qqqqqq: 1\n", "run.yaml, line 4: unknown key 'qqqqqq'; `ift train --help-all` lists them all."),
        ("seed: 1\nmax_steps: 1\nseed: 2\n", "run.yaml, line 6: seed was already set on line 4; keep one."),
        ("learning_rate: fast\n", "run.yaml, line 4: learning_rate is 'fast'; give a number."),
        ("seed: 1.5\n", "run.yaml, line 4: seed is 1.5; give a whole number."),
        ("num_train_epochs: [1]\n", "run.yaml, line 4: num_train_epochs is [1]; give a number."),
        ("packing: perhaps\n", "run.yaml, line 4: packing is 'perhaps'; give true or false."),
        ("lookahead: psychic\n", "line 4: lookahead is 'psychic'; give one of greedy, sample, expected."),
        ("residual_lambda: 7\n", "residual_lambda is 7.0; give a value in [0, 1], such as 0.2."),
        ("propagation_gamma: 0\n", "For weights that do not look ahead at all set propagation='none'."),
        ("- a\n", "run.yaml is not YAML"),
        ("yes: 1\n", "run.yaml, line 4: YAML reads the key yes as True; write it in quotes."),
    ],
)
def test_a_wrong_yaml_file_is_a_usage_error_with_its_line(train, config, text, answer):
    done = train("--config", config(text))
    assert done.code == 2
    assert answer in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_several_keys_of_another_tool_bring_the_command_that_translates_the_file(train, config):
    done = train("--config", config("torch_dtype: bfloat16\nwarmup_ratio: 0.1\n"))
    assert done.code == 2
    *keys, last = done.err.strip().splitlines()
    assert [line.split("; ")[1] for line in keys] == [
        "in ift it is dtype.",
        "in ift it is warmup_steps, where below 1 is a share of the steps.",
    ]
    assert last.startswith("`ift convert-config /")
    assert last.endswith("run.yaml --output ift.yaml` translates the whole file.")


def test_unknown_keys_and_wrong_types_of_a_file_are_one_message(train, config):
    """Red when: each of them is reported alone, so that the file is mended in as many rounds."""
    text = "learnig_rate: 1\nseed: one\nmax_steps: 1.5\nfoo: 1\ndatasets:\n  - {path: a, paht: b, bar: c}\n"
    done = train("--config", config(text))
    assert done.code == 2
    lines = [line.split("run.yaml, ")[1] for line in done.err.strip().splitlines()]
    assert lines[:-1] == [
        "line 4: unknown key 'learnig_rate'; did you mean learning_rate?",
        "line 7: unknown key 'foo'; `ift train --help-all` lists them all.",
        "line 5: seed is 'one'; give a whole number.",
        "line 6: max_steps is 1.5; give a whole number.",
        "line 9: datasets: unknown key 'paht'; did you mean path?",
    ]
    assert lines[-1].startswith("line 9: datasets: unknown key 'bar'; an entry has path, name, data_dir")


def test_settings_that_another_one_makes_useless_are_named(config):
    file = str(config("eval_steps: 5\nsave_steps: 9\nhub_model_id: me/it\nlogging_steps: 3\nmax_steps: 4\n"))
    words = ["--metric_for_best_model", "nll", "--eval_delay", "0"]
    assert without_effect_lines(parse(["--config", file, *words])) == [
        "settings without effect, because eval_strategy is no: eval_steps, metric_for_best_model",
        "settings without effect, because push_to_hub is false: hub_model_id",
    ]
    used = ["--eval_strategy", "steps", "--push_to_hub", "--save_strategy", "no"]
    assert without_effect_lines(parse(["--config", file, *used])) == [
        "settings without effect, because save_strategy is no: save_steps"
    ]
    with pytest.raises(UsageError, match="eval_on_start: no effect without eval_strategy"):
        parse(["--config", file, "--eval_on_start"])
    with pytest.raises(
        UsageError, match="dataloader_persistent_workers: no effect without dataloader_num_workers"
    ):
        parse(["--config", file, "--dataloader_persistent_workers"])


def test_a_flag_may_switch_off_what_settings_of_the_file_belong_to(config):
    """A rehearsal of a converted file without bitsandbytes or adapter. Red when: each has to be left out too."""
    file = str(config("load_in_4bit: true\nuse_bnb_nested_quant: true\nuse_peft: true\nlora_r: 8\n"))
    run = parse(["--config", file, "--load_in_4bit", "false"])
    assert dict(run.switched_off) == {"use_bnb_nested_quant": "--load_in_4bit false"}
    assert (run.model.use_peft, run.model.load_in_4bit) == (True, False)
    run = parse(["--config", file, "--load_in_4bit", "false", "--use_peft=false"])
    said = ["settings of the file without effect, because of --use_peft false: lora_r",
            "settings of the file without effect, because of --load_in_4bit false: use_bnb_nested_quant"]  # fmt: skip
    assert without_effect_lines(run) == said
    with pytest.raises(UsageError, match="lora_r: no effect without use_peft: true"):
        parse(["--config", file, "--use_peft", "false", "--lora_r", "4"])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--learnig_rate", "1"], "unknown flag --learnig_rate; did you mean --learning_rate?"),
        (["--residual_lamda=0.3"], "unknown flag --residual_lamda; did you mean --residual_lambda?"),
        (["--torch_dtype", "bfloat16"], "unknown flag --torch_dtype; in ift it is --dtype."),
        (["--cutoff-len", "8"], "unknown flag --cutoff-len; in ift it is --max_length."),
        (["--use_dora", "true"], "use_dora: no effect without use_peft: true."),
        (["--num_proceses", "2"], "unknown flag --num_proceses; did you mean --num_processes?"),
        (["--max_steps", "1.5"], "invalid int value: '1.5'. Fix: give a whole number, such as 1"),
        (["--residual_lambda_start", "x"], "invalid float value: 'x'. Fix: give a number, such as 0.5"),
        (["--residual_lambda", "2"], "residual_lambda is 2.0; give a value in [0, 1], such as 0.2."),
        (
            ["--residual_lambda_start", "0.1"],
            "Set residual_warmup_ratio above 0, such as 0.5 (half of the steps)",
        ),
        (
            ["--method", "sft", "--residual_lambda_start", "0.1", "--residual_warmup_ratio", "0.5"],
            "residual_lambda_start is 0.1; method sft fixes it at None",
        ),
        (["--dataset_columns", "question"], "expected old=new"),
        (["--dataset_columns", "a=prompt b=completion"], "each pair without quotes"),
        (["stray"], "'stray' does not belong to any flag."),
        (["--output_dir"], "expected one argument"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(train, config, words, answer):
    done = train("--config", config(), *words)
    assert done.code == 2
    assert answer in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in REMOVED if "_" in name])
def test_a_removed_setting_is_answered_in_one_line(train, config, name):
    answer = "this setting was removed, because guesses kept from earlier epochs cost up to 6.3 points"
    dashed = name.replace("_", "-")
    for words, told in (
        ([f"--{name}"], f"--{name}"),
        ([f"--{name}=0"], f"--{name}"),
        ([f"--{dashed}", "epoch"], f"--{dashed}"),
        ([f"--1.{name}", "epoch"], f"--{name}"),
    ):
        done = train("--config", config(), *words)
        assert done.code == 2
        assert done.err.startswith(f"ift train: {told}: {answer}")
        assert "Remove it: every step computes the look-ahead." in done.err
        assert len(done.err.strip().splitlines()) == 1
    for value in ("epoch", "off", "0.5", "null"):
        done = train("--config", config(f"{name}: {value}\n"))
        assert done.code == 2
        assert f"run.yaml, line 4: {name}: {answer}" in done.err
        assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["--help"], ["--output", "x", "--model_name_or_path", "y"]])
def test_a_removed_verb_is_answered_in_one_line(ift, words):
    done = ift("precompute-lookahead", *words)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("ift precompute-lookahead: this command was removed, because ")
    assert "Use `ift train`" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_model_and_data_are_asked_for(train, chat_model):
    assert "no model: give --model_name_or_path" in train(dataset_name="rows.jsonl").err
    assert "no data: give --dataset_name" in train(model_name_or_path=chat_model).err
    assert train("--config", "nowhere.yaml").code == 2


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (
            {"model_name_or_path": "./nowhere"},
            "./nowhere: no such model folder. Fix: give a folder with",
        ),
        ({"model_name_or_path": "some/where/else"}, "some/where/else: no such model folder."),
        ({"dataset_name": "missing.jsonl"}, "missing.jsonl: no such file or folder"),
        ({"dataset_train_split": "foo"}, 'found no split "foo", only train'),
        (
            {"dataset_test_split": __file__, "eval_strategy": "steps", "eval_steps": 1},
            "Fix: a split is a name such as test. For rows in two files, put them into one folder as train and test",
        ),
        ({"max_length": 4}, "nothing to learn after truncation to max_length: 8 rows"),
        ({"use_peft": "true", "lora_target_modules": "nix"}, "Target modules nix not found"),
        ({"resume_from_checkpoint": "nix"}, "Can't find a valid checkpoint at nix"),
        ({"report_to": "clearml"}, "clearml"),
    ],
)
def test_what_is_not_there_ends_in_one_clear_line(run_tiny, flags, answer):
    done = run_tiny(**flags)
    assert done.code == 1
    assert f"ift train: {answer}" in done.err or answer in done.err
    assert "Traceback" not in done.err


def test_broken_rows_are_named_by_line(run_tiny, tmp_path):
    rows = tmp_path / "broken.jsonl"
    rows.write_text('{"text": "fine"}\n{"text": \n')
    done = run_tiny(dataset_name=rows)
    assert done.code == 1
    assert "broken.jsonl, line 2: found text that is not JSON" in done.err


def test_a_run_in_this_process_leaves_the_environment_alone(run_tiny):
    before = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    run_tiny(max_steps=1)
    changed = {key for key in before.keys() | os.environ.keys() if before.get(key) != os.environ.get(key)}
    assert {key for key in changed if not key.startswith(("PYTEST", "ACCELERATE", "KMP"))} == set()


def test_old_names_that_trl_and_peft_use_are_no_warning_for_a_user():
    """Red when: the parser does not silence them: the model itself warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert tiny_model().is_gradient_checkpointing is False
        assert [one.category for one in caught] == [FutureWarning]
        make_parser()
        assert tiny_model().is_gradient_checkpointing is False
    assert len(caught) == 1


@pytest.mark.parametrize("method", ["ift", "sft"])
@pytest.mark.parametrize("written", ["false", "no", "False"])
def test_the_answers_alone_are_trained_where_trl_would_train_every_token(config, method, written):
    """Red when: the setting is read and has no effect, so that another training begins than the file's."""
    words = ["--method", method, "--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o"]
    file = config(f"assistant_only_loss: {written}\n")
    for given in ([*words, "--config", str(file)], [*words, "--assistant_only_loss", written]):
        with pytest.raises(
            UsageError, match=r"assistant_only_loss is false.*completion_only_loss: false to train every"
        ):
            parse(given)
        parse([*given, "--completion_only_loss", "false"])
    parse([*words, "--assistant_only_loss"])


def test_the_parser_raises_and_never_exits():
    with pytest.raises(UsageError, match="unknown flag --nix"):
        parse(["--nix", "1"])


@pytest.mark.parametrize("text", ["2024_10_05", "1.10", "010", "1e3", "no", "0x10", "2024-10-05"])
def test_a_text_setting_is_what_is_written(config, text):
    """YAML 1.1 reads each of these as a number, a date or false."""
    (told,) = parse_stages(
        ["--config", str(config(f"run_name: {text}\nlora_target_modules: [{text}, x]\nuse_peft: yes\n"))]
    )
    assert told.config.run_name == text
    assert told.model.lora_target_modules == [text, "x"]


def test_entries_of_a_mixture_are_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "run.yaml"
    (tmp_path / "a").write_text("{{ messages }}")
    entries = "  - path: 010\n    split: 1.10\n    fraction: 1e-1\n  - path: ~/b\n    fraction: 0.9\n"
    file.write_text(f"model_name_or_path: ~/model\noutput_dir: x\ndatasets:\n{entries}")
    (told,) = parse_stages(["--config", "~/run.yaml", "--chat_template_path=~/a"])
    first, second = told.mixture.datasets
    assert (first.path, first.split, first.fraction, second.path) == ("010", "1.10", 0.1, str(tmp_path / "b"))
    assert told.model.model_name_or_path == str(tmp_path / "model")
    assert told.config.chat_template_path == str(tmp_path / "a")


def test_names_of_other_tools_lead_to_settings_that_exist():
    for method in METHODS.values():
        known = {action.dest for action in make_parser(method)._actions}
        assert not known & {*RENAMED, *EXPLAINED}
    assert set(RENAMED.values()) <= {action.dest for action in make_parser()._actions}
    assert not set(RENAMED) & set(EXPLAINED)
    page = Path("docs/cli.md").read_text(encoding="utf-8")
    assert table() in page


def test_tf32_without_such_a_gpu_is_refused_with_the_fix(train, chat_model, write_rows):
    done = train("--tf32=true", model_name_or_path=chat_model, dataset_name=write_rows())
    assert done.code == 2
    assert done.err.rstrip().endswith("Fix: --tf32 false on this machine")
