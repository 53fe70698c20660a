"""`ift_model.json` in a trained model's folder: how its prompts were written, and an adapter's base."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ift.files import write_atomically

FILE = "ift_model.json"
# these may change when a model is saved again
CONFIG_KEYS_IGNORED = ("transformers_version", "_name_or_path", "architectures")
SAMPLES, SAMPLE_BYTES = 16, 4096  # number of samples of each weight file, and their size


@dataclass(frozen=True)
class ModelRecord:
    """Facts about a trained model that its other files do not contain.

    Attributes:
        prompts: How prompts were written in training, see `DataReport.prompts`; "" if unknown.
        base_sha256: For an adapter on a local base, `model_sha256` of the base when it was loaded for training.
        trained_from: The Hub id, or the name of the folder, of the first model: that from which this one was trained,
            or from which its local start was in turn. "" if unknown.
        base_dtype: For an adapter, the dtype of the base's weights in training, such as float32; "" for that of its
            files, for a base in few bits, and if unknown.
    """

    prompts: str = ""
    base_sha256: str = ""
    trained_from: str = ""
    base_dtype: str = ""


def write_record(folder: Path, record: ModelRecord) -> None:
    """Writes the record into a model's folder, and makes the weights as readable as the record.

    safetensors 0.8 writes files that only their owner can read, whatever the umask.
    """
    facts = {name: value for name, value in asdict(record).items() if value}
    write_atomically(folder / FILE, json.dumps(facts, indent=1) + "\n")
    for weights in folder.glob("*.safetensors"):
        weights.chmod((folder / FILE).stat().st_mode)


def read_record(name: str, revision: str | None = None) -> ModelRecord:
    """The record of a folder or Hub id, of the Hub at a revision; an empty one without a record."""
    try:
        facts = json.loads(Path(find_file(name, FILE, revision) or "").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ModelRecord()
    if not isinstance(facts, dict):
        return ModelRecord()
    return ModelRecord(
        **{one: facts[one] for one in asdict(ModelRecord()) if isinstance(facts.get(one), str)}
    )


def find_file(name: str, file: str, revision: str | None = None) -> str | None:
    """The local path of a file of a folder or Hub id, downloaded if necessary; None if it does not exist."""
    from transformers.utils import cached_file

    path = Path(name).expanduser()
    if path.is_dir():
        return str(path / file) if (path / file).is_file() else None
    quiet = ("gated_repo", "missing_entries", "connection_errors")
    options = {f"_raise_exceptions_for_{kind}": False for kind in quiet}
    found: str | None = cached_file(name, file, revision=revision, **options)
    return found


def model_sha256(folder: Path) -> str:
    """A hash that identifies the model in a folder, without reading all weights.

    It covers the configuration, and of every safetensors file the header (names, shapes, dtypes) and 16 samples of
    4 KiB, so that fine-tunes of the same model have different hashes.
    """
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in CONFIG_KEYS_IGNORED}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = 8 + int.from_bytes(opened.read(8), "little")
            opened.seek(0)
            digest.update(opened.read(start))
            for number in range(SAMPLES):
                opened.seek(start + (size - start) * number // SAMPLES)
                digest.update(opened.read(SAMPLE_BYTES))
    return digest.hexdigest()
