"""Each start of a VM is counted, however short it is; a connection that was lost is a gap."""

import gc
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diskmigration.agent.hypervisor import starts as starts_module
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.events import Events
from diskmigration.agent.hypervisor.starts import StartCount, Starts
from testbed.libvirt_host import LibvirtHost
from tests.waiting import wait_until

URI = "https://diskmigration.dev/test"


@pytest.fixture
def connection(libvirt_host: LibvirtHost) -> Connection:
    return Connection(libvirt_host.uri)


@pytest.fixture
def domain(libvirt_host: LibvirtHost, connection: Connection, scratch: Path) -> Iterator[Domain]:
    domain = Domain(connection, str(uuid.uuid4()))
    definition = scratch / "vm.xml"
    definition.write_text(
        f"""<domain type='qemu'><name>{domain.uuid}</name><uuid>{domain.uuid}</uuid><memory unit='MiB'>32</memory>
        <os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"""
    )
    libvirt_host.virsh("define", str(definition))
    yield domain
    libvirt_host.virsh("undefine", domain.uuid)


@pytest.fixture
def starts(connection: Connection) -> Starts:
    starts = Starts(connection, Events(connection))
    connection.get()
    return starts


@pytest.fixture
def count(starts: Starts, domain: Domain) -> Callable[[], StartCount | None]:
    def count() -> StartCount | None:
        return starts.count_after(domain.uuid, URI, lambda: domain.set_metadata(URI, "test", f"<t xmlns='{URI}'>1</t>"))

    return count


def run_shortly(host: LibvirtHost, domain: Domain) -> None:
    host.virsh("start", domain.uuid, "--paused")
    host.virsh("destroy", domain.uuid)


def test_a_vm_that_started_and_ended_has_started(
    libvirt_host: LibvirtHost, starts: Starts, domain: Domain, count: Callable[[], StartCount | None]
) -> None:
    before = count()
    assert before is not None
    assert count() == before
    run_shortly(libvirt_host, domain)
    assert count() == StartCount(before.epoch, before.starts + 1)
    run_shortly(libvirt_host, domain)
    run_shortly(libvirt_host, domain)
    assert count() == starts.count(domain.uuid) == StartCount(before.epoch, before.starts + 3)


def test_what_others_do_is_no_start_of_it(
    libvirt_host: LibvirtHost, starts: Starts, domain: Domain, count: Callable[[], StartCount | None]
) -> None:
    before = count()
    assert before is not None
    libvirt_host.virsh("start", domain.uuid, "--paused")
    libvirt_host.virsh("resume", domain.uuid)
    libvirt_host.virsh("reset", domain.uuid)
    libvirt_host.virsh("destroy", domain.uuid)
    assert count() == StartCount(before.epoch, before.starts + 1)
    assert starts.count(str(uuid.uuid4())).starts == 0


def test_a_connection_that_was_lost_is_a_gap(
    libvirt_host: LibvirtHost, connection: Connection, count: Callable[[], StartCount | None]
) -> None:
    before = count()
    assert before is not None
    libvirt_host.restart_daemon()
    wait_until(lambda: connection.get().isAlive() == 1, "libvirtd answers")
    after = count()
    assert after is None or after.epoch != before.epoch
    assert count() not in (None, before)


def test_too_many_vms_are_a_gap(
    libvirt_host: LibvirtHost,
    domain: Domain,
    count: Callable[[], StartCount | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = count()
    assert before is not None
    monkeypatch.setattr(starts_module, "MOST_VMS", 0)
    run_shortly(libvirt_host, domain)
    monkeypatch.undo()
    after = count()
    assert after is not None
    assert after.epoch != before.epoch


def test_nothing_stays_of_a_connection_that_was_lost(
    libvirt_host: LibvirtHost, connection: Connection, count: Callable[[], StartCount | None]
) -> None:
    assert count() is not None
    lost = []
    for _ in range(3):
        lost.append(weakref.ref(connection.get()))
        libvirt_host.restart_daemon()
        wait_until(lambda: connection.get().isAlive() == 1, "libvirtd answers")
        wait_until(count, "events come on the new connection")

    def is_freed() -> bool:
        gc.collect()
        return all(each() is None for each in lost)

    wait_until(is_freed, "the lost connections are gone")
