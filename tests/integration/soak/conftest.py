"""A cluster with one node for the soak alone: its agent is killed now and then."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.migrations.conftest import machines, operator, own_control_plane, probes, stack

# The fixtures are asked for by their names.
__all__ = ["machines", "operator", "own_control_plane", "probes", "stack"]


@pytest.fixture(scope="package")
def directory(session_directory: Path) -> Iterator[Path]:
    """Where all these parts keep what they have."""
    directory = session_directory / "soak"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)
