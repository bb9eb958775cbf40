"""Where the tests of devices keep their files."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def memory_path(tmp_path):
    """A folder in memory where there is one: thousands of fsyncs wait for no disk there."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="jepa-edge-", dir="/dev/shm") as folder:
        yield Path(folder)
