"""Configurations of other tools: each key is kept, translated or lost, and `ift train` takes the result."""

import contextlib
import dataclasses
import json
import os
import re
import warnings
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from transformers import TrainingArguments
from typer.testing import CliRunner

from ift.cli.main import app
from ift.data.conversion import from_preference
from ift.data.source import SourceRow
from ift.methods import METHODS
from ift.runs.arguments import make_parser, parse
from ift.runs.argv import UsageError
from ift.runs.convert_config import convert_file
from ift.runs.converted_defaults import DEFAULTS
from ift.runs.converted_values import VALUES
from ift.runs.launch import resolve_config, wanted_engine
from ift.training.other_tools import EXPLAINED, RENAMED

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
        inside = {
            name.partition(".")[0] for name in found.lost if "." in name
        }  # keys that are lost by their own names
        sorted_keys = {*found.kept, *found.translated, *found.lost, *found.empty, *inside}
        assert keys - {"batch_size"} <= sorted_keys, "a key is neither kept nor translated nor lost"
        settings = {name: value for name, value in found.settings.items() if name != "tf32"}  # needs a GPU
        ours.write_text(yaml.safe_dump(settings))
        return found, parse(["--config", str(ours)])

    return convert


@pytest.mark.parametrize(
    ("written", "method", "without_effect"),
    [
        ("stage: sft\npref_loss: sigmoid\npref_beta: 0.1\nsimpo_gamma: 0.5\n", "ift", True),
        ("pref_loss: orpo\nlora_target: all\n", "ift", True),  # its default stage is sft
        ("stage: dpo\npref_loss: sigmoid\npref_beta: 0.1\n", "dpo", False),
        ("pref_loss: simpo\nstage: dpo\npref_beta: 0.1\nsimpo_gamma: 0.5\n", "simpo", False),
    ],
)
def test_settings_of_preferences_count_in_their_stage_alone(converted, written, method, without_effect):
    """LLaMA-Factory trains `stage: sft` whatever `pref_loss` says. Red when: the result trains DPO."""
    found, _ = converted(f"model_name_or_path: some/model\ncutoff_len: 64\n{written}")
    assert found.settings["method"] == method
    lost = {name: reason for name, reason in found.lost.items() if name.startswith(("pref", "simpo"))}
    if without_effect:
        assert lost["pref_loss"].startswith("it has no effect with stage sft")
        assert all(
            name
            in found.groups["lost, but the training stays the same (speed, memory, logs, files, evaluation)"]
            for name in lost
        )
        assert "beta" not in found.settings
    else:
        assert lost == {}
        assert found.settings["beta"] == 0.1


def holds(settings, wanted):
    assert {name: settings.get(name) for name in wanted} == wanted


def test_axolotl(converted):
    """Two evaluations an epoch of four are one every eighth of the steps."""
    found, args = converted(AXOLOTL)
    assert found.tool == "Axolotl"
    holds(found.settings, {
        **LORA, "method": "ift", "model_name_or_path": "some/model", "lora_target_modules": "all-linear",
        "datasets": [
            {"path": "some/rows", "split": "train", "dataset_columns": {"turns": "messages"}},
            {"path": "mine.jsonl", "split": "train[:10%]"},
        ],
        "test_split_size": 0.05, "eval_strategy": "steps", "eval_steps": 0.125,
        "save_strategy": "epoch", "max_length": 4096, "packing": True, "per_device_train_batch_size": 2,
        "num_train_epochs": 4, "optim": "adamw_bnb_8bit", "tf32": True, "gradient_checkpointing": True,
        "attn_implementation": "flash_attention_2", "warmup_steps": 0.1, "report_to": "wandb",
        "env": {"WANDB_PROJECT": "mine"},
    })  # fmt: skip
    assert args.config.learning_rate == 2e-5
    assert found.empty == ["lora_model_dir"]
    assert found.translated["deepspeed"] == {
        "accelerate_config": "ddp"
    }  # four bits do not run under ZeRO here
    assert args.launch == ["--accelerate_config", "ddp"]
    assert found.lost["bf16"] == "auto is the default here"
    assert "look up in Axolotl's documentation what it changes" in found.lost["some_new_key"]
    said = found.lost["special_tokens.pad_token"]
    assert "is not needed: padding is masked out of the attention and of the loss" in said
    assert {"plugins", "tokenizer_type"} <= set(found.lost)


def test_lora_on_whole_weights_keeps_deepspeed(converted):
    found, _ = converted(
        AXOLOTL.replace("adapter: qlora", "adapter: lora").replace("load_in_4bit: true\n", "")
    )
    assert found.translated["deepspeed"] == {"accelerate_config": "zero3"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tokenizer_default", "ift also uses the model's own chat template"),
        (
            "llama3",
            "A base model without one gets lines that begin with User: and Assistant:, which is another ",
        ),
        ("llama3", "name the Jinja file of the template in chat_template_path"),
    ],
)
def test_the_chat_template_that_applies_is_named(converted, value, said):
    found, _ = converted(f"{AXOLOTL}\nchat_template: {value}\n")
    assert said in found.lost["chat_template"]


ENTRIES = """
base_model: some/model
datasets:
  - path: one
    type: chat_template
    ds_type: json
    message_property_mappings: {role: from, content: value}
    roles_to_train: [assistant, gpt]
    roles: {user: [human], assistant: [gpt, model]}
    message_field_training: train
  - path: two
    type: {field_instruction: q, field_output: a, system_prompt: Be brief, field_system: ""}
    message_property_mappings: {role: speaker, content: text}
    roles_to_train: [user]
    roles: {assistant: [wizard]}
    message_field_training: learn
    shards: 4
  - path: three
    type: context_qa.load_v2
special_tokens: {pad_token: <pad>, eos_token: <end>, bos_token: <s>}
"""


def test_keys_inside_entries_are_translated_or_lost_by_their_full_names(converted):
    """A key that two entries have is lost for the reasons of both; what happens here anyway is the second group."""
    found, args = converted(ENTRIES)
    assert [one.get("dataset_columns") for one in found.settings["datasets"]] == [
        None,
        {"q": "instruction", "a": "output"},
        None,
    ]
    assert found.settings["eos_token"] == args.config.eos_token == "<end>"
    changing, same = found.groups.values()
    inside = {name: reason for name, reason in changing.items() if "." in name}
    assert {name: next(word for word in words if word in inside.get(name, "")) for name, words in {
        "datasets.type.system_prompt": ["ift does not build prompts"],
        "datasets.message_property_mappings.role": ["write role in the rows in place of speaker"],
        "datasets.message_property_mappings.content": ["write content in the rows in place of text"],
        "datasets.roles_to_train": ["ift trains only assistant turns, not those of user"],
        "datasets.roles.assistant": ["in place of wizard"],
        "datasets.message_field_training": ["write train in the rows in place of learn"],
        "datasets.shards": ["a part of the rows is a split such as"],
        "datasets.type": ["if context_qa.load_v2 adds text to a prompt"],
        "special_tokens.bos_token": ["it is that of the tokenizer"],
    }.items()}.keys() == inside.keys()  # fmt: skip
    assert "is not needed" in same["special_tokens.pad_token"]
    assert "the kind of a file is found from its name" in same["datasets.ds_type"]
    assert {"datasets.message_property_mappings.role", "datasets.roles.user"} - set(changing) == {
        "datasets.roles.user"
    }
    assert "datasets.type.system_prompt: ift does not build prompts" in found.yaml_text("x")
    found, _ = converted(HANDBOOK.replace("test_split_size: 100", "test_split_size: 100\n  seed: 0"))
    assert "the run's seed" in found.lost["dataset_mixture.seed"]


@pytest.mark.parametrize(
    ("entry", "key", "changes", "said"),
    [
        ("type: chat_template", "type", False, "detects the format from the columns"),
        ("type: alpaca", "type", True, "if alpaca adds text to a prompt"),
        ("roles_to_train: [gpt]", "roles_to_train", False, "ift also trains assistant turns"),
        ("roles_to_train: []", "roles_to_train", True, "write train: false into turns"),
        ("message_field_role: from", "message_field_role", False, "from is read"),
        ("message_field_role: who", "message_field_role", True, "write role in the rows in place of who"),
        ("message_field_content: text", "message_field_content", True, "write content in the rows in place of text"),
        ("message_field_training: train", "message_field_training", False, "the mark train of a turn is read"),
        ("message_field_training_detail: d", "message_field_training_detail", True, "input_ids and labels"),
        ("train_on_eos: turn", "train_on_eos", False, "also trains the token"),
        ("train_on_eos: last", "train_on_eos", True, "the token that ends each trained turn is trained;"),
        ("train_on_eot: none", "train_on_eot", True, "the token that ends each trained turn is trained;"),
        ("chat_template: tokenizer_default", "chat_template", False, "also uses the model's own chat template"),
        ("chat_template: chatml", "chat_template", True, "in chat_template_path"),
        ("field_thinking: reasoning_content", "field_thinking", False, "given to the chat template"),
        ("field_thinking: cot", "field_thinking", True, "write reasoning_content in the turns in place of cot"),
        ("drop_system_message: true", "drop_system_message", True, "remove the system turns"),
        ("split_thinking: false", "split_thinking", False, "ift does the same"),
        ("revision: abc", "revision", True, "download this one"),
        ("shards: 10", "shards", True, "train[:10%]"),
        ("logprobs_field: x", "logprobs_field", True, "ift has no such key"),
    ],
)  # fmt: skip
def test_each_key_of_an_entry_is_named_with_what_it_changes(converted, entry, key, changes, said):
    found, _ = converted(f"base_model: m\ndatasets:\n  - path: rows\n    {entry}\n")
    changing, same = found.groups.values()
    assert said in (changing if changes else same)[f"datasets.{key}"]


def test_a_key_of_two_entries_is_lost_for_both_reasons(converted):
    found, _ = converted(
        "base_model: m\ndatasets:\n  - {path: a, type: alpaca}\n  - {path: b, type: gpteacher}\n"
    )
    assert "if alpaca adds text" in found.lost["datasets.type"]
    assert "if gpteacher adds text" in found.lost["datasets.type"]


QUIET = "base_model: m\ndatasets: [{path: rows}]\nmicro_batch_size: 4\nlearning_rate: 1e-4\n"


def test_defaults_of_axolotl_are_written_out(converted):
    """What its file leaves unsaid trains as there: bf16 weights, one epoch, no dropout, double quantisation."""
    found, args = converted(f"{QUIET}adapter: qlora\nload_in_4bit: true\nlora_r: 8\nlora_alpha: 16\n")
    wanted = {
        "dtype": "bfloat16", "use_bnb_nested_quant": True, "lora_dropout": 0.0, "num_train_epochs": 1.0,
        "per_device_eval_batch_size": 4, "max_length": 512, "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
        "save_strategy": "epoch", "save_total_limit": 4,
    }  # fmt: skip
    assert {name: value for name, (value, _) in found.implied.items()} == wanted
    holds(found.settings, wanted)
    assert args.model.use_bnb_nested_quant
    assert (
        "written out, because it is Axolotl's default: lora_dropout: 0.0 (ift's default: 0.05)"
        in found.report()
    )
    assert any("mean over all trained tokens" in one for one in found.differences)
    assert any("Axolotl drops them; ift truncates them" in one for one in found.differences)
    assert "# Defaults of Axolotl: dtype, use_bnb_nested_quant" in found.yaml_text("x")


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("", {"save_strategy": "epoch", "save_total_limit": 4}),
        ("save_steps: 7\n", {"save_steps": 7, "save_total_limit": 4}),
        ("saves_per_epoch: 1\nsave_total_limit: 2\n", {"save_strategy": "epoch", "save_total_limit": 2}),
        ('save_strategy: "no"\n', {"save_strategy": "no"}),
    ],
)
def test_checkpoints_are_saved_when_axolotl_saves_them(converted, said, written):
    """transformers' own default is each 500 steps, which a short run never reaches."""
    found, _ = converted(f"{QUIET}{said}")
    assert {name: found.settings[name] for name in found.settings if name.startswith("save_")} == written


@pytest.mark.parametrize(
    ("asked", "strategy", "steps"),
    [
        ("", "epoch", None),
        ("eval_steps: 7\n", "steps", 7),
        ("evals_per_epoch: 1\n", "epoch", None),
        ("evals_per_epoch: 4\n", "steps", 0.25),
        ("evaluation_strategy: epoch\n", "epoch", None),
        ('eval_strategy: "no"\n', "no", None),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_rows_that_are_held_out_are_evaluated_when_the_other_tool_does(
    converted, asked, strategy, steps, first
):
    """Red when: they are evaluated every 10 steps, ift's logging_steps; or the order of the keys decides."""
    held_out = "val_set_size: 0.1\n"
    found, args = converted(QUIET + (held_out + asked if first else asked + held_out))
    assert found.settings["eval_strategy"] == strategy == args.config.eval_strategy
    assert found.settings.get("eval_steps") == steps
    assert found.settings["test_split_size"] == 0.1
    assert not {"evals_per_epoch", "eval_steps", "eval_strategy", "evaluation_strategy"} & set(found.lost)


@pytest.mark.parametrize(
    "name", ["context_parallel_size", "sequence_parallel_degree", "tensor_parallel_size"]
)
def test_processes_that_share_rows_change_the_batch(converted, name):
    found, _ = converted(f"{QUIET}{name}: 2\n")
    changing, _ = found.groups.values()
    assert "more rows here, by a factor of 2. Divide gradient_accumulation_steps" in changing[name]
    found, _ = converted(f"{QUIET}{name}: 1\n")
    assert found.groups[list(found.groups)[1]][name] == "it is off"


def test_columns_and_empty_values_of_an_entry_are_named(converted):
    entry = "{path: a, field_messages: conversations, field_system: '', type: {field_output: output, field_input: "
    found, _ = converted(
        f"base_model: m\ndatasets:\n  - {entry}context, system_prompt: '', format: '{{input}}'}}}}\n"
    )
    assert found.lost["datasets.field_messages"] == "the column conversations is found without being named"
    assert found.lost["datasets.type.field_output"] == "the column output is found without being named"
    assert (
        found.lost["datasets.field_system"] == found.lost["datasets.type.system_prompt"] == "it has no value"
    )
    assert found.settings["datasets"][0]["dataset_columns"] == {"context": "input"}
    assert list(found.groups["lost, and this changes what is trained"]) == ["datasets.type.format"]
    assert "docs/data.md, Prompts with a text around them" in found.lost["datasets.type.format"]
    assert "## Prompts with a text around them" in Path("docs/data.md").read_text(encoding="utf-8")


def test_a_file_of_deepspeed_that_is_not_there_is_named(converted):
    """Also one of Axolotl's own files, whose stage its name tells."""
    found, _ = converted(f"{QUIET}deepspeed: deepspeed_configs/zero2.json\n")
    assert found.settings["accelerate_config"] == "zero2"
    same = found.groups[list(found.groups)[1]]
    assert same["deepspeed"].startswith("found no file deepspeed_configs/zero2.json")


def test_another_mean_of_accumulated_gradients_is_named(converted):
    """As seen in Axolotl 0.19 itself, whose losses are ift's without accumulation, and others with it."""
    for steps, named in ((1, False), (2, True)):
        found, _ = converted(f"{QUIET}gradient_accumulation_steps: {steps}\n", "sft")
        assert any("averages the means of the micro-batches" in one for one in found.differences) == named
    found, _ = converted(f"{QUIET}deepspeed: deepspeed_configs/zero2.json\n", "sft")
    assert any("and of the GPUs" in one for one in found.differences)


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_the_precision_of_an_adapter_beside_a_base_in_4_bits_is_named(converted, adapter):
    found, _ = converted(f"{QUIET}adapter: {adapter}\nload_in_4bit: {str(adapter == 'qlora').lower()}\n")
    assert any("the other tool's matrices are float32" in one for one in found.differences) == (
        adapter == "qlora"
    )


def test_what_a_file_says_is_not_replaced_by_a_default(converted):
    said = "bf16: false\nlr_scheduler: linear\nsequence_len: 64\nexcess_length_strategy: truncate\n"
    found, _ = converted(f"{QUIET}{said}")
    holds(found.settings, {"lr_scheduler_type": "linear", "max_length": 64, "bf16": False})
    assert not {"dtype", "lora_dropout", "lr_scheduler_type", "max_length"} & set(found.implied)
    assert "excess_length_strategy" in found.groups[list(found.groups)[1]]
    assert not any("Axolotl drops them" in one for one in found.differences)


def test_the_same_loss_is_written_for_sft(converted):
    found, args = converted(QUIET, "sft")
    assert args.config.loss_reduction == "token"
    assert not any("mean over all trained tokens" in one for one in found.differences)


def test_defaults_of_llama_factory_are_written_out(converted):
    """Its alpha is twice the rank."""
    text = "model_name_or_path: m\nstage: sft\nfinetuning_type: lora\nbf16: true\ndataset: rows\ntemplate: llama3\n"
    found, _ = converted(text.replace("bf16: true", "lora_rank: 4"))
    holds(found.settings, {
        "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": "all-linear", "max_length": 2048,
        "learning_rate": 5e-5,
    })  # fmt: skip
    assert "A base model without one gets lines" in found.lost["template"]
    assert found.implied["dtype"] == ("auto", "float32")  # of the files
    for said, dtype in (("bf16: true", "bfloat16"), ("fp16: true", "float16")):
        assert converted(text.replace("bf16: true", said))[0].settings["dtype"] == dtype
    assert (
        "dtype" not in converted(text.replace("lora", "full"))[0].settings
    )  # all weights are float32 there too


def test_every_default_that_is_written_out_is_in_the_document():
    page = Path("docs/coming_from.md").read_text(encoding="utf-8")
    table = page.partition("## Defaults that are written out")[2].partition("\n## ")[0]
    assert all(f"`{one.name}`" in table for defaults in DEFAULTS.values() for one in defaults)


def test_trl_trains_all_turns(converted):
    found, _ = converted(HANDBOOK)
    assert any("the user's too" in one for one in found.differences)
    assert not any(
        "the user's too" in one
        for one in converted(f"{HANDBOOK}completion_only_loss: false\n")[0].differences
    )


def test_lost_settings_that_change_the_training_come_first(converted):
    found, _ = converted(
        f"{QUIET}wandb_project: p\nunfrozen_parameters: [lm_head]\nlora_mlp_kernel: true\nnew: 1\n"
    )
    changing, same = found.groups.values()
    assert {"unfrozen_parameters", "new"} <= set(changing)
    assert "lora_mlp_kernel" in same
    report = found.report()
    first = next(line for line in report if line.startswith("lost, and this changes what is trained ("))
    second = next(line for line in report if line.startswith("lost, but the training stays the same"))
    assert report.index(first) < report.index("  new: " + found.lost["new"]) < report.index(second)
    assert "# Lost, and this changes what is trained:" in found.yaml_text("x")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("adapter: lora\npeft_use_dora: true\n", {"use_dora": True}),
        ("adapter: lora\npeft_use_rslora: true\n", {"use_rslora": True}),
        ("cosine_min_lr_ratio: 0.1\nlr_scheduler: cosine\n",
         {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}),
        ("cosine_min_lr_ratio: 0.1\n", {"lr_scheduler_type": "cosine_with_min_lr"}),
        ("rl: dpo\ndpo_label_smoothing: 0.1\n", {"method": "dpo", "label_smoothing": 0.1}),
        ("curriculum_sampling: true\n", {"train_sampling_strategy": "sequential"}),
        ("rl: orpo\norpo_alpha: 0.2\n", {"method": "orpo", "beta": 0.2}),
        ("rl: simpo\n", {"method": "simpo", "beta": 0.1, "simpo_gamma": 0.5}),
        ("adapter: qlora\nload_in_4bit: true\nbnb_config_kwargs: {bnb_4bit_use_double_quant: false}\n",
         {"use_bnb_nested_quant": False}),
    ],
)  # fmt: skip
def test_values_of_axolotl_are_translated(converted, text, wanted):
    settings = converted(QUIET + text)[0].settings
    assert {name: settings.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("name", ["peft_layers_to_transform: [1]", "loraplus_lr_ratio: 16", "peft: {loftq_config: {}}",
                                  "peft_init_lora_weights: gaussian", "peft_trainable_token_indices: [1]",
                                  "lora_rank_pattern: {a: 1}", "tokens: [a]", "use_eaft: true", "qat: {a: b}",
                                  "relora: true", "reward_model: true",
                                  "plugins: [axolotl.integrations.kd.KDPlugin]"])  # fmt: skip
def test_what_has_no_counterpart_is_lost_with_a_reason_of_its_own(converted, name):
    found, _ = converted(f"{QUIET}adapter: lora\n{name}\n")
    reason = found.groups["lost, and this changes what is trained"][name.partition(":")[0]]
    assert "has no counterpart" in reason


def test_plugins_for_speed_and_logs_change_no_training(converted):
    names = "axolotl.integrations.liger.LigerPlugin, axolotl.integrations.swanlab.SwanLabPlugin"
    found, _ = converted(f"{QUIET}plugins: [{names}]\n")
    assert "plugins" in found.groups[list(found.groups)[1]]


@pytest.mark.parametrize("bits", ["adapter: qlora", "load_in_8bit: true", "bits: 4", "use_4bit: true"])
@pytest.mark.parametrize("engine", ["deepspeed: zero2.json", "deepspeed: {zero_optimization: {stage: 3}}",
                                    "dist_config: {name: deepspeed, config_file: ds_z3.json}"])  # fmt: skip
def test_weights_in_few_bits_are_not_sent_to_deepspeed(converted, engine, bits):
    found, _ = converted(f"{QUIET}{bits}\n{engine}\n")
    assert found.translated[engine.partition(":")[0]] == {"accelerate_config": "ddp"}
    found, _ = converted(f"{QUIET}{engine}\n")
    assert found.translated[engine.partition(":")[0]]["accelerate_config"].startswith("zero")


def test_a_hub_id_that_uploads_nothing_here_is_lost_with_the_reason(converted):
    found, _ = converted(f"{QUIET}hub_model_id: me/model\n")
    assert found.lost["hub_model_id"].startswith("ift uploads only with push_to_hub: true")
    found, _ = converted(f"{QUIET}hub_model_id: me/model\npush_to_hub: true\n")
    assert found.settings["hub_model_id"] == "me/model"


@pytest.mark.parametrize("name", ["optimizer", "optim"])
def test_an_optimiser_that_the_engine_cannot_step_is_lost_with_the_reason(converted, name):
    """Red when: the conversion of a usual file is refused on the machine that has the GPUs."""
    found, _ = converted(f"{QUIET}fsdp: [full_shard]\n{name}: adamw_bnb_8bit\n")
    assert found.lost[name].startswith("optim adamw_bnb_8bit under FSDP2: bitsandbytes has no step for split")
    assert found.settings["accelerate_config"] == "fsdp2"
    assert "optim" not in found.settings
    found, _ = converted(f"{QUIET}deepspeed: zero2.json\n{name}: adamw_bnb_8bit\n")
    assert found.settings["optim"] == "adamw_bnb_8bit"


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("deepspeed: deepspeed_configs/zero1.json", "zero2"),
        ("deepspeed: examples/deepspeed/ds_z3_config.json", "zero3"),
        ("deepspeed: examples/deepspeed/ds_z3_config.json\nstage: dpo", "fsdp2"),  # refused under ZeRO-3
        ("fsdp: [full_shard, auto_wrap]\nfsdp_config: {fsdp_version: 2}", "fsdp2"),
    ],
)
def test_the_engine_is_written_and_the_command_named(converted, text, engine):
    """Red when: the YAML has no engine, or the number of processes, which no file says, is not asked for."""
    found, args = converted(f"{QUIET}{text}\n")
    assert args.launch == ["--accelerate_config", engine]
    launch = "ift train --config THIS_FILE --num_processes N, where N is the number of GPUs"
    assert any(line.startswith(f"launch with: {launch}") for line in found.report())
    assert f"# Launch with: {launch}" in found.yaml_text("theirs.yml")
    without, _ = converted(QUIET)
    assert "num_processes" not in without.yaml_text("theirs.yml")


@pytest.mark.parametrize(
    ("text", "key", "on"),
    [
        ("deepspeed: zero3_bf16_cpuoffload_all.json", "deepspeed.offload", True),
        ("deepspeed: {zero_optimization: {stage: 3, offload_param: {device: cpu}}}",
         "deepspeed.zero_optimization.offload_param", True),
        ("deepspeed: {zero_optimization: {stage: 3, offload_param: {device: none}}}",
         "deepspeed.zero_optimization.offload_param", False),
        ("fsdp_config: {fsdp_offload_params: true}", "fsdp_config.fsdp_offload_params", True),
        ("fsdp_config: {fsdp_offload_params: false}", "fsdp_config.fsdp_offload_params", False),
        ("fsdp: [full_shard, offload]", "fsdp.offload", True),
    ],
)  # fmt: skip
def test_offloading_that_is_lost_is_named(converted, text, key, on):
    found, _ = converted(f"{QUIET}{text}\n")
    _, same = found.groups.values()
    assert same[key].startswith("weights and states stay on the GPUs" if on else "it is off")


def test_keys_that_are_lost_for_one_reason_share_a_line(converted):
    found, _ = converted(f"{QUIET}lisa_n_layers: 2\nlisa_step_interval: 2\nneftune_alpha: 5\n")
    lines = [*found.report(), *found.yaml_text("theirs.yml").splitlines()]
    assert sum("lisa_n_layers, lisa_step_interval: has no counterpart" in line for line in lines) == 2
    assert sum("neftune_alpha: neftune_noise_alpha adds NEFTune's noise" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("compute_environment: LOCAL_MACHINE\nmixed_precision: bf16\ndebug: false\n", "--accelerate_config"),
        ("model_name_or_path: m\nexport_dir: merged\n", "ift merge"),
        ("model_name_or_path: m\ninfer_backend: huggingface\n", "ift chat"),
        ("provider: cloud\ngpu: big\n", "found no training settings, only provider, gpu"),
    ],
)
def test_files_that_configure_no_training_are_refused(tmp_path, text, fix):
    (tmp_path / "theirs.yml").write_text(text)
    done = CliRunner().invoke(app, ["convert-config", str(tmp_path / "theirs.yml")])
    assert done.exit_code == 2
    assert fix in done.stderr


def test_a_value_of_no_simple_kind_is_refused_in_words(tmp_path):
    """`debug` of transformers is an enumeration without choices on the command line."""
    (tmp_path / "run.yaml").write_text("model_name_or_path: m\ndataset_name: d\noutput_dir: o\ndebug: true\n")
    with pytest.raises(UsageError, match=r"line 4: debug is True; give another value"):
        parse(["--config", str(tmp_path / "run.yaml")])


@pytest.mark.parametrize(
    ("text", "reported", "variables"),
    [
        ("wandb_project: p\nwandb_entity: e\nwandb_watch:\nwandb_log_model: false\n", "wandb",
         {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e", "WANDB_LOG_MODEL": "false"}),
        ("wandb_project: p\nuse_wandb: false\n", "none", {"WANDB_PROJECT": "p"}),
        ("report_to: tensorboard\nwandb_run_group: g\n", "tensorboard", {"WANDB_RUN_GROUP": "g"}),
        ("env: {A: b}\nwandb_project: p\n", "wandb", {"A": "b", "WANDB_PROJECT": "p"}),
        ("use_wandb: true\n", "wandb", None),
    ],
)  # fmt: skip
def test_settings_of_wandb_report_to_it(converted, text, reported, variables, monkeypatch):
    for name in variables or ():
        monkeypatch.setenv(name, "before")  # set back after the test: parsing sets them
    found, args = converted(f"model_name_or_path: m\ndataset_name: d\nwandb_name: first\n{text}")
    assert found.settings["report_to"] == reported
    assert found.settings.get("env") == variables
    assert args.config.run_name == "first"
    assert {name: os.environ[name] for name in variables or ()} == (variables or {})


def test_the_loss_of_dft_is_a_method(converted):
    found, args = converted("model_name_or_path: m\ndataset_name: d\nloss_type: dft\n")
    assert args.method.name == "dft"
    assert found.translated["loss_type"] == {"method": "dft"}
    assert converted("model_name_or_path: m\ndataset_name: d\nloss_type: nll\n")[0].kept == [
        "model_name_or_path",
        "dataset_name",
        "loss_type",
    ]


def test_the_method_that_is_asked_for_replaces_the_files(converted):
    found, _ = converted("base_model: m\ndataset: d\nrl: dpo\n", "orpo")
    assert found.settings["method"] == "orpo"


def test_nothing_but_the_report_is_printed(tmp_path):
    """trl warns of a setting that goes in its next version; whoever trains with the file is told then."""
    (tmp_path / "theirs.yml").write_text("model_name_or_path: m\ndataset_name: d\npad_token: <pad>\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert_file(tmp_path / "theirs.yml").settings["pad_token"] == "<pad>"


@pytest.mark.parametrize(("text", "tool"), [(AXOLOTL, "Axolotl"), (LLAMA_FACTORY, "LLaMA-Factory"),
                                            (HANDBOOK, "trl"), (UNSLOTH, "unsloth")])  # fmt: skip
@pytest.mark.parametrize("verb", ["train", "check"])
def test_the_file_of_another_tool_is_recognised(tmp_path, verb, text, tool):
    (tmp_path / "theirs.yml").write_text(text)
    done = CliRunner().invoke(app, [verb, "--config", str(tmp_path / "theirs.yml")])
    assert done.exit_code == 2
    assert f"theirs.yml is a configuration of {tool} (" in done.stderr
    assert "ift convert-config" in done.stderr
    with pytest.raises(UsageError, match=f"is a configuration of {tool}"):
        parse(["--config", str(tmp_path / "theirs.yml")])


def test_llama_factory(converted):
    found, args = converted(LLAMA_FACTORY)
    assert found.tool == "LLaMA-Factory"
    holds(found.settings, {
        **LORA, "method": "simpo", "beta": 2.0, "lora_r": 8, "lora_target_modules": "all-linear", "max_length": 2048,
        "datasets": [{"path": f"ROWS_OF_{name}.jsonl", "split": "train[:1000]"} for name in ("pairs", "more_pairs")],
        "dataset_num_proc": 16, "test_split_size": 0.1, "attn_implementation": "flash_attention_2", "dtype": "bfloat16",
    })  # fmt: skip
    assert args.method.name == "simpo"
    assert "max_samples" not in found.lost


def test_a_name_of_llama_factory_is_to_be_filled_in(converted):
    """It is no path and no Hub id; the reason is that no file says what it is."""
    found, _ = converted(LLAMA_FACTORY)
    marks = [line for line in found.yaml_text("x").splitlines() if line.startswith("# FILL IN: ")]
    assert [line.split()[3] for line in marks] == ["ROWS_OF_pairs.jsonl", "ROWS_OF_more_pairs.jsonl"]
    assert "(a name of LLaMA-Factory, not a path: found no dataset_info.json in data, " in marks[0]
    assert sum(line.startswith("fill in: ROWS_OF_") for line in found.report()) == 2
    assert converted(f"{LLAMA_FACTORY}dataset_dir: ONLINE\n")[0].settings["datasets"][0]["path"] == "pairs"
    online = converted(f"{LLAMA_FACTORY}dataset_dir: REMOTE:some/info\n")[0]
    assert (
        "its dataset_info.json is on the Hub (some/info)" in online.missing["ROWS_OF_pairs.jsonl in datasets"]
    )


REGISTRY = {
    "chats": {"file_name": "chats.jsonl", "formatting": "sharegpt", "columns": {"messages": "talk", "system": "sys"},
              "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "wizard"}},
    "plain": {"file_name": "plain.jsonl"},
    "hub": {"hf_hub_url": "some/set", "ms_hub_url": "x/y", "subset": "en", "split": "train_x", "folder": "part",
            "num_samples": 7, "columns": {"prompt": "q", "response": "a", "images": "pictures"}},
    "scope": {"ms_hub_url": "x/y"},
    "pairs": {"file_name": "pairs.jsonl", "ranking": True, "formatting": "sharegpt",
              "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
    "texts": {"file_name": "texts.jsonl", "columns": {"prompt": "body"}},
}  # fmt: skip
NAMED = "model_name_or_path: m\nstage: {}\nfinetuning_type: full\ncutoff_len: 64\ndataset: {}\n"


@pytest.fixture
def registry(tmp_path):
    def write(folder):
        folder.mkdir(exist_ok=True)
        (folder / "dataset_info.json").write_text(json.dumps(REGISTRY))
        return folder

    return write


@pytest.mark.parametrize(("place", "setting"), [("", ""), ("data", ""), ("mine", "dataset_dir: mine\n")])
def test_names_of_llama_factory_are_looked_up(converted, registry, tmp_path, place, setting):
    folder = registry(tmp_path / place)
    found, _ = converted(NAMED.format("sft", "chats, hub,scope,other") + setting)
    assert found.settings["datasets"] == [
        {"path": str(folder / "chats.jsonl"), "columns": ["talk", "sys"], "split": "train",
         "dataset_columns": {"talk": "messages", "sys": "system"}},
        {"path": "some/set", "name": "en", "split": "train_x[:7]", "data_dir": "part", "columns": ["q", "a"],
         "dataset_columns": {"q": "instruction", "a": "output"}},
        {"path": "ROWS_OF_scope.jsonl", "split": "train"}, {"path": "ROWS_OF_other.jsonl", "split": "train"},
    ]  # fmt: skip
    assert "it is on ModelScope (ms_hub_url: x/y)" in found.missing["ROWS_OF_scope.jsonl in datasets"]
    assert "has no entry other" in found.missing["ROWS_OF_other.jsonl in datasets"]
    changing, same = found.groups.values()
    assert (
        "write assistant in the rows in place of wizard" in changing["dataset_info.json.tags.assistant_tag"]
    )
    assert "first rows of the file" in changing["dataset_info.json.num_samples"]
    assert "only on text" in changing["dataset_info.json.columns.images"]
    assert "dataset_info.json.tags.role_tag" in same
    assert "dataset_dir" not in found.lost


def test_rows_of_llama_factory_are_read_as_its_descriptions_say(converted, registry, tmp_path):
    """Pairs of turns, turns under another name, texts, and Alpaca rows without a description of their columns."""
    from ift.data.training_sets import load_splits

    folder = registry(tmp_path)
    turns = [{"from": "human", "value": "two?"}]
    answers = {side: {"from": "gpt", "value": side} for side in ("chosen", "rejected")}
    rows = {
        "pairs": {"conversations": turns, **answers, "note": 1},
        "chats": {"talk": turns, "sys": "be brief", "note": 1},
        "texts": {"body": "once"},
        "plain": {"instruction": "two?", "output": "2"},
    }
    for name, row in rows.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    wanted = {
        "pairs": {"prompt", "chosen", "rejected"}, "chats": {"messages", "system"}, "texts": {"text"},
        "plain": {"instruction", "output"},
    }  # fmt: skip
    for name, columns in wanted.items():
        _, args = converted(NAMED.format("dpo" if name == "pairs" else "sft", name))
        (part,) = load_splits(args.script, args.mixture, evaluation=False, columns=args.columns).train
        assert set(part.rows.column_names) == columns
        if name == "pairs":
            source = SourceRow(part.rows[0], 1)
            assert [one["content"] for one in from_preference(source, "rejected")["messages"]] == [
                "two?",
                "rejected",
            ]


def test_a_registry_that_cannot_be_read_is_named(converted, tmp_path):
    (tmp_path / "dataset_info.json").write_text("{")
    found, _ = converted(NAMED.format("sft", "chats"))
    assert "dataset_info.json cannot be read: " in found.missing["ROWS_OF_chats.jsonl in datasets"]


def test_each_entry_renames_its_own_columns(converted):
    """Red when: a column that two entries name differently is lost."""
    entries = "{path: a, field_messages: talk}\n  - {path: b, field_messages: turns, field_output: talk}"
    found, args = converted(f"base_model: m\ndatasets:\n  - {entries}\n")
    assert [one.dataset_columns for one in args.mixture.datasets] == [
        {"talk": "messages"},
        {"turns": "messages", "talk": "output"},
    ]
    assert not [name for name in found.lost if "talk" in name]


def test_alignment_handbook(converted):
    found, _ = converted(HANDBOOK)
    assert found.tool == "trl"
    entry = {
        "path": "one/set",
        "name": "default",
        "split": "train_sft[:50%]",
        "columns": ["messages"],
    }
    holds(
        found.settings, {"dtype": "bfloat16", "datasets": [entry], "test_split_size": 100, "max_length": 2048}
    )
    assert "chat_template_path" in found.lost["chat_template"]
    assert found.lost["beta"] == "ift has no such setting; --method dpo, orpo, simpo, tdpo1, tdpo2 has"
    assert converted(HANDBOOK, "dpo")[0].settings["beta"] == 0.05


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("dataset_mixer: {one/set: 1.0}", {"dataset_name": "one/set", "dataset_train_split": "train_sft"}),
        ("dataset_mixer: {one/set: 0.5}", {"dataset_train_split": "train_sft[:50%]"}),
        ("dataset_mixer: {one/set: 1}\ndataset_configs: [all]", {"dataset_config": "all"}),
        ("dataset_name: one/set", {"dataset_name": "one/set", "dataset_train_split": "train_sft"}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_splits_of_one_data_set_of_the_handbook_are_translated(converted, text, wanted, first):
    splits = "dataset_splits: [train_sft, test_sft, test_gen]"
    settings = "\n".join([text, splits] if first else [splits, text])
    found, args = converted(f"model_name_or_path: m\n{settings}\n")
    holds(found.settings, {**wanted, "dataset_test_split": "test_sft+test_gen"})
    assert args.script.dataset_test_split == "test_sft+test_gen"
    assert {"dataset_splits", "dataset_configs"} & set(found.lost) == set()


MIXER = "model_name_or_path: m\ndataset_mixer: {a: 0.333, b: 1.0}\ndataset_splits: [train_x, test_x]\n"


def test_the_test_split_of_several_data_sets_is_named_as_lost(converted):
    """Training rows are held out instead, so this changes what is trained."""
    found, _ = converted(f"{MIXER}dataset_configs: [one, two]\neval_strategy: epoch\n")
    changing, same = found.groups.values()
    assert "datasets names train_x; test_x is not used: a list of data sets" in changing["dataset_splits"]
    assert found.settings["datasets"] == [
        {"path": "a", "name": "one", "split": "train_x[:33%]"}, {"path": "b", "name": "two", "split": "train_x"},
    ]  # fmt: skip
    assert (
        "ift trains the first 33 % of the rows, in the order of the file, rounded from 33.3;"
        in changing["dataset_mixer.a"]
    )
    assert "all rows" in same["dataset_mixer.b"]
    assert "dataset_splits" in converted(MIXER.replace(", test_x", ""))[0].groups[list(found.groups)[1]]


def test_weights_of_the_handbook_are_shares_of_each_data_set(converted):
    """fraction would be a share of the mixture: 1.0 and 1.0 would train as many rows of each."""
    found, _ = converted(HANDBOOK.replace("0.5", "1.0"))
    assert [one["split"] for one in found.settings["datasets"]] == ["train_sft"]
    assert "fraction" not in found.settings["datasets"][0]


@pytest.mark.parametrize(("text", "key"), [(AXOLOTL + "test_datasets: [{path: x}]\n", "test_datasets"),
                                           (LLAMA_FACTORY + "eval_dataset: x\n", "eval_dataset")])  # fmt: skip
def test_rows_for_evaluation_are_named_where_training_rows_are_held_out(converted, text, key):
    changing, _ = converted(text)[0].groups.values()
    assert "are held out, and are not trained" in changing[key]
    _, same = converted(re.sub("(val_set_size|val_size|evals_per_epoch).*\n", "", text))[0].groups.values()
    assert ("its rows are not evaluated" if key == "test_datasets" else "asks for no evaluation") in same[key]


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
    assert [*found.missing] == ["model_name_or_path", "dataset_name"]
    assert "# FILL IN: dataset_name, which the file does not contain" in found.yaml_text("x")


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


def test_each_refused_value_has_its_own_reason(converted):
    """Red when: the reason of one key is that of all refused keys, and the same text is printed three times."""
    found, _ = converted(
        "base_model: m\ndataset: d\noptimizer: muon\nlr_scheduler: rex\nneftune_noise_alpha: 5\n"
    )
    said = {name: found.lost[name] for name in ("optimizer", "lr_scheduler", "neftune_noise_alpha")}
    assert not any("\n" in text for text in said.values())
    for name, own in (("optimizer", "muon"), ("lr_scheduler", "rex"), ("neftune_noise_alpha", "NEFTune")):
        assert [key for key, text in said.items() if own in text] == [name]


def test_every_name_whose_value_is_translated_is_in_the_table_or_a_setting():
    """One table of names: what `ift train` answers to an unknown key."""
    known = {
        option.lstrip("-") for one in METHODS.values() for option in make_parser(one)._option_string_actions
    }
    assert set(VALUES) <= {*RENAMED, *EXPLAINED, *known, "env"}


# values of every kind that a translated setting takes
SAMPLES = [
    True, False, 4, 0.5, "auto", "dft", "none", "lora", "qlora", "dpo", "simpo", "all", "q_proj,v_proj", "a.jinja",
    "cosine", "zero3.json", ["full_shard", "auto_wrap"], ["train_sft", "test_sft"],
    [{"path": "rows", "type": "alpaca"}], {"some/set": 0.5}, {"a": 1, "b": 0.5}, {"quantization_bit": 4},
    {"datasets": [{"id": "a", "weight": 0.5}], "test_split_size": 10}, {"eos_token": "<end>"},
    {"name": "lora", "r": 8, "target_modules": "all"}, {"zero_optimization": {"stage": 3}},
    {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
]  # fmt: skip
OF_OTHERS = {"env", "accelerate_config"}  # read by trl's parser, and by the launch


@pytest.fixture(scope="module")
def names_of_ift_train():
    return {
        option.lstrip("-") for one in METHODS.values() for option in make_parser(one)._option_string_actions
    }


def test_every_name_that_a_conversion_writes_is_one_of_ift_train(names_of_ift_train):
    """Red when: a new transformers or trl has removed a setting that a rule still writes."""
    known = names_of_ift_train | OF_OTHERS
    assert set(RENAMED.values()) <= known
    assert {one.name for defaults in DEFAULTS.values() for one in defaults} <= known
    for name, translate in VALUES.items():
        results = []
        for value in SAMPLES:
            for settings in ({name: value}, {name: value, "num_epochs": 2, "val_set_size": 0.1}):
                with contextlib.suppress(
                    TypeError, AttributeError, ValueError, KeyError
                ):  # not its kind of value
                    results.append(translate(value, settings))
        assert results, name
        written = {key for result in results if isinstance(result, dict) for key in result}
        assert written <= known, name


def test_what_overwriting_deletes_here_is_named(converted):
    """transformers has no such setting any more; ift's own deletes an earlier run."""
    text = "model_name_or_path: m\ndataset_name: d\noverwrite_output_dir: {}\n"
    found, args = converted(text.format("true"))
    assert args.run.overwrite_output_dir
    (said,) = [
        line for line in found.report() if "deletes its own earlier run in the folder, model included" in line
    ]
    assert said.endswith("to keep such a model, give another output_dir")
    assert not any("deletes" in line for line in converted(text.format("false"))[0].report())
    assert "overwrite_output_dir" not in {one.name for one in dataclasses.fields(TrainingArguments)}


def test_a_best_model_by_the_loss_is_named_where_the_loss_is_another(converted):
    text = "model_name_or_path: m\ndataset_name: d\nmetric_for_best_model: {}\n"
    for name, named in (("eval_loss", True), ("loss", True), ("eval_nll", False)):
        found, _ = converted(text.format(name))
        assert found.settings["metric_for_best_model"] == name
        assert any("is eval_nll, the default here" in line for line in found.report()) == named


@pytest.mark.parametrize(
    "text",
    [
        "fsdp: [full_shard]",
        "deepspeed: zero2.json",
        "deepspeed: zero3.json",
        "adapter: qlora\ndeepspeed: z.json",
    ],
)
def test_accelerate_reads_the_engine_that_is_written(converted, text):
    """By accelerate's own classes, as `accelerate launch` does."""
    _, args = converted(f"{QUIET}{text}\n")
    flags = resolve_config([*args.launch, "--num_processes", "2"])
    file = flags[flags.index("--config_file") + 1]
    read = load_config_from_file(file)
    engine = wanted_engine(args.launch).name
    kinds = {"fsdp2": "FSDP", "ddp": "MULTI_GPU"}
    assert read.distributed_type == kinds.get(engine, "DEEPSPEED")
    asked, *_ = _validate_launch_command(
        launch_command_parser().parse_args([*flags, "--module", "ift.cli.main"])
    )
    assert (asked.use_fsdp, asked.use_deepspeed) == (engine == "fsdp2", engine.startswith("zero"))
    assert asked.num_processes == 2


def test_the_verb_writes_the_file_and_reports_every_key(tmp_path):
    (tmp_path / "theirs.yml").write_text(AXOLOTL)
    words = ["convert-config", str(tmp_path / "theirs.yml")]
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "new" / "ours.yml")])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "new" / "ours.yml")])
    assert again.exit_code == 2
    assert "this file exists" in again.output
    for line in (
        "  some_new_key: ift has no",
        "translated: sequence_len -> max_length: 4096",
        "keys without a value: lora",
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
    assert "ift prepares every row" in found.lost["dataset_kwargs"]
    assert "dataset_kwargs" not in found.settings
