"""torch.compile: the layers are compiled, the step around them is not, and nothing changes."""

from __future__ import annotations

import pytest
import torch
from accelerate.utils import DynamoBackend
from peft import LoraConfig
from torch._dynamo.utils import counters

from ift.generation.decoding import continue_prompts
from ift.step.shared_prefix import prefix
from models import assert_same_gradients, logged, tiny_model, trained, uneven_rows

ADAPTER = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], init_lora_weights=False)


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch):
    for name in ("BACKEND", "MODE"):  # transformers sets them in the process
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "no")
        monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}")
    prefix._logged.clear()
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    return counters["stats"]["unique_graphs"]


def compiled_and_plain(folder, backend, **options):
    options = {"max_steps": 4, "per_device_train_batch_size": 3, **options}
    plain, run = (
        trained(folder, tiny_model(), uneven_rows(tiny_model()), **options, **more)
        for more in ({}, {"torch_compile": True, "torch_compile_backend": backend})
    )
    assert run.accelerator.state.dynamo_plugin.backend == DynamoBackend(backend.upper())
    for ours, expected in zip(run.gradients, plain.gradients, strict=True):
        ours = {name.removeprefix("_orig_mod."): gradient for name, gradient in ours.items()}
        assert_same_gradients(ours, expected)
    assert logged(run, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-5)
    assert logged(run, "nll") == pytest.approx(logged(plain, "nll"), rel=1e-5)
    return run


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_checkpointing": True, "peft_config": ADAPTER}, {"padding_free": True}],
    ids=["plain", "adapter, checkpointed", "padding free"],
)
def test_compiled_layers_change_nothing(tmp_path, caplog, options):
    """Batches of several lengths and sizes. Red when: the step is traced (dozens of graphs), or the layers are not."""
    run = compiled_and_plain(tmp_path, "eager", **options)
    assert 2 <= graphs() <= 5  # one layer's: with and without gradient, with a mask or none
    assert set(logged(run, "shared_prefix")) == {0.0}
    assert "model.layers.0 is compiled" in " ".join(
        record.getMessage() for record in caplog.records if record.name == "ift.step.shared_prefix.prefix"
    )


@pytest.mark.slow
def test_inductor_changes_nothing(tmp_path):
    """`compiled_and_plain` compares. Red when: inductor's kernels give another loss or gradient, or never ran."""
    compiled_and_plain(tmp_path, "inductor")
    assert 2 <= graphs() <= 5


def test_decoding_between_steps_compiles_nothing(tmp_path):
    """Red when: each layer is compiled for the keys and values it is handed."""
    run = compiled_and_plain(tmp_path, "eager")
    before, model = graphs(), tiny_model()
    model.load_state_dict(run.model.state_dict())
    prompts = [[3, 4, 5], [6, 7, 8, 9, 10]]
    ours, expected = (continue_prompts(m, prompts, [1], 0, max_new_tokens=6) for m in (run.model, model))
    assert ours == expected
    assert graphs() == before
