"""A model whose parts lie on two devices: the second one is simulated on a CPU.

`Elsewhere` is a tensor on the device "lazy", whose values are on the CPU. An operation that mixes its devices fails, as
with two GPUs. Accelerate's hooks move what enters a layer, as `from_pretrained(device_map=...)` sets them.
"""

import copy

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformers import AutoModelForCausalLM

import models
from ift import ift_loss

SECOND = torch.device("lazy", 0)


class Elsewhere(torch.Tensor):
    """A tensor that says it is on the second device."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=SECOND
        )

    def __init__(self, values):
        self.values_here = values

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class TwoDevices(TorchDispatchMode):
    """While active, tensors are also made on, and moved to, the second device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    """An operation on the devices of its tensors, or on the one that it names."""
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    there = {isinstance(one, Elsewhere) for one in tensors if one.ndim > 0 or isinstance(one, Elsewhere)}
    moves = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if len(there) > 1 and not moves:
        raise RuntimeError(f"{function} on tensors of two devices")
    result_there = there == {True} if not moves else isinstance(args[0], Elsewhere)
    if kwargs.get("device") is not None:
        result_there = torch.device(kwargs["device"]).type == SECOND.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    here_args, here_kwargs = tree_map(
        lambda one: one.values_here if isinstance(one, Elsewhere) else one, (args, kwargs)
    )
    found = function(*here_args, **here_kwargs)
    if function._schema.is_mutable:  # in place, or into `out`
        return kwargs.get("out", args[0])
    if not result_there:
        return found
    return tree_map(lambda one: Elsewhere(one) if isinstance(one, torch.Tensor) else one, found)


def on_second_device(module):
    """Moves the weights of a module, and lets accelerate move what it is called with."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(Elsewhere(parameter.data))
        for name, buffer in list(part._buffers.items()):
            part._buffers[name] = None if buffer is None else Elsewhere(buffer)
    add_hook_to_module(module, AlignDevicesHook(execution_device=SECOND))


PARTS = {"the head": ("layers.1", "norm", "lm_head"), "the embedding": ("embed_tokens", "layers.0")}


def gradients(model):
    return {
        name: getattr(p.grad, "values_here", p.grad)
        for name, p in model.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("prefix", ["full", "shared"])
@pytest.mark.parametrize("lookahead", ["greedy", "sample", "expected"])
@pytest.mark.parametrize("elsewhere", PARTS)
def test_a_model_on_two_devices_trains_as_on_one(elsewhere, lookahead, prefix, monkeypatch):
    """Half of the model is on the device of the batch. Red when: a tensor of the step is not moved."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # it does not know "lazy"
    whole = models.tiny_model()
    rows = models.likely_rows(whole, [12, 20, 9])
    batch = models.padded(rows, models.masked_labels(rows, [5, 6, 5]))
    split = copy.deepcopy(whole)
    options = {"lookahead": lookahead, "lookahead_prefix": prefix, "residual_lambda": 0.5}
    expected = ift_loss(whole, batch, **options)
    expected.loss.backward()
    with TwoDevices():
        for name in ("embed_tokens", "rotary_emb", "layers.0", "layers.1", "norm", "lm_head"):
            part = split.get_submodule(name if name == "lm_head" else f"model.{name}")
            if name in PARTS[elsewhere]:
                on_second_device(part)
            else:
                add_hook_to_module(part, AlignDevicesHook(execution_device="cpu"))
        found = ift_loss(split, batch, **options)
        assert found.loss.device.type == "cpu"  # where the batch is
        found.loss.backward()
    assert isinstance(split.lm_head.weight.grad, Elsewhere) == (elsewhere == "the head")
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=0)
    assert models.gradient_gap(gradients(split), gradients(whole)) < 1e-6


MODULES = (
    "model.embed_tokens",
    "model.layers.0",
    "model.layers.1",
    "model.norm",
    "model.rotary_emb",
    "lm_head",
)


@pytest.mark.parametrize("away", ["lm_head", "model.layers.1"])
def test_offloaded_weights_are_refused(tmp_path, away):
    """Red when: the step reads a weight that is on disk, or trains without it."""
    models.tiny_model().save_pretrained(tmp_path)
    places = {name: "disk" if name == away else "cpu" for name in MODULES}
    options = {"device_map": places, "offload_folder": tmp_path / "offload"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, **options)
    ids = torch.arange(5, 15)[None]
    with pytest.raises(ValueError, match=rf"on the CPU or on disk \({away}\).*FSDP2 over several GPUs"):
        ift_loss(model, {"input_ids": ids, "labels": ids})


def test_a_device_map_of_one_device_trains(tmp_path):
    whole = models.tiny_model()
    whole.save_pretrained(tmp_path)
    mapped = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=dict.fromkeys(MODULES, "cpu"))
    ids = torch.arange(5, 15)[None]
    losses = [ift_loss(model, {"input_ids": ids, "labels": ids}).loss.item() for model in (whole, mapped)]
    # weights that a file maps may lie differently in memory, and some processors then sum in another order
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
