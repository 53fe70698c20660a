"""Detects within seconds that the Hugging Face Hub cannot be reached."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ift.text import did_you_mean, quoted

SECONDS = 5  # within which the Hub must answer


def go_offline_if_unreachable() -> None:
    """Switches huggingface_hub to offline mode if the Hub does not answer one short request.

    Without this, huggingface_hub retries for half a minute per file. Does nothing in offline mode.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:
        print(
            f"{constants.ENDPOINT} cannot be reached ({quoted(error)}): using only files that were downloaded before",
            file=sys.stderr,
        )
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for child processes


def nearby(name: str, known: Iterable[str] = ()) -> str:
    """The end of a message about a name without an owner: which known name, or name of a file here, it resembles.

    It is "" if there is none.
    """
    here = [] if "/" in name else [path.name for path in Path().iterdir()]
    return did_you_mean(name, [*known, *here]).removesuffix("?")


def folder_or_download(name: str, known: Iterable[str] = ()) -> str:
    """The fix for a model's name that is neither a folder nor found on the Hub; `known` are names of no repository."""
    if near := nearby(name, known):
        return f"Fix: {near.removeprefix('; did you mean ')} may be meant"
    hint = download_hint(name, "model").removeprefix("Fix: ")
    return f"Fix: correct the path if a folder is meant; otherwise {hint}"


def download_hint(name: str, kind: str) -> str:
    """The fix for a failed download of a repository; `kind` is "model" or "dataset"."""
    return (
        "Fix: check the name, your access (hf auth login) and the connection; without a network, download it elsewhere "
        f"(hf download {name} --repo-type {kind} --local-dir FOLDER) and give the folder"
    )
