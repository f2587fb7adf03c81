"""libvirtd is killed when QEMU has taken the migration's snapshot, and libvirtd has not noted it yet.

It comes back with the XML from before, while the guest writes to the snapshot.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.monitor import killed_after, monitor_of
from tests.integration.migrations.stack import Migration, Stack
from tests.integration.migrations.test_put_back import foreign_change, holds_mark
from tests.integration.migrations.volumes import made_volume
from tests.waiting import wait_until

Machines = Callable[..., Machine]

PAIRS = [("file-a", "loop-b"), ("loop-a", "file-b")]
ENDS = [
    pytest.param("moved", PAIRS[0]),
    pytest.param("cancelled", PAIRS[1], marks=pytest.mark.nightly),
    pytest.param("moved", PAIRS[1], marks=pytest.mark.nightly),
    pytest.param("cancelled", PAIRS[0], marks=pytest.mark.nightly),
]


def take_snapshot_unseen(stack: Stack, machine: Machine, to: str, **spec: Any) -> Migration:
    """Begin a migration, kill libvirtd when QEMU has taken the snapshot, and let the guest write on.

    libvirtd does not run then.
    """
    with killed_after(stack.host, machine.name, "transaction") as killed:
        migration = stack.migrate(machine, to, cutover={"policy": "Manual"}, **spec)
        assert killed.wait(60)
    with monitor_of(stack.host, machine.name) as monitor:
        monitor.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
        monitor.flush()
    machine.written[60 * MEBIBYTE] = (3 * MEBIBYTE, 60)
    return migration


@pytest.mark.parametrize(("end", "pair"), ENDS)
def test_what_the_guest_writes_to_it_stays(stack: Stack, machines: Machines, end: str, pair: tuple[str, str]) -> None:
    source, destination = pair
    machine = machines(source, chain=2)
    before, files = machine.chain(), stack.domains[source].files()
    migration = take_snapshot_unseen(stack, machine, destination)
    snapshot = stack.domains[source].path(made_volume(migration.uid, "snapshot"))
    stack.host.start_daemon()
    assert machine.chain() == before

    message = wait_until(migration.lost_track, "the migration waits")
    assert str(snapshot) in message
    assert machine.chain(inactive=True)[0][0] == str(snapshot)
    if end == "cancelled":
        migration.patch({"cancel": True})
    stack.host.virsh("destroy", machine.name)
    if end == "cancelled":
        migration.wait_for_phase("Cancelled")
        assert machine.chain(inactive=True)[0] == before[0]
        assert stack.domains[source].files() == files
        assert stack.domains[destination].files() == []
    else:
        migration.patch({"cutover": {"policy": "Automatic"}})
        assert migration.succeed()["attempts"] == 1
        assert stack.domains[source].files() == []
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.parametrize(("source", "destination"), [PAIRS[0], pytest.param(*PAIRS[1], marks=pytest.mark.nightly)])
@pytest.mark.parametrize("starts", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["off", "started"])
def test_all_is_kept_where_nobody_saw_it(
    stack: Stack, machines: Machines, source: str, destination: str, starts: bool
) -> None:
    """The VM has ended before an agent could see where its QEMU wrote."""
    machine = machines(source, chain=2)
    before = machine.chain()
    migration = take_snapshot_unseen(stack, machine, destination)
    snapshot = stack.domains[source].path(made_volume(migration.uid, "snapshot"))
    stack.agent.kill()
    stack.host.end_qemu(machine.name)
    stack.host.start_daemon()
    wait_until(lambda: machine.state() == "shut off", "the VM is off")
    if starts:
        stack.host.virsh("start", machine.name, "--paused")
    stack.agent.start()

    message = foreign_change(migration)

    assert str(snapshot) in message
    assert holds_mark(snapshot)
    assert machine.chain(inactive=True)[0] == before[0]
