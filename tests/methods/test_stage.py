"""What a stage refuses before its model is loaded."""

import pytest

from ift.lab.testbed import tiny_base_path
from ift.methods.stage import build_trainer
from ift.runs.arguments import parse


@pytest.mark.parametrize("version", [None, "1", "2"])
def test_fsdp1_trains_no_adapter(monkeypatch, version):
    """Version 1 is accelerate's default. Red when: it is refused after the training, or FSDP2 is refused too."""
    base = ["--model_name_or_path", str(tiny_base_path()), "--use_peft", "true"]
    stage = parse([*base, "--dataset_name", "x", "--output_dir", "x"])
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    if version:
        monkeypatch.setenv("FSDP_VERSION", version)
    if version == "2":
        with pytest.raises(AttributeError):  # it goes on, to the rows, which are not given here
            build_trainer(stage, prepared=None)
    else:
        with pytest.raises(
            ValueError,
            match=r"LoRA under FSDP1: peft saves .* without its tensors.*Use FSDP2 \(--accelerate_config fsdp2",
        ):
            build_trainer(stage, prepared=None)
