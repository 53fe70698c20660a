"""One stage of a run."""

import logging
import signal
from types import SimpleNamespace

import pytest
from transformers.trainer_utils import compare_trainer_and_checkpoint_args

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


def test_a_share_of_the_steps_is_no_changed_setting(caplog, monkeypatch):
    """transformers stores the number of steps. Red when: every resumed run with such a share warns of a change."""
    args = SimpleNamespace(
        logging_steps=0.5, eval_steps=0.5, save_steps=1, per_device_train_batch_size=1, n_gpu=1
    )
    state = SimpleNamespace(logging_steps=100, eval_steps=100, save_steps=1, train_batch_size=1)
    logger = logging.getLogger("transformers.trainer_utils")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.addHandler(caplog.handler)
    try:
        with train_stage._without_comparison():
            compare_trainer_and_checkpoint_args(args, state)
        assert not caplog.records
        compare_trainer_and_checkpoint_args(SimpleNamespace(**{**vars(args), "eval_steps": 0.25}), state)
        assert "do not match" in caplog.text  # outside, as transformers has it
    finally:
        logger.removeHandler(caplog.handler)
