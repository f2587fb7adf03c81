"""Thin volumes stay ahead of what writes to them: by how much, on which side, in which order."""

import subprocess
import time
from collections import Counter
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from diskmigration.agent.extender.observation import OBSERVE_ANYWAY_SECONDS
from testbed import qemu_io
from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import (
    extensions,
    finish,
    free_bytes,
    is_in_chunks,
    set_watermark,
    size_bytes,
    synchronized,
    threshold_bytes,
    watched,
    write_in_steps,
    write_until_there_is_room,
)
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Machine
from tests.integration.migrations.stack import CHUNK_BYTES, REPLICATION_CHUNK_BYTES, WATERMARK_BYTES, Stack
from tests.integration.migrations.volumes import made_volume
from tests.waiting import wait_until

EXTENSIONS = "diskmigration_extensions_total"
LOOKUPS = "diskmigration_libvirt_calls_total virDomainLookupByUUIDString"


def test_from_block_to_block_the_destination_grows_first_and_then_the_source(
    stack: Stack, machines: Callable[..., Machine], request: pytest.FixtureRequest
) -> None:
    # So much that the source has the time to wait, however busy the machine is.
    both = (stack.domains["loop-a"], stack.domains["loop-b"])
    set_watermark(stack, request, *both, watermark_bytes=4 * WATERMARK_BYTES)
    machine = machines("loop-a")
    migration = synchronized(stack, machine, "loop-b")
    source = stack.domains["loop-a"].root / made_volume(migration.uid, "snapshot")
    mirror = stack.domains["loop-b"].root / made_volume(migration.uid, "overlay")

    with watched(source, mirror) as grown:
        write_in_steps(
            machine, start=20 * MEBIBYTE, length=60 * MEBIBYTE, free=lambda: free_bytes(machine, source.name)
        )
        wait_until(lambda: len(grown) >= 4, "both sides grew twice")

    assert {growth.volume for growth in grown} == {source.name, mirror.name}
    # The source is read first, so that a mirror that has grown since cannot hide that it was the smaller one.
    assert all(source_bytes <= mirror_bytes for source_bytes, mirror_bytes in (growth.sizes for growth in grown))
    assert is_in_chunks(grown, REPLICATION_CHUNK_BYTES)
    wait_until(lambda: 2 in extensions(migration, "source") & extensions(migration, "destination"), "the status counts")
    finish(migration, machine)


@pytest.mark.nightly
def test_the_volume_of_a_vm_that_another_system_manages_grows(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("loop-a", volume_bytes=32 * MEBIBYTE, start=False)
    metadata = '<one:vm xmlns:one="http://opennebula.org/xmlns/libvirt/1.0"/>'
    with machine.host.domain(machine.name) as domain:
        document = machine.xml(inactive=True).replace("<memory", f"<metadata>{metadata}</metadata><memory", 1)
        domain.connect().defineXML(document)
    machine.host.virsh("start", machine.name, "--paused")
    assert "one:vm" in machine.xml()
    volume = machine.volumes[0]

    with watched(volume) as grown:
        write_in_steps(
            machine, start=20 * MEBIBYTE, length=40 * MEBIBYTE, free=lambda: free_bytes(machine, volume.name)
        )
        wait_until(lambda: grown, "it grew")

    assert is_in_chunks(grown, CHUNK_BYTES)
    machine.verify()


@pytest.mark.nightly
def test_from_block_to_file_the_source_alone_grows(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("loop-a")
    migration = synchronized(stack, machine, "file-b")
    source = stack.domains["loop-a"].root / made_volume(migration.uid, "snapshot")

    with watched(source) as grown:
        write_in_steps(
            machine, start=20 * MEBIBYTE, length=40 * MEBIBYTE, free=lambda: free_bytes(machine, source.name)
        )
        wait_until(lambda: grown, "the source grew")

    assert is_in_chunks(grown, REPLICATION_CHUNK_BYTES)
    assert extensions(migration, "destination") == {0}
    finish(migration, machine)


def test_from_file_to_block_the_destination_grows_by_what_the_mirror_reports(
    stack: Stack, machines: Callable[..., Machine]
) -> None:
    machine = machines("file-a")
    migration = synchronized(stack, machine, "loop-b")
    mirrored = made_volume(migration.uid, "snapshot")
    mirror = stack.domains["loop-b"].root / made_volume(migration.uid, "overlay")

    with watched(mirror) as grown:
        write_in_steps(
            machine,
            start=20 * MEBIBYTE,
            length=40 * MEBIBYTE,
            free=lambda: free_bytes(machine, mirror.name, mirrored=mirrored),
        )
        wait_until(lambda: grown, "the mirror grew")

    assert is_in_chunks(grown, REPLICATION_CHUNK_BYTES)
    assert extensions(migration, "source") == {0}
    finish(migration, machine)


@pytest.mark.nightly
def test_from_file_to_block_the_destination_grows_by_what_the_source_takes(
    stack: Stack, machines: Callable[..., Machine]
) -> None:
    machine = machines("file-a")
    # So slow that the mirror itself asks for nothing for minutes: a limit holds until the two sides are in step.
    migration = stack.migrate(machine, "loop-b", strategy="Direct", bandwidth="64Ki")
    migration.wait_for_phase("Replicating")
    mirror = stack.domains["loop-b"].root / made_volume(migration.uid, 0)
    wait_until(lambda: mirror.name in machine.xml(), "the mirror is there")

    with watched(mirror) as grown:
        machine.write(offset=20 * MEBIBYTE, length=60 * MEBIBYTE, pattern=9)
        wait_until(lambda: grown, "the mirror grew")

    assert free_bytes(machine, mirror.name) > REPLICATION_CHUNK_BYTES + WATERMARK_BYTES
    migration.patch({"bandwidth": None})
    migration.succeed()
    machine.verify()


def test_a_thin_volume_grows_with_no_migration_at_all(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("loop-a", volume_bytes=16 * MEBIBYTE)
    volume = stack.domains["loop-a"].root / f"{machine.name}-0"

    with watched(volume) as grown:
        write_in_steps(
            machine,
            start=20 * MEBIBYTE,
            length=40 * MEBIBYTE,
            free=lambda: free_bytes(machine, str(machine.volumes[0])),
        )
        wait_until(lambda: len(grown) >= 2, "it grew twice")

    assert is_in_chunks(grown, CHUNK_BYTES)
    machine.verify()


def test_a_watermark_that_is_raised_is_kept_although_nobody_writes(
    stack: Stack, machines: Callable[..., Machine], request: pytest.FixtureRequest
) -> None:
    machine = machines("loop-a", volume_bytes=32 * MEBIBYTE)
    volume = machine.volumes[0]
    wait_until(lambda: threshold_bytes(machine, str(volume)), "the agent has looked after it")
    raised = 48 * MEBIBYTE

    set_watermark(stack, request, stack.domains["loop-a"], watermark_bytes=raised)

    # Sooner than a VM at rest is looked at anyway.
    wait_until(lambda: size_bytes(volume) >= raised, "it has that much", seconds=OBSERVE_ANYWAY_SECONDS / 2)


@pytest.mark.nightly
def test_a_moved_disk_grows_at_its_new_home(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "loop-b")
    migration.succeed()
    volume = stack.domains["loop-b"].root / made_volume(migration.uid, 0)

    with watched(volume) as grown:
        write_in_steps(
            machine, start=20 * MEBIBYTE, length=40 * MEBIBYTE, free=lambda: free_bytes(machine, volume.name)
        )
        wait_until(lambda: grown, "it grew")

    assert is_in_chunks(grown, CHUNK_BYTES)
    machine.verify()


def test_a_volume_never_grows_past_what_its_disk_can_take(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("loop-a", volume_bytes=32 * MEBIBYTE)
    volume = stack.domains["loop-a"].root / f"{machine.name}-0"
    machine.written.clear()

    write_in_steps(machine, start=0, length=CAPACITY_BYTES, free=lambda: free_bytes(machine, str(machine.volumes[0])))

    assert CAPACITY_BYTES <= volume.stat().st_size <= CAPACITY_BYTES + 2 * MEBIBYTE
    qemu_io.flush(machine.host, machine.name)
    machine.verify()


@pytest.mark.nightly
def test_a_volume_of_larger_clusters_is_not_stuck_where_one_of_ours_would_end(
    stack: Stack, machines: Callable[..., Machine]
) -> None:
    machine = machines("loop-a", start=False)
    [volume] = machine.volumes
    options = ["-q", "-f", "qcow2", "-o", "cluster_size=2M"]
    subprocess.run(["qemu-img", "create", *options, str(volume), str(CAPACITY_BYTES)], check=True)
    machine.written.clear()
    machine.host.virsh("start", machine.uuid, "--paused")

    for offset in range(0, CAPACITY_BYTES, MEBIBYTE):
        write_until_there_is_room(machine, offset=offset, length=MEBIBYTE, pattern=offset // MEBIBYTE + 1)

    assert size_bytes(volume) > CAPACITY_BYTES + 2 * MEBIBYTE
    machine.verify()


def test_the_extender_does_not_wait_for_its_poll(stack: Stack, machines: Callable[..., Machine]) -> None:
    """A threshold wakes it: the median growth is far sooner than a poll every two seconds would have it."""
    delays: list[float] = []
    # On a busy machine extensions take longer, so that they are fewer and larger.
    while len(delays) < 5:
        delays += delays_of_extensions(machines("loop-a", volume_bytes=32 * MEBIBYTE))
    assert sorted(delays)[len(delays) // 2] < 0.5, delays


@pytest.mark.nightly
def test_an_extension_asks_libvirtd_little(machines: Callable[..., Machine], probes: Probes) -> None:
    """Once to answer the event, once to arm the next threshold, once to observe the VM, and now and then after a poll.

    Nobody else looks a VM up meanwhile: the node's reads keep the handles of their VMs.
    """
    machine = machines("loop-a", volume_bytes=32 * MEBIBYTE)
    wait_until(lambda: threshold_bytes(machine, str(machine.volumes[0])) > 0, "its threshold is armed")
    before = samples(probes)
    # On a busy machine extensions are larger; one that is as large as it may ever be has no threshold.
    delays_of_extensions(machine, until=60 * MEBIBYTE)
    wait_until(lambda: threshold_bytes(machine, str(machine.volumes[0])) > 0, "its threshold is armed again")
    after = samples(probes)
    extensions_made, lookups = (after[name] - before[name] for name in (EXTENSIONS, LOOKUPS))
    assert extensions_made > 0
    assert lookups <= 5 * extensions_made + 10


def samples(probes: Probes) -> Counter[str]:
    """What the agent has counted, over all storage domains."""
    status, text = probes.ask("metrics")
    assert status == 200
    counted: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            counted[f"{sample.name} {sample.labels.get('call', '')}".strip()] += sample.value  # type: ignore[assignment]  # whole numbers
    return counted


def delays_of_extensions(machine: Machine, *, until: int = 120 * MEBIBYTE) -> list[float]:
    """How long it took each time from a write past the watermark until the volume had grown."""
    [volume] = machine.volumes
    delays = []
    for offset in range(20 * MEBIBYTE, until, MEBIBYTE):
        # The device's, which libvirt's statistics have, and not the file's, which grows a moment earlier.
        size = size_bytes(volume)
        is_due = free_bytes(machine, str(volume)) < WATERMARK_BYTES + MEBIBYTE
        machine.write(offset=offset, length=MEBIBYTE, pattern=7)
        if is_due:
            started = time.monotonic()
            wait_until(lambda before=size: size_bytes(volume) > before, "it grew")  # type: ignore[misc]  # bound now
            delays.append(time.monotonic() - started)
    return delays
