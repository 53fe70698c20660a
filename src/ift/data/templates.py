"""Renders chat templates, finds the text with which a template ends a turn, and provides a default template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ift.data.errors import DataError, RowFault
from ift.data.turns import Message, Row
from ift.text import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Placeholder for content, to find what a template renders around it; letters are neither trimmed nor escaped
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
    """A chat template raised an error for a conversation; the message quotes it."""


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    r"""Gives a tokenizer without a chat template a default one, in place, so that it is saved with the tokenizer.

    A conversation is written as `<system text>`, `User: ...`, `Assistant: ...`, separated by blank lines. The
    tokenizer's end-of-sequence token ends every assistant turn: it is trained, and it stops generation. The
    beginning-of-sequence token is written once at the front if the tokenizer adds it to plain text. No tokens are added
    to the vocabulary. Tools and tool calls are refused.

    Returns:
        Whether the default was set; the caller should report it.

    Raises:
        DataError: The tokenizer has no end-of-sequence token.
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
    """Whether the tokenizer adds its beginning-of-sequence token to plain text."""
    ids = tokenizer(PROBE)["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def renderer(tokenizer: PreTrainedTokenizerBase, row: Row | None = None, number: int | None = None) -> Render:
    """Returns a function that renders turns of one conversation with the tokenizer's chat template.

    Its arguments are messages, `prompt` (whether to end with the generation prompt) and options that override the
    `tools` and `chat_template_kwargs` of `row`. It raises `TemplateRefusal` with the error of the template.
    """
    row = row or {}
    options = {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}

    def render(messages: Sequence[Message], prompt: bool = False, **changed: Any) -> str:
        turns = [{key: value for key, value in message.items() if key != "train"} for message in messages]
        try:
            text: Any = tokenizer.apply_chat_template(
                turns, **{**options, **changed, "tokenize": False, "add_generation_prompt": prompt}
            )
        except Exception as error:  # a template may raise anything
            roles = ", ".join(message["role"] for message in messages[:8]) or "no turns"
            problem = f"the chat template refuses this conversation (roles: {roles}): {quoted(error)}"
            fix = "bring the turns into the order and form that the model's template takes, "
            if number is None:
                fix += "drop the row, or put another chat_template.jinja into the model's folder"
                raise TemplateRefusal(f"{problem}. Fix: {fix}") from error
            fix += "give a template that takes them with --chat_template_path FILE.jinja, or drop the row"
            raise TemplateRefusal.of(RowFault(number, "", problem, "", fix)) from error
        return text

    return render


def turn_endings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Finds the texts with which the template ends an assistant turn, by rendering a small conversation.

    That is the first special or added token after the answer (`<|im_end|>`, `</s>`) with those that directly follow it
    (Command R7B has two), or plain text if there is none. An answer inside a conversation may end with another token
    than the last one (gpt-oss), so both are examined.

    Returns:
        One or two texts, the last turn's first; empty if the template writes nothing at the end of a turn.

    Raises:
        DataError: The template does not render the content of a turn.
    """
    render = renderer(tokenizer)
    asked, answered = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE}
    try:
        whole = render([asked, answered])
    except TemplateRefusal:
        return ()
    if PROBE not in whole:
        raise DataError(
            "the chat template does not render the content of a turn that is text (templates of vision models "
            "expect a list of parts). Fix: use a text model, or give another template with --chat_template_path"
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
    """Ids at which generation of an assistant turn must stop; empty if there are none.

    They are the tokenizer's end-of-sequence id and the last token of the template's turn ending (unless that is
    plain text of several tokens).
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
    """The first special or added token in a text, and those that directly follow it."""
    vocabulary = sorted(
        (token for token in tokenizer.get_added_vocab() if token.strip()), key=len, reverse=True
    )
    places = [text.find(token) for token in vocabulary if token in text]
    rest, found = text[min(places) :] if places else "", []
    while token := next((token for token in vocabulary if rest.startswith(token)), ""):
        found.append(token)
        rest = rest[len(token) :]
    return found
