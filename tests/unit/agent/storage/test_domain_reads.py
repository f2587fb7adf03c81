"""A storage domain whose storage hangs is given up after a while, and costs no other one."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diskmigration.agent.storage import domain_reads
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.file import FileDriver
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import StorageDomain

SHORT_SECONDS = 0.2
LONG_SECONDS = 600.0


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
    monkeypatch.setattr(domain_reads, "SOON_SECONDS", SHORT_SECONDS)
    known = StorageDomains({})
    put(known, tmp_path / "answers")
    driver = hanging(known, tmp_path / "hangs")
    yield known, driver
    driver.answer.set()


def put(known: StorageDomains, root: Path) -> None:
    """A domain of the directory's name."""
    root.mkdir()
    (root / "v").touch()
    spec = {"file": {"path": str(root)}}
    known.put(StorageDomain.from_wire({"metadata": {"name": root.name}, "spec": spec}))


def hanging(known: StorageDomains, root: Path) -> HangingDriver:
    """Put a domain of the directory's name whose storage hangs."""
    put(known, root)
    driver = HangingDriver(root.name, root)
    known._open[root.name] = OpenDomain(known._open[root.name].domain, driver)
    return driver


def test_a_volume_of_another_domain_is_located(domains: tuple[StorageDomains, HangingDriver], tmp_path: Path) -> None:
    known, driver = domains
    for _ in range(3):
        located = known.locate(tmp_path / "answers" / "v")
        assert located is not None
        assert (located[0].name, located[1]) == ("answers", "v")
    # It is not asked again before it has answered.
    assert driver.asked == 1


def test_a_volume_of_its_own_is_not_located_until_it_answers(
    domains: tuple[StorageDomains, HangingDriver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, driver = domains
    with pytest.raises(MigrationError, match="The storage of the StorageDomain hangs does not answer"):
        known.locate(tmp_path / "hangs" / "v")
    driver.answer.set()
    for bound in ("ANSWER_SECONDS", "SOON_SECONDS"):
        monkeypatch.setattr(domain_reads, bound, LONG_SECONDS)
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


def test_it_is_not_waited_for_where_another_domain_has_the_volume(
    domains: tuple[StorageDomains, HangingDriver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, driver = domains
    monkeypatch.setattr(domain_reads, "ANSWER_SECONDS", LONG_SECONDS)
    located = known.locate(tmp_path / "answers" / "v")
    assert located is not None
    assert located[0].name == "answers"
    assert not driver.answer.is_set()


def test_one_that_lies_in_the_directory_of_another_one_is_waited_for(
    domains: tuple[StorageDomains, HangingDriver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, _ = domains
    inner = hanging(known, tmp_path / "answers" / "slow")
    monkeypatch.setattr(domain_reads, "ANSWER_SECONDS", LONG_SECONDS)
    with ThreadPoolExecutor(1) as thread:
        locating = thread.submit(known.locate, tmp_path / "answers" / "slow" / "v")
        with pytest.raises(TimeoutError):
            locating.result(3 * SHORT_SECONDS)
        inner.answer.set()
        located = locating.result(LONG_SECONDS)
    assert located is not None
    assert (located[0].name, located[1]) == ("slow", "v")
