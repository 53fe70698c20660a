"""Where the trained turns of a rendered conversation begin and end.

They are found by rendering prefixes of the conversation and comparing them with the whole, never from markers in the
template; a turn whose boundaries cannot be verified is refused. Legend: `full` is the rendered conversation, a span is
a half-open range of its characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ift.data.errors import DataError, RowFault
from ift.data.templates import Render, TemplateRefusal
from ift.data.turns import Message


@dataclass(frozen=True)
class Span:
    """The characters of one assistant turn.

    Attributes:
        turn: Index of the turn.
        start: Where the prompt ends and the answer begins.
        written: Where the answer ends and the text that closes the turn begins.
        end: Where that text ends.
    """

    turn: int
    start: int
    written: int
    end: int


def find_spans(
    render: Render,
    messages: Sequence[Message],
    full: str,
    endings: tuple[str, ...],
    number: int,
    turns: Sequence[int],
) -> list[Span]:
    """Finds the characters of the assistant turns with the given indices.

    A span starts where `render(earlier messages, prompt=True)` ends, and ends after the token that ends the turn, one
    of `endings`.

    Raises:
        DataError: The template writes an earlier turn differently when later ones follow, so that the turn would be
            trained after another context than it is generated from.
    """
    spans: list[Span] = []
    for index in turns:
        start = _turn_start(render, messages, index, full, number)
        bound, exact = _turn_bound(render, messages, index, full, number)
        if bound < start or (spans and start < spans[-1].end):
            raise _unverified(number, index, "it does not follow the previous turn")
        places = [(full.rfind(ending, start, bound), ending) for ending in endings]
        found = [(place + len(ending), place) for place, ending in places if place >= 0]
        if not found and not exact:
            raise _unverified(
                number, index, f"it does not end with {' or '.join(endings) or 'a known token'}"
            )
        end, written = max(found) if found else (start + len(full[start:bound].rstrip()), bound)
        if not full[start:written].strip() and _has_words(messages[index]):
            raise _unverified(number, index, "the template does not render its content")
        spans.append(Span(index, start, written, end))
    return spans


def _has_words(message: Message) -> bool:
    """Whether a turn has content besides its thoughts, which templates may omit."""
    return bool(message["content"].rpartition("</think>")[2].strip())


def _turn_start(render: Render, messages: Sequence[Message], index: int, full: str, number: int) -> int:
    try:
        prompt = render(messages[:index], prompt=True)
    except TemplateRefusal:
        if index:
            raise
        return _content_start(
            render, messages, 0, full, number
        )  # the template refuses an empty list of turns
    if full.startswith(prompt):
        return len(prompt)
    # The generation prompt may differ from how a finished turn is rendered (by an empty think block, for example). That
    # is fine as long as everything before the generation prompt is the same.
    shared = common_prefix_length(prompt, full)
    before = common_prefix_length(prompt, render(messages[:index])) if index else 0
    if shared < before or before == len(prompt):
        raise _rewritten(number, index, prompt, full, shared)
    return min(shared, _content_start(render, messages, index, full, number))


def _turn_bound(
    render: Render, messages: Sequence[Message], index: int, full: str, number: int
) -> tuple[int, bool]:
    """A position between the turn and the content of the next one, and whether it is exactly the turn's end."""
    if index == len(messages) - 1:
        return len(full), True
    try:
        upto = render(messages[: index + 1])
    except TemplateRefusal:
        upto = None
    if upto is not None and full.startswith(upto):
        return len(upto), True
    return _content_start(render, messages, index + 1, full, number), False


def _content_start(render: Render, messages: Sequence[Message], index: int, full: str, number: int) -> int:
    """Where a turn's content begins in `full`: renderings with two other contents differ from that position on."""
    replaced = []
    for content in ("A", "B"):
        turn = {**messages[index], "content": content}
        replaced.append(render([*messages[:index], turn, *messages[index + 1 :]]))
    if replaced[0] == replaced[1]:
        raise _unverified(number, index, "the template does not render its content")
    return common_prefix_length(full, *replaced)


def common_prefix_length(first: Sequence[Any], *others: Sequence[Any]) -> int:
    """Length of the common prefix of sequences (token ids or characters)."""
    length = 0
    for items in zip(first, *others, strict=False):
        if any(item != items[0] for item in items):
            break
        length += 1
    return length


def _rewritten(number: int, index: int, prompt: str, full: str, shared: int) -> DataError:
    alone, within = prompt[max(0, shared - 20) : shared + 40], full[max(0, shared - 20) : shared + 40]
    problem = (
        "the chat template renders the turns before it differently when later turns follow, so training and generation "
        f"would differ: {alone!r} as a prompt, {within!r} in the whole conversation"
    )
    fix = "split the conversation so that it ends at this turn, leave the system turn out, or use another chat template"
    return DataError.of(RowFault(number, f"turn {index + 1}", problem, "", fix))


def _unverified(number: int, index: int, why: str) -> DataError:
    problem = f"cannot verify where this assistant turn begins and ends under the chat template ({why})"
    fix = "use another chat template, or tokenise the data yourself into input_ids and labels"
    return DataError.of(RowFault(number, f"turn {index + 1}", problem, "", fix))
