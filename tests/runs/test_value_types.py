"""Values that a setting cannot have are refused when they are read, in the words of the setting."""

import pytest

from ift.runs.arguments import parse
from ift.runs.argv import UsageError

NEEDED = ["--model_name_or_path", "tiny_base", "--dataset_name", "rows.jsonl", "--output_dir", "out"]
OBJECT = "give a JSON object"


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("logging_steps", "inf", "logging_steps.*invalid float value: 'inf'"),
        ("warmup_steps", "nan", "warmup_steps.*invalid float value: 'nan'"),
        ("adam_epsilon", "few", "adam_epsilon.*invalid float value: 'few'"),
        ("model_init_kwargs", "x", f"model_init_kwargs.*'x'. Fix: {OBJECT}"),
        ("dataset_kwargs", "", f"dataset_kwargs.*''. Fix: {OBJECT}"),
        ("lr_scheduler_kwargs", "[1]", rf"lr_scheduler_kwargs.*'\[1\]'. Fix: {OBJECT}"),
        (
            "accelerator_config",
            "none.json",
            f"accelerator_config.*'none.json', which is no file either. Fix: {OBJECT}",
        ),
        ("optim_args", "a=1,b", "optim_args has 'b'; give NAME=VALUE"),
        ("label_smoothing_factor", "-0.1", "label_smoothing_factor needs the full logits"),
    ],
)
def test_what_a_setting_cannot_be_is_refused(tmp_path, flag, value, said):
    with pytest.raises(UsageError, match=said):
        parse([*NEEDED, f"--{flag}={value}"])
    if flag.endswith(("steps", "init_kwargs")):
        file = tmp_path / "run.yaml"
        file.write_text(f"{flag}: {'.' if flag.endswith('steps') else ''}{value}\n")
        with pytest.raises(UsageError, match=rf"line 1: {flag} is .*; give a (number|mapping)\."):
            parse([*NEEDED, "--config", str(file)])


def test_objects_and_files_of_settings_are_read(tmp_path):
    (tmp_path / "accelerator.json").write_text('{"even_batches": false}')
    read = parse(
        [
            *NEEDED,
            *("--model_init_kwargs", '{"attn_implementation": "eager"}'),
            *("--lr_scheduler_kwargs", "{}"),
            *("--accelerator_config", str(tmp_path / "accelerator.json")),
            *("--optim_args", "a=1,b=2"),
        ]
    ).config
    assert read.model_init_kwargs == {"attn_implementation": "eager"}
    assert read.lr_scheduler_kwargs == {}
    assert read.accelerator_config.even_batches is False
    assert read.optim_args == "a=1,b=2"
