"""Where a written solution goes wrong: the first line that is not the right one."""

import re

from ift.lab.testbed.families import AnyProblem

_SWAPPABLE = re.compile(r"(\d+)([+*])(\d+)=(.*)")


def first_wrong_step(problem: AnyProblem, text: str) -> int | None:
    """Finds the first wrong line of a written solution.

    A line is right if it is the line of the problem's own solution at its place; spaces at its ends, and the order of
    the two numbers of a sum or a product, do not count.

    Args:
        problem: A problem with a right solution.
        text: The solution to judge, as a model wrote it.

    Returns:
        The line's index, from 0; `len(problem.steps)` is the closing `####` line, one more is a line too many. A
        missing line is wrong. None if all is right.
    """
    written = text.rstrip().split("\n")
    for index, right in enumerate(problem.lines):
        if index >= len(written) or _plain(written[index]) != _plain(right):
            return index
    return len(problem.lines) if len(written) > len(problem.lines) else None


def _plain(line: str) -> str:
    """The line without spaces at its ends, the operands of a sum or a product in one order."""
    line = line.strip()
    if found := _SWAPPABLE.fullmatch(line):
        first, second = sorted((found[1], found[3]))
        return f"{first}{found[2]}{second}={found[4]}"
    return line
