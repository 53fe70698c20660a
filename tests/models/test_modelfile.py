"""Ollama's Modelfile: the Go template writes what the chat template writes, or it is refused."""

import re

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from ift.cli.main import app
from ift.data import DataError, ensure_chat_template
from ift.lab.testbed import tiny_base_path
from ift.models.modelfile import Parts, find_parts, modelfile

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WITH_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe good<|im_end|>\\n' }}{% endif %}"
    + CHATML
)
WITHOUT_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
SYSTEM_IN_USER = (
    "{{ bos_token }}{% set s = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[U]' + (s if loop.index0 < 2 else '') + m.content + '[E]' }}"
    "{% elif m.role == 'assistant' %}{{ '[A]' + m.content + '[E]' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[A]' }}{% endif %}"
)
NUMBERED = (
    "{% for m in messages %}{{ loop.index ~ m.role ~ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
)
LAST_ANSWER_ONLY = CHATML.replace("m.content", "(m.content if not loop.first else '{{' + m.content)")


def with_template(template):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.chat_template = template
    return tokenizer


def test_the_parts_of_chatml_by_hand():
    assert find_parts(with_template(CHATML)) == Parts(
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        start="",
        user="<|im_start|>user\n",
        assistant=("<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"),
        prompt="<|im_end|>\n<|im_start|>assistant\n",
    )


def test_the_go_template_by_hand():
    parts = Parts(("S(", ")"), "first ", "U:", (" A:", ";"), " A:")
    assert parts.go() == (
        '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ if eq $i 0 }}first {{ end }}U:{{ $m.Content }}'
        '{{ else if eq $m.Role "assistant" }} A:{{ $m.Content }};'
        '{{ else if eq $m.Role "system" }}S({{ $m.Content }}){{ end }}{{ end }} A:'
    )


@pytest.mark.parametrize(
    "template", [CHATML, WITH_DEFAULT_SYSTEM, WITHOUT_SYSTEM, SYSTEM_IN_USER, None], ids=str
)
def test_chats_are_written_as_by_the_chat_template(template):
    """But for the token that begins a text, which llama.cpp adds."""
    tokenizer = with_template(template)
    if template is None:
        ensure_chat_template(tokenizer)
    parts = find_parts(tokenizer)
    roles = ["user", "assistant", "user", "assistant", "user"]
    chats = [roles[:1], roles[:3], roles]
    if template == WITHOUT_SYSTEM:
        assert parts.system is None
    else:
        chats += [["system", *chat] for chat in chats]
    for chat in chats:
        turns = [{"role": role, "content": f"Qvxz{n}Qvxz"} for n, role in enumerate(chat)]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert parts.render(chat) == text.removeprefix("<s>")


@pytest.mark.parametrize("template", [NUMBERED, LAST_ANSWER_ONLY], ids=["numbered turns", "braces"])
def test_a_template_that_has_no_such_parts_is_refused(template):
    with pytest.raises(
        DataError, match=r"cannot be written as a Go template.*Fix: write the TEMPLATE by hand"
    ):
        find_parts(with_template(template))


def test_the_file_of_the_shipped_base(tmp_path):
    out = tmp_path / "Modelfile"
    words = ["modelfile", str(tiny_base_path()), "--weights", "./tiny.gguf", "--output", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"warning: {tmp_path / 'tiny.gguf'}: there is no such file yet" in done.output
    text = out.read_text()
    assert text == modelfile(str(tiny_base_path()), "./tiny.gguf")
    assert text.startswith('FROM ./tiny.gguf\nTEMPLATE """{{ range')
    assert re.findall("^PARAMETER .*", text, re.MULTILINE) == [
        "PARAMETER temperature 0",
        'PARAMETER stop "<|end|>"',
    ]
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1
    assert "exists. Fix: name another --output" in again.output
