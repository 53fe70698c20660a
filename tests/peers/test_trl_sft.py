"""The comparison with trl's own SFT tests: its table, and the run where the checkout of trl is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trl_sft

DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"


def test_every_refusal_has_its_paragraph():
    numbers = set(re.findall(r"^\* \*\*(D\d+)\*\*", DIFFERENCES.read_text(encoding="utf-8"), re.MULTILINE))
    assert {*trl_sft.REFUSED.values(), *trl_sft.OTHER_LABELS.values()} <= numbers


@pytest.mark.slow
def test_trl_own_tests_pass_or_are_listed():
    checkout = os.environ.get("IFT_TRL_CHECKOUT")
    if not checkout:
        pytest.skip("IFT_TRL_CHECKOUT names no checkout of trl")
    done = subprocess.run(
        [sys.executable, trl_sft.__file__, checkout], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 differences are not explained" in done.stdout
