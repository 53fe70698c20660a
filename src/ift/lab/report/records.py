"""The record of a run: one typed, versioned JSON object for every experiment. docs/report.md explains all keys.

A record is a file of its own, or one line of a study's file (`ift.lab.report.study`).
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ift.files import numbered_lines
from ift.lab.report.decode import ReportError, decode, encode
from ift.lab.report.json_files import write_json

SCHEMA = 1  # raise it when a key changes its meaning or goes; `load` then converts the older ones
FORMAT = "ift-run"  # the first key's value: tells a record from other JSON files
LINES = ".jsonl"  # the ending of a file with a record in each line
_HEAD_BYTES = 4096

Setting = float | int | str | bool | list[float] | None
Config = dict[str, Setting]


@dataclass(frozen=True)
class DataSplit:
    """The scored rows of a split: their number, and the SHA-256 (hex) of their bytes."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class Trial:
    """One point of a search on validation data; its score is None if the training diverged."""

    config: Config
    score: float | None
    tie: float | None = None  # decides between equal scores, the higher one; None: the first tried is taken


@dataclass(frozen=True)
class Cost:
    """The costs of a run; None means not measured."""

    seconds: float | None = None  # wall clock of training, all stages, without the search and without scoring
    flops: float | None = None  # floating-point operations of training, all stages
    peak_memory_bytes: float | None = None  # peak of the process (CPU) or of the device's allocator
    models_held: int | None = None  # models in memory at once: 2 where a reference model is held
    answers_seen: int | None = None  # answers trained on, repeats included
    labels: int | None = None  # preference labels (pairs judged) needed beyond target answers


@dataclass(frozen=True)
class Sample:
    """One generated answer."""

    split: str  # a key of the record's `scores`
    id: str  # names the problem inside its split; the same in the records of all methods
    prompt: str  # what was asked
    target: str  # a right answer
    answer: str  # what the model wrote
    right: bool | None  # whether it counts as right; None where nothing says so
    # line of `answer` where it first goes wrong, from 1; one more than it has lines where a line is missing at its end.
    # None where it is right or the line is unknown
    first_wrong_step: int | None = None
    scores: dict[str, float] | None = None  # its values by name, such as sentence BLEU


@dataclass(frozen=True)
class Provenance:
    """The origin of a run; `ift.lab.report.provenance()` fills it in."""

    versions: dict[str, str]  # of Python and of the packages that compute
    hardware: dict[str, Setting]  # machine, cores, threads, accelerator; no host name
    # of the source that ran, with `-dirty` where it was changed; None outside a repository
    git_commit: str | None
    command: str  # as typed, without absolute paths, tokens and addresses' passwords
    created: str  # UTC, ISO 8601


@dataclass(frozen=True)
class RunRecord:
    """One method, trained and scored with one seed."""

    format: str = field(default=FORMAT, kw_only=True)  # always `ift-run`
    schema: int = field(default=SCHEMA, kw_only=True)  # always `SCHEMA`
    experiment: str  # what it is part of: `compare`, `ablate`, ...
    setting: str  # task family, data size, noise: runs of one setting are compared with each other
    method: str  # `base`, `sft`, `ift`, `sft+dpo`, ...
    seed: int  # of the run; runs of one seed are paired
    # by split; `n` (answers scored) and any numbers, such as `exact_match` in 0..1. None: not finite
    scores: dict[str, dict[str, float | None]]
    provenance: Provenance
    variant: str = ""  # tells runs of one method apart, such as `lambda 0.4`; empty for the method as it is
    # hyper-parameters, as trained: `learning_rate`, `beta`, `residual_lambda`, ...
    config: Config = field(default_factory=dict)
    data: dict[str, DataSplit] = field(default_factory=dict)  # by split, train among them
    cost: Cost = field(default_factory=Cost)
    # how the configuration was chosen on validation data; None: it was not searched
    search: list[Trial] | None = None
    # by split and score: the value of each row, in the rows' order; their mean is the score
    row_scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    # by split: how many of the `n` answers first go wrong at step 1, 2, ... (see `Sample`)
    error_steps: dict[str, list[int]] = field(default_factory=dict)
    # what was logged, a mapping per logging step with `step` in each; steps count on through stages
    curves: list[dict[str, Setting]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)  # some answers, the same problems for every method

    @property
    def label(self) -> str:
        """The method and the variant, as tables and figures name them."""
        return f"{self.method} {self.variant}".strip()


def save(record: RunRecord, path: str | Path) -> Path:
    """Write a record; numbers that are not finite become null.

    A reader sees either the whole old file or the whole new one.

    Raises:
        ReportError: A value does not fit the schema; nothing is written.
    """
    path = Path(path)
    try:
        values = encode(record)
        _check(decode(RunRecord, values))
    except ReportError as error:
        raise ReportError(f"{path}: not saved: {error}") from None
    write_json(path, values, sync=True)
    return path


def load(path: str | Path) -> RunRecord:
    """Read a record, with every value of its annotated type.

    Raises:
        ReportError: The file does not exist, is no record, has a newer schema, or has a wrong, missing or unknown key.
    """
    return _parse(_read(Path(path)), Path(path), "file")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); name a record's file") from None


def _parse(found: bytes, path: Path, what: str) -> RunRecord:
    """Parse a record from the bytes of a file or a line; `path` and `what` are for messages."""
    try:
        values = json.loads(found.decode("utf-8"))
    except ValueError as error:
        raise ReportError(f"{path}: not JSON ({error}); make the record again") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ReportError(
            f'{path}: not the record of a run: it has no "format": "{FORMAT}"; leave the {what} out'
        )
    schema = values.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise ReportError(
            f"{path}: schema: found {schema}, this ift reads up to {SCHEMA}; install a newer intuitive-fine-tuning"
        )
    try:
        return _check(decode(RunRecord, values))
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from None


def find(places: Iterable[str | Path]) -> dict[Path, RunRecord]:
    """Read records from files, and from folders and all their subfolders; a file named twice is read once.

    Args:
        places: Files and folders. Files must be records, or end in `.jsonl` and have one record per line. Other files
            in folders are ignored.

    Returns:
        Records by file, in the order of the names. The third line of `study.jsonl` is called `study.jsonl:3`.

    Raises:
        ReportError: A record or line cannot be read (see `load`), a place does not exist, or no place has a record.
    """
    named = [Path(place).expanduser() for place in places]
    files: dict[Path, Path] = {}
    for place in named:
        if place.is_dir():
            inside = [file for ending in ("json", "jsonl") for file in place.rglob(f"*.{ending}")]
            found = [file for file in inside if file.is_file() and _looks_like_a_record(file)]
        elif place.exists():
            found = [place]
        else:
            raise ReportError(f"{place}: no such file or folder; name run records or folders that hold them")
        files.update({file.resolve(): file for file in found})
    if not files:
        raise ReportError(
            f"no run records in {', '.join(map(str, named)) or 'nothing'}; name the output folder of `ift compare` "
            f'or files that begin with "format": "{FORMAT}"'
        )
    records: dict[Path, RunRecord] = {}
    for file in sorted(files.values()):
        records.update(_load_lines(file) if file.suffix == LINES else {file: load(file)})
    return records


def _load_lines(file: Path) -> dict[Path, RunRecord]:
    """The records of a file with one record per line; empty lines are skipped."""
    try:
        named = {file.with_name(f"{file.name}:{number}"): line for number, line in numbered_lines(file)}
    except OSError as error:
        raise ReportError(f"{file}: cannot be read ({error.strerror}); name a record's file") from None
    if not named:
        raise ReportError(f"{file}: no run records in it; make the file again")
    return {name: _parse(line, name, "line") for name, line in named.items()}


def _looks_like_a_record(file: Path) -> bool:
    with file.open("rb") as opened:
        return f'"{FORMAT}"'.encode() in opened.read(_HEAD_BYTES)


def _check(record: RunRecord) -> RunRecord:
    """Check the rules for a record that its types do not express."""
    if record.format != FORMAT or record.schema != SCHEMA:
        raise ReportError(f"schema: found {record.format} {record.schema}; give {FORMAT} {SCHEMA}")
    for name in ("experiment", "setting", "method"):
        if not getattr(record, name).strip():
            raise ReportError(f"{name}: found an empty text; name it")
    if not record.scores:
        raise ReportError("scores: found no split; give at least one, such as test")
    for split, scores in record.scores.items():
        if not (scores.get("n") or 0) > 0:
            raise ReportError(f"scores.{split}.n: found {scores.get('n')}; give the number of answers scored")
    for index, line in enumerate(record.curves):
        if not isinstance(line.get("step"), int):
            raise ReportError(f"curves[{index}].step: found {line.get('step')!r}; give a whole number")
    for index, sample in enumerate(record.samples):
        if sample.first_wrong_step is not None and sample.first_wrong_step < 1:
            raise ReportError(
                f"samples[{index}].first_wrong_step: found {sample.first_wrong_step}; count from 1"
            )
    for name, value in dataclasses.asdict(record.cost).items():
        if value is not None and value < 0:
            raise ReportError(f"cost.{name}: found {value}; give 0 or more")
    return record
