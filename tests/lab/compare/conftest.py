"""Every command of a study checks its runs first."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quick_checks(each_peak_once):
    """The memory of equal steps is counted once."""
