"""Removed flags, YAML keys and commands: their messages, and their values in old checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LOSS = "guesses kept from earlier epochs cost up to 6.3 points of accuracy (docs/log.md, 17)"
_SETTING = f"this setting was removed, because {_LOSS}. Remove it: every step computes the look-ahead."

REMOVED: Mapping[str, str] = {  # name of the flag and YAML key, or of the command -> message
    "lookahead_cache": _SETTING,
    "lookahead_refresh": _SETTING,
    "lookahead_cache_path": _SETTING,
    "precompute-lookahead": f"this command was removed, because {_LOSS}. Use `ift train`, which needs no such step.",
}
OLD_DEFAULTS: Mapping[str, Any] = {  # of the removed settings; a checkpoint made with them can be resumed
    "lookahead_cache": "off",
    "lookahead_refresh": 0.0,
    "lookahead_cache_path": None,
}
