"""Byte-level BPE tokenizers of a few hundred tokens, built in memory."""

from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "What is two plus two? The answer is four, and then some more words follow.",
    "User: hello there\n\nAssistant: good morning to you\n",
    "system user assistant model tool ### End\n### user:\n### assistant:\n<think>\n\n</think>\n\n",
    "[INST] the question [/INST] the answer   spaces    here",
] * 3
MARKS = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|start|>", "<|message|>", "<|return|>",
    "<think>", "</think>",
)  # fmt: skip


@cache
def _trained(marks: tuple[str, ...], adds_bos: bool, regex: str) -> str:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    if regex == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:  # line breaks stay together, as in the tokenizers of Llama 3 and Qwen
        pattern = Regex(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(pattern, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "</s>", "<pad>", *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer.to_str()


def small_tokenizer(template=None, *, marks=MARKS, adds_bos=False, eos="</s>", regex="llama3"):
    """A fresh tokenizer; changing it changes no other."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(marks, adds_bos, regex)),
        bos_token="<s>",
        eos_token=eos,
        pad_token="<pad>",
    )
    tokenizer.chat_template = template
    return tokenizer


def trained_text(tokenizer, ids, labels):
    """The trained stretches of a row, as text."""
    stretches, current = [], []
    for token, label in zip(ids, labels, strict=True):
        assert label in (-100, token)
        if label == -100 and current:
            stretches.append(tokenizer.decode(current))
            current = []
        elif label != -100:
            current.append(token)
    return [*stretches, tokenizer.decode(current)] if current else stretches
