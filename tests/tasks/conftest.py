"""The offline examples that several tests read."""

import pytest

from sparsinglib.tasks import offline


@pytest.fixture(scope="session")
def examples():
    """The first 40 of each task."""
    return {task: offline.make(task, 40) for task in offline.MAKERS}
