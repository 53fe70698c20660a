"""Batched, seeded answers to prompts, stored as they are generated so that an interrupted run can be resumed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ift.data import end_of_turn_ids
from ift.files import numbered_lines
from ift.generation.decoding import Sampling, continue_prompts, padding_id, prompts_without_room
from ift.generation.errors import EvaluationError
from ift.generation.prompts import Prompt, prompt_ids
from ift.models.limits import known_positions, learned_positions
from ift.models.loading import CHAT_TEMPLATE
from ift.text import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How answers are generated.

    Attributes:
        max_new_tokens: Maximum length of an answer, per turn.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Nucleus sampling threshold.
        seed: Seed of the sampling.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Turn:
    """One answer: its text, whether it stopped with its end token, and its length in tokens."""

    text: str
    stopped: bool
    tokens: int


class AnswerStore:
    """Answers on disk, appended as JSON lines; an incomplete last line is ignored.

    Attributes:
        path: The file.
        fingerprint: Hash of model and settings; answers with another fingerprint are ignored.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        self._found: dict[tuple[str, int], Turn] = {}
        if path.exists():
            for _, line in numbered_lines(path):
                try:
                    one = json.loads(line)
                    if one["fingerprint"] == fingerprint:
                        self._found[one["key"], one["turn"]] = Turn(**one["answer"])
                except (ValueError, KeyError, TypeError):
                    continue

    def get(self, prompt: Prompt, turn: int) -> Turn | None:
        """The stored answer to a turn (from 0) of a prompt, or None."""
        return self._found.get((prompt.key, turn))

    def add(self, answers: Sequence[tuple[Prompt, int, Turn]]) -> None:
        """Appends answers and synchronises the file to the disk."""
        lines = []
        for prompt, turn, answer in answers:
            self._found[prompt.key, turn] = answer
            one = {
                "fingerprint": self.fingerprint, "key": prompt.key, "file_row": prompt.place.row, "turn": turn,
                "answer": asdict(answer),
            }  # fmt: skip
            lines.append(json.dumps(one, ensure_ascii=False) + "\n")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * cut_off + "".join(lines))
            file.flush()
            os.fsync(file.fileno())


def fingerprint(identity: str, template: str, settings: Settings) -> str:
    """A hash of what affects an answer besides the prompt: model, chat template (or "plain text"), settings."""
    return hashlib.sha256(json.dumps([identity, template, asdict(settings)]).encode()).hexdigest()


def answer_all(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    settings: Settings,
    store: AnswerStore,
    batch_size: int,
    progress: Callable[[int], None] = lambda count: None,
    style: str = CHAT_TEMPLATE,
) -> None:
    """Answers every turn of every prompt that is not in the store; all first turns come before the second ones.

    Prompts of similar length share a batch. After each batch its answers are added to the store, and `progress` is
    called with their number. `style` is how prompts are written, see `prompt_ids`.

    Raises:
        EvaluationError: The model's learned positions do not suffice for a prompt and its answer, or the tokenizer has
            no end token.
    """
    stops = end_of_turn_ids(tokenizer)
    if not stops:
        raise EvaluationError("the tokenizer has no token that ends a turn; set eos_token")
    pad = padding_id(tokenizer, stops, model)
    for turn in range(max(1 + len(one.further) for one in prompts)):
        missing = [one for one in prompts if turn <= len(one.further) and store.get(one, turn) is None]
        ids = [prompt_ids(tokenizer, conversation(one, turn, store), style, one.template) for one in missing]
        _check_context(model, missing, ids, settings.max_new_tokens)
        order = sorted(range(len(missing)), key=lambda place: len(ids[place]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            asked = [missing[place] for place in chosen]
            sampling = None
            if settings.temperature:
                keys = [f"{turn} {one.key}" for one in asked]
                sampling = Sampling(settings.seed, keys, settings.temperature, settings.top_p)
            found = continue_prompts(
                model,
                [ids[place] for place in chosen],
                stops,
                pad,
                batch_size=batch_size,
                max_new_tokens=settings.max_new_tokens,
                sampling=sampling,
            )
            texts = [tokenizer.decode(one.ids, skip_special_tokens=True).strip() for one in found]
            turns = [Turn(text, one.stopped, len(one.ids)) for text, one in zip(texts, found, strict=True)]
            store.add([(one, turn, answer) for one, answer in zip(asked, turns, strict=True)])
            progress(len(chosen))


def conversation(prompt: Prompt, turn: int, store: AnswerStore) -> list[dict[str, str]]:
    """The messages before the answer to a turn, including the model's earlier answers."""
    messages = list(prompt.messages)
    for number, text in enumerate(prompt.further[:turn]):
        given = store.get(prompt, number)
        assert given is not None  # nosec B101 # first turns are answered first
        messages += [{"role": "assistant", "content": given.text}, {"role": "user", "content": text}]
    return messages


def _check_context(model: Any, prompts: Sequence[Prompt], ids: Sequence[list[int]], new: int) -> None:
    """Refuses prompts without room for an answer; logs a warning of those whose answers may be unreliable.

    Raises:
        EvaluationError: The model has learned positions, and too few for some prompts with `new` tokens each.
    """
    if full := prompts_without_room(model, ids, new):
        longest = max(full, key=lambda at: len(ids[at]))
        raise EvaluationError(
            f"{counted(len(full), 'prompt leaves', 'prompts leave')} no room for {counted(new, 'new token')} in the "
            f"{learned_positions(model):,} positions that the model has learned, such as {prompts[longest].id} with "
            f"{counted(len(ids[longest]), 'token')}. Fix: a smaller --max_new_tokens, or leave those prompts out"
        )
    name, positions = known_positions(model.config) or ("", 0)
    beyond = [at for at, one in enumerate(ids) if len(one) + new > positions] if positions else []
    if beyond:
        longest = max(beyond, key=lambda at: len(ids[at]))
        logger.warning(
            "%s and up to %s are longer than the %s of the model (%s), such as %s with %s: what it writes beyond them "
            "is unreliable. Fix: a smaller --max_new_tokens, or leave those prompts out",
            counted(len(beyond), "prompt"), counted(new, "new token"), counted(positions, "position"), name,
            prompts[longest].id, counted(len(ids[longest]), "token"),
        )  # fmt: skip
