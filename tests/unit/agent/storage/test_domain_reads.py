"""A storage domain whose storage hangs is given up after a while, and costs no other one."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diskmigration.agent.storage import domain_reads
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.file import FileDriver
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import StorageDomain

SHORT_SECONDS = 0.2


class HangingDriver(FileDriver):
    """A directory whose server is away until `answer` is set."""

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name, root)
        self.answer = threading.Event()
        self.asked = 0

    def volume_at(self, path: Path) -> str | None:
        self.asked += 1
        self.answer.wait()
        return super().volume_at(path)


@pytest.fixture
def domains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[StorageDomains, HangingDriver]]:
    """Two domains, of which `hangs` hangs, with a volume `v` in each."""
    monkeypatch.setattr(domain_reads, "ANSWER_SECONDS", SHORT_SECONDS)
    known = StorageDomains({})
    for name in ("answers", "hangs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "v").touch()
        spec = {"file": {"path": str(tmp_path / name)}}
        known.put(StorageDomain.from_wire({"metadata": {"name": name}, "spec": spec}))
    driver = HangingDriver("hangs", tmp_path / "hangs")
    known._open["hangs"] = OpenDomain(known._open["hangs"].domain, driver)
    yield known, driver
    driver.answer.set()


def test_a_volume_of_another_domain_is_located(domains: tuple[StorageDomains, HangingDriver], tmp_path: Path) -> None:
    known, driver = domains
    for _ in range(3):
        located = known.locate(tmp_path / "answers" / "v")
        assert located is not None
        assert (located[0].name, located[1]) == ("answers", "v")
    # It is not asked again before it has answered.
    assert driver.asked == 1


def test_a_volume_of_its_own_is_not_located_until_it_answers(
    domains: tuple[StorageDomains, HangingDriver], tmp_path: Path
) -> None:
    known, driver = domains
    with pytest.raises(MigrationError, match="The storage of the StorageDomain hangs does not answer"):
        known.locate(tmp_path / "hangs" / "v")
    driver.answer.set()
    located = known.locate(tmp_path / "hangs" / "v")
    assert located is not None
    assert located[0].name == "hangs"


def test_who_waits_for_it_waits_once(domains: tuple[StorageDomains, HangingDriver], tmp_path: Path) -> None:
    known, _ = domains
    known.locate(tmp_path / "answers" / "v")
    began = time.monotonic()
    for _ in range(20):
        known.locate(tmp_path / "answers" / "v")
    assert time.monotonic() - began < 20 * SHORT_SECONDS
