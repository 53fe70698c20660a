"""A run that goes wrong stops before it is spoilt, and says where."""

import json

import pytest
import torch
from transformers import TrainerCallback

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


@pytest.mark.parametrize("again", ["from a checkpoint", "from scratch"])
def test_a_run_that_goes_on_after_the_error_is_judged_by_its_own_losses(tmp_path, rows, again):
    """It begins with the step of the error, whose losses are not those of the new run."""
    model = tiny_model()
    poison = Poison(model, 3 if again == "from a checkpoint" else 1, weight=True)
    run = trained(
        tmp_path, model, dataset_of(*map(list, zip(*rows, strict=True))), callbacks=[poison], run=False,
        **{**STEPS, "save_strategy": "steps", "save_steps": 1},
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        run.train()
    poison.step = 0
    if again == "from a checkpoint":
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    else:
        model.load_state_dict(poison.before)
        run.train()
    assert run.state.global_step == 4


def test_a_step_that_was_left_half_way_does_not_count(tmp_path, rows):
    run = trained(tmp_path, tiny_model(), dataset_of(*map(list, zip(*rows, strict=True))), run=False, **STEPS)
    run._seen = (0, [({}, torch.tensor(torch.nan))])
    run.train()
    assert run.state.global_step == 4
