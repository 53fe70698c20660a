"""Answers of a model behind an OpenAI-compatible server, stored as those of a local model are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from ift.generation.answers import AnswerStore, Settings, Turn, conversation
from ift.generation.errors import EvaluationError
from ift.generation.prompts import Prompt
from ift.lab.interrupts import call_in_threads
from ift.lab.judge.endpoint import Endpoint
from ift.lab.judge.errors import QuestionRefused
from ift.lab.judge.replies import CUT, FILTERED, NO_CHOICE
from ift.text import counted, quoted

# not OPENAI_API_KEY: that key must not reach whatever server the command names
KEY_NAMES = ("IFT_ENDPOINT_API_KEY",)
TRIES = 3  # of a request whose reply has no choice


def open_endpoint(address: str, model: str, settings: Settings) -> Endpoint:
    """The server of a model; a temperature of 0 is greedy there too.

    Raises:
        JudgeError: An address or a key that cannot be used.
    """
    sampling: dict[str, float] = {"temperature": settings.temperature}
    if settings.temperature:
        sampling |= {"top_p": settings.top_p, "seed": settings.seed}
    return Endpoint(model, address=address, key_names=KEY_NAMES, sampling=sampling)


def answer_all_served(
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    settings: Settings,
    store: AnswerStore,
    threads: int,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Asks for every turn of every prompt that is not in the store; all first turns come before the second ones.

    The store receives each answer as it arrives, and `progress` is called with 1. At most `threads` requests are under
    way at once.

    Raises:
        EvaluationError: The server does not take a prompt, or its replies have no answer.
        JudgeError: It does not answer.
    """
    lock = threading.Lock()

    def ask(prompt: Prompt, turn: int) -> None:
        try:
            for _ in range(TRIES):
                reply = endpoint.ask(conversation(prompt, turn, store), settings.max_new_tokens)
                if reply.problem != NO_CHOICE:
                    break
            else:
                raise EvaluationError(
                    f"prompt {prompt.id} was not answered: {counted(TRIES, 'reply', 'replies')} {NO_CHOICE}. "
                    "Fix: repeat the command, which keeps the answers so far; if it happens again, see the server's log"
                )
        except QuestionRefused as error:
            raise EvaluationError(
                f"prompt {prompt.id} was not answered: {quoted(error)}. Fix: a smaller --max_new_tokens, or leave it "
                "out"
            ) from error
        stopped = reply.problem not in (CUT, FILTERED)
        with lock:
            store.add([(prompt, turn, Turn(reply.text.strip(), stopped, reply.completion_tokens))])
            progress(1)

    for turn in range(max(1 + len(one.further) for one in prompts)):
        missing = [one for one in prompts if turn <= len(one.further) and store.get(one, turn) is None]
        calls = [partial(ask, one, turn) for one in missing]
        call_in_threads(calls, threads, lambda answer: None, endpoint.stop)
