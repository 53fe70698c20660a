"""The files of examples/ run as they are; those for Axolotl and LLaMA-Factory against stand-ins for their interfaces.

The two share ift_loss_mixin.
"""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
import transformers

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def test_the_plain_loop_lowers_the_loss(capsys):
    import plain_loop

    losses = plain_loop.main(steps=4)
    assert losses[-1] < losses[0]
    assert "step 4/4" in capsys.readouterr().out


@pytest.fixture
def rows(tmp_path):
    from ift.lab.testbed import problems

    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(problem.row) + "\n" for problem in problems("train", 8)))
    return file


@pytest.mark.slow
def test_the_script_in_trl_s_manner_trains_and_saves(rows, tmp_path):
    import trl_script

    from ift.lab.testbed import tiny_base_path

    words = [
        "--model_name_or_path",
        str(tiny_base_path()),
        "--dataset_name",
        str(rows),
        "--report_to",
        "none",
    ]
    words += ["--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--residual_lambda", "0.3"]
    trainer = trl_script.main(words)
    assert trainer.args.residual_lambda == 0.3
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_lightning_trains():
    pytest.importorskip("lightning")
    import lightning_module

    trainer = lightning_module.main(steps=2)
    assert trainer.global_step == 2
    assert float(trainer.callback_metrics["nll"]) > 0


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_one_after_the_other(capsys):
    """As a script: a kernel would add nothing but its installation."""
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text())
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile(cell["source"], "quickstart.ipynb", "exec"), names)
    said = capsys.readouterr().out
    assert "look-ahead wrong" in said
    assert "####" in said


@pytest.fixture
def axolotl(monkeypatch):
    """What Axolotl publishes to plugins: BasePlugin, and a trainer that is transformers' with more settings."""

    class BasePlugin:
        def get_input_args(self):
            return None

        def get_trainer_cls(self, cfg):
            return None

    class AxolotlTrainer(transformers.Trainer):
        def __init__(self, *args, bench_data_collator=None, dataset_tags=None, **kwargs):
            super().__init__(*args, **kwargs)
            self.model_accepts_loss_kwargs = (
                False  # as Axolotl 0.19 decides, which then averages micro-batches
            )

    for name, held in {
        "axolotl": {}, "axolotl.integrations": {}, "axolotl.integrations.base": {"BasePlugin": BasePlugin},
        "axolotl.core": {}, "axolotl.core.trainers": {},
        "axolotl.core.trainers.base": {"AxolotlTrainer": AxolotlTrainer},
    }.items():  # fmt: skip
        module = types.ModuleType(name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "axolotl_plugin", raising=False)
    import axolotl_plugin

    return axolotl_plugin, AxolotlTrainer


def check_loss(make_trainer, tmp_path):
    """Two rows in one batch, and one after the other, accumulated: one gradient, that of `ift_loss` over all tokens."""
    from ift.step import ift_loss
    from models import dataset_of, likely_rows, masked_labels, tiny_model

    model = tiny_model()
    rows = likely_rows(model, [12, 12])
    labels = masked_labels(rows, [4, 7])
    batch = {"input_ids": torch.stack(list(rows)), "labels": torch.stack(list(labels))}
    wanted = ift_loss(tiny_model(), batch, residual_lambda=0.4, loss_reduction="token").loss
    for size in (2, 1):
        args = transformers.Seq2SeqTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=size, gradient_accumulation_steps=2 // size,
            max_steps=1, report_to="none", use_cpu=True, save_strategy="no", logging_steps=1, disable_tqdm=True,
        )  # fmt: skip
        trainer = make_trainer(
            model=tiny_model(),
            args=args,
            train_dataset=dataset_of(rows, labels),
            data_collator=transformers.default_data_collator,
        )
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(float(wanted.detach()), rel=1e-4)


def test_axolotl_s_plugin_gives_its_trainer_the_loss(axolotl, tmp_path):
    plugin, base = axolotl
    module, _, name = plugin.IFTPlugin().get_input_args().rpartition(".")
    assert getattr(sys.modules[module], name)(ift={"residual_lambda": 0.4}).ift == {"residual_lambda": 0.4}
    kind = plugin.IFTPlugin().get_trainer_cls(types.SimpleNamespace(ift={"residual_lambda": 0.4}))
    assert issubclass(kind, base)
    check_loss(lambda **given: kind(dataset_tags=[], **given), tmp_path)


@pytest.fixture
def llama_factory(monkeypatch):
    """What LLaMA-Factory's `train` reads: the trainer by its name in `sft.workflow`, `run_sft`, and `tuner.run_exp`."""

    class CustomSeq2SeqTrainer(transformers.Seq2SeqTrainer):
        def __init__(self, finetuning_args, processor, model_args=None, gen_kwargs=None, **kwargs):
            kwargs["processing_class"] = kwargs.pop("tokenizer")
            super().__init__(**kwargs)
            self.finetuning_args = finetuning_args

        def compute_loss(self, model, inputs, *args, **kwargs):
            return super().compute_loss(model, inputs, *args, **kwargs)

    names = ("llamafactory", "llamafactory.train", "llamafactory.train.sft")
    modules = {name: types.ModuleType(name) for name in (*names, f"{names[2]}.workflow", f"{names[1]}.tuner")}
    workflow, tuner = modules[f"{names[2]}.workflow"], modules[f"{names[1]}.tuner"]
    workflow.CustomSeq2SeqTrainer = CustomSeq2SeqTrainer
    exec("def run_sft(**given): return CustomSeq2SeqTrainer(**given)", vars(workflow))  # by the module's name
    modules[names[2]].workflow, modules[names[1]].tuner = workflow, tuner
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "llama_factory_train", raising=False)
    import llama_factory_train

    return llama_factory_train, workflow, tuner, CustomSeq2SeqTrainer


def test_llama_factory_s_run_uses_the_loss(llama_factory, tmp_path, monkeypatch):
    example, workflow, tuner, base = llama_factory
    given = {"finetuning_args": object(), "processor": None, "tokenizer": None}

    def run_exp(args=None, callbacks=None):
        check_loss(lambda **more: workflow.run_sft(**given, **more), tmp_path)

    tuner.run_exp = run_exp
    monkeypatch.setitem(example.SETTINGS, "residual_lambda", 0.4)
    example.main()
    assert issubclass(workflow.CustomSeq2SeqTrainer, base)
    assert workflow.CustomSeq2SeqTrainer is not base


def test_every_example_is_on_the_page_and_has_a_test():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    for file in EXAMPLES.iterdir():
        if file.suffix in (".py", ".ipynb"):
            assert f"examples/{file.name}" in page
            assert file.stem in Path(__file__).read_text()
