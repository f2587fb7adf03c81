"""The libvirt host runs real domains, outlives its daemon, and is gone at its end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import qemu_io
from testbed.libvirt_host import LibvirtHost, running_libvirt
from testbed.processes import TestbedError
from tests.integration.testbed.domains import MEBIBYTE, qemu_thread_count, remove, start_paused
from tests.integration.testbed.traces import processes_naming


@pytest.fixture
def domain(libvirt_host: LibvirtHost, scratch: Path) -> Iterator[str]:
    start_paused(libvirt_host, "patterned", scratch / "vda.qcow2")
    yield "patterned"
    remove(libvirt_host, "patterned")


def test_a_written_pattern_is_read_back_and_another_is_not(libvirt_host: LibvirtHost, domain: str) -> None:
    qemu_io.flush(libvirt_host, domain)
    qemu_io.write_pattern(libvirt_host, domain, offset=10 * MEBIBYTE, length=5 * MEBIBYTE, pattern=7)
    qemu_io.flush(libvirt_host, domain)
    qemu_io.verify_pattern(libvirt_host, domain, offset=10 * MEBIBYTE, length=5 * MEBIBYTE, pattern=7)
    qemu_io.verify_pattern(libvirt_host, domain, offset=0, length=10 * MEBIBYTE, pattern=0)
    with pytest.raises(TestbedError, match="verification failed"):
        qemu_io.verify_pattern(libvirt_host, domain, offset=9 * MEBIBYTE, length=2 * MEBIBYTE, pattern=7)


def test_a_write_past_the_end_is_an_error(libvirt_host: LibvirtHost, domain: str) -> None:
    with pytest.raises(TestbedError, match="write -P 1"):
        qemu_io.write_pattern(libvirt_host, domain, offset=64 * MEBIBYTE, length=MEBIBYTE, pattern=1)


def test_the_domain_outlives_the_daemon(libvirt_host: LibvirtHost, domain: str) -> None:
    qemu_io.write_pattern(libvirt_host, domain, offset=0, length=MEBIBYTE, pattern=9)
    libvirt_host.restart_daemon()
    assert libvirt_host.virsh("domstate", domain).strip() == "paused"
    libvirt_host.kill_daemon()
    with pytest.raises(TestbedError, match=r"(?i)connect"):
        libvirt_host.virsh("domstate", domain)
    libvirt_host.start_daemon()
    assert libvirt_host.virsh("domstate", domain).strip() == "paused"
    assert qemu_thread_count(libvirt_host, domain) == 1
    qemu_io.verify_pattern(libvirt_host, domain, offset=0, length=MEBIBYTE, pattern=9)


def mounts(scratch: Path) -> list[str]:
    """What is mounted, here and on the whole machine; not in the directories of other tests that run meanwhile."""
    others = str(scratch.parent / "dm-")
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{scratch}/") or not point.startswith(others)]


def test_two_hosts_run_domains_of_one_name_and_end_without_a_trace(scratch: Path) -> None:
    mounts_before = mounts(scratch)
    with running_libvirt(scratch / "a") as host_a, running_libvirt(scratch / "b") as host_b:
        start_paused(host_a, "twin", scratch / "a.qcow2")
        start_paused(host_b, "twin", scratch / "b.qcow2")
        for host, pattern in ((host_a, 1), (host_b, 2)):
            qemu_io.write_pattern(host, "twin", offset=0, length=MEBIBYTE, pattern=pattern)
        for host, pattern in ((host_a, 1), (host_b, 2)):
            qemu_io.verify_pattern(host, "twin", offset=0, length=MEBIBYTE, pattern=pattern)
        assert mounts(scratch) == mounts_before
        # What the last assertion looks for is there while they run.
        programs = {name for name, _ in processes_naming(scratch)}
        assert {"unshare", "qemu-system-x86"} <= programs, programs
    assert mounts(scratch) == mounts_before
    assert processes_naming(scratch) == set()


def test_a_directory_with_too_long_a_name_is_refused(scratch: Path) -> None:
    with (
        pytest.raises(TestbedError, match="choose a directory with a shorter name"),
        running_libvirt(scratch / ("long" * 30)),
    ):
        pass
