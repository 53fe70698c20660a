"""One stage of a run."""

import signal
from types import SimpleNamespace

import pytest

from ift.data import DataError
from ift.runs import train_stage
from ift.training import checkpoints


def test_the_signals_are_given_back_when_training_raises():
    before = signal.getsignal(signal.SIGTERM)
    keeper = checkpoints.SealedCheckpoints({})
    keeper.on_train_begin(SimpleNamespace(save_total_limit=None), SimpleNamespace(global_step=0), None)
    assert signal.getsignal(signal.SIGTERM) != before

    def broken(**how):
        raise RuntimeError("broken")

    trainer = SimpleNamespace(train=broken, args=SimpleNamespace(resume_from_checkpoint=None))
    with pytest.raises(RuntimeError, match="broken"):
        train_stage.train(trainer, keeper)
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_optimiser_state_that_torch_cannot_load_is_refused():
    """Red when: torch's assertion reaches the user as a bug of ift."""

    def broken(**how):
        raise AssertionError("Expected device to be set")

    trainer = SimpleNamespace(train=broken, args=SimpleNamespace(resume_from_checkpoint="out/checkpoint-1"))
    with pytest.raises(
        DataError, match=r"out/checkpoint-1: its optimiser has no state .* --optim adamw_torch"
    ):
        train_stage.train(trainer, None)
