"""What is known before a run: each finding from rows that have exactly that fault, memory against a real step."""

import json
import os
import subprocess
import sys

import pytest
from datasets import Dataset
from tokenizers import processors

import models
from ift.check.findings import data_findings
from ift.check.memory import estimate_memory
from ift.check.rows import scan_rows
from ift.data import end_of_turn_ids, prepare_dataset
from ift.lab.testbed import tiny_base_path
from ift.runs.arguments import parse


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tiny_base_path())
    loaded.chat_template = None
    return loaded


def found(tokenizer, train, evaluation=None, *, max_length=None, vocabulary=521, step=1, **options):
    """(level, about, text) of every finding about these rows."""
    given = {"train": train, **({} if evaluation is None else {"eval": evaluation})}
    sets = {
        name: prepare_dataset(Dataset.from_list(rows), tokenizer, name=name, max_length=max_length)
        for name, rows in given.items()
    }
    scans = {name: scan_rows(one, tokenizer, end_of_turn_ids(tokenizer)) for name, one in sets.items()}
    findings = data_findings(sets, scans, tokenizer, vocabulary=vocabulary, rows_per_step=step, **options)
    return [(one.level, one.about, one.text) for one in findings]


FINE = [{"prompt": f"{n} plus {n} =", "completion": f" {2 * n}"} for n in range(10)]


def test_nothing_is_found_where_nothing_is_wrong(tokenizer):
    other = [{"prompt": f"{n} plus 9 =", "completion": f" {9 + n}"} for n in range(3)]
    assert found(tokenizer, FINE, other) == []


@pytest.mark.parametrize(
    ("long", "allowed", "level"),
    [(3, False, "refused"), (3, True, "warning"), (1, False, "warning")],
)
def test_cutting_is_told_and_from_a_fifth_on_refused(tokenizer, long, allowed, level):
    """Of 10 rows 3 or 1 are cut: 30 % or 10 %; the trained tokens lost stay below."""
    rows = [*FINE[long:], *({"prompt": "7 " * 20 + str(n), "completion": " 7 7 7"} for n in range(long))]
    ((first, about, text), *_) = found(tokenizer, rows, max_length=40, allow_truncation=allowed)
    assert (first, about) == (level, "train")
    assert f"max_length 40 cuts {10 * long}.0% of the rows" in text
    assert "the longest row has" in text
    assert ("--allow_truncation" in text) == (level == "refused")


def test_lost_answers_count_as_cut_rows_do(tokenizer):
    """One row in ten, with nearly all of the trained tokens."""
    rows = [*FINE[1:], {"prompt": "7", "completion": " 7" * 200}]
    ((level, _, text), *_) = found(tokenizer, rows, max_length=60)
    assert level == "refused"
    assert "cuts 10.0% of the rows" in text


def test_rows_are_named_as_they_stand_in_the_data(tokenizer):
    """Row 2 is dropped, so that what was kept third is row 4."""
    rows = [FINE[0], {"prompt": "", "completion": ""}, FINE[1], FINE[0], FINE[2], FINE[0]]
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
    texts = [text for _, _, text in found(tokenizer, rows)]
    assert texts[0] == "1 rows dropped: the answer is empty (row 2)"
    assert texts[1].startswith("2 of 5 rows are copies of earlier ones (row 4 is the first)")


def test_evaluation_rows_that_are_trained(tokenizer):
    ((level, about, text),) = found(tokenizer, FINE, [{"prompt": "1 plus 5 =", "completion": " 6"}, FINE[3]])
    assert (level, about) == ("warning", "eval")
    assert text.startswith("1 evaluation rows are also training rows (evaluation row 2 first)")
    other = {**FINE[3], "completion": " 7"}
    ((_, _, text),) = found(tokenizer, FINE, [other])
    assert text.startswith("1 evaluation prompts are also training prompts (evaluation row 1 first)")


def test_ids_beyond_the_model_are_refused(tokenizer):
    rows = [{"input_ids": [5, 900, 2], "labels": [-100, 900, 2]}]
    ((level, _, text),) = found(tokenizer, rows)
    assert level == "refused"
    assert "the token id 900, but the model has only 521 embeddings" in text
    assert found(tokenizer, rows, vocabulary=901) == []


def test_rows_that_never_end(tokenizer):
    rows = [{"input_ids": [5, 6, 7 + n], "labels": [-100, 6, 7 + n]} for n in range(3)]
    rows.append({"input_ids": [5, 6, 2], "labels": [-100, 6, 2]})
    ((level, _, text),) = found(tokenizer, rows)
    assert level == "warning"
    assert text.startswith("3 of 4 rows train no token that ends an answer (row 1 is the first)")


def test_bos_twice_and_bos_missing():
    tokenizer = models.tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = [[bos, 9, eos], [bos, bos, 9, eos], [9, 9, eos]]
    texts = [
        text
        for _, _, text in found(
            tokenizer, [{"input_ids": row, "labels": row} for row in rows], vocabulary=len(tokenizer)
        )
    ]
    assert [text.split(" (")[0] for text in texts] == [
        "1 rows begin with the beginning-of-sequence token twice",
        "1 rows do not begin with the beginning-of-sequence token, which the tokenizer puts before plain text",
    ]
    assert "row 2 is the first" in texts[0]
    assert "row 3 is the first" in texts[1]


def test_plain_text_for_a_model_that_converses():
    """Told where the model has a template, unless the text was made with one, or is a conversation."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    ((level, _, text),) = found(tokenizer, FINE)
    assert (level, "chat template" in text) == ("warning", True)
    made = [{"prompt": f"<|user|>{n} plus 1<|end|><|assistant|>", "completion": f"{n}"} for n in range(10)]
    turns = [{"role": "user", "content": "1 plus 1"}, {"role": "assistant", "content": "2"}]
    assert found(tokenizer, made) == found(tokenizer, [{"messages": turns}]) == []


def test_answers_without_a_space_before_them(tokenizer):
    """`7?8` and `7.8` but not `7? 8`, `7 = 8` with a line end, nor `=8`."""
    ends = ("?", ".", "? ", " =", "\n")
    rows = [{"prompt": f"{n} and 7{end}", "completion": "8"} for n, end in enumerate(ends)]
    ((level, _, text),) = found(tokenizer, rows)
    assert level == "warning"
    assert text.startswith(
        "2 of 5 rows have no space or line end between the prompt and the completion (row 1 "
    )


def test_fewer_rows_than_a_step(tokenizer):
    ((level, _, text),) = found(tokenizer, FINE, step=16)
    assert level == "warning"
    assert "10 rows are fewer than the 16 of one step" in text


def estimated(*words, longest=64):
    base = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "x", "--output_dir", "x"]
    return estimate_memory(parse([*base, *words]), longest)


def test_weights_gradients_and_optimiser_by_hand():
    """870,656 parameters (record.json of the base), one tensor shared by embeddings and head."""
    record = json.loads((tiny_base_path() / "record.json").read_text())
    n = record["parameters"]
    full = estimated()
    assert (full.parameters, full.trained, full.vocabulary) == (n, n, 521)
    assert (full.weights, full.gradients, full.optimizer, full.reference) == (4 * n, 4 * n, 8 * n, 0)
    half = estimated("--dtype", "bfloat16")
    assert (half.weights, half.gradients, half.optimizer) == (2 * n, 2 * n, 4 * n)
    assert estimated("--method", "dpo").reference == 4 * n
    assert estimated("--optim", "sgd").optimizer == 0
    assert estimated("--optim", "adamw_8bit").optimizer == 2 * n
    lora = estimated("--use_peft", "--lora_r", "4")
    assert lora.trained == 4 * 4 * (128 + 128) * 2  # r (in + out) for q and v of four layers
    assert lora.weights == 4 * n + 4 * lora.trained
    assert estimated("--use_peft", "--method", "dpo").reference == 0
    four = estimated("--load_in_4bit").weights
    linear = 4 * (4 * 128 * 128 + 3 * 128 * 352)
    assert four == 4 * (n - linear) + linear // 2


def test_checkpointing_keeps_less_and_length_and_rows_keep_more():
    plain = estimated("--gradient_checkpointing", "false").activations
    assert estimated("--gradient_checkpointing", "true").activations < plain
    more = estimated("--gradient_checkpointing", "false", "--per_device_train_batch_size", "16").activations
    assert more == pytest.approx(2 * plain, rel=0.02)
    assert estimated("--gradient_checkpointing", "false", longest=100).activations == pytest.approx(
        100 / 64 * plain, rel=0.02
    )


@pytest.mark.parametrize("family", [name for name in (*models.FAMILIES, *models.OTHERS) if name != "bloom"])
def test_every_family_is_estimated_and_more_layers_keep_more(family, tmp_path):
    """Bloom's mask cannot be made without data; the check says that there is no estimate."""
    sizes = []
    for layers in (2, 4):
        config = models.config_of(family)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:1] * layers
        config.save_pretrained(tmp_path)
        words = ["--model_name_or_path", str(tmp_path), "--dataset_name", "x", "--output_dir", "x"]
        sizes.append(estimate_memory(parse([*words, "--gradient_checkpointing", "false"]), 50))
    assert 0 < sizes[0].activations < sizes[1].activations < 2.2 * sizes[0].activations
    assert sizes[0].parameters < sizes[1].parameters


STEP = """
import json, resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from ift.step.algorithm import ift_loss
layers, rows, tokens, checkpointing = map(int, sys.argv[1:5])
torch.manual_seed(0)
config = LlamaConfig(vocab_size=2000, hidden_size=256, intermediate_size=704, num_hidden_layers=layers,
                     num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096)
model = LlamaForCausalLM(config).train()
if len(sys.argv) > 5:
    model.save_pretrained(sys.argv[5]); sys.exit()
if checkpointing:
    model.gradient_checkpointing_enable({"use_reentrant": False})
optimizer = torch.optim.AdamW(model.parameters())
def step(rows, tokens):
    ids = torch.randint(0, 2000, (rows, tokens))
    ift_loss(model, {"input_ids": ids, "labels": ids}).loss.backward()
    optimizer.step()
step(1, 8)  # gradients and optimiser states are there now
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(rows, tokens)
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the resident set")
@pytest.mark.parametrize("checkpointing", [0, 1])
def test_the_estimate_is_near_what_a_step_takes(tmp_path, checkpointing):
    """Growth of the process in a step of some hundred MB: activations and head, within a fifth."""

    def run(*more):
        words = [sys.executable, "-c", STEP, "8", "8", "512", str(checkpointing), *more]
        returned = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
        environment = {**os.environ, **returned}  # what is freed goes back at once: the peak is what is alive
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
        return done.stdout

    run(str(tmp_path / "model"))
    words = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", "x", "--output_dir", "x"]
    words += ["--per_device_train_batch_size", "8", "--gradient_checkpointing", str(bool(checkpointing))]
    estimate = estimate_memory(parse(words), 512)
    measured = json.loads(run())
    assert measured > 100e6
    assert estimate.activations + estimate.head == pytest.approx(measured, rel=0.2)
