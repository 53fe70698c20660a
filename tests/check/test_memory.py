"""The estimate of a step's memory: by hand, by family, and against the allocator's own records of a real step."""

import json
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback

import models
from ift.check import fake_step, memory
from ift.check.engines import Engine, divide
from ift.check.fake_step import Peak
from ift.check.memory import estimate_memory, step_needs
from ift.lab.testbed import tiny_base_path
from ift.methods.stage import build_trainer, load_data, longest_row, prepare_stage
from ift.methods.start import use_given_adapter
from ift.runs.arguments import parse
from ift.step import scored_log_probs


def run_of(*words, model=None):
    base = [
        "--model_name_or_path",
        str(model or tiny_base_path()),
        "--dataset_name",
        "x",
        "--output_dir",
        "x",
    ]
    return parse([*base, *words])


def test_whole_copies_beside_an_adapter_have_the_dtype_of_the_base(monkeypatch):
    """LoRA's matrices take 4 bytes, a copy of the 521 x 128 embeddings 2; AdamW's states twice as much."""
    monkeypatch.setattr(memory, "passes_peak", lambda build, passes: Peak())
    words, copies = ("--dtype=bfloat16", "--bf16=true", "--use_peft"), 521 * 128
    alone = step_needs(run_of(*words), 16).held
    both = step_needs(run_of(*words, "--lora_modules_to_save", "embed_tokens"), 16).held
    assert both.trained == alone.trained + copies
    assert (alone.gradients, alone.optimizer) == (4 * alone.trained, 8 * alone.trained)
    assert (both.gradients, both.optimizer) == (alone.gradients + 2 * copies, alone.optimizer + 4 * copies)
    assert both.weights == alone.weights + 2 * copies
    assert both.upcast == 2 * copies  # FSDP2 makes these float32


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_the_reference_of_an_adapter_that_is_continued_is_a_copy_of_it(monkeypatch, tmp_path, engine):
    """trl adds a frozen copy: 4 bytes for each of the 8,192 numbers, r (in + out) for q and v of four layers."""
    monkeypatch.setattr(memory, "passes_peak", lambda build, passes: Peak())
    base = LlamaForCausalLM.from_pretrained(tiny_base_path())
    get_peft_model(base, LoraConfig(r=4, task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    for method, wanted in (("dpo", 4 * 8192), ("ift", 0)):
        stage = run_of("--method", method, model=tmp_path)
        use_given_adapter(stage)
        held = step_needs(stage, 16).held
        assert (held.trained, held.gradients) == (8192, 4 * 8192)
        assert divide(held, Engine(engine))["reference"] == wanted


def test_weights_gradients_and_optimiser_by_hand(monkeypatch):
    """870,656 parameters (record.json of the base), one tensor shared by embeddings and head."""
    monkeypatch.setattr(
        memory, "passes_peak", lambda build, passes: Peak()
    )  # the passes have tests of their own

    def held(*words):
        return step_needs(run_of(*words), 16).held

    n = json.loads((tiny_base_path() / "record.json").read_text())["parameters"]
    needs = step_needs(run_of(), 64)
    assert (needs.parameters, needs.trained, needs.vocabulary) == (n, n, 521)
    full = needs.held
    assert (full.weights, full.gradients, full.optimizer, full.reference) == (4 * n, 4 * n, 8 * n, 0)
    half = held("--dtype", "bfloat16")
    assert (half.weights, half.gradients, half.optimizer) == (2 * n, 2 * n, 4 * n)
    assert held("--method", "dpo").reference == 4 * n
    assert held("--optim", "sgd").optimizer == 0
    embedding = 521 * 128
    for optimizer, states in (
        ("adamw_8bit", 2),
        ("paged_lion_8bit", 1),
        ("rmsprop_bnb_8bit", 1),
        ("ademamix_8bit", 3),
    ):
        # bitsandbytes keeps those of embeddings in 32 bits
        assert held("--optim", optimizer).optimizer == states * (n + 3 * embedding)
    assert held("--optim", "adamw_torch_8bit").optimizer == 2 * n  # of torchao
    assert held("--optim", "rmsprop_bnb", "--dtype=bfloat16").optimizer == 4 * n
    lora = held("--use_peft", "--lora_r", "4")
    assert lora.trained == 4 * 4 * (128 + 128) * 2  # r (in + out) for q and v of four layers
    assert lora.weights == 4 * n + 4 * lora.trained
    assert held("--use_peft", "--lora_r", "4", "--optim", "adamw_8bit").optimizer == 2 * lora.trained
    copied = held(
        "--use_peft", "--lora_r", "4", "--optim", "adamw_8bit", "--lora_modules_to_save", "embed_tokens"
    )
    assert copied.optimizer == 2 * lora.trained + 8 * embedding
    assert held("--use_peft", "--method", "dpo").reference == 0
    four = held("--load_in_4bit").weights
    linear = 4 * (4 * 128 * 128 + 3 * 128 * 352)
    blocks = linear // 64  # each with a scale in float32, or in 8 bits with one in float32 for 256 blocks
    assert four == 4 * (n - linear) + linear // 2 + 4 * blocks
    nested = held("--load_in_4bit", "--use_bnb_nested_quant").weights
    assert nested == 4 * (n - linear) + linear // 2 + blocks + 4 * blocks // 256


def test_an_adapter_beside_a_base_in_four_bits_is_bfloat16_but_for_the_magnitudes_of_dora():
    """As trl makes it; an optimiser with states in 32 bits keeps them. Red when: it counts as float32."""
    lora, magnitudes = 4 * 4 * (128 + 128) * 2, 4 * 128 * 2  # of q and v in four layers

    def held(*words):
        return step_needs(run_of("--use_peft", "--lora_r=4", "--load_in_4bit", *words), 16).held

    for dtype in ("bfloat16", "float32"):
        plain = held("--dtype", dtype)
        assert (plain.trained, plain.gradients, plain.optimizer) == (lora, 2 * lora, 4 * lora)
    assert held("--optim=paged_adamw_32bit").optimizer == 8 * lora
    dora = held("--use_dora=true")
    assert (dora.trained, dora.gradients) == (lora + magnitudes, 2 * lora + 4 * magnitudes)


def test_the_fullest_moment_counts_and_not_the_sum_of_all():
    """A long batch is fullest before the first gradient; one token, when all gradients are there."""
    n = 870_656
    wide, narrow = (estimate_memory(run_of("--gradient_checkpointing=false"), tokens) for tokens in (64, 2))
    assert wide.gradients == 0
    assert narrow.gradients > 0.7 * 4 * n
    assert narrow.activations < 0.3 * 4 * n
    copies = estimate_memory(run_of("--optim=adamw_torch"), 2, torch.device("cuda"))
    assert (copies.gradients, copies.activations) == (4 * n, 4 * n)  # its step copies a state of all weights


def test_memory_grows_with_the_length_and_with_its_square_only_where_a_mask_is_kept():
    def activations(tokens, *words):
        flags = ["--gradient_checkpointing=false", "--per_device_train_batch_size=1"]
        return estimate_memory(run_of(*flags, *words), tokens).activations

    assert 1.5 * activations(1024) < activations(2048) < 2.03 * activations(1024)
    assert activations(2048, "--attn_implementation=flash_attention_2") == activations(2048)
    assert activations(2048, "--attn_implementation=eager") > 3 * activations(
        1024, "--attn_implementation=eager"
    )
    padded = "--per_device_train_batch_size=2"
    assert activations(2048, padded) > 2.2 * activations(1024, padded)


def test_checkpointing_and_accumulation():
    plain = estimate_memory(run_of("--gradient_checkpointing=false"), 64)
    assert estimate_memory(run_of("--gradient_checkpointing=true"), 64).total < plain.total
    steps = estimate_memory(run_of("--gradient_checkpointing=false", "--gradient_accumulation_steps=2"), 64)
    assert steps.total - plain.total == 4 * 870_656  # the gradients of the micro-batch before


@pytest.mark.parametrize(
    "words",
    [
        ["--bf16=true", "--gradient_checkpointing=true"],
        pytest.param([], marks=pytest.mark.slow),
        pytest.param(["--use_peft=true"], marks=pytest.mark.slow),
    ],
)
def test_three_blocks_tell_what_many_need(tmp_path, monkeypatch, words):
    config = models.config_of("llama", num_hidden_layers=9)
    config.save_pretrained(tmp_path)
    run = run_of("--gradient_checkpointing=false", *words, model=tmp_path)
    shallow = step_needs(run, 50)
    monkeypatch.setattr(fake_step, "SHALLOW", (2, 10**6))
    assert step_needs(run, 50).peak.total == pytest.approx(shallow.peak.total, rel=0.02)


def test_some_tiles_of_the_head_tell_what_all_need(monkeypatch):
    """Nine tokens in tiles of two by 64 of 521 entries; exact, since all others are as large."""
    run = run_of("--gradient_checkpointing=true", "--per_device_train_batch_size=1", "--bf16=true")
    monkeypatch.setattr(scored_log_probs, "TILE_TOKENS", 2)
    monkeypatch.setattr(memory, "tile_shape", lambda tokens, device: (2, 64))
    few = step_needs(run, 9).peak
    monkeypatch.setattr(fake_step, "_largest_tiles", scored_log_probs.every_tile)
    assert step_needs(run, 9).peak == few


FAST = ("gemma3", "gpt2", "bloom", "mixtral")  # windows, learned positions, alibi, experts


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in (*models.FAMILIES, *models.OTHERS)
    ],
)
def test_every_family_is_estimated_and_more_layers_keep_more(family, tmp_path):
    sizes = []
    for layers in (2, 4):
        config = models.config_of(family)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:1] * layers
        config.save_pretrained(tmp_path)
        run = run_of("--gradient_checkpointing", "false", model=tmp_path)
        sizes.append(estimate_memory(run, 50))
    assert 0 < sizes[0].activations < sizes[1].activations < 2.2 * sizes[0].activations
    assert sizes[0].parameters < sizes[1].parameters


SHAPES = {  # the dimensions of a Llama, rows of a batch, tokens of a row
    "large vocabulary": ({"vocab_size": 20_000, "hidden_size": 32, "num_hidden_layers": 2}, 2, 64),
    "deep, narrow, long rows": ({"vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 8}, 2, 256),
    "wide, one row": ({"vocab_size": 600, "hidden_size": 256, "num_hidden_layers": 2}, 1, 32),
}


class PeakOfAStep(TrainerCallback):
    """The bytes alive at the fullest moment of the last step, by the allocator's records in torch's profiler.

    What lives before a step begins are weights, buffers and optimiser states; the records are of the step alone.
    """

    def __init__(self, trainer):
        self.trainer, self.before, self.peak = trainer, 0, 0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:  # the first step makes the optimiser's states
            return
        states = self.trainer.optimizer.state.values()
        alive = [*self.trainer.model.parameters(), *self.trainer.model.buffers()]
        alive += [one for state in states for one in state.values() if isinstance(one, torch.Tensor)]
        sizes = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in alive}
        self.before = sum(sizes.values())
        self.profile = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        )
        self.profile.start()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            return
        self.profile.stop()
        records = [one for one in self.profile.profiler.kineto_results.events() if one.name() == "[memory]"]
        alive = 0
        for one in sorted(records, key=lambda one: one.start_ns()):
            alive += one.nbytes()
            self.peak = max(self.peak, alive)
        assert self.peak > 0


def estimated_and_measured(folder, shape, *words):
    """Bytes of a step by the estimate, and of a real one."""
    sizes, batch, tokens = SHAPES[shape]
    wide = {"intermediate_size": 3 * sizes["hidden_size"], "num_attention_heads": 4, "num_key_value_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, **wide, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base_path()).save_pretrained(folder)
    draw = random.Random(0)
    rows = []
    for number in range(8):
        ids = [draw.randrange(3, 500) for _ in range(tokens - number % 2 * tokens // 10)]
        rows.append({"input_ids": ids, "labels": [-100] * (tokens // 4) + ids[tokens // 4 :]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "model_name_or_path": folder, "dataset_name": folder / "rows.jsonl", "output_dir": folder / "out",
        "per_device_train_batch_size": batch, "max_steps": 2, "report_to": "none", "save_strategy": "no",
    }  # fmt: skip
    run = parse([*(f"--{name}={value}" for name, value in flags.items()), *words])
    prepared = prepare_stage(run, load_data(run))
    report = prepared.sets["train"].report
    estimate = estimate_memory(run, longest_row(report, run.config), longest_answer=report.answer_lengths[2])
    trainer = build_trainer(run, prepared)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(found := PeakOfAStep(trainer))
    trainer.train()
    return estimate.total, found.before + found.peak


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("ift", ""),
        ("sft", ""),
        *(
            pytest.param(method, words, marks=pytest.mark.slow)
            for words in (
                "--lookahead_prefix=full",
                "--bf16=true",
                "--gradient_checkpointing=true",
                "--gradient_accumulation_steps=2",
                "--use_peft=true",
            )
            for method in ("ift", "sft")
        ),
    ],
)
def test_the_estimate_is_within_a_fifth_of_what_a_step_takes(tmp_path, shape, method, words):
    flags = [f"--method={method}", *words.split()]
    if "checkpointing" not in words:
        flags.append("--gradient_checkpointing=false")
    estimate, measured = estimated_and_measured(tmp_path, shape, *flags)
    assert 0.8 <= estimate / measured <= 1.2
