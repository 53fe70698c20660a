"""A run that goes wrong stops before it is spoilt, says where, and a saved model is read back."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TrainerCallback

from ift.runs import train_stage
from ift.runs.out_of_room import is_out_of_memory
from ift.saved import SaveError, read_back
from ift.training import checkpoints
from ift.training.non_finite import REPORT, NonFiniteError
from models import dataset_of, likely_rows, tiny_model, trained

STEPS = {"max_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "no", "shuffle_dataset": False}


@pytest.fixture
def rows():
    found = likely_rows(tiny_model(), [9, 12, 7, 10, 11, 8, 6, 13])
    return [(ids, torch.where(torch.arange(len(ids)) < 4, -100, ids)) for ids in found]


class Poison(TrainerCallback):
    """Makes the gradient, or a weight, infinite before step `step`, and keeps the weights from before."""

    def __init__(self, model, step, weight=False):
        self.model, self.step, self.weight, self.armed = model, step, weight, False
        model.model.norm.weight.register_hook(self.hook)

    def hook(self, gradient):
        return torch.full_like(gradient, torch.inf) if self.armed else gradient

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.before = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.armed = not self.weight
            if self.weight:
                with torch.no_grad():
                    self.model.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan


def of(folder):
    first, *rest = map(json.loads, (folder / REPORT).read_text().splitlines())
    return first, rest


def test_an_infinite_gradient_stops_before_the_step(tmp_path, rows):
    model = tiny_model()
    poison = Poison(model, 3)
    with pytest.raises(NonFiniteError) as stopped:
        trained(
            tmp_path, model, dataset_of(*map(list, zip(*rows, strict=True))), callbacks=[poison],
            gradient_accumulation_steps=2, residual_noise_std=0.1, **STEPS,
        )  # fmt: skip
    said = str(stopped.value)
    assert "stopped at step 3: the loss is finite and the gradient norm is inf" in said
    assert "last good checkpoint: none yet" in said
    assert all(torch.equal(value, poison.before[name]) for name, value in model.state_dict().items())
    facts, told = of(tmp_path)
    assert facts["gradient_norm"] == "inf"
    assert facts["lambda"] != 0.2  # this step's, with its noise
    assert f"lambda {facts['lambda']:g}" in said
    assert facts["dtype"] == "float32"
    assert sorted(one["micro_batch"] for one in told) == [1, 1, 2, 2]
    for one in told:
        assert one["input_ids"] == rows[one["row"] - 1][0].tolist()
        assert isinstance(one["text"], str)


def test_weights_that_are_spoilt_already_are_named_and_the_good_checkpoint_too(tmp_path, rows):
    model = tiny_model()
    options = {**STEPS, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(NonFiniteError) as stopped:
        trained(
            tmp_path, model, dataset_of(*map(list, zip(*rows, strict=True))),
            callbacks=[Poison(model, 3, weight=True), checkpoints.SealedCheckpoints({})], **options,
        )  # fmt: skip
    said = str(stopped.value)
    assert "the loss is nan" in said
    assert "1 tensors were not finite before this step (model.layers.1.mlp.up_proj.weight first)" in said
    assert f"last good checkpoint: {tmp_path / 'checkpoint-2'}" in said


def test_packed_documents_are_shown_one_by_one(tmp_path, rows):
    model = tiny_model()
    with pytest.raises(NonFiniteError):
        trained(
            tmp_path, model, dataset_of(*map(list, zip(*rows, strict=True))), callbacks=[Poison(model, 1)],
            padding_free=True, **STEPS,
        )  # fmt: skip
    _, told = of(tmp_path)
    assert len(told) == 2
    for one in told:
        assert one["input_ids"] == rows[one["row"] - 1][0].tolist()


@pytest.mark.parametrize("method", ["sft", "dpo", "dft"])
def test_every_method_stops(tmp_path, run_method, method):
    stopped = run_method(method, learning_rate=1e18, max_grad_norm=0, max_steps=6)
    assert isinstance(stopped, NonFiniteError)
    assert stopped.report.exists()
    assert "learning rate" in str(stopped)
    assert "--learning_rate" in str(stopped)


@pytest.fixture
def run_method(tmp_path):
    from ift.runs import train_method
    from ift.testbed import tiny_base_path

    rows = [{"prompt": f"{n} plus {n}", "chosen": f" {2 * n}", "rejected": f" {2 * n + 1}"} for n in range(4)]

    def run(method, **settings):
        how = {"logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 2, **settings}
        with pytest.raises(RuntimeError) as stopped:
            train_method(method, tiny_base_path(), rows, tmp_path / "out", how)
        return stopped.value

    return run


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        (
            {"per_device_train_batch_size": 4},
            [
                "--per_device_train_batch_size 2 --gradient_accumulation_steps 2 (about",
                "--gradient_checkpointing true (about",
                "--dtype bfloat16 (about",
            ],
        ),
        (
            {"per_device_train_batch_size": 1, "gradient_checkpointing": True, "dtype": "bfloat16"},
            ["--use_peft true (about"],
        ),
    ],
)
def test_out_of_memory_says_what_to_set(run_method, monkeypatch, settings, ways):
    from ift.training.trainer import IFTTrainer

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nand more")

    monkeypatch.setattr(IFTTrainer, "compute_loss", full)
    how = {"gradient_checkpointing": False, "dtype": "float32", **settings}
    said = str(run_method("ift", **how)).splitlines()
    assert said[0] == "out of memory: CUDA out of memory. Tried to allocate 20.00 GiB."
    assert [line.strip().startswith(way) for line, way in zip(said[2:], ways, strict=True)] == [True] * len(
        ways
    )


def test_what_is_out_of_memory():
    with pytest.raises(RuntimeError) as full:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(full.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.fixture
def saved(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def test_a_saved_model_is_read_back(saved):
    folder, model = saved
    count = len(list(model.named_parameters()))
    assert read_back(folder, model) == f"read back {count} tensors, one forward pass"


def test_little_memory_is_said(saved, monkeypatch):
    monkeypatch.setattr("ift.saved._free_memory", lambda: 1000)
    assert read_back(*saved).endswith("too little memory is free to load it a second time")


def _lose(file):
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})


def _not_finite(file):
    tensors = load_file(file)
    tensors["model.norm.weight"] *= torch.nan
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.unlink(), "no weights lie there"),
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "cannot be loaded back"),
        (_not_finite, "outputs that are not finite"),
        (_lose, "read back with 1 missing tensors .model.layers.0.mlp.up_proj.weight first"),
    ],
)
def test_a_damaged_save_is_found(saved, harm, said):
    folder, model = saved
    harm(folder / "model.safetensors")
    with pytest.raises(SaveError, match=said):
        read_back(folder, model)


def test_another_shape_is_found(saved):
    folder, _ = saved
    with pytest.raises(
        SaveError, match=r"of shape \[32, 48\] in the file, of shape \[32, 40\] in the trained"
    ):
        read_back(folder, tiny_model(intermediate_size=40))


def test_an_adapter_is_read_back_and_a_lost_tensor_found(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    assert read_back(tmp_path / "adapter", model) == "read back 4 tensors, one forward pass"
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    lost = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != lost}, file)
    with pytest.raises(SaveError, match="is absent in the file"):
        read_back(tmp_path / "adapter", model)


def test_the_signals_are_given_back_when_training_raises(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    keeper = checkpoints.SealedCheckpoints({})
    keeper.on_train_begin(SimpleNamespace(save_total_limit=None), None, None)
    assert signal.getsignal(signal.SIGTERM) != before

    def broken(**how):
        raise RuntimeError("broken")

    trainer = SimpleNamespace(add_callback=lambda callback: None, train=broken)
    monkeypatch.setattr(train_stage, "build_trainer", lambda *args: trainer)
    config = SimpleNamespace(resume_from_checkpoint=None)
    with pytest.raises(RuntimeError, match="broken"):
        train_stage.train_stage(SimpleNamespace(config=config), None, None, SimpleNamespace(), keeper)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_repeated_stop_is_one_and_a_later_one_ends_the_run(monkeypatch):
    now, ended = [100.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    before = [
        signal.signal(number, lambda number, frame: ended.append(number)) for number in checkpoints.SIGNALS
    ]
    keeper = checkpoints.SealedCheckpoints({})
    keeper.on_train_begin(SimpleNamespace(save_total_limit=None), None, None)
    try:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a launcher's, right behind
        assert (keeper.stopped, ended) == (signal.SIGINT, [])
        now[0] += 3
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]
    finally:
        for number, handler in zip(checkpoints.SIGNALS, before, strict=True):
            signal.signal(number, handler)
