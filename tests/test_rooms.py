"""The rooms of the package: what may be imported without what; how old import paths are answered."""

import ast
import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ift.labels
import ift.step


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_label_of_untrained_tokens_is_written_once():
    """Red when: code compares labels with a number of its own."""
    root = Path(ift.__file__).parent
    written = [
        str(file.relative_to(root))
        for file in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant) and node.operand.value == 100
    ]  # fmt: skip
    assert written == ["labels.py"]
    assert ift.step.IGNORED == ift.labels.IGNORED == -100


def test_the_method_loads_no_trainer():
    loaded = in_a_new_process(
        "import sys, ift.step; print([name for name in ('trl', 'peft', 'datasets') if name in sys.modules],"
        "[name for name in sys.modules if name.startswith('transformers.models.') and '.modeling_' in name])"
    )
    assert loaded == "[] []"


WITHOUT_A_TRAINER = """
import sys
for name in ("trl", "peft", "datasets"):
    sys.modules[name] = None  # whoever imports it gets an ImportError, and find_spec finds nothing
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from ift.step import ift_loss
torch.manual_seed(0)
sizes = dict(vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2)
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
ids = torch.randint(3, 61, (2, 12))
batch = {"input_ids": ids, "labels": ids.masked_fill(torch.arange(12) < 4, -100)}
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
for step in range(3):
    loss = ift_loss(model, batch, step=step).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
for name in ("trl", "peft", "datasets"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
print(*losses)
"""


def test_a_plain_loop_trains_where_no_trainer_is_installed():
    """Three steps of AdamW with `ift_loss` on a Llama made from its configuration: each loss is below the last."""
    first, second, third = map(float, in_a_new_process(WITHOUT_A_TRAINER).split())
    assert first > second > third > 0


@pytest.mark.parametrize(
    ("old", "names", "new"),
    [
        ("ift.testbed", ("problems", "tiny_base_path", "settings"), "ift.lab.testbed"),
        ("ift.testbed.problems", ("Problem",), "ift.lab.testbed.problems"),
        ("ift.report", ("RunRecord", "load"), "ift.lab.report"),
        ("ift.report.provenance", ("provenance",), "ift.lab.report.provenance"),
        ("ift.baselines", ("METHODS", "parse_methods"), "ift.methods"),
        ("ift.baselines", ("train_method", "TrainResult"), "ift.runs"),
        ("ift.baselines.controls", ("ControlSettings",), "ift.methods.controls"),
        ("ift.functional", ("propagation_weights", "temporal_residual"), "ift.step.equations"),
        ("ift.functional", ("RowLayout", "row_layout"), "ift.step.rows"),
        ("ift.functional", ("noisy_lambda",), "ift.training.lambda_schedule"),
        ("ift.loss", ("ift_loss", "IFTLoss"), "ift.step"),
        ("ift.config", ("IFTConfig",), "ift.training.config"),
        ("ift.trainer", ("IFTTrainer",), "ift.training.trainer"),
    ],
)
def test_old_import_paths_lead_to_the_same_things(old, names, new):
    found, home = importlib.import_module(old), importlib.import_module(new)
    assert all(getattr(found, name) is getattr(home, name) for name in names)


def test_an_old_path_in_either_order_of_imports():
    """A submodule of an old package does not hide the function that has its name; nothing is loaded twice."""
    said = in_a_new_process(
        "import ift.testbed.problems\n"
        "from ift.testbed import problems\n"
        "from ift.lab.testbed import problems as now\n"
        "print(problems is now and callable(now))"
    )
    assert said == "True"


def test_what_is_no_more_is_answered_in_one_line():
    with pytest.raises(ModuleNotFoundError, match=r"ift\.lab\.testbed\.make_base"):
        importlib.import_module("ift.testbed.make_base")
    with pytest.raises(ImportError, match=r"ift\.lab\.report\.nothing"):
        from ift.report import nothing  # noqa: F401
    with pytest.raises(AttributeError, match=r"ift\.baselines is now ift\.methods and ift\.runs"):
        importlib.import_module("ift.baselines").nothing  # noqa: B018


def test_settings_that_an_earlier_version_pickled_are_read():
    """transformers writes them beside a model as training_args.bin."""
    old = b"cift.config\nIFTConfig\n."
    from ift import IFTConfig

    assert pickle.loads(old) is IFTConfig


def test_train_method_is_exported():
    import ift
    from ift import runs
    from ift.runs.from_python import train_method

    assert ift.train_method is runs.train_method is train_method
