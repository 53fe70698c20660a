"""`ift score ANSWERS --score NAME`: files of answers, scored as `ift compare --score` scores them."""

from __future__ import annotations

from pathlib import Path

import typer

from ift.cli.judge import agree
from ift.runs.argv import UsageError
from ift.text import counted


def main(
    answers: Path, score: str, rows: Path | None, database: str | None, column: str | None, pattern: str | None,
    output: Path | None, judge: str | None = None, prices: str | None = None, yes: bool = False,
) -> int:  # fmt: skip
    """Score, print a table and write the values of each row; returns the exit code."""
    from ift.files import check_target
    from ift.generation.final_answer import final_answer_of
    from ift.lab.judge.settings import parse_prices
    from ift.lab.report.json_files import write_json_lines
    from ift.lab.report.wording import label, number
    from ift.lab.scores import load_scores, parse_names, score_answers, target_scores
    from ift.lab.scores.answer_files import read_answers, score_lines
    from ift.lab.scores.judged import JUDGE, Grader, JudgeOptions, agree_to_cost
    from ift.lab.scores.table import FINAL_ANSWER
    from ift.text import visible

    names = parse_names(score, database, judge)
    output = output or answers.with_name(f"{answers.stem}.scores.jsonl")
    inputs = [file for file in (answers, rows, database and Path(database)) if file]
    check_target(
        output, inputs, replaces=lambda start: start.startswith(b'{"id": ') and b'"scores": {' in start
    )
    found = read_answers(answers, rows, column)
    if FINAL_ANSWER in names:
        final = final_answer_of([one.references[0] for one in found], pattern)
        if final is None:
            raise UsageError(
                f"--score {FINAL_ANSWER}: no kind of final answer is in all right answers; give --answer_pattern"
            )
        pattern = final.pattern
    elif pattern is not None:
        raise UsageError(f"--answer_pattern is for --score {FINAL_ANSWER}: name it too, or leave it out")
    grader = None if judge is None else Grader(JudgeOptions(judge, output.with_name(f"{answers.stem}.judge")))
    scores = [
        grader.score() if grader and name == JUDGE else load_scores([name], database, pattern)[0]
        for name in names
    ]
    rights = target_scores(scores, found)
    if grader is not None:
        requests, tokens = grader.cost(found)
        agree_to_cost(
            str(judge), requests, tokens, parse_prices(prices), print, (lambda: None) if yes else agree
        )
    result = score_answers(scores, found)
    write_json_lines(output, score_lines(found, result), ensure_ascii=False)
    table = [("score", "answers", "right answers")]
    table += [
        (label(name), number(one, name), number(rights.get(name), name))
        for name, one in result.totals.items()
    ]
    width = max(len(name) for name, _, _ in table)
    for name, value, right in table:
        print(visible(f"{name:<{width}}  {value:>10}  {right:>13}"))
    print(f"{counted(len(found), 'answer')}; the values of each: {output}")
    return 0


def command(
    answers: str = typer.Argument(help="A file of ift generate, or of a study's answers folder."),
    score: str = typer.Option(
        ...,
        "--score",
        help="final-answer, text, contains, json, sql, bleu, chrf, rouge, f1, judge, FILE.py:function; or several.",
    ),
    rows: str = typer.Option(
        None, "--rows", help="File with the rows (default: those in the file of answers)."
    ),
    database: str = typer.Option(None, "--score_db", help="SQLite file for sql, opened read-only."),
    column: str = typer.Option(
        None, "--reference", help="Column of the right answers (default: references, or the trained answer)."
    ),
    pattern: str = typer.Option(
        None, "--answer_pattern", help="For final-answer: ####, boxed or a regular expression."
    ),
    judge: str = typer.Option(
        None, help="Model that judge asks, at the endpoint of ift judge; it costs money."
    ),
    prices: str = typer.Option(
        None, help="The judge's prices per million tokens in and out, such as 2.5,10."
    ),
    yes: bool = typer.Option(False, "--yes", help="Agree to the judge's cost beforehand."),
    output: str = typer.Option(
        None, "--output", help="File for the values of each row (default: ANSWERS.scores.jsonl)."
    ),
) -> int:
    """Score a file of answers: exact match, SQL results, BLEU, a function of your own."""

    def path(text: str | None) -> Path | None:
        return None if text is None else Path(text).expanduser()

    files = path(rows), database, column, pattern, path(output)
    return main(Path(answers).expanduser(), score, *files, judge, prices, yes)
