"""How a request is written. Models differ in what they take; what one refuses is learnt from its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

_NOT_TAKEN = re.compile(
    r"unsupported|not support|not permitted|not allowed|unrecognized|unknown|unexpected|deprecated|instead",
    re.I,
)
_SYSTEM = re.compile(r"system.{0,20}(role|message|prompt|instruction)|role.{0,40}system", re.I)


@dataclass(frozen=True)
class RequestForm:
    """What a request holds: that of OpenAI's first chat models, which most servers take, until one refuses it.

    Attributes:
        limit_name: The field with the longest reply; models that reason want `max_completion_tokens`.
        temperature: Whether temperature 0 is asked for; some models take their default alone.
        system: Whether the system message is one of its own; otherwise it is put before the user's first text.
    """

    limit_name: str = "max_tokens"
    temperature: bool = True
    system: bool = True

    def body(self, model: str, messages: list[dict[str, str]], max_tokens: int) -> dict[str, Any]:
        """The JSON body of a request."""
        if not self.system and len(messages) > 1 and messages[0]["role"] == "system":
            system, user, *further = messages
            messages = [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *further]
        temperature = {"temperature": 0} if self.temperature else {}
        return {"model": model, "messages": messages, **temperature, self.limit_name: max_tokens}

    def without_what_is_refused(self, words: str) -> RequestForm | None:
        """The form to try next, after the endpoint's words of refusal; None where they name nothing that can change."""
        if self.limit_name == "max_tokens" and "max_tokens" in words and _NOT_TAKEN.search(words):
            return replace(self, limit_name="max_completion_tokens")
        if self.temperature and "temperature" in words:
            return replace(self, temperature=False)
        if self.system and _SYSTEM.search(words) and _NOT_TAKEN.search(words):
            return replace(self, system=False)
        return None
