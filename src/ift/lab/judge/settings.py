"""The settings of one run of `ift judge`, checked before anything is read or sent."""

import math
from dataclasses import dataclass
from pathlib import Path

from ift.lab.judge.errors import JudgeError
from ift.runs.argv import UsageError


@dataclass(frozen=True)
class JudgeSettings:
    """What to judge, by whom, and how.

    Raises:
        UsageError: A number is out of range; the message names the flag.
        JudgeError: Two settings exclude each other, or an input would be overwritten.
    """

    first: Path  # the file whose answers are judged
    second: Path | None  # the file that they are compared with; None: `reference`, or grades
    judge: str  # the judge's name at the endpoint
    reference: str | None = None  # a column of the prompts' rows to compare with; None: `second`, or grades
    questions: Path | None = None  # MT-Bench's question file
    reference_answers: Path | None = None  # a file of FastChat's `reference_answer` folder, for grades
    summaries: bool = False  # whether the compared answers are summaries of posts
    output_dir: Path = Path("ift-judge")  # where the replies, the verdicts and the record are written
    limit: int | None = None  # judge the first `limit` prompts; None: all
    max_tokens: int = 300  # the longest reply of the judge, in tokens
    threads: int = 4  # questions asked at the same time
    requests_per_minute: float | None = None  # None: no limit
    prices: tuple[float, float] | None = None  # per million tokens in and out; None: unknown

    def __post_init__(self) -> None:
        for name in ("limit", "max_tokens", "threads", "requests_per_minute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name}: found {value}; give a number above 0")
        if self.second is not None and self.reference is not None:
            raise JudgeError("give a second file or --reference, not both")
        if self.grades and self.summaries:
            raise JudgeError("--summaries is for comparisons: give a second file or --reference too")
        if not self.grades and self.reference_answers is not None:
            raise JudgeError("--reference_answers is for grades: leave out the second file and --reference")
        inputs = {p.resolve() for p in (self.first, self.second, self.questions, self.reference_answers) if p}
        for output in (self.verdicts_file, self.record_file):
            if output.resolve() in inputs:
                raise JudgeError(f"{output} is an input and would be overwritten; give another --output_dir")

    @property
    def grades(self) -> bool:
        """Whether each answer is graded; otherwise pairs of answers are compared."""
        return self.second is None and self.reference is None

    @property
    def verdicts_file(self) -> Path:
        """One JSON line per pair or per graded answer."""
        return self.output_dir / "verdicts.jsonl"

    @property
    def record_file(self) -> Path:
        """The record for `ift report`."""
        return self.output_dir / "record.json"


def parse_prices(text: str | None) -> tuple[float, float] | None:
    """The value of --prices, such as "2.5,10".

    Raises:
        UsageError: It is not two numbers of at least 0.
    """
    if text is None:
        return None
    try:
        price_in, price_out = (float(part) for part in text.split(","))
    except ValueError:
        price_in = price_out = math.nan
    if not (0 <= price_in < math.inf and 0 <= price_out < math.inf):
        raise UsageError(f"--prices: found {text!r}; give two numbers, such as 2.5,10")
    return price_in, price_out
