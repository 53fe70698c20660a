"""A merged model is used only where it is the adapter on its base."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ift.data import DataError
from ift.lab.testbed import tiny_base_path
from ift.models import merging
from ift.models.loading import LoadOptions, load_network
from ift.models.merging import save_merged
from ift.models.outputs import compare_logits, compute_logits
from ift.models.record import read_record

FLOAT32 = LoadOptions(dtype="float32", device="cpu")
ROWS = [list(range(5, 60)), list(range(100, 130))]


def adapter(folder, **settings):
    base = load_network(str(tiny_base_path()), FLOAT32)
    settings = {"target_modules": ["q_proj", "up_proj"], **settings}
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, **settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"target_modules": ["embed_tokens", "q_proj"]},  # the base ties it to the head
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [5, 9]},
    ],
    ids=str,
)
def test_a_merged_model_is_the_adapter_on_its_base(tmp_path, settings):
    model = adapter(tmp_path / "adapter", **settings)
    wanted = compute_logits(model, ROWS)
    save_merged(str(tmp_path / "adapter"), tmp_path / "merged", ROWS, FLOAT32)
    found = load_network(str(tmp_path / "merged"), FLOAT32)
    assert not hasattr(found, "peft_config")
    assert compare_logits(wanted, compute_logits(found, ROWS), rounded=False).same
    assert read_record(str(tmp_path / "merged")).base_sha256 == ""


def test_a_merge_that_changes_the_outputs_is_refused_with_the_way_out(tmp_path, monkeypatch):
    adapter(tmp_path / "adapter")
    monkeypatch.setattr(merging, "merge_adapter", lambda model: model.unload())
    said = r"merged into its base, this adapter gives other outputs \(largest .*continue training the adapter"
    with pytest.raises(DataError, match=said):
        save_merged(str(tmp_path / "adapter"), tmp_path / "merged", options=FLOAT32)
