"""Rows and limits beyond the positions of a model: refused where rows reach there, warned of where a setting would."""

import json

import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig

from ift.check.findings import preflight
from ift.lab.testbed import tiny_base_path
from ift.methods.stage import load_data, prepare_stage
from ift.models.limits import known_positions
from ift.runs.arguments import parse


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(max_position_embeddings=512), ("max_position_embeddings", 512)),
        (GPT2Config(n_positions=24), ("max_position_embeddings", 24)),
        (BloomConfig(), None),  # alibi
        (
            LlamaConfig(
                max_position_embeddings=512,
                rope_parameters={
                    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512
                },
            ),
            ("max_position_embeddings", 2048),
        ),
        (
            LlamaConfig(
                max_position_embeddings=512,
                rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
            ),
            ("max_position_embeddings", 1024),
        ),
    ],
    ids=["llama", "gpt2", "bloom", "yarn", "linear"],
)  # fmt: skip
def test_positions_of_a_configuration(config, expected):
    assert known_positions(config) == expected


@pytest.mark.parametrize(
    ("words", "rows_of", "level"),
    [
        ("--max_length 4096", 600, "refused"),
        ("--max_length 4096", 30, "warning"),
        ("--max_length 4096 --packing true", 30, "warning"),
        ("--max_length 4096 --dataset_streaming true --max_steps 1", 600, "warning"),
        ("--max_length 512 --allow_truncation true", 600, None),
        (
            "",
            30,
            None,
        ),  # the default of trl, 1,024, is above the 512 of the tiny base, and no row reaches there
    ],
)
def test_rows_and_limits_beyond_the_positions(tmp_path, words, rows_of, level):
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "7"}, {"role": "assistant", "content": "7 " * rows_of}]
    rows = [{"messages": [{**turns[0], "content": f"{n}"}, turns[1]]} for n in range(16)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", str(path), "--use_cpu", "true"]
    stage = parse([*given, "--bf16", "false", "--output_dir", str(tmp_path / "out"), *words.split()])
    findings = preflight(stage, prepare_stage(stage, load_data(stage)), allow_truncation=True).findings
    words = ("the model knows 512 positions", "the 512 positions that the model knows")
    found = [one for one in findings if any(text in one.text for text in words)]
    assert [one.level for one in found] == ([] if level is None else [level])
    if level == "refused":
        assert "16 rows are longer than the 512 positions" in found[0].text
        assert found[0].text.endswith("a model with a longer context; --max_length 512 cuts their end")
    elif level == "warning":
        assert found[0].text.startswith(
            "max_length is 4,096, and the model knows 512 positions (max_position"
        )
        assert found[0].text.endswith("Fix: --max_length 512, or a model with a longer context")
