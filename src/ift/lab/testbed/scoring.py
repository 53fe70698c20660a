"""Exact match: answers, greedy or sampled, compared by what is after `####`, and where a solution goes wrong."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ift.generation.decoding import continue_prompts
from ift.generation.final_answer import FinalAnswer
from ift.lab.report.intervals import wilson_interval
from ift.lab.scores import Answer, exact_match, score_answers
from ift.lab.testbed.families import AnyProblem
from ift.lab.testbed.problems import Message

# narrower than "####" of `FinalAnswer`: one number or word alone, as solutions have it; `#### 7 pens` is no answer
_EXACT_MATCH = exact_match(FinalAnswer(r"(?m)^####[ \t]*(-?\d+|[A-Za-z]+)[ \t]*$", cased=True))
_SWAPPABLE = re.compile(r"(\d+)([+*])(\d+)=(.*)")


@dataclass(frozen=True)
class Score:
    """The value of a model's greedy answers."""

    n: int  # problems scored
    exact_match: float  # share of answers whose final number or word is right, in 0..1
    interval: tuple[float, float]  # 95 % Wilson interval of `exact_match`, (low, high)
    stopped: float  # share of answers that stop with their end token inside the limit, in 0..1
    mean_length: float  # mean answer length in tokens, the end token not counted
    answers: list[str]  # the answers' text, in the order of the problems
    right: list[bool]  # whether each answer's final number or word is right
    stops: list[bool]  # whether each answer stops with its end token inside the limit
    lengths: list[int]  # tokens of each answer, the end token not counted

    def summary(self) -> dict[str, Any]:
        """All fields but those of single answers, as plain JSON values."""
        fields = asdict(self) | {"interval": list(self.interval)}
        for name in ("answers", "right", "stops", "lengths"):
            del fields[name]
        return fields


def right_answers(problems: Sequence[AnyProblem], answers: Sequence[str]) -> list[bool]:
    """Whether the final number or word of each answer is that of its problem's solution; not what comes before."""
    pairs = zip(problems, answers, strict=True)
    asked = [Answer(str(n), one.question, text, one.solution) for n, (one, text) in enumerate(pairs, start=1)]
    return [row[_EXACT_MATCH.name] == 1 for row in score_answers([_EXACT_MATCH], asked).rows]


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[AnyProblem],
    batch_size: int = 64,
    max_new_tokens: int = 96,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """Scores greedy answers to problems, at least one, by exact match of the final number or word.

    Prompts of like length share a batch. An answer longer than `max_new_tokens` is cut and counts as not stopped.
    `progress` is called after each batch with the number of problems in it. The model's train/eval mode and the
    tokenizer's padding side are left as they were.

    Raises:
        ValueError: If there are no problems, or the tokenizer has no pad or eos token.
    """
    if not problems:
        raise ValueError("there are no problems to score")
    answers, lengths, stops = generate_answers(
        model, tokenizer, [p.messages[:1] for p in problems], batch_size, max_new_tokens, progress
    )
    rights, n = right_answers(problems, answers), len(problems)
    right = sum(rights)
    shares = right / n, wilson_interval(right, n), sum(stops) / n, sum(lengths) / n
    return Score(n, *shares, answers, rights, stops, lengths)


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    batch_size: int = 64,
    max_new_tokens: int = 96,
    progress: Callable[[int], None] | None = None,
    sampling_seed: int | None = None,
) -> tuple[list[str], list[int], list[bool]]:
    """Decodes an answer to each prompt (a conversation that ends with a user turn); arguments as for `score`.

    Without `sampling_seed` decoding is greedy; a seed samples at temperature 1, the same answers for the same seed,
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


def first_wrong_step(problem: AnyProblem, text: str) -> int | None:
    """The index, from 0, of the first wrong line of a written solution; None if all is right.

    A line is right if it is the line of the problem's own solution at its place; spaces at its ends, and the order of
    the two numbers of a sum or a product, do not count. `len(problem.steps)` is the closing `####` line, one more is a
    line too many; a missing line is wrong.
    """
    written = text.rstrip().split("\n")
    for index, right in enumerate(problem.lines):
        if index >= len(written) or _plain(written[index]) != _plain(right):
            return index
    return len(problem.lines) if len(written) > len(problem.lines) else None


def _plain(line: str) -> str:
    """The line without spaces at its ends, the operands of a sum or a product in one order."""
    line = line.strip()
    if found := _SWAPPABLE.fullmatch(line):
        first, second = sorted((found[1], found[3]))
        return f"{first}{found[2]}{second}={found[4]}"
    return line
