"""Settings that trl, transformers, peft or a missing package refuse are refused before anything is loaded."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ift import IFTTrainer
from ift.check.trainer_build import has_router_loss
from ift.runs.arguments import parse
from models import dataset_of, tiny_model, tiny_tokenizer

REFUSED = {  # what is typed: what the check says
    "a scheduler without its settings": (
        {"lr_scheduler_type": "cosine_warmup_with_min_lr"},
        "lr_scheduler_type cosine_warmup_with_min_lr: ",
    ),
    "a package of the reports": ({"report_to": "comet_ml"}, "comet"),
    "a package of the optimiser": ({"optim": "adamw_8bit"}, "bitsandbytes"),
    "a package of the attention": ({"attn_implementation": "flash_attention_2"}, "pip install flash-attn"),
    "a package of kernels": ({"use_liger_kernel": "true"}, "liger-kernel"),
    "names separated by commas": (
        {"use_peft": "true", "lora_target_modules": "q_proj,v_proj"},
        "by spaces, not by commas",
    ),
    "a module of LoRA that the model lacks": (
        {"use_peft": "true", "words": ["--lora_target_modules", "q_proj", "v_porj"]},
        "lora_target_modules: the model has no module v_porj; did you mean v_proj?",
    ),
    "a single module of LoRA, which trl makes a regular expression": (
        {"use_peft": "true", "lora_target_modules": "q_proj"},
        "write '.*\\.q_proj'",
    ),
    "a package of quantisation": ({"load_in_4bit": "true"}, "pip install 'intuitive-fine-tuning[quant]'"),
    "the Hub": ({"push_to_hub": "true"}, "HF_HUB_OFFLINE"),
    "a package that is only looked for at the start": ({"report_to": "tensorboard"}, "tensorboard"),
    "no accelerator": ({"activation_offloading": "true"}, "there is none"),
    "a metric": (
        {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_nlll"},
        "did you mean eval_nll?",
    ),
    "a metric of the look-ahead, without one": (
        {"method": "sft", "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "residual_nll"},
        "metric_for_best_model is 'residual_nll', which no evaluation reports",
    ),
    "the exact match of answers without a final answer": (
        {
            "eval_strategy": "steps",
            "eval_steps": 1,
            "eval_generate": 2,
            "metric_for_best_model": "eval_exact_match",
        },
        "metric_for_best_model is 'eval_exact_match', which no evaluation reports",
    ),
    "the loss of a router that the model lacks": (
        {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "aux_loss"},
        "metric_for_best_model is 'aux_loss', which no evaluation reports",
    ),
    "an argument of the model": ({"model_init_kwargs": '{"rope_tetha": 1}'}, "rope_tetha"),
    "an argument of checkpointing": (
        {"gradient_checkpointing": "true", "gradient_checkpointing_kwargs": '{"use_reentrent": false}'},
        "use_reentrent",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_check_and_train_refuse_alike(ift, chat_model, write_rows, tmp_path, name):
    flags, wanted = REFUSED[name]
    flags = {
        "report_to": "none",
        "final_answers": 0,
        "max_steps": 1,
        "gradient_checkpointing": "false",
        **flags,
        "model_name_or_path": chat_model,
        "dataset_name": write_rows(),
        "output_dir": tmp_path / "out",
    }
    words = flags.pop("words", [])
    checked = ift("check", *words, **flags)
    assert checked.code == 1
    assert wanted in " ".join(checked.out.split())
    trained = ift("train", *words, **flags)
    assert trained.code == 1
    assert wanted in " ".join((trained.out + trained.err).split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("extra", [False, True])
def test_check_and_train_refuse_files_with_other_tensors_alike(ift, chat_model, write_rows, tmp_path, extra):
    model = shutil.copytree(chat_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    if extra:
        tensors["model.more.weight"] = torch.zeros(2)
    else:
        tensors.pop("model.norm.weight")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    flags = {"model_name_or_path": model, "dataset_name": write_rows(), "output_dir": tmp_path / "out"}
    for done in (ift("check", **flags), ift("train", **flags)):
        assert done.code == 1
        wanted = (
            "the model lacks: model.more.weight" if extra else "lack tensors of the model: model.norm.weight"
        )
        assert wanted in " ".join((done.out + done.err).split())
        assert "LOAD REPORT" not in done.err  # nothing was loaded
    assert not (tmp_path / "out").exists()


def test_what_runs_is_not_refused(ift, chat_model, write_rows, tmp_path):
    """An adapter, an evaluation, a scheduler with its settings, a pair method with its reference."""
    common = {"model_name_or_path": chat_model, "report_to": "none", "output_dir": tmp_path / "out"}
    adapter = {
        "use_peft": "true",
        "lora_target_modules": "all-linear",
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": '{"min_lr_rate": 0.1}',
        "eval_strategy": "epoch",
        "metric_for_best_model": "residual_nll",
    }
    done = ift("check", dataset_name=write_rows(), **common, **adapter)
    assert "ok: " in done.out, done.out
    pairs = write_rows("preference, conversational", "pairs.jsonl")
    done = ift("check", dataset_name=pairs, method="dpo", **common)
    assert "ok: " in done.out, done.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["ift", "dpo"])
def test_weights_on_disk_are_refused_before_the_first_step(run_tiny, tmp_path, method):
    """Red when: a trainer of trl starts with them, or the run leaves a folder."""
    places = {"model": "cpu", "lm_head": "disk"}
    given = json.dumps({"device_map": places, "offload_folder": str(tmp_path / "offload")})
    form = "preference, conversational" if method == "dpo" else "messages"
    done = run_tiny(form=form, method=method, model_init_kwargs=given)
    assert done.code == 1
    said = " ".join((done.out + done.err).split())
    assert "on the CPU or on disk (lm_head), and offloaded weights cannot be trained" in said
    assert "Traceback" not in said
    assert not done.folder.exists()


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {}, []),
        ("mixtral", {"router_aux_loss_coef": 0.5}, []),  # whether output_router_logits is set or not
        ("mixtral", {"router_aux_loss_coef": 0.5, "output_router_logits": True}, []),
        ("mixtral", {"router_aux_loss_coef": 0.5}, ["--router_aux_loss_coef", "0"]),
        ("mixtral", {"router_aux_loss_coef": 0.0}, []),
    ],
)
def test_the_loss_of_a_router_is_known_where_the_trainer_logs_it(tmp_path, family, changes, words):
    model = tiny_model(family, **changes)
    model.config.save_pretrained(tmp_path / "model")
    given = [
        "--model_name_or_path",
        str(tmp_path / "model"),
        "--dataset_name",
        "x",
        "--output_dir",
        str(tmp_path),
    ]
    stage = parse([*given, *words])
    ids = torch.tensor([[3, 4, 5, 6]])
    trainer = IFTTrainer(
        model, stage.config, train_dataset=dataset_of(ids, ids), processing_class=tiny_tokenizer()
    )
    assert has_router_loss(stage) == trainer.aux_loss_enabled


def test_force_is_named_only_where_it_starts_the_run(run_tiny):
    """Settings that no trainer can be built with stop the run itself. Red when: --force is advised for them."""
    done = run_tiny(lr_scheduler_type="cosine_with_min_lr", out="plain")
    assert done.code == 1
    assert "not started: settings: " in done.err
    assert "(ift check shows more)" in done.err
    cut = run_tiny(max_length=40, out="cut")
    assert "(--force starts anyway; ift check shows more)" in " ".join(cut.err.split())
