"""`ift chat MODEL`: chats with a model, or asks it one question."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from ift.cli.model_options import ALLOW_PICKLE, DEVICE, DTYPE, TRUST_REMOTE_CODE
from ift.text import counted, visible

if TYPE_CHECKING:
    from ift.models.loading import LoadOptions


def main(
    model: str, prompt: str | None, max_new_tokens: int, options: LoadOptions, system: str | None = None
) -> int:
    """Chats until end of input, or answers `prompt` once; returns the exit code.

    `model` is a folder or Hub id of a full model or an adapter, `system` the text of a system message at the start.
    Prompts are written as in the model's training, if that is recorded; a model trained on plain text gets each prompt
    separately. If the input is no terminal, the output is a transcript. An answer that ends without an end token, or
    has no text, is marked, on standard error if it answers `prompt`.

    Raises:
        DataError: The model or tokenizer cannot be loaded, or the chat template refuses the conversation.
        EvaluationError: There is no room for an answer, or a model of plain text is given `system`.
    """
    from transformers import TextStreamer

    from ift.generation.decoding import room_for_answers
    from ift.generation.errors import EvaluationError
    from ift.generation.plain_decoding import unused_rules
    from ift.generation.prompts import prompt_ids
    from ift.models.loading import PLAIN_TEXT, load_model
    from ift.models.model_folder import warn_of_unfinished_run

    class Visible(TextStreamer):
        """Prints the answer during generation, with visible control characters."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            super().on_finalized_text(visible(text), stream_end)

    network, tokenizer, style, note = load_model(model, options)
    warn_of_unfinished_run(model)
    if system and style == PLAIN_TEXT:
        raise EvaluationError(f"--system: {model} was trained on plain text. Fix: write it into the prompt")
    for one in filter(None, (note, unused_rules(network.generation_config))):
        print(f"{model}: {one}", file=sys.stderr)
    terminal = prompt is None and sys.stdin.isatty()
    transcript = prompt is None and not terminal
    streamer = Visible(tokenizer, skip_prompt=True, skip_special_tokens=True)
    stops = _stop_ids(network, tokenizer)
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for text in _lines(terminal) if prompt is None else [prompt]:
        messages.append({"role": "user", "content": text})
        ids = prompt_ids(tokenizer, messages, style)
        room = room_for_answers(network, [ids], max_new_tokens)
        if transcript:
            print(f"user: {visible(text)}\nassistant: ", end="", flush=True)
        new = _continued(network, ids, streamer, max_new_tokens=room, **stops)
        answer = tokenizer.decode(new, skip_special_tokens=True)
        cut = len(new) == room and int(new[-1]) not in stops.get("eos_token_id", ())
        for mark in _marks(answer, room if cut else None, max_new_tokens):
            print(mark, file=sys.stdout if prompt is None else sys.stderr)  # a single answer stays clean
        if transcript:
            print()
        messages.append({"role": "assistant", "content": answer})
    return 0


def _continued(network: Any, ids: list[int], streamer: Any, **limits: Any) -> Any:
    """The new ids after a prompt, greedily; the streamer prints them."""
    import torch

    from ift.generation.plain_decoding import plain_decoding

    inputs = torch.tensor([ids], device=network.device)  # (1, T)
    with plain_decoding(network):
        return network.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            streamer=streamer,
            **limits,
        )[0, len(ids) :]


def _marks(answer: str, cut_after: int | None, max_new_tokens: int) -> list[str]:
    """Lines on an answer without text, and on one that was cut after so many tokens."""
    marks = [] if answer.strip() else ["[answer without text]"]
    if cut_after is not None:
        why = "--max_new_tokens" if cut_after == max_new_tokens else "the model has no more positions"
        marks.append(f"[cut after {counted(cut_after, 'token')}: {why}]")
    return marks


def _lines(terminal: bool) -> Iterator[str]:
    """The lines that are typed or piped in, without empty ones; a terminal shows how to end and a prompt sign."""
    if terminal:
        print("Ctrl-D ends the conversation.", file=sys.stderr)
    while True:
        try:
            text = input("> " if terminal else "")
        except (EOFError, KeyboardInterrupt):
            if terminal:
                print()
            return
        if text.strip():
            yield text


def command(
    model: str = typer.Argument(help="A folder or Hub id of a model or an adapter."),
    prompt: str = typer.Option(None, help="Answer this prompt and exit."),
    max_new_tokens: int = typer.Option(512, "--max_new_tokens", help="Longest answer, in tokens."),
    system: str = typer.Option(None, help="System message at the start of the conversation."),
    dtype: str = DTYPE,
    device: str = DEVICE,
    trust_remote_code: bool = TRUST_REMOTE_CODE,
    allow_pickle: bool = ALLOW_PICKLE,
) -> int:
    """Talk to a trained model.

    Lines that are piped in are the questions of one conversation (of one each, for a model trained on plain text), and
    the output is its transcript: "user: ..." and "assistant: ...". An answer that is cut is marked.
    """
    from ift.models.loading import LoadOptions

    return main(
        model, prompt, max_new_tokens, LoadOptions(dtype, device, trust_remote_code, allow_pickle), system
    )


def _stop_ids(network: Any, tokenizer: Any) -> dict[str, Any]:
    """End tokens of the model's generation config and of the template, which an adapter does not save."""
    from ift.data import end_of_turn_ids
    from ift.generation.decoding import padding_id

    configured = getattr(network.generation_config, "eos_token_id", None)
    stops = end_of_turn_ids(tokenizer) | set(
        [] if configured is None else [configured] if isinstance(configured, int) else configured
    )
    if not stops:
        return {}
    return {"eos_token_id": sorted(stops), "pad_token_id": padding_id(tokenizer, stops, network)}
