"""Which tests share a worker where several run side by side (`pytest --dist loadgroup`)."""

from pathlib import Path

import pytest

_END_TO_END = Path(__file__).parent / "e2e"


@pytest.hookimpl(tryfirst=True)  # before the mark is read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file share what it has running; those of a whole cluster share the one that there is."""
    for item in items:
        group = _END_TO_END if item.path.is_relative_to(_END_TO_END) else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))
