"""A saved model is read back."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ift.models.outputs import compute_logits
from ift.runs.read_back import SaveError, read_back
from models import tiny_model


def compare(folder, model, rows=((3, 4, 5), (6, 7))):
    return read_back(folder, model, rows, compute_logits(model, rows))


@pytest.fixture
def saved(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def test_a_saved_model_is_read_back(saved):
    folder, model = saved
    count = len(list(model.named_parameters()))
    said = compare(folder, model, [[3, 4, 5], [6, 7]])
    assert said.startswith(
        f"read back {count} tensors, same outputs on 2 rows (largest difference of a logit 0,"
    )
    assert model.training


def test_little_memory_is_said(saved, monkeypatch):
    monkeypatch.setattr("ift.runs.read_back._free_memory", lambda device: 1000)
    assert compare(*saved).endswith("too little memory is free to load it a second time")


def _lose(file):
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})


def _other_values(file):
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][3] += 1
    save_file(tensors, file, {"format": "pt"})


def _not_finite(file):
    tensors = load_file(file)
    tensors["model.norm.weight"] *= torch.nan
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.unlink(), "no weight files were written"),
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "cannot be loaded"),
        (
            _other_values,
            r"has other outputs than the trained one on 1 row: largest difference of a logit [\d.]+,",
        ),
        (_not_finite, "the loaded model are not finite"),
        (_lose, "its weights lack tensors of the model: model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_a_damaged_save_is_found(saved, harm, said):
    folder, model = saved
    harm(folder / "model.safetensors")
    with pytest.raises(SaveError, match=said):
        compare(folder, model, [[3, 4, 5]])


def test_another_shape_is_found(saved):
    folder, _ = saved
    with pytest.raises(SaveError, match="has other outputs than the trained one"):
        compare(folder, tiny_model(intermediate_size=40))


def test_an_adapter_is_read_back_and_a_lost_tensor_found(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    assert compare(tmp_path / "adapter", model).startswith("read back 4 tensors, same outputs on 2 rows")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    lost = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != lost}, file)
    with pytest.raises(SaveError, match="is missing from the file"):
        compare(tmp_path / "adapter", model)
