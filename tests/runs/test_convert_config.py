"""Configurations of other tools: each key is kept, translated or lost, and `ift train` takes the result."""

import pytest
import yaml
from typer.testing import CliRunner

from ift.cli.main import app
from ift.methods import METHODS
from ift.runs.arguments import make_parser, parse
from ift.runs.argv import UsageError
from ift.runs.convert_config import convert_file
from ift.runs.converted_values import VALUES
from ift.runs.other_tools import EXPLAINED, RENAMED

AXOLOTL = """
base_model: some/model
tokenizer_type: AutoTokenizer
load_in_4bit: true
adapter: qlora
lora_model_dir:
lora_r: 32
lora_alpha: 16
lora_target_linear: true
datasets:
  - path: some/rows
    type: chat_template
    field_messages: turns
  - path: json
    data_files: mine.jsonl
    split: train[:10%]
    type: {system_prompt: ""}
val_set_size: 0.05
sequence_len: 4096
sample_packing: true
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
learning_rate: 2e-5
bf16: auto
tf32: true
gradient_checkpointing: offload
evals_per_epoch: 2
saves_per_epoch: 1
flash_attention: true
warmup_ratio: 0.1
special_tokens: {pad_token: <pad>}
deepspeed: deepspeed_configs/zero3_bf16.json
wandb_project: mine
plugins: [axolotl.integrations.liger.LigerPlugin]
some_new_key: 1
"""
LLAMA_FACTORY = """
model_name_or_path: some/model
trust_remote_code: true
stage: dpo
pref_loss: simpo
pref_beta: 2.0
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: pairs,more_pairs
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
quantization_bit: 4
plot_loss: true
learning_rate: 5.0e-6
val_size: 0.1
flash_attn: fa2
pure_bf16: true
"""
HANDBOOK = """
model_name_or_path: some/model
torch_dtype: bfloat16
chat_template: "{% for m in messages %}{{ m.content }}{% endfor %}"
dataset_mixture:
  datasets:
    - id: one/set
      config: default
      split: train_sft
      columns: [messages]
      weight: 0.5
  test_split_size: 100
max_seq_length: 2048
beta: 0.05
warmup_ratio: 0.1
use_liger_kernel: false
"""
UNSLOTH = """
model: some/model
data: {dataset: some/rows}
training:
  max_seq_length: 1024
  num_epochs: 3
  batch_size: 2
  gradient_accumulation_steps: 4
  random_seed: 3407
  packing: false
  gradient_checkpointing: unsloth
  load_in_4bit: true
lora:
  lora_r: 16
  lora_alpha: 16
  target_modules: q_proj,v_proj
  vision_all_linear: false
"""
LORA = {"use_peft": True, "load_in_4bit": True}


@pytest.fixture
def converted(tmp_path):
    def convert(text, method=None):
        file = tmp_path / "theirs.yml"
        file.write_text(text)
        found = convert_file(file, method)
        ours = tmp_path / "ours.yml"
        ours.write_text(found.yaml_text("theirs.yml"))
        assert yaml.safe_load(ours.read_text()) == found.settings
        keys = {one for key, value in yaml.safe_load(text).items() for one in
                (value if key in ("training", "lora", "data") and isinstance(value, dict) else [key])}  # fmt: skip
        sorted_keys = {*found.kept, *found.translated, *found.lost, *found.empty}
        assert keys - {"batch_size"} <= sorted_keys, "a key is neither kept nor translated nor lost"
        settings = {name: value for name, value in found.settings.items() if name != "tf32"}  # needs a GPU
        ours.write_text(yaml.safe_dump(settings))
        return found, parse(["--config", str(ours)])

    return convert


def holds(settings, wanted):
    assert {name: settings.get(name) for name in wanted} == wanted


def test_axolotl(converted):
    """Two evaluations an epoch of four are one every eighth of the steps."""
    found, args = converted(AXOLOTL)
    assert found.tool == "Axolotl"
    holds(found.settings, {
        **LORA, "method": "ift", "model_name_or_path": "some/model", "lora_target_modules": "all-linear",
        "datasets": [{"path": "some/rows", "split": "train"}, {"path": "mine.jsonl", "split": "train[:10%]"}],
        "dataset_columns": ["turns=messages"], "test_split_size": 0.05, "eval_strategy": "steps", "eval_steps": 0.125,
        "save_strategy": "epoch", "max_length": 4096, "packing": True, "per_device_train_batch_size": 2,
        "num_train_epochs": 4, "optim": "adamw_bnb_8bit", "tf32": True, "gradient_checkpointing": True,
        "attn_implementation": "flash_attention_2", "warmup_steps": 0.1, "pad_token": "<pad>",
    })  # fmt: skip
    assert args.config.learning_rate == 2e-5
    assert found.empty == ["lora_model_dir"]
    assert "--accelerate_config zero3" in found.lost["deepspeed"]
    assert found.lost["bf16"] == "auto is the default here"
    assert found.lost["some_new_key"] == "ift has no setting of this name"
    assert "dataset_columns renames" in found.lost["datasets: type"]
    assert {"plugins", "wandb_project", "tokenizer_type"} <= set(found.lost)


def test_llama_factory(converted):
    found, args = converted(LLAMA_FACTORY)
    assert found.tool == "LLaMA-Factory"
    holds(found.settings, {
        **LORA, "method": "simpo", "beta": 2.0, "lora_r": 8, "lora_target_modules": "all-linear", "max_length": 2048,
        "datasets": [{"path": "pairs", "split": "train[:1000]"}, {"path": "more_pairs", "split": "train[:1000]"}],
        "dataset_num_proc": 16, "test_split_size": 0.1, "attn_implementation": "flash_attention_2", "dtype": "bfloat16",
    })  # fmt: skip
    assert args.method.name == "simpo"
    assert "paths or Hub ids" in found.lost["dataset_info.json"]
    assert "max_samples" not in found.lost


def test_alignment_handbook(converted):
    found, _ = converted(HANDBOOK)
    assert found.tool == "trl"
    entry = {
        "path": "one/set",
        "name": "default",
        "split": "train_sft",
        "columns": ["messages"],
        "fraction": 0.5,
    }
    holds(
        found.settings, {"dtype": "bfloat16", "datasets": [entry], "test_split_size": 100, "max_length": 2048}
    )
    assert "chat_template_path" in found.lost["chat_template"]
    assert found.lost["beta"] == "ift has no such setting"
    assert converted(HANDBOOK, "dpo")[0].settings["beta"] == 0.05


def test_an_older_handbook_names_its_splits(converted):
    found, args = converted(
        "model_name_or_path: m\ndataset_mixer: {one/set: 1.0}\ndataset_splits: [train_sft, test_sft]"
    )
    assert args.script.dataset_test_split == "test_sft"
    assert found.settings["dataset_train_split"] == "train_sft"
    found, _ = converted(
        "model_name_or_path: m\ndataset_mixer: {a: 0.5, b: 1.0}\ndataset_splits: [train_x, test_x]"
    )
    assert [one["fraction"] for one in found.settings["datasets"]] == [0.5, 1.0]


def test_unsloth(converted):
    """Its batch is one device's, and its sections are one level deeper."""
    found, _ = converted(UNSLOTH)
    assert found.tool == "unsloth"
    holds(found.settings, {
        "model_name_or_path": "some/model", "datasets": [{"path": "some/rows", "split": "train"}], "max_length": 1024,
        "num_train_epochs": 3, "per_device_train_batch_size": 2, "seed": 3407, "packing": False,
        "gradient_checkpointing": True, "load_in_4bit": True,
    })  # fmt: skip
    holds(found.settings, {**LORA, "lora_r": 16, "lora_target_modules": ["q_proj", "v_proj"]})
    found, _ = converted(UNSLOTH.replace("training:", "training:\n  training_type: full"))
    assert "no effect without use_peft" in found.lost["lora_r"]


def test_what_is_missing_is_to_be_filled_in(converted):
    found, _ = converted("learning_rate: 1e-4\nfinetuning_type: full\n")
    assert found.missing == ["model_name_or_path", "dataset_name"]
    assert "# FILL IN: dataset_name" in found.yaml_text("x")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model_name_or_path: m\ndataset: d\nmax_seq_length: -3\n", "max_seq_length"),
        ("model_name_or_path: m\ndataset: d\noptim: no_such_optimizer\n", "optim"),
        ("base_model: m\ndataset: d\nrl: grpo\n", "rl"),
        ("base_model: m\ndataset: d\nadapter: ia3\n", "adapter"),
    ],
)
def test_a_value_that_ift_refuses_is_lost_with_the_reason(converted, text, named):
    found, _ = converted(text)
    assert len(found.lost[named]) > 10


def test_every_name_whose_value_is_translated_is_in_the_table_or_a_setting():
    """One table of names: what `ift train` answers to an unknown key."""
    known = {
        option.lstrip("-") for one in METHODS.values() for option in make_parser(one)._option_string_actions
    }
    assert set(VALUES) <= {*RENAMED, *EXPLAINED, *known}


def test_the_verb_writes_the_file_and_reports_every_key(tmp_path):
    (tmp_path / "theirs.yml").write_text(AXOLOTL)
    words = ["convert-config", str(tmp_path / "theirs.yml")]
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "new" / "ours.yml")])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "new" / "ours.yml")])
    assert again.exit_code == 2
    assert "this file exists" in again.output
    for line in (
        "lost: some_new_key: ift has no",
        "translated: sequence_len -> max_length: 4096",
        "without a value: lora",
    ):
        assert line in done.stderr
    assert yaml.safe_load((tmp_path / "new" / "ours.yml").read_text())["max_length"] == 4096
    done = CliRunner().invoke(app, words)
    assert yaml.safe_load(done.stdout)["packing"] is True


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: 1\na: 2\n", "a: [\n"])
def test_what_is_no_configuration_is_a_mistake_of_usage(tmp_path, text):
    (tmp_path / "theirs.yml").write_text(text)
    with pytest.raises(UsageError, match=r"theirs\.yml"):
        convert_file(tmp_path / "theirs.yml")
    done = CliRunner().invoke(app, ["convert-config", str(tmp_path / "theirs.yml")])
    assert done.exit_code == 2


def test_what_ift_refuses_is_not_called_kept(tmp_path):
    file = tmp_path / "trl.yml"
    file.write_text(
        "model_name_or_path: m\ndataset_name: d\noutput_dir: o\ndataset_kwargs:\n  skip_prepare_dataset: false\n"
    )
    found = convert_file(file)
    assert "every row is prepared here" in found.lost["dataset_kwargs"]
    assert "dataset_kwargs" not in found.settings
