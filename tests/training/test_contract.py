"""Every internal of trl, transformers, accelerate and peft that ift leans on: one that changes turns red here."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version

import pytest
import torch
import transformers
import trl
from trl import DPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer import sft_trainer

import models
from ift.step.model import auxiliary_loss
from models import tiny_model, trained, uneven_rows


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_versions_are_those_the_contract_was_written_for():
    """tools/versions.py runs this file with the oldest and the newest of them."""
    assert (1, 16) <= number_of("trl") < (1, 17)
    assert (5, 19) <= number_of("transformers") < (6, 0)


def number_of(package):
    return tuple(map(int, version(package).split(".")[:2]))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_the_auxiliary_loss_is_the_models_own(family):
    model = tiny_model(family)
    batch = models.padded(*uneven_rows(model))
    backbone = {k: v for k, v in batch.items() if k != "labels"}
    logits = model.base_model(**backbone, output_router_logits=True).router_logits
    own = model(**backbone, output_router_logits=True).aux_loss
    torch.testing.assert_close(auxiliary_loss(model, logits, batch["attention_mask"]), own)


def test_what_the_head_reads_from_a_config_is_what_trl_reads():
    """The names of the factors stand in trl's own patch; a new one there has to come here."""
    source = inspect.getsource(trl.trainer.utils.add_fused_lm_head)
    names = set(re.findall(r'getattr\(text_config, "(\w+)"', source))
    assert names <= {
        "final_logit_softcapping",
        "logit_scale",
        "output_multiplier",
        "lm_head_multiplier",
        "logits_scaling",
        "output_router_logits",
        "router_aux_loss_coef",  # the trainer weights the auxiliary loss itself
    }


def test_the_methods_that_are_overridden_have_the_signatures_we_override():
    assert parameters(SFTTrainer._prepare_dataset) == [
        "self",
        "dataset",
        "processing_class",
        "args",
        "packing",
        "formatting_func",
        "dataset_name",
    ]
    assert parameters(transformers.Trainer._get_num_items_in_batch) == ["self", "batch_samples", "device"]
    assert parameters(SFTTrainer.compute_loss) == [
        "self",
        "model",
        "inputs",
        "return_outputs",
        "num_items_in_batch",
    ]
    transformers_own = {  # ift.training.non_finite, ift.training.last_batch
        "_get_grad_norm": ["self", "model", "grad_norm"],
        "_save_checkpoint": ["self", "model", "trial"],
        "_get_dataloader": [
            "self", "dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key",
        ],
    }  # fmt: skip
    for name, expected in transformers_own.items():
        assert parameters(getattr(transformers.Trainer, name)) == expected, name
    assert parameters(SFTTrainer.log) == ["self", "logs", "start_time"]
    assert parameters(SFTTrainer._send_telemetry) == ["self"]
    assert parameters(DPOTrainer._compute_loss) == ["self", "model", "inputs", "return_outputs"]
    assert parameters(DPOTrainer._prepare_dataset) == [
        "self",
        "dataset",
        "processing_class",
        "args",
        "dataset_name",
    ]
    assert parameters(DPOTrainer._set_signature_columns_if_needed) == ["self"]
    for kind in (ORPOTrainer, CPOTrainer):
        assert parameters(kind.tokenize_row) == ["self", "feature", "model"]
        assert parameters(kind.concatenated_forward) == ["self", "model", "batch"]
        assert parameters(kind._send_telemetry) == ["self"]
    assert callable(SFTTrainer.create_model_card)


def test_the_dataset_hook_is_called_with_positional_names_we_know():
    source = inspect.getsource(SFTTrainer.__init__) + inspect.getsource(SFTTrainer.evaluate)
    assert source.count("self._prepare_dataset(") == 5
    assert '"train"' in source
    assert '"eval"' in source


def test_the_evaluation_loop_asks_for_the_loss_through_compute_loss_without_outputs():
    source = inspect.getsource(SFTTrainer.prediction_step)
    assert "self.compute_loss(model, inputs, return_outputs=False)" in source
    assert "self.compute_loss_context_manager()" in source


def test_evaluations_and_predictions_go_through_the_same_loop_and_only_evaluations_are_logged():
    evaluate, predict = (inspect.getsource(getattr(transformers.Trainer, n)) for n in ("evaluate", "predict"))
    assert evaluate.count("self.evaluation_loop(") == predict.count("self.evaluation_loop(") == 1
    assert "self.log(" in evaluate
    assert "self.log(" not in predict


def test_training_hands_the_global_count_to_compute_loss_and_does_not_divide_again():
    source = inspect.getsource(transformers.Trainer.training_step)
    assert "num_items_in_batch=num_items_in_batch" in source
    assert "self.loss_is_scaled_for_ga is not None" in source
    assert transformers.Trainer.loss_is_scaled_for_ga is None
    assert "_get_num_items_in_batch(batch_samples, device)" in inspect.getsource(
        transformers.Trainer.get_batch_samples
    )


def test_the_attributes_of_a_trainer(tmp_path):
    run = trained(tmp_path, tiny_model("mixtral"), uneven_rows(tiny_model()), run=False)
    assert run._total_train_tokens == 0
    assert run.get_tp_size() == 1
    assert set(run._metrics) == {"train", "eval"}
    assert run.aux_loss_enabled in (True, False)
    assert isinstance(run.router_aux_loss_coef, float)
    assert run.padding_free is False
    assert run._is_vlm is False
    assert run._is_vision_dataset is False
    assert run._tokenizer is run.processing_class
    assert run.loss_is_scaled_for_ga is True
    assert callable(run.compute_loss_context_manager)
    assert run.is_world_process_zero()
    run.train()
    assert run.current_gradient_accumulation_steps == 1
    assert run._total_train_tokens > 0
    assert not run._metrics["train"]  # trl's own log has nothing to add to ours


def test_padding_free_follows_from_packing(tmp_path):
    run = trained(tmp_path, tiny_model(), uneven_rows(tiny_model()), run=False, packing=True, max_length=64)
    assert run.padding_free is True
    batch = run.data_collator([{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8], "seq_lengths": [3, 1]}])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100]]
    assert "attention_mask" not in batch


def test_a_new_trainer_sends_nothing(tmp_path, monkeypatch):
    """trl's constructor calls `_send_telemetry`, which ours leaves empty."""
    import ift

    assert "_send_telemetry()" in inspect.getsource(sft_trainer) + inspect.getsource(sft_trainer._BaseTrainer)
    called = []
    monkeypatch.setattr(SFTTrainer, "_send_telemetry", lambda self: called.append(True))
    trained(tmp_path, tiny_model(), uneven_rows(tiny_model()), run=False)
    assert not called
    assert ift.IFTTrainer._send_telemetry is not SFTTrainer._send_telemetry


def test_the_model_card_is_written_where_we_add_to_it(tmp_path):
    run = trained(
        tmp_path,
        tiny_model(),
        uneven_rows(tiny_model()),
        trainer_class=SFTTrainer,
        config_class=SFTConfig,
        run=False,
    )
    run.create_model_card()
    assert (tmp_path / "README.md").exists()


def test_the_modes_of_accelerates_unwrapping():
    from accelerate.utils import extract_model_from_parallel

    model = tiny_model()
    assert extract_model_from_parallel(model) is model


def test_a_peft_model_gives_its_base():
    from peft import LoraConfig, get_peft_model

    base = tiny_model()
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert model.get_base_model() is base
    assert next(iter(model.peft_config.values())).is_prompt_learning is False


@pytest.mark.parametrize("family", models.FAMILIES)
def test_every_family_has_a_backbone_a_head_and_an_input_embedding(family):
    model = tiny_model(family)
    assert model.base_model is not model
    output = model.base_model(input_ids=torch.ones(1, 3).long(), use_cache=False)
    assert output[0] is output.last_hidden_state
    assert output[0].shape == (1, 3, models.WIDTH)
    assert model.get_output_embeddings().weight.shape == (models.VOCABULARY, models.WIDTH)
    assert model.get_input_embeddings() in set(model.base_model.modules())
