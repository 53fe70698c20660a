"""One stage of a run."""

import signal
from types import SimpleNamespace

import pytest

from ift.runs import train_stage
from ift.training import checkpoints


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
