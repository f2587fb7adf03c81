"""A real guest writes, says what its disk acknowledged, and its records are judged as they are."""

import subprocess
from pathlib import Path

import pytest

from testbed.guest.domain import Disk, Writer
from testbed.guest.records import Layout, RecordMaker, raw_copy, verify_records
from testbed.guest.running import running_guest, verify_volume
from testbed.libvirt_host import LibvirtHost
from testbed.processes import TestbedError

MEBIBYTE = 1024 * 1024
PAUSE_SECONDS = 2.0
# Under emulation on a busy machine; the boot alone takes 5 s on a quiet one.
BOOT_TIMEOUT_SECONDS = 120


def make_disk(scratch: Path, *, mebibytes: int) -> Disk:
    volume = scratch / "vda.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", volume, f"{mebibytes}M"], check=True)
    return Disk(volume)


def test_a_guest_cut_off_has_kept_what_was_acknowledged_and_a_loss_shows(
    libvirt_host: LibvirtHost, scratch: Path
) -> None:
    disk = make_disk(scratch, mebibytes=16)
    layout = Layout(seed=11, span_bytes=MEBIBYTE, record_bytes=65536)
    with running_guest(libvirt_host, "cut", [disk], writer=Writer(layout), directory=scratch) as guest:
        # Every slot is written at least twice.
        guest.console.wait_for_record(2 * layout.slots, timeout_seconds=BOOT_TIMEOUT_SECONDS)
        guest.destroy()
    acknowledged = guest.console.acknowledged
    raw = scratch / "copy.raw"
    raw_copy(disk.path, disk.format, raw)
    with raw.open("r+b") as copy:
        report = verify_records(copy, layout, acknowledged)
        assert report.ok, report.problems
        assert report.slots_checked == layout.slots
        assert report.newest is not None
        assert report.newest >= acknowledged

        # What is on the disk is what this side expects, byte for byte.
        maker = RecordMaker(layout)
        kept = report.newest % layout.slots * layout.record_bytes
        copy.seek(kept)
        assert copy.read(layout.record_bytes) == maker.record(report.newest)

        # The slot after the one under way: no honest end explains its loss.
        sequence = report.newest + 2 - layout.slots
        start = sequence % layout.slots * layout.record_bytes
        lost = f"slot {sequence % layout.slots}: "
        copy.seek(start + 40_000)
        damaged = bytes([copy.read(1)[0] ^ 1])
        copy.seek(start + 40_000)
        copy.write(damaged)
        report = verify_records(copy, layout, acknowledged)
        assert [problem.startswith(lost + "no whole record") for problem in report.problems] == [True]

        copy.seek(start)
        copy.write(maker.record(sequence - layout.slots))
        report = verify_records(copy, layout, acknowledged)
        assert [problem.startswith(lost + "holds record") for problem in report.problems] == [True]


@pytest.mark.nightly
def test_a_pause_shows_as_a_gap_and_the_power_button_ends_it(libvirt_host: LibvirtHost, scratch: Path) -> None:
    disk = make_disk(scratch, mebibytes=16)
    writer = Writer(Layout(seed=12, span_bytes=16 * MEBIBYTE), records_per_second=50)
    with running_guest(libvirt_host, "paused", [disk], writer=writer, directory=scratch) as guest:
        guest.console.wait_for_record(5, timeout_seconds=BOOT_TIMEOUT_SECONDS)
        libvirt_host.virsh("suspend", "paused")
        # What was said just before the pause has arrived when nothing more comes for so long.
        guest.console.wait_for_gap(PAUSE_SECONDS)
        before = guest.console.acknowledged
        libvirt_host.virsh("resume", "paused")
        guest.console.wait_for_record(before + 10)
        assert guest.console.longest_gap_seconds >= PAUSE_SECONDS
        guest.power_off()
    acknowledged = guest.console.acknowledged
    assert acknowledged >= before + 10
    report = verify_volume(disk.path, disk.format, writer, acknowledged, scratch)
    assert report.ok, report.problems
    # Nothing was under way when it stopped.
    assert report.newest == acknowledged
    assert not (scratch / "vda.qcow2.raw").exists()


@pytest.mark.nightly
def test_a_guest_that_cannot_write_says_why(libvirt_host: LibvirtHost, scratch: Path) -> None:
    disk = make_disk(scratch, mebibytes=1)
    writer = Writer(Layout(seed=13, span_bytes=2 * MEBIBYTE))
    with (
        running_guest(libvirt_host, "too-small", [disk], writer=writer, directory=scratch) as guest,
        pytest.raises(TestbedError, match="span_bytes is 2097152, but /dev/vda has 1048576"),
    ):
        guest.console.wait_for_record(0, timeout_seconds=BOOT_TIMEOUT_SECONDS)
