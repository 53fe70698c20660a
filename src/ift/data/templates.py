"""Chat templates: rendering with errors a user can read, how a template ends a turn, and a default where none is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ift.data.errors import DataError
from ift.data.turns import Message, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands in for what somebody says, to see what a template writes around it. Letters only: nothing trims or escapes it
PROBE = "Qvxz"

# Turns marked in plain text, for a base model whose tokenizer has no template. Nothing here is a new token: the
# tokenizer's own end-of-sequence token ends an assistant turn. The space after "Assistant:" belongs to the answer,
# because most tokenizers put it into the first word's token.
_DEFAULT_BODY = (
    "{%- if tools %}{{ raise_exception('the default plain-text template has no form for tools') }}{% endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.tool_calls %}"
    "{{ raise_exception('the default plain-text template has no form for tool calls') }}{% endif -%}"
    "{%- if not loop.first %}{{ '\\n\\n' }}{% endif -%}"
    "{%- if message.role in ('system', 'developer') -%}{{ message.content | trim }}"
    "{%- elif message.role == 'user' -%}{{ 'User: ' + (message.content | trim) }}"
    "{%- elif message.role == 'assistant' -%}{{ 'Assistant: ' + (message.content | trim) + eos_token }}"
    "{%- else -%}{{ raise_exception('the default plain-text template has no form for the role ' + message.role) }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ ('\\n\\n' if messages else '') + 'Assistant:' }}{% endif -%}"
)

Render = Callable[..., str]


class TemplateRefusal(DataError):
    """A chat template that does not take a conversation; the message is the template's own."""


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    r"""Gives a tokenizer without a chat template a default one, in place, so that it is saved with the tokenizer.

    A conversation reads `<system text>`, `User: ...`, `Assistant: ...`, with a blank line between turns. The
    tokenizer's own end-of-sequence token ends every assistant turn: it is trained and it stops generation. The
    beginning-of-sequence token stands once at the front if the tokenizer puts it there by itself. No tokens are
    added to the vocabulary. Tools and tool calls are refused.

    Args:
        tokenizer: Tokenizer to look at and, if it has no template, to change.

    Returns:
        Whether the default was set; the caller should say so.

    Raises:
        DataError: If a default is needed and the tokenizer has no end-of-sequence token.
    """
    if tokenizer.chat_template:
        return False
    if tokenizer.eos_token is None:
        raise DataError(
            "the tokenizer has neither a chat template nor an end-of-sequence token, so nothing can end an answer. "
            "Fix: set eos_token, or give a template with --chat_template_path"
        )
    tokenizer.chat_template = ("{{- bos_token -}}" if adds_bos(tokenizer) else "") + _DEFAULT_BODY
    return True


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tells whether the tokenizer puts its beginning-of-sequence token in front of plain text by itself.

    Args:
        tokenizer: Any tokenizer.

    Returns:
        True if the ids of a text begin with the token's id.
    """
    ids = tokenizer(PROBE)["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def renderer(tokenizer: PreTrainedTokenizerBase, row: Row | None = None, number: int | None = None) -> Render:
    """Builds the function that renders turns of one conversation under the tokenizer's template.

    Args:
        tokenizer: Tokenizer with a chat template.
        row: Canonical row whose `tools` and `chat_template_kwargs` go to the template.
        number: Row number, counting from 1, for the message of an error.

    Returns:
        A function of messages, `prompt` (whether to end with the generation prompt) and options that replace those of
        the row, to text, which raises `TemplateRefusal` with the template's own words.
    """
    row = row or {}
    options = {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
    place = "the chat template" if number is None else f"row {number}: the chat template"

    def render(messages: Sequence[Message], prompt: bool = False, **changed: Any) -> str:
        turns = [{key: value for key, value in message.items() if key != "train"} for message in messages]
        try:
            text: Any = tokenizer.apply_chat_template(
                turns, **{**options, **changed, "tokenize": False, "add_generation_prompt": prompt}
            )
        except Exception as error:  # a template is a program of its own: it may raise anything
            roles = ", ".join(message["role"] for message in messages[:8]) or "no turns"
            raise TemplateRefusal(
                f"{place} refuses this conversation (roles: {roles}): {error}. "
                "Fix: bring the turns into the order and form that the model's template takes, or drop the row"
            ) from error
        return text

    return render


def turn_endings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Finds the texts with which the template ends an assistant turn, by rendering a small conversation.

    That is the first special or added token after the answer (`<|im_end|>`, `</s>`) with those that follow at once
    (Command R7B has two); if there is none, whatever plain text the template writes there. An answer that others
    follow may end in another token than the last one does (gpt-oss), so both places are looked at.

    Args:
        tokenizer: Tokenizer with a chat template.

    Returns:
        One or two texts, the last turn's first; empty if the template writes nothing at the end of a turn.

    Raises:
        DataError: If the template leaves out what a turn says.
    """
    render = renderer(tokenizer)
    asked, answered = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE}
    try:
        whole = render([asked, answered])
    except TemplateRefusal:
        return ()
    if PROBE not in whole:
        raise DataError(
            "the chat template does not write its content where a turn's content is text (templates of vision models "
            "take a list of parts). Fix: use a text model, or give another template with --chat_template_path"
        )
    last = _after_probe(whole)
    tokens = _added_tokens(tokenizer, last)
    ending = "".join(tokens) if tokens else last.strip()
    if not ending:
        return ()
    try:
        inner = _after_probe(render([asked, answered, asked, {"role": "assistant", "content": "Hi"}]))
    except TemplateRefusal:
        return (ending,)
    other = _added_tokens(tokenizer, inner)[:1]
    if inner.lstrip().startswith(ending) or not other or other[0] in (ending, tokenizer.bos_token):
        return (ending,)
    return (ending, other[0])


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Collects the ids at which generation of an assistant turn has to stop.

    Args:
        tokenizer: Tokenizer, with a chat template or without.

    Returns:
        The token that closes what the template writes after an answer (none where that is plain text of several
        tokens), together with the tokenizer's end-of-sequence id. Empty if there are neither.
    """
    ids = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    if tokenizer.chat_template:
        added = set(tokenizer.get_added_vocab().values())
        for ending in turn_endings(tokenizer):
            pieces = tokenizer(ending, add_special_tokens=False)["input_ids"]
            if pieces and (len(pieces) == 1 or pieces[-1] in added):
                ids.add(pieces[-1])
    return ids


def _after_probe(text: str) -> str:
    return text.rpartition(PROBE)[2]


def _added_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The first special or added token in a text, and those that follow it with nothing between."""
    vocabulary = sorted(
        (token for token in tokenizer.get_added_vocab() if token.strip()), key=len, reverse=True
    )
    places = [text.find(token) for token in vocabulary if token in text]
    rest, found = text[min(places) :] if places else "", []
    while token := next((token for token in vocabulary if rest.startswith(token)), ""):
        found.append(token)
        rest = rest[len(token) :]
    return found
