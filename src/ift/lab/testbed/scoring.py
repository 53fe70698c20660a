"""Exact-match scoring: answers, greedy or sampled, decoded in batches, compared by what stands after `####`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ift.generation.decoding import continue_prompts
from ift.lab.report.intervals import wilson_interval
from ift.lab.testbed.families import AnyProblem
from ift.lab.testbed.problems import Message

_FINAL = re.compile(r"^####[ \t]*(-?\d+|[A-Za-z]+)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Score:
    """What a model's greedy answers are worth.

    Attributes:
        n: Problems scored.
        exact_match: Share of answers whose final number or word is right, in 0..1.
        interval: 95 % Wilson interval of `exact_match`, (low, high).
        stopped: Share of answers that end by themselves (with eos, inside the token limit), in 0..1.
        mean_length: Mean answer length in tokens, the end token not counted.
        answers: The answers' text, in the order of the problems.
    """

    n: int
    exact_match: float
    interval: tuple[float, float]
    stopped: float
    mean_length: float
    answers: list[str]

    def summary(self) -> dict[str, Any]:
        """All fields but the answers, as plain JSON values."""
        fields = asdict(self) | {"interval": list(self.interval)}
        del fields["answers"]
        return fields


def final_answer(text: str) -> str | None:
    """The number or word on the last `#### N` line of a text.

    Args:
        text: A solution.

    Returns:
        A number in its shortest decimal form (`007` gives `7`), a word as it is, or None where no
        such line stands.
    """
    found = _FINAL.findall(text)
    if not found:
        return None
    return found[-1] if found[-1].isalpha() else str(int(found[-1]))


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[AnyProblem],
    batch_size: int = 64,
    max_new_tokens: int = 96,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """Scores greedy answers by exact match of the final number or word.

    Args:
        model: A causal language model; its train/eval mode is left as it was.
        tokenizer: Its tokenizer, with chat template, pad and eos; its padding side is left as it was.
        problems: At least one, of either family.
        batch_size: Prompts decoded together; prompts of like length share a batch.
        max_new_tokens: Longest answer in tokens; a longer one is cut and counts as not stopped.
        progress: Called after each batch with the number of problems in it.

    Returns:
        The score.

    Raises:
        ValueError: If there are no problems, or the tokenizer has no pad or eos token.
    """
    if not problems:
        raise ValueError("there are no problems to score")
    answers, lengths, stops = generate_answers(
        model, tokenizer, [p.messages[:1] for p in problems], batch_size, max_new_tokens, progress
    )
    right = sum(final_answer(a) == p.answer for a, p in zip(answers, problems, strict=True))
    n = len(problems)
    return Score(n, right / n, wilson_interval(right, n), sum(stops) / n, sum(lengths) / n, answers)


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    batch_size: int = 64,
    max_new_tokens: int = 96,
    progress: Callable[[int], None] | None = None,
    sampling_seed: int | None = None,
) -> tuple[list[str], list[int], list[bool]]:
    """Decodes an answer to each prompt; arguments as for `score`.

    Args:
        model: See `score`.
        tokenizer: See `score`.
        prompts: Conversations that end with a user turn.
        batch_size: See `score`.
        max_new_tokens: See `score`.
        progress: See `score`.
        sampling_seed: None decodes greedily; a seed samples at temperature 1, the same answers for the same seed,
            prompts and batch size. The state of torch's generators is left as it was.

    Returns:
        Per prompt, in the given order: the answer, its length in tokens without eos, whether it ended with eos.

    Raises:
        ValueError: If the tokenizer has no pad or eos token.
    """
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError("scoring needs a tokenizer with a pad token and an eos token")
    texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
    found = continue_prompts(
        model,
        tokenizer(texts, add_special_tokens=False)["input_ids"],
        {tokenizer.eos_token_id},
        tokenizer.pad_token_id,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        progress=progress,
        sampling_seed=sampling_seed,
    )
    answers = [tokenizer.decode(one.ids, skip_special_tokens=True) for one in found]
    return answers, [len(one.ids) for one in found], [one.stopped for one in found]
