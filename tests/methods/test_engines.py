"""What is refused under an engine, before a model is loaded."""

from types import SimpleNamespace

import pytest

from ift.methods.engines import refuse_engines


def stage(optim="adamw_8bit", **config):
    settings = {"optim": optim, "fsdp_plugin_args": None, "deepspeed_plugin": None, "model_init_kwargs": None}
    return SimpleNamespace(
        config=SimpleNamespace(**{**settings, **config}), model=SimpleNamespace(use_peft=False)
    )


@pytest.mark.parametrize(
    "name", ["adamw_8bit", "paged_adamw_8bit", "adamw_bnb_8bit", "paged_adamw_32bit", "lion_8bit", "ademamix"]
)
def test_optimisers_of_bitsandbytes_are_refused_for_split_weights(name, monkeypatch):
    """Seen: "bitsandbytes.optimizer_update_32bit.default does not have a sharding strategy registered"."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match=rf"optim {name} under FSDP2: .*--optim adamw_torch"):
        refuse_engines(stage(name))
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    with pytest.raises(ValueError, match=rf"optim {name} under tensor parallelism"):
        refuse_engines(stage(name, model_init_kwargs={"tp_plan": "auto"}))


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_8bit", "sgd", "rmsprop", "adafactor"])
def test_other_optimisers_are_not(name, monkeypatch):
    monkeypatch.setattr("ift.methods.engines._bitsandbytes_in_files", lambda stage: False)
    one = stage(name, fsdp_plugin_args={"fsdp_version": 2}, resume_from_checkpoint=None)
    one.model = SimpleNamespace(load_in_4bit=False, load_in_8bit=False, use_peft=False)
    assert refuse_engines(one) is None
    one.config.optim = "adamw_8bit"
    with pytest.raises(ValueError, match="optim adamw_8bit under FSDP2"):
        refuse_engines(one)


@pytest.mark.parametrize("settings", [{"load_in_4bit": True}, {"load_in_8bit": True}, {}])
def test_quantised_weights_without_an_adapter_are_refused(settings, monkeypatch):
    """By a flag, or because the folder holds them. With an adapter they train."""
    monkeypatch.setattr("ift.methods.engines._bitsandbytes_in_files", lambda stage: not settings)
    model = {"load_in_4bit": False, "load_in_8bit": False, "use_peft": False, "model_name_or_path": "base"}
    one = stage("sgd", resume_from_checkpoint=None)
    one.model = SimpleNamespace(**{**model, **settings})
    with pytest.raises(ValueError, match="quantised weights cannot be trained themselves"):
        refuse_engines(one)
    one.model.use_peft = True
    assert refuse_engines(one) is None
