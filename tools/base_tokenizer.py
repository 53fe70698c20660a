"""The testbed's own tokenizer: a token per word, per digit and per sign, bytes for everything else."""

import re
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ift.lab.testbed.families import AnyProblem

UNKNOWN, PAD, END = "<|unknown|>", "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant")
MAX_LENGTH = 512  # tokens

# `<|user|>…<|assistant|>…<|end|>`: a role token opens a turn, and the end token (eos) closes the assistant's turns.
# The generation block marks the assistant's tokens, its end token included, for masks.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('unknown role ' ~ message.role ~ ': use system, user or assistant') -}}
{%- endif -%}
{{- '<|' ~ message.role ~ '|>' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content ~ eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- message.content -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

_PIECES = re.compile(r" ?[A-Za-z]+|[0-9]|[^A-Za-z0-9]")


def build_tokenizer(problems: Sequence[AnyProblem]) -> PreTrainedTokenizerFast:
    """Builds the tokenizer from the words of some problems.

    Text is cut into the fewest known pieces: the problems' words (with a leading space where they have one), single
    printable ASCII characters, single bytes of anything else. Every text can be encoded, and decoding gives it back. It
    has pad, eos (`<|end|>`), a token per role and the chat template, no bos, and pads on the right.
    """
    texts = [message["content"] for problem in problems for message in problem.messages]
    words = sorted({piece for text in texts for piece in _PIECES.findall(text) if len(piece) > 1} | {"####"})
    characters = ["\n", *map(chr, range(32, 127))]
    specials = [UNKNOWN, PAD, END, *(f"<|{role}|>" for role in ROLES)]
    pieces = [*specials, *characters, *words, *(f"<0x{byte:02X}>" for byte in range(256))]
    # Unigram maximises the sum of the scores: equal scores mean the fewest pieces.
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    # Short stretches keep the search fast; digits stand alone.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|#+|[0-9]|[^A-Za-z0-9#]"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
