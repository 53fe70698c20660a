"""A training loop in plain PyTorch: no trl, no Trainer, `ift_loss` alone.

    python examples/plain_loop.py

It trains the tiny base model that is shipped with ift on its own word problems, on a CPU, in seconds. For a model of
your own replace `MODEL` and `rows`. Imported are torch, transformers and `ift.step`; `ift.lab` gives the rows.
"""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.lab.testbed import problems, tiny_base_path
from ift.step import ift_loss

MODEL = str(tiny_base_path())


def encode(tokenizer, messages):
    """Token ids, and labels that are -100 for everything before the answer."""
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert whole[: len(prompt)] == prompt, "this chat template renders a prompt differently beside its answer"
    return whole, [-100] * len(prompt) + whole[len(prompt) :]


def collate(examples, padding_id):
    """A right-padded batch."""
    longest = max(len(ids) for ids, _ in examples)
    padded = [(ids + [padding_id] * (longest - len(ids)), labels + [-100] * (longest - len(ids)), len(ids))
              for ids, labels in examples]  # fmt: skip
    return {
        "input_ids": torch.tensor([ids for ids, _, _ in padded]),
        "labels": torch.tensor([labels for _, labels, _ in padded]),
        "attention_mask": torch.tensor([[1] * size + [0] * (longest - size) for _, _, size in padded]),
    }


def main(steps: int = 8, batch_size: int = 8) -> list[float]:
    """Trains, and returns the loss of each step."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).train()
    examples = [
        encode(tokenizer, problem.row["messages"]) for problem in problems("train", steps * batch_size)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    losses = []
    for step in range(steps):
        batch = collate(examples[step * batch_size : (step + 1) * batch_size], tokenizer.pad_token_id)
        loss = ift_loss(model, batch, residual_lambda=0.2, propagation_gamma=0.95, step=step).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(f"step {step + 1}/{steps}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()
