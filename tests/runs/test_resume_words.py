"""Words in place of a checkpoint's folder, as users of transformers and trl write them."""

from types import SimpleNamespace

import pytest

from ift.runs.arguments import parse
from ift.runs.resume_words import read_resume_words


@pytest.mark.parametrize(
    ("resume", "source", "expected"),
    [
        (None, None, (None, None)),
        *(
            (None, word, ("auto", None))
            for word in ("true", "True", True, "yes", "latest", "last", "auto", "on", "1")
        ),
        *((None, word, (None, None)) for word in ("false", "False", False, "no", "none", "off", "0", "")),
        *((word, None, ("auto", None)) for word in ("true", "latest", "auto")),
        ("no", None, (None, None)),
        ("out/checkpoint-2", "true", ("out/checkpoint-2", None)),
        (None, "out/checkpoint-2", (None, "out/checkpoint-2")),
    ],
)
def test_words(resume, source, expected):
    config, run = SimpleNamespace(resume_from_checkpoint=source), SimpleNamespace(resume=resume)
    read_resume_words(config, run)
    assert (run.resume, config.resume_from_checkpoint) == expected


def test_a_folder_of_that_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latest").mkdir()
    config, run = SimpleNamespace(resume_from_checkpoint="latest"), SimpleNamespace(resume=None)
    read_resume_words(config, run)
    assert (run.resume, config.resume_from_checkpoint) == (None, "latest")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("resume_from_checkpoint: true", "auto"),
        ("resume_from_checkpoint: yes", "auto"),
        ("resume_from_checkpoint: false", None),
        ("resume: latest", "auto"),
        ("resume: no", None),
    ],
)
def test_words_of_a_yaml_file(tmp_path, line, expected):
    rest = "model_name_or_path: m\ndataset_name: d\noutput_dir: o\nuse_cpu: true\n"
    (tmp_path / "run.yaml").write_text(f"{rest}{line}\n")
    found = parse(["--config", str(tmp_path / "run.yaml"), "--bf16", "false"])
    assert (found.run.resume, found.config.resume_from_checkpoint) == (expected, None)
