"""What the check says about memory: fits, tight, does not fit, and what remains where no setting suffices."""

import pytest

from ift.check import memory_words
from ift.check.engines import Engine
from ift.check.findings import _few_bits_findings
from ift.check.memory import MemoryEstimate, estimate_memory
from ift.check.memory_words import batch_words
from ift.check.remedies import more_devices, without_saved_modules
from ift.check.sizes import Remedy, Sizes
from ift.lab.testbed import tiny_base_path
from ift.runs.arguments import parse

GIB = 2**30
SMALLER = Remedy("--per_device_train_batch_size 2", 8 * GIB)
TOGETHER = Remedy("--per_device_train_batch_size 1 --max_length 64", 4 * GIB)


def stage(*words):
    base = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "x", "--output_dir", "x"]
    return parse([*base, *words])


@pytest.fixture
def said(monkeypatch):
    """The texts about a step of 10 GiB, with the remedies that were found."""

    def texts(available, ways=(SMALLER, TOGETHER), devices=None, saved=""):
        monkeypatch.setattr(memory_words, "remedies", lambda *given: list(ways))
        monkeypatch.setattr(memory_words, "more_devices", lambda *given: devices)
        monkeypatch.setattr(memory_words, "without_saved_modules", lambda *given: saved)
        memory = MemoryEstimate(1, 1, 1, None, 10 * GIB, 0, 0, 0, 0)
        found = memory_words.memory_findings(None, memory, round(available * GIB))
        assert all((one.level, one.about) == ("warning", "memory") for one in found)
        return [one.text for one in found]

    return texts


def test_a_step_near_the_limit_is_tight(said):
    """At 91 % there is a warning, with what the estimate leaves out; at 89 % none."""
    assert said(10 / 0.89) == []
    (text,) = said(10 / 0.91)
    assert "fits, but tightly: it takes 91% of what can be used" in text
    assert "fragments of the allocator, other processes on the device" in text
    assert "to free memory: --per_device_train_batch_size 2 (about 8.0 GiB a step)" in text
    assert said(10 / 0.91, [])[0].endswith("to free memory: a larger GPU, or more of them")


def test_a_step_that_fits_with_other_settings_names_them(said):
    """A setting that does not suffice is not named."""
    (text,) = said(9, [SMALLER, Remedy("--use_peft true", 9.5 * GIB)])
    assert text.startswith(
        "a step needs about 10.0 GiB, and 9.0 GiB can be used. Fix, the smallest change first: "
    )
    assert text.endswith("--per_device_train_batch_size 2 (about 8.0 GiB a step)")


def test_what_remains_is_said_where_no_settings_suffice(said):
    """The least is 4 GiB, which is nine tenths of 4.4 GiB."""
    (text,) = said(3)
    assert f"No settings make it fit; the lowest estimate is {TOGETHER}" in text
    assert text.endswith("Remaining options: a GPU with about 4.4 GiB of memory, or a smaller model")
    (text,) = said(3, [], Remedy("--num_processes 8", 2 * GIB))
    assert text.endswith(
        "a larger GPU, more GPUs: --num_processes 8 (about 2.0 GiB a step) on each, or a smaller model"
    )


def test_the_cause_is_named_before_the_fix(said):
    assert (
        "can be used. lora_modules_to_save trains. Fix, " in said(9, saved="lora_modules_to_save trains")[0]
    )


def test_more_gpus_are_named_where_they_suffice():
    run = stage("--per_device_train_batch_size=1", "--gradient_checkpointing=true", "--dtype=float32")
    eight = estimate_memory(run, 64, engine=Engine("fsdp2", 8)).total
    assert str(more_devices(Sizes(run, 64), eight)).startswith(
        "--accelerate_config fsdp2 --num_processes 8 (about"
    )
    assert more_devices(Sizes(run, 64), 1) is None
    assert more_devices(Sizes(stage("--use_peft", "--load_in_4bit=true"), 64), 2**60) is None


@pytest.mark.parametrize(
    ("words", "named"), [(["--lora_modules_to_save", "embed_tokens"], True), ([], False)]
)
def test_whole_matrices_beside_lora_are_named_as_a_cause(words, named):
    """The embedding's copy, gradient and states are most of a step of one short row."""
    run = stage("--use_peft=true", "--per_device_train_batch_size=1", *words)
    found = without_saved_modules(Sizes(run, 4))
    assert found.startswith("lora_modules_to_save trains whole copies of embed_tokens") == named


@pytest.mark.parametrize(
    ("words", "planned", "text"),
    [
        (
            [],
            False,
            "for a batch of 8 rows of 64 tokens (the longest row after --max_length; --plan_length N sets",
        ),
        (
            ["--per_device_train_batch_size=1"],
            True,
            "for a batch of 1 row of 64 tokens (from --plan_length)",
        ),
        (
            ["--packing=true", "--max_length=200"],
            False,
            "for a batch of 8 packed sequences of 200 tokens",
        ),
        (["--method=dpo"], False, "for a batch of 16 rows of 64 tokens"),
    ],
)
def test_the_batch_that_the_estimate_assumes(words, planned, text):
    assert batch_words(stage(*words), 64, planned).startswith(text)


def test_a_tied_matrix_that_an_adapter_copies_is_estimated():
    """Red when: the shared weight is tied again below the adapter's copy."""
    plain = estimate_memory(stage("--use_peft=true"), 16)
    saved = estimate_memory(stage("--use_peft=true", "--lora_modules_to_save", "lm_head"), 16)
    assert saved.trained - plain.trained == 521 * 128


@pytest.mark.parametrize(
    ("engine", "warned"), [("zero3", True), ("zero2", True), ("fsdp2", False), ("ddp", False)]
)
def test_a_base_in_few_bits_under_an_engine_that_never_ran_is_warned_of(engine, warned):
    run = stage("--use_peft", "--load_in_4bit=true", "--bf16=true")
    texts = [one.text for one in _few_bits_findings(Sizes(run, 8, Engine(engine, 2)))]
    assert [text.startswith("a base in 4 or 8 bits was never run with ift under zero") for text in texts] == [
        True
    ] * warned
    assert not _few_bits_findings(Sizes(stage("--use_peft"), 8, Engine(engine, 2)))
