"""Progress is a bar on a terminal and lines in a log, as often as asked for."""

import io
import re

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


def test_a_long_label_leaves_the_times_their_place():
    """On 80 columns. Red when: elapsed and remaining time are cut."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with WorkProgress(console, 120) as progress:
        progress.add_groups({"ift propagation only, a_function_with_a_long_name": 60})
        progress.describe("search ift propagation only, a_function_with_a_long_name learning_rate=3e-05")
        progress.advance(group="ift propagation only, a_function_with_a_long_name")
        progress._bar.refresh()
    lines = [
        re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in re.split(r"[\r\n]+", out.getvalue())
    ]
    for start, count in (("search ift propagation", "1/120"), ("ift propagation only", "1/60")):
        line = [one for one in lines if one.startswith(start)][-1]
        assert re.search(rf"…\s.*\s{count} +\d:\d\d:\d\d (-|\d):(--|\d\d):(--|\d\d)$", line), line
        assert len(line) <= 80


def test_a_log_says_how_much_time_is_left(monkeypatch):
    """Two pieces are found at once, two take 10 and 20 seconds: two more will take 30."""
    clock = iter([0.0, 0.1, 0.2, 10.2, 30.2, 40.2, 50.2])
    monkeypatch.setattr("ift.lab.progress.time.monotonic", lambda: next(clock))
    out = io.StringIO()
    progress = WorkProgress(Console(file=out), 6, seconds=0)
    for number in range(6):
        progress.advance(f"run {number}")
    assert [line.partition(" done in ")[2] for line in out.getvalue().splitlines()] == [
        "0:00:00  run 0", "0:00:00  run 1", "0:00:10, about 0:00:30 left  run 2", "0:00:30, about 0:00:30 left  run 3",
        "0:00:40, about 0:00:13 left  run 4", "0:00:50  run 5",
    ]  # fmt: skip


def test_an_estimate_of_the_time_left_goes_before_that_by_the_pieces_so_far():
    """0 is not known yet, as before a study's measurement."""
    out = io.StringIO()
    progress = WorkProgress(Console(file=out), 3, seconds=0)
    for seconds in (0.0, 90.0, 5.0):
        progress.seconds_left = lambda seconds=seconds: seconds
        progress.advance("a run")
    assert [line.partition("done in 0:00:00")[2] for line in out.getvalue().splitlines()] == [
        "  a run", ", about 0:01:30 left  a run", "  a run",
    ]  # fmt: skip


def test_several_pieces_at_once_took_their_time_together(monkeypatch):
    """A batch of 4 in 20 seconds: the other 4 will take as long. None at all is no piece."""
    clock = iter([0.0, 20.0, 21.0])
    monkeypatch.setattr("ift.lab.progress.time.monotonic", lambda: next(clock))
    out = io.StringIO()
    progress = WorkProgress(Console(file=out), 8, seconds=0)
    for count in (0, 4):
        progress.advance("answers", count=count)
    assert out.getvalue() == "4 of 8 done in 0:00:20, about 0:00:20 left  answers\n"


def test_a_terminal_has_a_bar_that_goes_away():
    found = shown(True, 0)
    assert "done in" not in found
    assert found.endswith("\x1b[2K")  # the last line is cleared


def test_a_terminal_has_a_line_for_each_group_with_its_pieces():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with WorkProgress(console, 3) as progress:
        progress.add_groups({"sft": 1, "ift": 2})
        progress.advance("sft, seed 0", "sft")
        progress.advance("a first measurement")
        progress._bar.refresh()
    found = out.getvalue()
    assert re.search(r"sft .*1/1", found)
    assert re.search(r"ift .*0/2", found)


def test_a_question_is_asked_without_the_bar():
    out = io.StringIO()
    with WorkProgress(Console(file=out, force_terminal=True, width=80), 3) as progress, progress.paused():
        assert not progress._bar.live.is_started
    assert not progress._bar.live.is_started
