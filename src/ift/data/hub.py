"""The Hugging Face Hub where it cannot be reached: found out in seconds, and said with what to do."""

from __future__ import annotations

import os
import sys

SECONDS = 5  # for the Hub to answer


def ask_once() -> None:
    """Switches to what was downloaded before where the Hub does not answer a first request.

    Its library would try again for half a minute, for every file. Nothing is asked where it is offline already.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:
        print(
            f"{constants.ENDPOINT} cannot be reached ({error}): only what was downloaded before is used",
            file=sys.stderr,
        )
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the processes that are started from here


def remedy(name: str, kind: str) -> str:
    """Says what to do where something does not come from the Hub.

    Args:
        name: Of the repository.
        kind: "model" or "dataset".

    Returns:
        The remedy, to end a message with.
    """
    return (
        "Fix: check the name, your rights (hf auth login) and the connection; without a network, fetch it elsewhere "
        f"(hf download {name} --repo-type {kind} --local-dir FOLDER) and give the folder"
    )
