"""Ollama's Modelfile of a model: its chat template as a Go template, and where answers end."""

from __future__ import annotations

import json
from os.path import commonprefix
from typing import Any, NamedTuple

from ift.data import DataError, end_of_turn_ids, ensure_chat_template
from ift.data.templates import PROBE, TemplateRefusal, renderer
from ift.models.loading import PLAIN_TEXT, LoadOptions, load_tokenizer, prompt_style

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


class Parts(NamedTuple):
    """What a chat template writes around the contents of turns; texts.

    Attributes:
        system: Before and after a system message, which is the first; None where the template takes none.
        start: Before the first user message where there is no system message.
        user: Before every user message.
        assistant: Before and after an answer.
        prompt: After the last user message, for the model to continue.
    """

    system: tuple[str, str] | None
    start: str
    user: str
    assistant: tuple[str, str]
    prompt: str

    def go(self) -> str:
        """The Go template of a chat."""
        turns = [
            (USER, f"{{{{ if eq $i 0 }}}}{self.start}{{{{ end }}}}{self.user}", ""),
            (ASSISTANT, *self.assistant),
            *([(SYSTEM, *self.system)] if self.system else []),
        ]
        written = " else ".join(
            f'if eq $m.Role "{role}" }}}}{before}{{{{ $m.Content }}}}{after}{{{{'
            for role, before, after in turns
        )
        return f"{{{{ range $i, $m := .Messages }}}}{{{{ {written} end }}}}{{{{ end }}}}{self.prompt}"

    def render(self, roles: list[str]) -> str:
        """The text of a chat whose turns have these roles and numbered contents, as the Go template writes it."""
        written = ""
        for number, role in enumerate(roles):
            before, after = {
                USER: (self.start * (number == 0) + self.user, ""),
                ASSISTANT: self.assistant,
                SYSTEM: self.system or ("", ""),
            }[role]
            written += f"{before}{_content(number)}{after}"
        return written + self.prompt


def modelfile(name: str, weights: str, options: LoadOptions = LoadOptions()) -> str:  # noqa: B008 (frozen)
    """The Modelfile of a model, for `ollama create`.

    Ollama knows the chat templates of some models and writes prompts of all others without one, so the file has a
    template. It stops answers at every token that ends a turn, and is greedy, as ift is.

    Args:
        name: Folder or Hub id of the model, or of the adapter that was merged.
        weights: The GGUF file, as Ollama finds it: an absolute path, or one relative to the Modelfile.
        options: How the tokenizer is loaded.

    Raises:
        DataError: The chat template cannot be written as a Go template.
    """
    tokenizer = load_tokenizer(name, options)
    template = "{{ .Prompt }}"
    if prompt_style(name, tokenizer, options.revision)[0] != PLAIN_TEXT:
        ensure_chat_template(tokenizer)
        template = find_parts(tokenizer).go()
    ends = tokenizer.convert_ids_to_tokens(sorted(end_of_turn_ids(tokenizer)))
    stops = [f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends]
    return "\n".join([f"FROM {weights}", f'TEMPLATE """{template}"""', "PARAMETER temperature 0", *stops, ""])


def find_parts(tokenizer: Any) -> Parts:
    """What a tokenizer's chat template writes around the contents of turns, without the token that begins a text.

    llama.cpp, on which Ollama is built, adds that token itself.

    Raises:
        DataError: The template writes a turn in another way depending on the turns around it, or has characters that a
            Modelfile cannot hold.
    """
    render = renderer(tokenizer)

    def text(roles: list[str]) -> str:
        turns = [{"role": role, "content": _content(number)} for number, role in enumerate(roles)]
        return render(turns, prompt=True).removeprefix(tokenizer.bos_token or "")

    def split(roles: list[str]) -> list[str]:
        pieces, rest = [], text(roles)
        for number in range(len(roles)):
            before, _, rest = rest.partition(_content(number))
            pieces.append(before)
        return [*pieces, rest]

    alone, answer, further, prompt = split([USER, ASSISTANT, USER])
    chats = [[USER], [USER, ASSISTANT, USER, ASSISTANT, USER]]
    befores = [alone, further]
    try:
        headed = split([SYSTEM, USER])
    except TemplateRefusal:
        headed = []
    if headed:
        befores.append(headed[1])
        chats += [[SYSTEM, USER], [SYSTEM, USER, ASSISTANT, USER]]
    user = commonprefix([one[::-1] for one in befores])[::-1]  # noqa: RUF071 (texts, not paths)

    def rest(before: str) -> str:
        return before[: len(before) - len(user)]

    system = (headed[0], rest(headed[1])) if headed else None
    parts = Parts(system, rest(alone), user, (answer, rest(further)), prompt)
    written = "".join(parts.render(roles) for roles in chats)
    if any(parts.render(roles) != text(roles) for roles in chats) or "{{" in written or '"""' in written:
        raise DataError(
            "the chat template cannot be written as a Go template: it writes a turn in another way depending on the "
            'turns around it, or writes {{ or """. Fix: write the TEMPLATE by hand, or use llama-server, which reads '
            "the template itself"
        )
    return parts


def _content(number: int) -> str:
    return f"{PROBE}{number}{PROBE}"
