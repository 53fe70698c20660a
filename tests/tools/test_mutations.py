"""The faults of tests/mutations.py can be planted: their old text occurs once, and the tests that find them exist."""

import re

import pytest

import mutations


@pytest.mark.parametrize("fault", mutations.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted(fault):
    source = (mutations.ROOT / "src" / "ift" / fault.file).read_text()
    assert source.count(fault.old) == 1
    for test in fault.tests:
        file, _, name = test.partition("::")
        text = (mutations.ROOT / "tests" / file).read_text()
        assert not name or re.search(rf"def {name.split('::')[-1].partition('[')[0]}\(", text)
