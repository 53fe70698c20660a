"""One loader: what was saved is what is loaded, whole, with the base that it belongs to, or it is refused by name."""

import json
import shutil
import warnings
from dataclasses import replace

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from ift.data import DataError
from ift.lab.testbed import tiny_base_path
from ift.models import loading
from ift.models.adapters import find_base
from ift.models.loading import (
    CHAT_TEMPLATE,
    PLAIN_TEXT,
    LoadOptions,
    load_model,
    load_network,
    load_tokenizer,
    load_writer,
    other_dtype,
)
from ift.models.record import ModelRecord, model_sha256, write_record
from models import tiny_model

IDS = torch.arange(3, 60)[None]
CPU = LoadOptions(dtype="float32", device="cpu")


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def base(tmp_path):
    tiny_model(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base, folder, **settings):
    """An adapter with random weights on a base; returns its logits."""
    network = load_network(str(base), CPU)
    settings = {"target_modules": ["q_proj", "up_proj"], **settings}
    model = get_peft_model(network, LoraConfig(task_type="CAUSAL_LM", r=2, **settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
    model.save_pretrained(folder)
    return logits(model)


def test_record_base_and_weights_are_of_the_revision_that_is_loaded(base, tmp_path, monkeypatch):
    """The Hub has two revisions, whose records differ. Red when: that of the default revision counts."""
    asked = []

    def of_the_hub(name, file, revision=None):
        asked.append(revision)
        return str(tmp_path / (revision or "main") / file)

    records = {
        "main": ModelRecord(CHAT_TEMPLATE, "another"),
        "v1": ModelRecord(PLAIN_TEXT, model_sha256(base)),
    }
    for revision, record in records.items():
        (tmp_path / revision).mkdir()
        write_record(tmp_path / revision, record)
    monkeypatch.setattr("ift.models.record.find_file", of_the_hub)
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, options: None)
    assert loading.load_writer("owner/model", LoadOptions(revision="v1"))[1] == PLAIN_TEXT
    assert find_base("owner/model", str(base), "v1") == str(base)
    with pytest.raises(DataError, match="is not the model that the adapter was trained on"):
        find_base("owner/model", str(base))
    assert asked == ["v1", "v1", "v1", None]
    monkeypatch.undo()
    wanted, given = adapted(base, tmp_path / "adapter"), {}
    load_adapter = peft.PeftModelForCausalLM.load_adapter

    def noted(self, *names, **options):
        given.update(options)
        return load_adapter(self, *names, **options)

    monkeypatch.setattr(peft.PeftModelForCausalLM, "load_adapter", noted)
    options = replace(CPU, revision="v1")
    assert torch.equal(logits(load_network(str(tmp_path / "adapter"), options)), wanted)
    assert given["revision"] == "v1"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"trainable_token_indices": [5, 9]},
    ],
    ids=str,
)
def test_an_adapter_gives_the_outputs_that_it_was_saved_with(base, tmp_path, settings):
    saved = adapted(base, tmp_path / "adapter", **settings)
    assert (saved - logits(load_network(str(base), CPU))).abs().max() > 0.1
    found = logits(load_network(str(tmp_path / "adapter"), CPU))
    assert torch.allclose(found, saved, atol=1e-5)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_an_adapter_of_prompts_gives_the_outputs_that_it_was_saved_with(base, tmp_path, kind):
    folder = tmp_path / "adapter"
    network = load_network(str(base), CPU)
    torch.manual_seed(0)
    saved = peft.get_peft_model(network, getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3))
    saved.save_pretrained(folder)
    assert torch.equal(logits(load_network(str(folder), CPU)), logits(saved))
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({"other": tensors["prompt_embeddings"]}, folder / "adapter_model.safetensors")
    with pytest.raises(DataError, match="does not fit its base: 'prompt_embeddings'"):
        load_network(str(folder), CPU)


def test_an_old_name_that_peft_uses_is_no_warning_for_a_user(base, tmp_path):
    """Red when: `ift generate` with an adapter shows transformers' warning about is_gradient_checkpointing."""
    adapted(base, tmp_path / "adapter")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_network(str(tmp_path / "adapter"), CPU)
    assert [str(one.message) for one in caught if "is_gradient_checkpointing" in str(one.message)] == []


def test_an_adapter_can_be_trained_on(base, tmp_path):
    adapted(base, tmp_path / "adapter")
    model = load_network(str(tmp_path / "adapter"), CPU, trainable=True)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"),
            "lack tensors.*layers.1.mlp.up_proj",
        ),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "the model lacks: extra"),
    ],
)
def test_a_model_with_other_tensors_is_refused_by_name(base, change, said):
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=said):
        load_network(str(base), CPU)


@pytest.mark.parametrize("lost", [True, False])
def test_an_adapter_with_other_tensors_is_refused_by_name(base, tmp_path, lost):
    adapted(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    if lost:
        tensors.pop(next(iter(tensors)))
    else:
        tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 32)
    save_file(tensors, file)
    with pytest.raises(DataError, match="lack tensors.*lora" if lost else "the model lacks.*layers.7"):
        load_network(str(tmp_path / "adapter"), CPU)


def test_the_base_of_an_adapter_is_found_by_its_path_or_asked_for(base, tmp_path, monkeypatch):
    adapter, elsewhere = tmp_path / "adapter", tmp_path / "elsewhere"
    saved = adapted(base, adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    write_record(adapter, ModelRecord(base_sha256=model_sha256(base)))
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert torch.allclose(logits(load_network("../adapter", CPU)), saved, atol=1e-5)
    tiny_model(seed=1, tie_word_embeddings=True).save_pretrained(tmp_path / "other")
    base.rename(tmp_path / "moved")
    with pytest.raises(
        DataError, match=f"the base of this adapter: {base}: no such model folder.*put the base back"
    ):
        load_network(str(adapter), CPU)
    shutil.copytree(tmp_path / "other", base)
    with pytest.raises(DataError, match="is not the model that the adapter was trained on"):
        load_network(str(adapter), CPU)


def test_a_base_in_another_dtype_than_in_the_training_is_said(base, tmp_path, monkeypatch):
    """Red when: answers of an adapter that was trained beside float32 weights are those of bfloat16 without a word."""
    adapter, file = tmp_path / "adapter", base / "config.json"
    adapted(base, adapter)
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, options: None)
    write_record(adapter, ModelRecord(PLAIN_TEXT, base_dtype="float32"))
    assert other_dtype(str(adapter), LoadOptions()) == ""
    file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": "bfloat16"}))
    said = (
        "its base is loaded in bfloat16, as its files are, and was trained in float32: with --dtype float32"
    )
    assert other_dtype(str(adapter), LoadOptions()).startswith(said)
    assert said in load_writer(str(adapter), LoadOptions())[2]
    assert other_dtype(str(adapter), CPU) == ""
    write_record(adapter, ModelRecord())
    assert other_dtype(str(adapter), LoadOptions()) == ""


def test_an_adapter_of_another_task_is_refused(base, tmp_path):
    adapted(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(file.read_text().replace("CAUSAL_LM", "SEQ_CLS"))
    with pytest.raises(DataError, match="for the task SEQ_CLS, expected CAUSAL_LM"):
        load_network(str(tmp_path / "adapter"), CPU)


def test_pickles_are_loaded_when_they_are_allowed(base):
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    torch.save(tensors, base / "pytorch_model.bin")
    with pytest.raises(DataError, match="--allow_pickle_weights"):
        load_network(str(base), CPU)
    load_network(str(base), LoadOptions(dtype="float32", allow_pickle_weights=True))


def test_a_dtype_that_is_none_is_refused(base):
    with pytest.raises(DataError, match=r"dtype is 'int3'\. Fix: give one of auto, float32"):
        load_network(str(base), LoadOptions(dtype="int3"))


def test_the_tokenizer_of_an_adapter_without_one_is_the_bases(tmp_path):
    adapted(tiny_base_path(), tmp_path / "adapter")
    found = load_tokenizer(str(tmp_path / "adapter"), CPU)
    assert len(found) == len(load_tokenizer(str(tiny_base_path()), CPU))


@pytest.mark.parametrize(
    ("prompts", "style", "said"),
    [
        ("", CHAT_TEMPLATE, ""),
        ("chat template", CHAT_TEMPLATE, ""),
        ("plain text", PLAIN_TEXT, "without a chat template"),
        ("token ids", CHAT_TEMPLATE, "trained on token ids"),
        ("chat template and plain text", CHAT_TEMPLATE, "trained on chat template and plain text"),
    ],
)
def test_prompts_are_written_as_in_the_training(tmp_path, prompts, style, said):
    shutil.copytree(tiny_base_path(), tmp_path / "model")
    if prompts:
        write_record(tmp_path / "model", ModelRecord(prompts))
    loaded = load_model(str(tmp_path / "model"), CPU)
    assert loaded.prompts == style
    assert said in loaded.note
    assert bool(said) == bool(loaded.note)


def test_a_loaded_model_keeps_the_layout_in_which_it_was_quantised(monkeypatch):
    """Red when: a model loaded for answers, scores or trl's trainers is not protected as one of `ift_loss` is."""
    seen = []
    monkeypatch.setattr("ift.models.loading.keep_quantised_layout", seen.append)
    network = load_network(str(tiny_base_path()), LoadOptions())
    assert seen == [network]
