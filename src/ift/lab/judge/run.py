"""One run of `ift judge`: read the answers, plan and ask about the cost, ask the judge, save the verdicts."""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

from rich.console import Console

from ift.files import write_atomically
from ift.lab.judge.answers import AnswerFile, read_answers, read_by_question, read_references, with_references
from ift.lab.judge.cache import ReplyCache
from ift.lab.judge.comparison import Comparison, against_references, paired
from ift.lab.judge.endpoint import Endpoint
from ift.lab.judge.errors import JudgeError
from ift.lab.judge.grading import Grading
from ift.lab.judge.judging import Estimate, Judge, describe_problems
from ift.lab.judge.questions import VERSION
from ift.lab.judge.settings import JudgeSettings
from ift.lab.judge.table import Line, Table
from ift.lab.progress import WorkProgress
from ift.lab.report import DataSplit, ReportError, RunRecord, load, provenance, save
from ift.text import counted, quoted

QUESTIONS = (
    "questions_sha256"  # in the record's configuration: of what the judge was asked, the answers included
)


def run_judge(
    settings: JudgeSettings, show: Callable[[list[Line]], object], agree: Callable[[], None]
) -> Table:
    """Judges answers, writes `verdicts.jsonl` and `record.json`, and returns the table of the result.

    The result of another judgement in the same folder is moved into its folder `earlier`.

    `show` is called with lines to show, first the plan, then the result; `agree` before the first request, if one is
    needed: it raises an error to refuse.

    Raises:
        JudgeError: The answers cannot be judged, the endpoint does not answer, or there is no verdict.
        EvaluationError: A file cannot be read.
        KeyboardInterrupt: After replies to the requests under way are kept.
    """
    work, remarks = read_work(settings)
    questions = work.questions()
    with (
        closing(Endpoint(settings.judge, settings.requests_per_minute)) as endpoint,
        closing(ReplyCache(settings.output_dir / "replies.sqlite")) as cache,
    ):
        judge = Judge(endpoint, cache, settings.max_tokens, threads=settings.threads)
        estimate = judge.estimate(questions)
        show([*remarks, *_plan_lines(settings, estimate, len(questions))])
        if estimate.requests:
            agree()
        with WorkProgress(Console(stderr=True), estimate.requests) as progress:
            judged = judge.judge(questions, lambda: progress.advance("questions"))
    table = work.table(judged)
    record = _record(settings, work, table)
    if moved := _keep_another_result(settings, record):
        show(moved)
    write_atomically(
        settings.verdicts_file,
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.verdicts),
    )
    if not table.scores:
        problems = describe_problems(one.problem for one in judged)
        raise JudgeError(
            f"there is no verdict: {quoted(problems)}. The replies are in {settings.verdicts_file}"
        )
    save(record, settings.record_file)
    show([*table.lines, *_usage_lines(settings, judge), ("verdicts", str(settings.verdicts_file))])
    return table


def read_work(settings: JudgeSettings) -> tuple[Comparison | Grading, list[Line]]:
    """The pairs to compare or the answers to grade, and remarks on the rows of their files.

    Raises:
        JudgeError: The files do not fit together, or a setting would be ignored.
        EvaluationError: A file cannot be read.
    """
    questions = read_by_question(settings.questions) if settings.questions else None
    paths = [path for path in (settings.first, settings.second) if path is not None]
    files = [read_answers(path, questions) for path in paths]
    if questions and not any(file.of_mt_bench for file in files):
        raise JudgeError("--questions is for MT-Bench's answer files, and there is none; leave it out")
    remarks = [line for file in files for line in _remark_lines(file)]
    first, name = files[0].answers, settings.first.stem
    if settings.grades:
        return _grading(settings, files[0]), remarks
    if settings.second is not None:
        pairs, unpaired = paired(first, files[1].answers)
        second = settings.second.stem
    else:
        pairs, unpaired = against_references(first, str(settings.reference))
        second = f"column {settings.reference}"
    return Comparison(pairs[: settings.limit], name, second, settings.summaries, unpaired), remarks


def _grading(settings: JudgeSettings, file: AnswerFile) -> Grading:
    known = read_references(settings.reference_answers) if settings.reference_answers else None
    answered = with_references(file.answers, known, file.path)
    return Grading(answered[: settings.limit], settings.first.stem)


def _remark_lines(file: AnswerFile) -> list[Line]:
    counts = {f"{counted(count, 'row')} {remark}": count for remark, count in file.remarks.items()}
    return [("answers", f"{file.path}: {text}") for text, count in counts.items() if count]


def _plan_lines(settings: JudgeSettings, estimate: Estimate, questions: int) -> list[Line]:
    known = questions - estimate.requests
    cost = _cost(settings, estimate.prompt_tokens, estimate.completion_tokens)
    lines = [("requests", f"{estimate.requests:,} to {settings.judge}")]
    if known:
        lines.append(
            ("no request", f"{known:,} of {counted(questions, 'question')}: judged before, or asked twice")
        )
    if estimate.requests:
        tokens = f"about {estimate.prompt_tokens:,} in, at most {estimate.completion_tokens:,} out"
        lines.append(("tokens", f"{tokens}{cost or ', cost unknown (--prices)'}"))
    return lines


def _usage_lines(settings: JudgeSettings, judge: Judge) -> list[Line]:
    cost = _cost(settings, judge.prompt_tokens, judge.completion_tokens)
    used = f"{judge.prompt_tokens:,} in, {judge.completion_tokens:,} out used by this run{cost}"
    lines = [("tokens", used)]
    if judge.uncounted:
        lines.append(("", f"the endpoint did not count those of {counted(judge.uncounted, 'response')}"))
    if not judge.endpoint.form.temperature:
        note = "the judge's default, because it does not accept 0; another run may give other verdicts"
        lines.append(("temperature", note))
    return lines


def _cost(settings: JudgeSettings, tokens_in: int, tokens_out: int) -> str:
    if settings.prices is None:
        return ""
    price_in, price_out = settings.prices
    return f", {(price_in * tokens_in + price_out * tokens_out) / 1e6:.2f} at the given prices"


def _keep_another_result(settings: JudgeSettings, record: RunRecord) -> list[Line]:
    """Moves the result of other answers, or of another judge, aside; returns a line that says where it is."""
    if not settings.record_file.exists():
        return []
    try:
        earlier = load(settings.record_file)
    except ReportError:
        name, digest = "unreadable", hashlib.sha256(settings.record_file.read_bytes()).hexdigest()
    else:
        if all(getattr(earlier, key) == getattr(record, key) for key in ("method", "setting", "config")):
            return []
        name, digest = f"{earlier.method} {earlier.setting}", str(earlier.config.get(QUESTIONS, ""))
    folder = settings.output_dir / "earlier" / re.sub(r"[^\w.-]+", "-", f"{name} {digest[:8]}".strip())
    folder.mkdir(parents=True, exist_ok=True)
    for file in (settings.verdicts_file, settings.record_file):
        if file.exists():
            file.replace(folder / file.name)
    return [("earlier", f"the result of another judgement ({name}) is now in {folder}")]


def _record(settings: JudgeSettings, work: Comparison | Grading, table: Table) -> RunRecord:
    split = DataSplit(len(work.ids), _sha256(work.ids))
    summaries = ", summaries" if settings.summaries else ""
    return RunRecord(
        experiment="judge",
        setting=f"{work.kind}, judge {settings.judge}, prompts {VERSION}{summaries}",
        config={QUESTIONS: _sha256([one.messages for one in work.questions()])},
        method=settings.first.stem,
        seed=0,
        scores={name: dict(values) for name, values in table.scores.items()},
        data=dict.fromkeys(table.scores, split),
        provenance=provenance(local_model=False),
    )


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
