"""Ctrl-C and `kill` are acted on between two steps of the work, and none is lost."""

import signal
import threading

import pytest

from ift.lab.interrupts import call_in_threads, noted_signals


@pytest.fixture(autouse=True)
def sigint_raises():
    """KeyboardInterrupt at SIGINT, which is ignored where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_is_noted_and_raises_at_the_end():
    steps = []

    def work():
        with noted_signals(signal.SIGINT, signal.SIGTERM) as received:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
                steps.append(list(received))

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == [[signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with noted_signals(signal.SIGINT) as received:
        signal.raise_signal(signal.SIGINT)
    assert received == []
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_leaves_the_handlers_alone():
    found = []

    def look():
        with noted_signals(signal.SIGINT):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_another_exception_is_not_replaced():
    @noted_signals(signal.SIGINT)
    def work():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("the work")

    with pytest.raises(ValueError, match="the work"):
        work()


def test_results_are_collected_in_this_thread():
    found, places = [], []

    def collect(value):
        found.append(value)
        places.append(threading.current_thread())

    call_in_threads([lambda number=number: number**2 for number in range(20)], 4, collect, list)
    assert sorted(found) == [number**2 for number in range(20)]
    assert set(places) == {threading.main_thread()}


def test_ctrl_c_does_not_cut_a_result_off(capsys):
    """Red when: the exception comes in the middle of `collect`, where a lock may be held that others wait for."""
    begun, ended, stopped = [], [], threading.Event()

    def collect(value):
        begun.append(value)
        signal.raise_signal(signal.SIGINT)
        ended.append(value)

    def call():
        stopped.wait(20)
        return 2

    with pytest.raises(KeyboardInterrupt):
        call_in_threads([lambda: 1, *[call] * 9], 2, collect, stopped.set)
    assert begun == ended == [1]
    assert stopped.is_set()
    assert "Stopping: replies to requests that were sent are kept." in capsys.readouterr().err


def test_a_failed_call_leaves_out_those_that_have_not_begun():
    asked, stopped = [], threading.Event()

    def fail():
        raise ValueError("no such model")

    def call():
        asked.append(stopped.wait(20))

    with pytest.raises(ValueError, match="no such model"):
        call_in_threads([call, fail, *[call] * 9], 2, asked.append, stopped.set)
    assert len(asked) < 4
    assert all(asked)
