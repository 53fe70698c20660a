"""Recipes are read key by key, their memory is `ift check`'s estimate, their time follows from their operations.

And a tiny model trains a step of each.
"""

import json
import re

import pytest
import torch
import yaml

from ift.check.memory import estimate_memory
from ift.cli import check, train
from ift.cli.exit_codes import run_verb
from ift.lab.testbed import problems, tiny_base_path
from ift.runs.arguments import parse_stages
from ift.runs.launch import wanted_engine
from recipe_models import (
    RECIPES,
    ROOT,
    published_config,
    row_operations,
    run_cost,
    save_config,
    save_small,
    small_recipe,
    time_words,
)  # fmt: skip

# Parameters of the published models, as their model cards count them
PARAMETERS = {
    "Qwen3-0.6B-Base": 596_049_920,
    "Qwen3-8B-Base": 8_190_735_360,
    "Llama-3.1-8B": 8_030_261_248,
    "Mistral-7B-v0.1": 7_241_732_096,
    "SmolLM2-1.7B": 1_711_376_384,
    "gemma-3-270m": 268_098_176,
    "gemma-3-4b-text": 3_880_263_168,
}
of_each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def stages_of(recipe):
    return parse_stages(["--config", str(recipe)])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(problem.row) + "\n" for problem in problems("train", 8)))
    return file


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base_path())


@of_each
def test_every_key_is_known_and_has_the_written_value(recipe):
    """Of the last stage: the SFT before it fixes lambda."""
    stage = stages_of(recipe)[-1]
    for name, value in yaml.safe_load(recipe.read_text()).items():
        for part in (stage.config, stage.model, stage.run):
            if hasattr(part, name) and name != "output_dir":
                found = getattr(part, name)
                found = getattr(found, "value", found)
                assert found in (value, [value]), name


@of_each
def test_the_head_says_purpose_command_memory_and_time(recipe, tmp_path):
    """The memory is the estimate from the published configuration, of the last stage, with rows of max_length."""
    head = recipe.read_text().partition("\nmodel_name_or_path")[0]
    found = dict(re.findall(r"^# (Purpose|Command|Memory|Time): (.+)$", head, re.MULTILINE))
    assert list(found) == ["Purpose", "Command", "Memory", "Time"]
    assert found["Command"].split(" --num")[0] == f"ift train --config recipes/{recipe.name}"
    stage = stages_of(recipe)[-1]
    stage.model.model_name_or_path = str(save_config(recipe, tmp_path / "model"))
    flags = found["Command"].split()[4:] or stage.launch
    memory = estimate_memory(stage, stage.config.max_length, torch.device("cuda"), wanted_engine(flags))
    assert found["Memory"].startswith(f"an estimate of `ift check`, not measured: {memory.summary()}")


@of_each
def test_the_head_says_what_the_run_computes_and_how_long_at_an_assumed_rate(recipe):
    text = recipe.read_text()
    written, rate = re.search(r"^# Time: (.* At (\d+) TFLOP/s a GPU, .*)$", text, re.MULTILINE).groups()
    stages = stages_of(recipe)
    flags = re.search(r"^# Command: (.*)$", text, re.MULTILINE)[1].split()[4:] or stages[-1].launch
    assert written == time_words(run_cost(recipe, stages), int(rate), wanted_engine(flags).processes)


@pytest.mark.parametrize("residual_lambda", [0.0, 0.2])
@pytest.mark.parametrize("frozen", [False, True], ids=["full", "lora"])
def test_the_operations_of_a_row_are_those_that_are_counted(frozen, residual_lambda):
    """Within 3 %: the adapter, and blocks whose first operations need no gradient, make the difference."""
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode

    from ift import ift_loss
    from ift.lab.compare.flops import UNCOUNTED
    from models import tiny_model

    model = tiny_model(
        "llama", vocab_size=500, tie_word_embeddings=False, num_hidden_layers=6, hidden_size=64
    )
    wanted = row_operations(model, 256, residual_lambda > 0, True, frozen)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if frozen:
        model.enable_input_require_grads()
        model = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear"))
    ids = torch.randint(3, 500, (2, 256))
    batch = {"input_ids": ids, "labels": ids.clone()}
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        ift_loss(model, batch, residual_lambda=residual_lambda, lookahead_prefix="full").loss.backward()
    assert counter.get_total_flops() == pytest.approx(2 * wanted, rel=0.03)


@of_each
def test_the_published_configuration_has_the_published_size(recipe):
    import transformers

    config = published_config(recipe)
    model = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        count = sum(one.numel() for one in model(model.config_class(**config)).parameters())
    assert count == PARAMETERS[yaml.safe_load(recipe.read_text())["model_name_or_path"].rpartition("/")[2]]


@of_each
def test_the_check_of_a_tiny_model_refuses_nothing(recipe, rows, tokenizer, tmp_path, capfd):
    model = save_small(recipe, tokenizer, tmp_path / "model")
    file = small_recipe(recipe, model, rows, tmp_path)
    assert run_verb("check", lambda: check.main(["--config", str(file)])) == 0, capfd.readouterr()
    assert "ok: ift train would start" in capfd.readouterr().out


@pytest.mark.slow
@of_each
def test_a_step_of_a_tiny_model_of_the_same_architecture_trains(recipe, rows, tokenizer, tmp_path, capfd):
    model = save_small(recipe, tokenizer, tmp_path / "model")
    file = small_recipe(recipe, model, rows, tmp_path)
    assert run_verb("train", lambda: train.main(["--config", str(file)])) == 0, capfd.readouterr().err
    assert list((tmp_path / "out").rglob("*model.safetensors"))


def test_the_paper_s_recipe_has_the_paper_s_settings():
    """App. B.1 of arXiv:2405.11870v3."""
    (stage,) = stages_of(ROOT / "recipes" / "mistral-7b-paper.yaml")
    config = stage.config
    assert (config.optim.value, config.learning_rate, config.num_train_epochs) == ("rmsprop", 5e-7, 3)
    assert (config.lr_scheduler_type.value, config.warmup_steps, config.max_length) == ("cosine", 0.1, 1024)
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
    assert rows * wanted_engine(stage.launch).processes == 512
    step = (
        config.residual_lambda,
        config.propagation_gamma,
        config.propagation_detach,
        config.loss_reduction,
    )
    assert step == (0.2, 0.95, "scale", "sequence")


def test_the_released_code_is_a_recipe():
    (stage,) = stages_of(ROOT / "recipes" / "as_released.yaml")
    assert stage.config.propagation_detach == "none"
    assert (stage.config.optim.value, stage.config.learning_rate) == ("rmsprop", 5e-7)


def test_every_recipe_is_in_the_table_of_the_readme():
    named = re.findall(r"^\| `([\w.-]+)` \|", (ROOT / "recipes" / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == [recipe.stem for recipe in RECIPES]


def test_the_text_part_of_a_gemma_that_reads_images_is_saved_as_the_readme_says(tmp_path, monkeypatch):
    """On a tiny one: the same logits on text, and a model that IFT takes."""
    import transformers

    from ift.step.algorithm import enable_residual

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 40, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8}
    config = transformers.Gemma3Config(
        text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}, mm_tokens_per_image=4,
        image_token_index=39, boi_token_index=38, eoi_token_index=37,
    )  # fmt: skip
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "recipes" / "README.md").read_text(), re.DOTALL)
    assert "google/gemma-3-4b-pt" in code
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: whole.generation_config)
    exec(code.replace("google/gemma-3-4b-pt", str(tmp_path / "whole")), {})
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gemma-3-4b-text", dtype="bfloat16")
    kind = transformers.Gemma3ForConditionalGeneration
    whole = kind.from_pretrained(tmp_path / "whole", dtype="bfloat16")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(found(ids).logits, whole(input_ids=ids).logits)
    enable_residual(found)
