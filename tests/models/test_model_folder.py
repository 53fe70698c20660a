"""What loading raises is turned into words; the rest of ift.models.model_folder is in tests/cli/bad_inputs.py."""

import inspect

import pytest
from transformers import modeling_utils

from ift.data import DataError
from ift.models.loading import LoadOptions, load_model, load_tokenizer
from ift.models.model_folder import (
    SHIPPED,
    check_model_path,
    explain_weight_loading_errors,
    local_path,
    looks_local,
)

ONLY_PICKLES = "Please do not set `use_safetensors=True`"


def test_a_hub_model_of_pickles_only_is_refused_with_the_remedy():
    assert ONLY_PICKLES in inspect.getsource(modeling_utils)  # by which it is told from other errors
    said = f"owner/model does not appear to have a file named model.safetensors. {ONLY_PICKLES}."
    refused = pytest.raises(DataError, match=r"owner/model: has no weights in .*--allow_pickle_weights")
    with refused, explain_weight_loading_errors("owner/model"):
        raise OSError(said)
    with pytest.raises(OSError, match="another"), explain_weight_loading_errors("owner/model"):
        raise OSError("another error")


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("owner/model", False),
        ("gpt2", False),
        ("./model", True),
        ("/a/b", True),
        ("~/m", True),
        ("a/b/c", True),
        ("out/checkpoint-*", True),
        ("my model", True),
    ],
)
def test_a_path_is_told_from_a_hub_id(name, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looks_local(name) is local
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert looks_local("owner/model")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_models_in_the_package_have_names(name, tmp_path, monkeypatch):
    """Wherever a command takes a model; a folder of the user's with this name comes first."""
    monkeypatch.chdir(tmp_path)
    assert looks_local(name)
    check_model_path(name)
    assert load_tokenizer(name, LoadOptions()).chat_template
    assert load_model(name, LoadOptions())[0].num_parameters() > 1000
    (tmp_path / name).mkdir()
    assert local_path(name) == str(tmp_path / name)
    with pytest.raises(DataError, match=r"no config\.json in this folder"):
        check_model_path(name)


def test_a_whole_model_of_shards_passes(tmp_path):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    small = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with torch.device("cpu"):
        LlamaForCausalLM(small).save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    check_model_path(str(tmp_path))
    next(tmp_path.glob("model-*.safetensors")).write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        check_model_path(str(tmp_path))
