"""Runs trl's own tests of its SFTTrainer with IFTTrainer in its place, set to SFT.

    python tests/peers/trl_sft.py PATH_OF_A_TRL_CHECKOUT

The tests run twice, with trl's trainer and with ours, on tiny models and rows made here under the names that the
tests ask for (nothing is downloaded). A test counts if it passes with trl's own trainer here. Then ours must pass too,
or be a refusal that docs/differences.md names (`REFUSED`); and where both train, the weights must be equal, but for the
tests in `OTHER_LABELS`. Prints one line for each difference; exit status 1 if one of them is not explained.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-5  # largest difference of a weight over the largest weight of its tensor

MODELS = {  # name on the Hub -> family of tests/models.py, and what is changed
    "tiny-Qwen2ForCausalLM-2.5": ("qwen2", {}),
    "tiny-Qwen3ForCausalLM": ("qwen3", {}),
    "tiny-Qwen3MoeForCausalLM": ("qwen3_moe", {"output_router_logits": True}),
    "tiny-MistralForCausalLM-0.1": ("mistral", {}),
    "tiny-MistralForCausalLM-0.2": ("mistral", {}),
    "tiny-LlamaForCausalLM-3": ("llama", {}),
    "tiny-LlamaForCausalLM-3.1": ("llama", {}),
    "tiny-LlamaForCausalLM-3.2": ("llama", {}),
    "tiny-GemmaForCausalLM": ("gemma", {}),
    "tiny-Gemma2ForCausalLM": ("gemma2", {}),
    "tiny-CohereForCausalLM": ("cohere", {}),
    "tiny-Cohere2ForCausalLM": ("cohere2", {}),
    "tiny-Phi3ForCausalLM": ("phi3", {}),
    "tiny-Olmo3ForCausalLM": ("olmo3", {}),
    "tiny-GPTNeoXForCausalLM": ("gpt_neox", {}),
    "tiny-GptOssForCausalLM": ("gpt_oss", {}),
    "tiny-DeepseekV3ForCausalLM": ("deepseek_v3", {}),
    "tiny-DeepseekV3ForCausalLM-0528": ("deepseek_v3", {}),
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
REFUSED = {  # pattern of a test's name -> the difference of docs/differences.md
    "test_dataset_with_transform_requires_skip_prepare_dataset": "D30",
    "test_init_with_training_arguments": "D27",
    "*prompt_tuning*": "D28",
    "test_tag_added*": "D31",
    "test_train_dft_loss": "D19",
    "test_train_model_dtype": "D29",  # in float16
    "test_train_packing?wrapped?": "D19",
    "test_train_with_compute_metrics": "D19",
}
OTHER_LABELS = {  # the same for stored weights that differ: the rows are conversations
    "test-train-completion-only.*": "D21",
    "test-train-dataset-format-conversational-prompt-completion-.*": "D21",
    "test-train-dataset-format-conversational-language-modeling-.*": "D12",
    "test-train-with-chat-template-kwargs.*": "D12",
    "test-train-with-non-chatml-conversational-data.*": "D12",
}


@dataclass
class Outcome:
    """Of one run: what each test did, and its message."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def make_hub_cache(folder: Path) -> None:
    """Writes the models to a Hub cache, so that their names lead to them offline."""
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "data")]
    from small_tokenizers import small_tokenizer

    from models import tiny_model

    tokenizer = small_tokenizer(TEMPLATE, eos="<|im_end|>")
    for name, (family, changes) in MODELS.items():
        cache = folder / f"models--trl-internal-testing--{name}"
        snapshot = cache / "snapshots" / "local"
        (cache / "refs").mkdir(parents=True)
        (cache / "refs" / "main").write_text("local")
        model = tiny_model(family, vocab_size=len(tokenizer), max_position_embeddings=512, **changes)
        model.save_pretrained(snapshot)
        tokenizer.save_pretrained(snapshot)


def run(checkout: Path, trainer: str, folder: Path) -> Outcome:
    """Runs the tests with one of the trainers."""
    weights, report = folder / trainer, folder / f"{trainer}.xml"
    weights.mkdir()
    environment = os.environ | {
        "PEERS_TRAINER": trainer,
        "PEERS_WEIGHTS": str(weights),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "trl_sft_plugin", "-p", "no:cacheprovider", "-W", "ignore",
        "--junit-xml", str(report), "-o", "addopts=", "tests/test_sft_trainer.py", "-k", "TestSFTTrainer",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if not report.exists() or done.returncode not in (0, 1):  # 1: some tests failed
        sys.exit(f"pytest did not run in {checkout}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    outcome = Outcome()
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        problem = next((one for one in case if one.tag in ("failure", "error", "skipped")), None)
        if problem is None:
            outcome.passed.add(name)
        else:
            kept = outcome.skipped if problem.tag == "skipped" else outcome.failed
            kept[name] = (problem.get("message") or "").strip().replace("\n", " ")
    return outcome


def largest_gap(ours: Path, theirs: Path) -> float:
    """Largest difference of two stored models' weights, relative to the largest weight of each tensor."""
    left, right = torch.load(ours), torch.load(theirs)
    if left.keys() != right.keys():
        return float("inf")
    gaps = (
        (left[key].double() - right[key].double()).abs().max()
        / right[key].double().abs().max().clamp_min(1e-12)
        for key in left
        if left[key].is_floating_point()
    )
    return max((one.item() for one in gaps), default=0.0)


def explained(name: str, table: dict[str, str]) -> str:
    """The difference that explains a test's outcome; empty if none does."""
    return next((number for pattern, number in table.items() if fnmatch.fnmatchcase(name, pattern)), "")


def main() -> int:
    """Runs, compares, prints."""
    if len(sys.argv) != 2 or not Path(sys.argv[1], "tests/test_sft_trainer.py").is_file():
        print(__doc__)
        return 2
    checkout = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_hub_cache(folder / "hub")
        theirs, ours = (run(checkout, trainer, folder) for trainer in ("trl", "ift"))
        unexplained = 0
        for test in sorted(theirs.passed - ours.passed):
            number = explained(test, REFUSED)
            unexplained += not number
            message = ours.failed.get(test) or ours.skipped.get(test, "")
            print(f"{number or 'UNEXPLAINED'} {test}: {message[:300]}")
        equal = 0
        for file in sorted((folder / "ift").iterdir()):
            other = folder / "trl" / file.name
            if other.exists():
                gap = largest_gap(file, other)
                equal += gap <= TOLERANCE
                if gap > TOLERANCE:
                    number = explained(file.name, OTHER_LABELS)
                    unexplained += not number
                    print(f"{number or 'UNEXPLAINED'} {file.name}: weights differ by {gap:.1e}")
        both = theirs.passed & ours.passed
        print(
            f"{len(theirs.passed)} tests pass with trl's trainer here ({len(theirs.failed)} fail, "
            f"{len(theirs.skipped)} are skipped: other models, rows or devices); {len(both)} of them pass with "
            f"IFTTrainer; {equal} trainings end with equal weights; {unexplained} differences are not explained"
        )
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
