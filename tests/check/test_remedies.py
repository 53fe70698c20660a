"""Which settings are advised where a step does not fit, and in which order: on a step whose bytes are a formula."""

from types import SimpleNamespace

import pytest
import torch

from ift.check import fake_step
from ift.check.engines import Engine
from ift.check.remedies import remedies
from ift.check.sizes import NOTHING, Change, Sizes
from ift.lab.testbed import tiny_base_path
from ift.runs.arguments import parse

GPU = torch.device("cuda")


def stage(*words):
    base = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "x", "--output_dir", "x"]
    return parse([*base, *words])


class Formula(Sizes):
    """Weights of 2048 bytes, 1024 in bfloat16 and 512 in four bits, three times as much for training all of them; and a
    byte for each token of a batch, half of it with checkpointing. FSDP2 divides the first two, ZeRO-2 the second."""

    def needs(self, change=NOTHING):
        def now(name, part):
            return change.settings.get(name, getattr(part, name))

        config, model = self.stage.config, self.stage.model
        weights = 512 if now("load_in_4bit", model) else 1024 if now("dtype", model) == "bfloat16" else 2048
        states = 0 if now("use_peft", model) else 3 * weights
        length = now("max_length", config)
        length = length if config.packing else min(self.longest_row, length)
        tokens = length * now("per_device_train_batch_size", config)
        tokens //= 2 if now("gradient_checkpointing", config) else 1

        def divided(engine):
            share = engine.processes if engine.name in ("zero2", "fsdp2") else 1
            return SimpleNamespace(
                total=weights // (share if engine.name == "fsdp2" else 1) + states // share + tokens
            )

        return SimpleNamespace(divided=divided, least=lambda engine: 0)


def advised(available, *words, row=256, engine=None, device=GPU):
    sizes = Formula(stage(*words), row, *([engine] if engine else []), device=device)
    return {one.flags: one.total for one in remedies(sizes, available)}


LARGE = ("--gradient_checkpointing=false", "--per_device_train_batch_size=4", "--dtype=float32")


def test_packed_sequences_are_halved_and_not_the_longest_row():
    """Now 8192 for weights and states, and 4 x 1024."""
    words = [*LARGE, "--packing", "--max_length", "1024"]
    assert advised(8192 + 2048, *words)["--max_length 512"] == 8192 + 2048


def test_the_single_changes_that_fit_come_from_the_smallest_on():
    """Now 8192 for weights and states, and 4 x 256."""
    assert advised(8192 + 1024 - 1, *LARGE) == {
        "--gradient_checkpointing true": 8192 + 512,
        "--per_device_train_batch_size 2 --gradient_accumulation_steps 2": 8192 + 512,
        "--max_length 128": 8192 + 512,
        "--use_peft true": 2048 + 1024,
        "--dtype bfloat16": 4096 + 1024,
        "--use_peft true --load_in_4bit true": 512 + 1024,
    }


def test_where_none_fits_the_first_that_do_together_are_named_without_those_that_are_not_needed():
    """Checkpointing and a smaller batch do not make room for the weights; LoRA with one of them does."""
    cpu = torch.device("cpu")
    found = advised(2048 + 512, *LARGE, device=cpu)
    assert found == {"--gradient_checkpointing true --use_peft true": 2048 + 512}
    batch = "--per_device_train_batch_size 2 --gradient_accumulation_steps 2"
    found = advised(2048 + 256, *LARGE, device=cpu)
    assert found == {f"--gradient_checkpointing true {batch} --use_peft true": 2048 + 256}


def test_rows_are_cut_last_and_by_no_more_than_is_needed():
    everything = (
        "--gradient_checkpointing true --per_device_train_batch_size 1 --gradient_accumulation_steps 4 "
        "--use_peft true --load_in_4bit true --max_length"
    )
    assert advised(512 + 128, *LARGE) == {everything.removesuffix(" --max_length"): 512 + 128}
    assert advised(512 + 127, *LARGE) == {f"{everything} 128": 512 + 64}
    assert advised(512 + 63, *LARGE) == {f"{everything} 64": 512 + 32}
    assert advised(1, *LARGE) == {f"{everything} 64": 512 + 32}  # the least, which does not fit


SMALL = ("--gradient_checkpointing=true", "--per_device_train_batch_size=1", "--dtype=float32")


def test_the_smallest_set_of_other_changes_comes_before_a_base_in_four_bits():
    """Red when: four bits are not offered, or alone. Of 12512 + 32, LoRA leaves 32 + 32 and bfloat16 alone 64 + 32."""
    assert advised(1024 + 32, *SMALL, row=64) == {
        "--use_peft true --dtype bfloat16": 1024 + 32,
        "--use_peft true --load_in_4bit true": 512 + 32,
    }
    assert advised(512 + 32, *SMALL, "--use_peft=true", row=64) == {"--load_in_4bit true": 512 + 32}


@pytest.mark.parametrize(
    ("words", "engine", "device"),
    [
        ([], None, torch.device("cpu")),
        ([], Engine("zero2", 2), GPU),
        (["--load_in_8bit=true"], None, GPU),
        (["--model_init_kwargs", '{"tp_plan": "auto"}'], None, GPU),
    ],
)
def test_four_bits_are_offered_only_where_they_run(words, engine, device):
    """Not on a CPU, beside ZeRO, or for weights that are in few bits already or split."""
    found = advised(10**6, *SMALL, "--use_peft=true", *words, engine=engine, device=device)
    assert found
    assert not any("load_in_4bit" in flags for flags in found)


def test_processes_are_added_until_a_step_fits():
    flags = advised(1024 + 32, *SMALL, row=64, engine=Engine("fsdp2", 2))
    assert next(iter(flags.items())) == ("--num_processes 8", 1024 + 32)
    flags = advised(10**6, *SMALL, row=64, engine=Engine("ddp", 2))
    assert list(flags)[:2] == ["--accelerate_config zero2", "--accelerate_config fsdp2"]


def test_the_base_in_four_bits_is_estimated_as_a_run_with_these_flags_is():
    words = [*SMALL, "--bf16=true"]
    change = Change({"use_peft": True, "load_in_4bit": True})
    total = Sizes(stage(*words), 8, device=GPU).total(change)
    assert total == Sizes(stage(*words, "--use_peft", "--load_in_4bit"), 8, device=GPU).total()


def test_weights_that_do_not_fit_are_not_run(monkeypatch):
    """Red when: the passes of a change run although its weights and states alone are too much."""
    sizes = Sizes(stage("--per_device_train_batch_size=4"), 256)
    monkeypatch.setattr(fake_step, "_run", lambda *given: pytest.fail("the passes were run"))
    change = Change({"per_device_train_batch_size": 1})
    assert not sizes.fits(change, sizes.needs(change).held.weights)
