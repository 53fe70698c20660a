"""`ift chat MODEL`: talk to a trained model, or ask it one thing."""

from __future__ import annotations

from typing import Any

import typer

from ift.text import visible


def main(model: str, prompt: str | None, max_new_tokens: int, allow_pickle: bool = False) -> int:
    """Chat until end of input, or answer `prompt` once; returns the exit code.

    `model` is a folder or a Hub id of a full model or of an adapter, `allow_pickle` as for `check_model_path`.

    Raises:
        DataError: a model or tokenizer that cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

    from ift.data import ensure_chat_template
    from ift.models.model_folder import check_model_path, explain_weight_loading_errors, from_hub_or_folder

    class Visible(TextStreamer):
        """Prints the answer as it is generated, with control characters written out."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            super().on_finalized_text(visible(text), stream_end)

    check_model_path(model, allow_pickle=allow_pickle)
    with from_hub_or_folder(model, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(model)
    with explain_weight_loading_errors(model):  # an adapter brings its base along
        network = AutoModelForCausalLM.from_pretrained(
            model, dtype="auto", use_safetensors=None if allow_pickle else True
        )
    ensure_chat_template(tokenizer)
    network.eval()
    streamer = Visible(tokenizer, skip_prompt=True, skip_special_tokens=True)
    messages: list[dict[str, Any]] = []
    while True:
        try:
            said = prompt if prompt is not None else input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        messages.append({"role": "user", "content": said})
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(network.device)
        output = network.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        messages.append({"role": "assistant", "content": answer})
        if prompt is not None:
            return 0


def command(
    model: str = typer.Argument(help="A folder or Hub id of a model or an adapter."),
    prompt: str = typer.Option(None, help="Answer this prompt and exit."),
    max_new_tokens: int = typer.Option(512, "--max_new_tokens", help="Longest answer, in tokens."),
    allow_pickle: bool = typer.Option(
        False,
        "--allow_pickle_weights",
        help="Load PyTorch pickle files (.bin) where there are no safetensors.",
    ),
) -> int:
    """Talk to a trained model."""
    return main(model, prompt, max_new_tokens, allow_pickle)
