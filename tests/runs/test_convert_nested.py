"""Mappings in configurations of other tools: every key inside them is kept, translated or lost by its full name."""

import contextlib
import json

import pytest
import yaml

from ift.runs.arguments import parse
from ift.runs.convert_config import convert_file
from ift.runs.converted_values import LOST_INSIDE, VALUES

QUIET = "base_model: m\ndatasets: [{path: rows}]\nmicro_batch_size: 4\n"
FACTORY = "model_name_or_path: m\nstage: sft\nfinetuning_type: full\ncutoff_len: 64\ndataset: rows\n"
JSON = {
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "overlap_comm": True,
                          "zero_quantized_weights": True},
    "gradient_clipping": 0.3,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": "auto", "weight_decay": 0.02}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 7, "total_num_steps": "auto"}},
    "bf16": {"enabled": True},
    "fp16": {"enabled": "auto", "loss_scale": 0},
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": 64,
    "steps_per_print": 10,
    "data_efficiency": {"enabled": True},
}  # fmt: skip


@pytest.fixture
def converted(tmp_path, monkeypatch):
    def convert(text, **files):
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "configs"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        (tmp_path / "theirs.yml").write_text(text)
        found = convert_file(tmp_path / "theirs.yml")
        (tmp_path / "ours.yml").write_text(yaml.safe_dump(found.settings))
        parse(["--config", str(tmp_path / "ours.yml")])
        return found

    return convert


@pytest.mark.parametrize("place", ["configs/mine.json", "inline", "dist_config"])
def test_deepspeeds_json_is_read(converted, place):
    """Stage 3, clipping at 0.3 and the schedule of the file train here too; each other key is lost by its name."""
    said = {
        "configs/mine.json": "deepspeed: configs/mine.json",
        "inline": f"deepspeed: {json.dumps(JSON)}",
        "dist_config": "dist_config: {name: deepspeed, config_file: configs/mine.json}",
    }[place]
    found = converted(f"{QUIET}{said}\n", mine=JSON)
    wanted = {
        "accelerate_config": "zero3",
        "max_grad_norm": 0.3, "learning_rate": 0.001, "adam_beta1": 0.9, "adam_beta2": 0.95,
        "weight_decay": 0.02, "lr_scheduler_type": "linear", "warmup_steps": 7, "bf16": True,
    }  # fmt: skip
    assert {name: found.settings.get(name) for name in wanted} == wanted
    name = said.partition(":")[0]
    changing, same = found.groups.values()
    assert {key for key in changing if key.startswith(name)} == {
        f"{name}.zero_optimization.zero_quantized_weights",
        f"{name}.scheduler.params.warmup_type",
        f"{name}.data_efficiency",
    }
    assert {key.removeprefix(f"{name}.") for key in same if key.startswith(name)} == {
        "zero_optimization.offload_optimizer", "zero_optimization.overlap_comm", "optimizer.type",
        "optimizer.params.eps", "scheduler.params.total_num_steps", "fp16.enabled", "fp16.loss_scale",
        "train_micro_batch_size_per_gpu", "train_batch_size", "steps_per_print",
    }  # fmt: skip


def test_the_json_is_looked_for_beside_the_configuration_too(converted, tmp_path, monkeypatch):
    converted(f"{QUIET}deepspeed: configs/mine.json\n", mine=JSON)
    monkeypatch.chdir("/")
    assert convert_file(tmp_path / "theirs.yml").settings["accelerate_config"] == "zero3"


@pytest.mark.parametrize(
    ("stage", "engine"), [(0, "ddp"), (1, "zero2"), (2, "zero2"), (3, "zero3"), (None, "ddp")]
)
def test_the_stage_is_that_of_the_file_and_not_of_its_name(converted, stage, engine):
    """Without zero_optimization DeepSpeed is data parallelism."""
    content = {"zero_optimization": {"stage": stage}} if stage is not None else {"steps_per_print": 1}
    found = converted(f"{FACTORY}deepspeed: configs/z1.json\n", z1=content)
    assert found.settings["accelerate_config"] == engine


@pytest.mark.parametrize(
    ("text", "content", "key", "said"),
    [
        ("max_grad_norm: 1.0", {"gradient_clipping": 0.3}, "gradient_clipping", "file's own max_grad_norm: 1.0, which"),
        ("lr_scheduler: cosine", {"scheduler": {"type": "WarmupLR"}}, "scheduler.type", "lr_scheduler_type: cosine"),
        ("optimizer: adamw_bnb_8bit", {"optimizer": {"type": "Adam"}}, "optimizer.type", "adamw_bnb_8bit, where"),
        ("", {"optimizer": {"type": "Lamb"}}, "optimizer.type", "not with DeepSpeed's Lamb: set optim"),
        ("", {"scheduler": {"type": "OneCycle"}}, "scheduler.type", "choose lr_scheduler_type"),
        ("bf16: true", {"bf16": {"enabled": False}}, "bf16.enabled", "bf16: True, which is used"),
        ("", {"fp16": {"enabled": True, "loss_scale": 128}}, "fp16.loss_scale", "not by 128"),
    ],
)  # fmt: skip
def test_what_the_json_and_the_file_say_differently_is_named_first(converted, text, content, key, said):
    found = converted(f"{QUIET}{text}\ndeepspeed: configs/mine.json\n", mine=content)
    assert said in found.groups["lost, and this changes what is trained"][f"deepspeed.{key}"]


@pytest.mark.parametrize(
    ("named", "files", "why"),
    [
        ("configs/mine.json", {}, "found no file configs/mine.json or "),
        ("configs/mine.json", {"mine": "{"}, "configs/mine.json cannot be read ("),
        ("configs/mine.json", {"mine": "[]"}, "configs/mine.json is no JSON object"),
    ],
)
def test_an_engine_that_is_not_known_is_to_be_filled_in(converted, named, files, why):
    """Red when: ZeRO-2 stands in the result, and nothing says that nobody has read the file."""
    found = converted(f"{QUIET}deepspeed: {named}\n", **files)
    assert found.settings["accelerate_config"] == "ZERO2_OR_ZERO3"  # refused by `ift train` and `ift check`
    assert why in found.missing["accelerate_config"]
    assert (
        "# FILL IN: accelerate_config, zero2 for stage 1 or 2 of ZeRO, zero3 for stage 3"
        in found.yaml_text("x")
    )
    assert "is not known" in found.groups["lost, and this changes what is trained"]["deepspeed.*"]


@pytest.mark.parametrize(
    ("named", "engine", "shipped"),
    [
        ("deepspeed_configs/zero3_bf16.json", "zero3", True),
        ("deepspeed_configs/zero1.json", "zero2", True),
        ("examples/deepspeed/ds_z3_offload_config.json", "zero3", True),
        ("examples/deepspeed/ds_z0_config.json", "ddp", True),
        ("my_zero3_setup.json", "zero3", False),
    ],
)
def test_the_name_of_a_missing_json_may_tell_the_stage(converted, named, engine, shipped):
    """The files of the other tools leave the optimiser to the run; what one's own sets is not known."""
    found = converted(f"{FACTORY}deepspeed: {named}\n")
    assert found.settings["accelerate_config"] == engine
    assert "accelerate_config" not in found.missing
    assert ("deepspeed.*" in found.lost) is not shipped


def test_every_key_of_fsdp_is_named(converted):
    keys = {
        "fsdp_version": 2, "activation_checkpointing": False, "reshard_after_forward": False,
        "cpu_ram_efficient_loading": True, "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "SHARDED_STATE_DICT", "offload_params": True,
        "mixed_precision_policy": "bf16",
    }  # fmt: skip
    found = converted(
        f"{QUIET}fsdp: full_shard auto_wrap\nfsdp_config: {json.dumps({**keys, 'new_key': 1, 'mp_policy': 'fp32'})}\n"
    )
    changing, same = found.groups.values()
    assert {f"fsdp_config.{key}" for key in keys} | {"fsdp.full_shard", "fsdp.auto_wrap"} <= set(same)
    assert {"fsdp_config.new_key", "fsdp_config.mp_policy"} <= set(changing)
    assert "after each block (true)" in same["fsdp_config.reshard_after_forward"]


def test_activation_checkpointing_of_fsdp_is_a_setting(converted):
    found = converted(f"{QUIET}fsdp_config: {{fsdp_activation_checkpointing: true}}\n")
    assert found.settings["gradient_checkpointing"] is True
    found = converted(
        f"{QUIET}gradient_checkpointing: false\nfsdp_config: {{fsdp_activation_checkpointing: true}}\n"
    )
    assert (
        "gradient_checkpointing: False, which is used"
        in found.lost["fsdp_config.fsdp_activation_checkpointing"]
    )


def test_special_tokens_are_named_and_not_their_section(converted):
    found = converted(f"{QUIET}special_tokens: {{pad_token: <pad>, bos_token: <s>}}\n")
    assert {name for name in found.lost if "special" in name} == {
        "special_tokens.pad_token",
        "special_tokens.bos_token",
    }
    assert not any("see its keys" in line or "special_tokens -> " in line for line in found.report())


def test_the_beta_of_trl_is_that_of_pairs(converted):
    found = converted(f"{QUIET}rl: dpo\ntrl: {{beta: 0.3, use_vllm: true}}\n")
    assert found.settings["beta"] == 0.3
    assert "has no counterpart" in found.lost["trl.use_vllm"]
    assert "trl" not in found.lost


# a value of each mapping that a rule takes, to which a key is added
MAPPINGS = {
    "bnb_config_kwargs": {"bnb_4bit_quant_type": "nf4"}, "peft_config": {"name": "lora", "r": 8},
    "quant_config": {"name": "bnb", "quantization_bit": 4}, "special_tokens": {"eos_token": "<end>"},
    "trl": {"beta": 0.1}, "deepspeed": {"zero_optimization": {"stage": 2}}, "fsdp_config": {"fsdp_version": 2},
    "dist_config": {"name": "fsdp2"}, "dataset_mixture": {"datasets": [{"id": "a"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", MAPPINGS)
@pytest.mark.parametrize("key", ["no_such_key", "name_of_none"])
def test_a_key_that_no_rule_knows_is_lost_by_its_full_name(converted, name, key):
    text = yaml.safe_dump({**yaml.safe_load(QUIET), "rl": "dpo", name: {**MAPPINGS[name], key: 1}})
    assert f"{name}.{key}" in converted(text).groups["lost, and this changes what is trained"]


def test_every_rule_that_reads_a_mapping_names_its_other_keys():
    """Red when: a new rule takes keys out of a mapping and says nothing of the others."""
    strangers = {"no_such_key": 1}
    for name, translate in VALUES.items():
        try:
            result = translate(strangers, {name: strangers, "rl": "dpo"})
        except (TypeError, AttributeError, ValueError, KeyError):  # it takes no mapping
            continue
        if isinstance(result, str) or "no_such_key" in str(result):
            continue  # the whole is lost, or kept
        with contextlib.suppress(TypeError, AttributeError):
            if translate(True, {name: True, "rl": "dpo"}) == result:
                continue  # a switch
        assert name in LOST_INSIDE, name
