"""Progress is a bar on a terminal and lines in a log, as often as asked for."""

import io

import pytest
from rich.console import Console

from ift.lab.progress import WorkProgress


def shown(terminal, seconds):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80)
    with WorkProgress(console, 3, seconds=seconds) as progress:
        progress.describe("run 0 [of many]")
        for number in range(3):
            progress.advance(f"run {number} [of many]")
    assert progress.done == 3
    return out.getvalue()


@pytest.mark.parametrize(("seconds", "lines"), [(0, 3), (60, 1)])
def test_a_log_has_a_line_now_and_then_and_one_at_the_end(seconds, lines):
    found = shown(False, seconds).splitlines()
    assert len(found) == lines
    assert found[-1] == "3 of 3 done in 0:00:00  run 2 [of many]"


def test_a_terminal_has_a_bar_that_goes_away():
    found = shown(True, 0)
    assert "done in" not in found
    assert found.endswith("\x1b[2K")  # the last line is cleared
