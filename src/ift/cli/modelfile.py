"""`ift modelfile MODEL`: Ollama's Modelfile of a model."""

from __future__ import annotations

import sys
from pathlib import Path

import typer


def command(
    model: str = typer.Argument(
        help="A run folder, checkpoint or Hub id; of a merged adapter, either folder."
    ),
    weights: str = typer.Option(..., help="The GGUF file, absolute or relative to the Modelfile."),
    output: str = typer.Option("Modelfile", help="File to write; it must not exist."),
) -> int:
    """Write Ollama's Modelfile: the chat template as a Go template, and where answers end."""
    from ift.data import DataError
    from ift.files import write_atomically
    from ift.models.model_folder import check_model_path, warn_of_unfinished_run
    from ift.models.modelfile import modelfile
    from ift.text import visible

    path = Path(output).expanduser()
    if path.exists():
        raise DataError(f"{path}: exists. Fix: name another --output")
    check_model_path(model, weights=False)
    warn_of_unfinished_run(model)
    write_atomically(path, modelfile(model, weights))
    gguf = path.parent / Path(weights).expanduser()
    if not gguf.is_file():
        print(visible(f"warning: {gguf}: there is no such file yet; ollama create needs it"), file=sys.stderr)
    print(visible(f"{path}\nnext      ollama create NAME -f {path}"))
    return 0
