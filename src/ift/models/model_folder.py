"""Checks a model's folder before it is loaded: missing files, truncated files, pickles."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # nosec B403 # the error alone; nothing is unpickled here
from typing import Any

from ift.data.errors import DataError, describe
from ift.data.hub import folder_or_download, go_offline_if_unreachable
from ift.models.adapters import find_base
from ift.text import quoted

RUN = "run.json"  # marks the folder of a run of `ift train`; written before the first step
WEIGHTS = {"adapter_config.json": "adapter_model.safetensors", "config.json": "model.safetensors"}
PICKLES = {"config.json": "pytorch_model*.bin", "adapter_config.json": "adapter_model.bin"}
SHIPPED = ("tiny_base", "relation_base")  # the base models in this package (docs/testbed.md)


class NoWeights(DataError):
    """A model's folder has a configuration and no weights."""


def local_path(name: str) -> str:
    """An existing folder, or a base model of `SHIPPED`, as an absolute path; a Hub id unchanged."""
    path = Path(name).expanduser()
    if name in SHIPPED and not path.exists():
        path = Path(__file__).parents[1] / "lab" / "testbed" / name
    return str(path.absolute()) if path.is_dir() else name


def looks_local(name: str) -> bool:
    """Whether a model's name can only be a path (transformers would look it up on the Hub)."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if name in SHIPPED:
        return True
    try:
        validate_repo_id(name)
    except HFValidationError:  # more than one slash, or a character that a Hub id cannot have
        return True
    return name.startswith((".", "/", "~")) or os.path.exists(name)


def check_model_path(name: str, *, allow_pickle: bool = False, weights: bool = True) -> None:
    """Checks that a model can be loaded from a local folder; for a Hub id only that the Hub is reachable.

    Without `weights`, a configuration is enough: memory and steps are planned from it.

    Raises:
        DataError: The folder, a configuration, weights or a shard is missing; a file is truncated; there are only
            pickles and they are not allowed.
    """
    if name in SHIPPED:
        name = local_path(name)
    if not looks_local(name):
        go_offline_if_unreachable()
        return
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{name}: no such model folder. Fix: give a folder with a config.json, or a Hub id (owner/name)"
        )
    kind = next((file for file in WEIGHTS if (folder / file).exists()), None)
    if kind is None:
        started = "the run of ift train in this folder has not finished, so there is no model yet"
        finish = "repeat its command with --resume auto, or give one of its checkpoints (checkpoint-N)"
        raise DataError(
            f"{name}: {started}. Fix: {finish}"
            if is_unfinished(folder)
            else f"{name}: no config.json in this folder. Fix: give the folder that the model was saved to"
        )
    found = _json_object(folder / kind)
    if weights:
        _check_weights(folder, kind, allow_pickle, named=found.get("transformers_weights"))
    if kind == "adapter_config.json":
        base = find_base(name, found.get("base_model_name_or_path"))
        try:
            check_model_path(base, allow_pickle=allow_pickle, weights=weights)
        except DataError as error:
            raise type(error)(f"{name}: the base of this adapter: {error}") from error


def is_unfinished(folder: Path) -> bool:
    """Whether `run.json` says that the run of `ift train` in a folder has not finished."""
    try:
        return json.loads((folder / RUN).read_text(encoding="utf-8"))["finished"] is False
    except (OSError, ValueError, TypeError, KeyError):  # no run of ift train
        return False


def warn_of_unfinished_run(name: str) -> None:
    """Prints to standard error if a model's folder holds an unfinished run, whose model is not saved yet."""
    if is_unfinished(Path(name).expanduser()):
        print(
            f"warning: {name}: the run of ift train in this folder has not finished ({RUN}), so the model files there "
            "are not its result. Fix: repeat its command with --resume auto, or give one of its checkpoints "
            "(checkpoint-N)",
            file=sys.stderr,
        )


def _json_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file}: found text that is not JSON ({error}). Fix: copy the file again from its source"
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            f"{file}: found {describe(found)}, expected a JSON object. Fix: copy the file again from its source"
        )
    return found


def _check_weights(folder: Path, kind: str, allow_pickle: bool, named: Any) -> None:
    file = folder / (named if isinstance(named, str) else WEIGHTS[kind])
    index = folder / f"{file.name}.index.json"
    if file.is_file():
        _check_complete(file)
    elif index.is_file():
        for shard in sorted({str(one) for one in _json_object(index).get("weight_map", {}).values()}):
            if not (folder / shard).is_file():
                raise DataError(
                    f"{folder}: {shard} is missing, which {index.name} names. Fix: copy the whole folder again"
                )
            _check_complete(folder / shard)
    elif pickles := sorted(path.name for path in folder.glob(PICKLES[kind])):
        if not allow_pickle:
            raise DataError(
                f"{folder}: its weights are a pickle ({pickles[0]}), a format that can run code. Fix: save it again "
                "as safetensors (model.save_pretrained), or use --allow_pickle_weights if you trust its source"
            )
    else:
        raise NoWeights(
            f"{folder}: no weights in this folder: no {file.name}. Fix: copy them there, or give the folder that the "
            "model was saved to"
        )


def _check_complete(file: Path) -> None:
    """Raises DataError for a safetensors file that is shorter than its header says; reads only the header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise DataError(
            f"{file}: cannot be read as safetensors ({quoted(error)}); it has {size:,} bytes. Fix: copy or download "
            "it again: it may have been cut short"
        ) from error


@contextmanager
def explain_weight_loading_errors(name: str) -> Iterator[None]:
    """Re-raises errors of transformers, safetensors and pickle about unreadable weights as DataError."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if "use_safetensors" not in str(error):
            raise
        raise DataError(
            f"{name}: has no weights in safetensors, only in a format that can run code. Fix: use another copy of "
            "the model, or --allow_pickle_weights if you trust its source"
        ) from error
    except (SafetensorError, UnpicklingError) as error:
        raise DataError(
            f"{name}: its weights cannot be loaded: {quoted(error)}. Fix: copy or download them again"
        ) from error


@contextmanager
def explain_loading_errors(name: str, part: str) -> Iterator[None]:
    """Re-raises any error of loading a part of a model as DataError with a fix."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if looks_local(name):
            raise DataError(
                f"{name}: its {part} cannot be loaded: {quoted(error)}. Fix: put the {part}'s files into the folder, "
                f"as {part}.save_pretrained writes them"
            ) from error
        raise DataError(
            f"{name}: there is no such folder, and no {part} of this name from the Hub: {quoted(error)}. "
            f"{folder_or_download(name, SHIPPED)}"
        ) from error
