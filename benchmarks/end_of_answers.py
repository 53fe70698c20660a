"""Do a model's answers end? SmolLM2-135M-Instruct on E2E: the record of a trained model (docs/method.md).

1. `experiments/e2e/make_rows.py` makes the rows: train.jsonl and test.jsonl.
2. `ift train --model_name_or_path SMOLLM2 --dataset_name train.jsonl --learning_rate 1e-4 --num_train_epochs 1
   --logging_steps 1 --output_dir RUN`, with `--method sft`, with `--propagation_detach none`, and with neither.
3. `python benchmarks/end_of_answers.py RUN test.jsonl --name ift --trained_with "..." --output FILE.jsonl` adds a line:
   how many greedy answers end, BLEU (sacrebleu, all references), the loss on the first reference, and the curve of
   eos_nll.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ift.files import numbered_lines

LIMIT = 80  # tokens of an answer; the longest of the held-out first references has 48


def score(folder: Path, held_out: Path) -> dict[str, Any]:
    """Greedy answers of the model in `folder` to the held-out inputs, and its likelihood of their first references."""
    import sacrebleu
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ift.data import end_of_turn_ids
    from ift.generation.decoding import continue_prompts

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = [json.loads(line) for _, line in numbered_lines(held_out)]
    prompts = [
        tokenizer.apply_chat_template(one["prompt"], add_generation_prompt=True, return_dict=False)
        for one in rows
    ]
    stops = end_of_turn_ids(tokenizer)
    found = continue_prompts(
        model, prompts, stops, tokenizer.pad_token_id, batch_size=24, max_new_tokens=LIMIT
    )
    answers = [tokenizer.decode(one.ids, skip_special_tokens=True).strip() for one in found]
    most = max(len(one["references"]) for one in rows)
    references = [
        [one["references"][n] if n < len(one["references"]) else None for one in rows] for n in range(most)
    ]
    losses, ends = likelihood(model, tokenizer, prompts, [one["references"][0] for one in rows])
    return {
        "n": len(rows),
        "ended": sum(one.stopped for one in found),
        "bleu": sacrebleu.corpus_bleu(answers, references).score,
        "loss": sum(losses) / len(losses),
        "eos_nll": sum(ends) / len(ends),
        "mean_tokens": sum(len(one.ids) for one in found) / len(found),
        "limit": LIMIT,
    }


@torch.no_grad()
def likelihood(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], references: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Negative log-likelihood (nats) of every token of the references with their end, and of the ends alone."""
    losses: list[float] = []
    ends: list[float] = []
    for prompt, reference in zip(prompts, references, strict=True):
        answer = [*tokenizer(reference, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        found = -logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        losses += found.tolist()
        ends.append(found[-1].item())
    return losses, ends


def curve(folder: Path) -> dict[str, list[float]]:
    """`eos_nll` of every logged step, and `end_nll` with its steps where the run measured it."""
    lines = [json.loads(line) for _, line in numbered_lines(folder / "metrics.jsonl")]
    logged = [line for line in lines if "eos_nll" in line]
    measured = [line for line in lines if "end_nll" in line]
    return {
        "step": [line["step"] for line in logged],
        "eos_nll": [round(line["eos_nll"], 4) for line in logged],
        "grad_norm": [round(line["grad_norm"], 3) for line in logged],
        "measured_at": [line["step"] for line in measured],
        "end_nll": [round(line["end_nll"], 4) for line in measured],
    }


def main() -> None:
    """Score a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="Output folder of ift train.")
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--name", required=True, help="sft, ift, ift as released, ...")
    parser.add_argument("--trained_with", required=True, help="The words of ift train, and the commit.")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; one is added.")
    args = parser.parse_args()
    from ift.lab.report.provenance import provenance

    record = {
        "name": args.name,
        "trained_with": args.trained_with,
        "seed": 42,
        "scores": score(args.run, args.held_out),
        "curve": curve(args.run),
        **asdict(provenance()),
    }
    with args.output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record["scores"]))


if __name__ == "__main__":
    main()
