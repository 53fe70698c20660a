"""The text of a chat message's content, which is a text or a list of parts."""

from __future__ import annotations

import re
from typing import Any

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half an emoji; json.loads joins whole pairs


def content_text(content: Any, *, skip_other_parts: bool = False) -> str | None:
    """The text of a content, with U+FFFD in place of every lone surrogate, which UTF-8 cannot hold.

    Args:
        content: A text, one part, or a list of parts: texts or objects such as {"type": "text", "text": "..."}.
        skip_other_parts: Leave out parts of other types, such as images and thoughts.

    Returns:
        The text; None where there is none, or where a part of another type is not to be left out.
    """
    parts = content if isinstance(content, list) else [content]
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if not texts or (len(texts) < len(found) and not skip_other_parts):
        return None
    return LONE_SURROGATE.sub("\ufffd", "".join(texts))
