"""The end of the process that started this one."""

import ctypes
import signal
import sys

SIGNAL_OF_PARENTS_END = 1  # PR_SET_PDEATHSIG of prctl(2)


def stop_with_parent() -> None:
    """Let this process receive SIGTERM when the one that started it ends, by `kill -9` too; on Linux alone.

    It would compute on otherwise, beside a repeated command, and write into the same folder.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SIGNAL_OF_PARENTS_END, signal.SIGTERM)
