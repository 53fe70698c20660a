"""Token ids and training labels of one row, for any chat template.

A conversation is rendered once and tokenised once; `spans` finds the characters that are trained.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ift.data.errors import DataError, RowFault
from ift.data.omissions import arguments_as_objects, drop_keys, extra_keys, find_omissions
from ift.data.spans import Span, common_prefix_length, find_spans
from ift.data.templates import Render, TemplateRefusal, end_of_turn_ids, renderer, turn_endings
from ift.data.turns import Message, Row
from ift.labels import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainOn = Literal["completions", "all"]
Offsets = list[tuple[int, int]]
SILENT = {
    "verbose": False
}  # no warning that a row is longer than the model's positions: the report counts them
EMPTY_THOUGHT = re.compile(r"<think>\s*</think>")
END_ALONE = "the labels train nothing but an end token: used unchanged"


@dataclass(frozen=True)
class TokenisedRow:
    """One tokenised row and its counts.

    Attributes:
        input_ids: Token ids of the whole row.
        labels: The same ids at trained tokens, -100 elsewhere.
        ends: Whether the last trained token ends a turn or a text.
        merged: Number of trained spans whose preceding ids differ from those of the prompt alone: a token crosses the
            boundary, or the tokenizer splits the end of the prompt differently when text follows.
        empty: Number of answers that contain nothing but an end token; they are not trained.
        notes: What the chat template does not render of the row.
    """

    input_ids: list[int]
    labels: list[int]
    ends: bool
    merged: int = 0
    empty: int = 0
    notes: tuple[str, ...] = ()


def plain_prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The ids of a plain-text prompt as they precede its completion in training."""
    ids = plain_ids(tokenizer, prompt)
    eos = str(tokenizer.eos_token or "")
    if ids[-1:] == [tokenizer.eos_token_id] and not (eos and prompt.endswith(eos)):
        return ids[:-1]  # the tokenizer appends its end token to every text
    return ids


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text with the tokenizer's special tokens; one that the text already has is not added again."""
    ids = list(tokenizer(text, **SILENT)["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and ids[:2] == [bos, bos]:  # one from the text, one from the tokenizer
        ids = ids[1:]
    if eos is not None and bos != eos and ids[-2:] == [eos, eos]:  # likewise
        ids = ids[:-1]
    return ids


def _after_prompt(first: int, start: int, offsets: Offsets | None) -> int:
    """The first token from `first` on that is not wholly before the character `start`; without offsets `first`."""
    while offsets is not None and first < len(offsets) and 0 < offsets[first][1] <= start:
        first += 1
    return first


class RowTokenizer:
    """Tokenises canonical rows and labels the trained tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, train_on: TrainOn = "completions"):
        """Stores the tokenizer, which needs a chat template only for conversations.

        `train_on` "completions" trains completions and assistant turns, "all" every token.
        """
        if train_on not in ("completions", "all"):
            raise ValueError(f'train_on is {train_on!r}, expected "completions" or "all"')
        self.tokenizer = tokenizer
        self.train_on = train_on
        self._added = set(tokenizer.get_added_vocab().values())
        self._endings: tuple[str, ...] | None = None
        self._ending_ids: set[int] | None = None

    def __call__(self, row: Row, number: int) -> TokenisedRow:
        """Tokenises a canonical row; `number` (from 1) is for error messages.

        Raises:
            DataError: The template refuses the row, or it cannot be verified where training begins or ends.
        """
        if "messages" in row:
            return self._conversation(row, number)
        if "input_ids" in row:
            ids, labels = row["input_ids"], row["labels"]
            if self._ending_ids is None:
                self._ending_ids = end_of_turn_ids(self.tokenizer)
            trained = [label for label in labels[1:] if label != IGNORED]
            ends = bool(trained) and trained[-1] in self._ending_ids
            # labels from the user are used unchanged, as in trl
            empty = bool(trained) and self._ending_ids.issuperset(trained)
            return TokenisedRow(ids, labels, ends, notes=(END_ALONE,) if empty else ())
        return self._text(row)

    def _text(self, row: Row) -> TokenisedRow:
        eos = str(self.tokenizer.eos_token or "")
        prompt, answer = row.get("prompt", ""), row["text"] if "text" in row else row["completion"]
        ids = plain_ids(self.tokenizer, prompt + answer + ("" if eos and answer.endswith(eos) else eos))
        ends = ids[-1:] == [self.tokenizer.eos_token_id]
        if not (answer.replace(eos, "") if eos else answer).strip():
            return TokenisedRow(ids, [IGNORED] * len(ids), ends, empty=1)
        if "text" in row or self.train_on == "all":
            return TokenisedRow(ids, list(ids), ends)
        before = plain_prompt_ids(self.tokenizer, prompt)
        start = common_prefix_length(before, ids)
        merged = start < len(before)
        if merged:
            start = _after_prompt(start, len(prompt), self._plain_offsets(prompt + answer))
        labels = [IGNORED] * start + ids[start:]
        return TokenisedRow(ids, labels, ends and start < len(ids), int(merged))

    def _conversation(self, row: Row, number: int) -> TokenisedRow:
        if not self.tokenizer.chat_template:
            raise DataError(
                "the rows are conversations and the tokenizer has no chat template. "
                "Fix: call ensure_chat_template(tokenizer), or give a template with --chat_template_path"
            )
        if self._endings is None:
            self._endings = turn_endings(self.tokenizer)
        render = renderer(self.tokenizer, row, number)
        messages, full = self._rendered(render, row["messages"])
        ids, offsets = self._tokenise(full)
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos != self.tokenizer.eos_token_id and ids[:2] == [bos, bos]:
            problem = "the rendered conversation begins with the beginning-of-sequence token twice"
            fix = "the chat template or the first turn writes it a second time; remove it there"
            raise DataError.of(RowFault(number, "", problem, "", fix))
        everything = self.train_on == "all"
        turns = [
            index
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
            and (self._is_blank(message) if everything else message["train"])
        ]
        spans = find_spans(render, messages, full, self._endings, number, turns)
        empty = [span for span in spans if self._is_empty(span, messages, render, full)]
        spans = [span for span in spans if span not in empty]
        labels, merged = list(ids) if everything else [IGNORED] * len(ids), 0
        for span in empty if everything else spans:
            first, whole = self._start_token(span.start, full, ids, offsets)
            last = self._end_token(span.end, full, ids, offsets)
            labels[first:last] = [IGNORED] * (last - first) if everything else ids[first:last]
            merged += not whole
        if everything and len(empty) == sum(message["role"] == "assistant" for message in messages):
            labels = [IGNORED] * len(ids)  # no turn has an answer
        trained_text = full.rstrip() if everything else full[: spans[-1].end] if spans else ""
        ends = bool(self._endings) and trained_text.endswith(self._endings)
        template = str(self.tokenizer.chat_template)
        notes = tuple(find_omissions(render, {**row, "messages": messages}, full, template))
        return TokenisedRow(ids, labels, ends, 0 if everything else merged, len(empty), notes)

    @staticmethod
    def _rendered(render: Render, messages: list[Message]) -> tuple[list[Message], str]:
        """The conversation in the form that the template accepts, and its rendering."""
        try:
            full = render(messages)
        except TemplateRefusal:
            full = None
        changed = arguments_as_objects(messages, full)
        if changed is messages and full is not None:
            return messages, full
        return changed, render(changed)

    def _is_blank(self, message: Message) -> bool:
        """Whether the content of a turn is empty, thoughts included."""
        text = EMPTY_THOUGHT.sub("", message["content"])
        for ending in (*(self._endings or ()), str(self.tokenizer.eos_token or "")):
            text = text.replace(ending, "") if ending else text
        return not text.strip()

    def _is_empty(self, span: Span, messages: list[Message], render: Render, full: str) -> bool:
        """Whether the template renders nothing for this turn but what it renders for every turn."""
        if not full[span.start : span.written].strip():
            return True
        message = messages[span.turn]
        if not self._is_blank(message):
            return False
        keys = extra_keys(message)
        if not keys:
            return True
        bare = [drop_keys(one, *keys) if index == span.turn else one for index, one in enumerate(messages)]
        try:
            return render(bare) == full
        except TemplateRefusal:
            return False

    def _tokenise(self, full: str) -> tuple[list[int], Offsets | None]:
        if not getattr(self.tokenizer, "is_fast", False):
            return self._ids(full), None
        encoded = self.tokenizer(full, add_special_tokens=False, return_offsets_mapping=True, **SILENT)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])

    def _start_token(
        self, start: int, full: str, ids: list[int], offsets: Offsets | None
    ) -> tuple[int, bool]:
        """Index of the first token of a span, and whether the ids before it equal those of the prompt.

        They differ if a token crosses the boundary, which is then the first token, or if the tokenizer splits the end
        of the prompt differently when text follows. Without offsets the span then starts at the first differing id.
        """
        if offsets is not None:
            first = bisect_left(offsets, start, key=lambda offset: offset[0])
            # text after an added token is tokenised separately, so the check can start at the last one
            anchor = next((index for index in range(first - 1, 0, -1) if ids[index] in self._added), 0)
            begin = offsets[anchor][0] if anchor else 0
            if first == 0 or self._ids(full[begin:start]) == ids[anchor:first]:
                return first, True
        prompt = self._ids(full[:start])
        first = common_prefix_length(prompt, ids)
        return _after_prompt(first, start, offsets), first == len(prompt)

    def _plain_offsets(self, text: str) -> Offsets | None:
        """The offsets of the ids of a plain text; None if the tokenizer has none."""
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        encoded = self.tokenizer(text, return_offsets_mapping=True, **SILENT)
        bos = self.tokenizer.bos_token_id
        removed = int(bos is not None and list(encoded["input_ids"][:2]) == [bos, bos])
        return list(encoded["offset_mapping"])[removed:]

    def _end_token(self, end: int, full: str, ids: list[int], offsets: Offsets | None) -> int:
        """Index after the last token of a span; a token that extends beyond the span is included."""
        if offsets is not None:
            return bisect_left(offsets, end, key=lambda offset: offset[0])
        upto = self._ids(full[:end])
        last = common_prefix_length(upto, ids)
        return last if last == len(upto) else last + 1

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **SILENT)["input_ids"])
