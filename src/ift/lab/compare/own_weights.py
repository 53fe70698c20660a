"""Contenders with token weights of the user's own, such as `ift FILE.py:function` in `--methods`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ift.methods.table import parse_methods
from ift.user_code import file_sha256, load_function

ALONE = (
    "propagation only"  # between the method and the function: without the residual, as `ift propagation only`
)
PROPAGATION = ("propagation", "propagation_gamma", "propagation_detach")


def own_weights(name: str) -> dict[str, Any] | None:
    """Parse a name such as `ift FILE.py:function` into fields of `Entrant`: IFT with these token weights.

    The variant is the name of the function. The file is read for the hash of its code, but not imported.

    Args:
        name: A method, or a sequence that contains `ift`, then a space and the function; `ALONE` may precede the
            function.

    Returns:
        The fields, or None for a name without a function.

    Raises:
        ValueError: The method does not contain IFT, or the file does not exist.
    """
    method, _, spec = name.strip().partition(" ")
    alone = spec.strip().startswith(f"{ALONE} ")
    spec = spec.strip().removeprefix(ALONE)
    path, _, function = spec.strip().rpartition(":")
    if not path.endswith(".py"):
        return None
    stages = parse_methods(method)
    places = [number for number, stage in enumerate(stages, start=1) if stage.name == "ift"]
    if not places:
        raise ValueError(f"{name!r}: {method} has no weights of its own; give 'ift {spec.strip()}'")
    file = Path(path).expanduser().resolve()  # the trials are other processes
    if not file.is_file():
        raise ValueError(f"{name!r}: {path}: no such file")
    prefix = f"{places[-1]}." if len(stages) > 1 else ""
    # settings of the propagation that are meant for other contenders have no effect here
    settings = {"token_weights": f"{file}:{function}", **_propagation_defaults()}
    settings |= {"residual_lambda": 0.0} if alone else {}
    return {
        "method": "+".join(one.name for one in stages),
        "variant": f"{ALONE}, {function}" if alone else function,
        "settings": {f"{prefix}{key}": value for key, value in settings.items()},
        "weights_sha256": file_sha256(f"{file}:{function}"),
    }


def _propagation_defaults() -> dict[str, Any]:
    from ift.step import StepSettings

    defaults = StepSettings()
    return {key: getattr(defaults, key) for key in PROPAGATION}


def name_of(method: str, settings: Mapping[str, Any]) -> str | None:
    """The name from which `own_weights` makes these settings; None if the entrant has no weights of its own."""
    spec = spec_of(settings)
    alone = any(key.endswith("residual_lambda") for key in settings)
    return spec and f"{method} {f'{ALONE} ' if alone else ''}{spec}"


def spec_of(settings: Mapping[str, Any]) -> str | None:
    """The FILE.py:function in the settings of an entrant; None if it has no weights of its own."""
    return next((str(value) for key, value in settings.items() if key.endswith("token_weights")), None)


def try_own_weights(entrants: Iterable[Any], flag: str) -> None:
    """Import the functions of all entrants, which `flag` has named, and try them, before anything is trained.

    Raises:
        ValueError: A file cannot be imported, has no such function, or the function fails or does not return weights.
            The message names it.
    """
    for entrant in entrants:
        if entrant.weights_sha256:
            from ift.step.equations import try_weights

            try_weights(load_function(str(spec_of(entrant.settings)), flag), "cpu")


def check_unchanged(entrant: Any) -> None:
    """Raise ValueError if the code of an entrant's weights has changed since the study began."""
    if entrant.weights_sha256:
        spec = str(spec_of(entrant.settings))
        if file_sha256(spec) != entrant.weights_sha256:
            raise ValueError(
                f"{spec.rpartition(':')[0]} has changed since the study began, so {entrant.label} would be two "
                "contenders in one; restore the file, or give another --output_dir"
            )


def recorded(config: Mapping[str, Any], entrant: Any) -> dict[str, Any]:
    """The configuration for a record, without the folder of the file of weights and the settings that they replace."""
    if not entrant.weights_sha256:
        return dict(config)
    (key,) = [name for name in entrant.settings if name.endswith("token_weights")]
    prefix = key.removesuffix("token_weights")
    unused = {f"{prefix}{name}" for name in PROPAGATION} | {*PROPAGATION}
    kept = {name: value for name, value in config.items() if name not in unused}
    return {**kept, key: Path(str(spec_of(entrant.settings))).name, f"{key}_sha256": entrant.weights_sha256}
