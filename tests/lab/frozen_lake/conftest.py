"""A small company of agents on the default lake, fitted once."""

import pytest

pytest.importorskip("gymnasium")

from ift.lab.frozen_lake.training import Start, make_tasks
from ift.lab.frozen_lake.world import make_lake

AGENTS = 8


@pytest.fixture(scope="session")
def task():
    (task,) = make_tasks(make_lake(), [Start()], range(AGENTS))
    return task
