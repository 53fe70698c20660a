"""`ift score ANSWERS --score NAME`: files of answers, scored as `ift compare --score` scores them."""

from __future__ import annotations

from pathlib import Path

import typer

from ift.runs.argv import UsageError


def main(
    answers: Path, score: str, rows: Path | None, database: str | None, column: str | None, pattern: str | None,
    output: Path | None,
) -> int:  # fmt: skip
    """Score, print a table and write the values of each row; returns the exit code."""
    from ift.files import check_target
    from ift.generation.final_answer import final_answer_of
    from ift.lab.report.json_files import write_json_lines
    from ift.lab.report.wording import label, number
    from ift.lab.scores import load_scores, parse_names, score_answers, target_scores
    from ift.lab.scores.answer_files import read_answers, score_lines
    from ift.lab.scores.table import FINAL_ANSWER
    from ift.text import visible

    names = parse_names(score, database)
    output = output or answers.with_name(f"{answers.stem}.scores.jsonl")
    check_target(output, [file for file in (answers, rows, database and Path(database)) if file])
    found = read_answers(answers, rows, column)
    if FINAL_ANSWER in names:
        final = final_answer_of([one.references[0] for one in found], pattern)
        if final is None:
            raise UsageError(f"--score {FINAL_ANSWER}: no final answer in common; give --answer_pattern")
        pattern = final.pattern
    elif pattern is not None:
        raise UsageError(f"--answer_pattern is for --score {FINAL_ANSWER}: name it too, or leave it out")
    scores = load_scores(names, database, pattern)
    rights = target_scores(scores, found)
    result = score_answers(scores, found)
    write_json_lines(output, score_lines(found, result), ensure_ascii=False)
    table = [("score", "answers", "right answers")]
    table += [
        (label(name), number(one, name), number(rights[name], name)) for name, one in result.totals.items()
    ]
    width = max(len(name) for name, _, _ in table)
    for name, value, right in table:
        print(visible(f"{name:<{width}}  {value:>10}  {right:>13}"))
    print(f"{len(found):,} answers; the values of each: {output}")
    return 0


def command(
    answers: str = typer.Argument(help="A file of ift generate, or of a study's answers folder."),
    score: str = typer.Option(
        ...,
        "--score",
        help="final-answer, text, contains, json, sql, bleu, chrf, rouge, f1, FILE.py:function; or several.",
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
    output: str = typer.Option(
        None, "--output", help="File for the values of each row (default: ANSWERS.scores.jsonl)."
    ),
) -> int:
    """Score a file of answers: exact match, SQL results, BLEU, a function of your own."""

    def path(text: str | None) -> Path | None:
        return None if text is None else Path(text).expanduser()

    return main(Path(answers).expanduser(), score, path(rows), database, column, pattern, path(output))
