"""A whole move of a disk whose contents are known, and what it must have left."""

from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Stack
from tests.integration.migrations.volumes import made_volume
from tests.waiting import wait_until


def move(stack: Stack, machine: Machine, to: str, **spec: object) -> str:
    """Moves the disk with writes before, in the middle and just before the pivot; returns the migration's uid."""
    machine.write(offset=50 * MEBIBYTE, length=3 * MEBIBYTE, pattern=50)
    migration = stack.migrate(machine, to, cutover={"policy": "Manual"}, **spec)
    migration.wait_for_phase("Synchronized")
    machine.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
    machine.write(offset=2 * MEBIBYTE, length=MEBIBYTE // 2, pattern=61)
    machine.written[0] = (2 * MEBIBYTE, 1)
    machine.written[2 * MEBIBYTE + MEBIBYTE // 2] = (5 * MEBIBYTE // 2, 1)
    migration.patch({"cutover": {"policy": "Automatic"}})
    status = migration.succeed()
    assert status["progress"]["percent"] == 100
    return migration.uid


def assert_moved(
    stack: Stack, machine: Machine, source: str, destination: str, uid: str, *, length: int, image_format: str = "qcow2"
) -> None:
    """The chain has its shape, the live and the persistent XML agree, and nothing is left behind."""
    path = stack.domains[destination].path
    names = [made_volume(uid, position, image_format=image_format) for position in range(length)]
    expected = [(str(path(name)), image_format) for name in reversed(names)]
    assert machine.chain() == expected
    assert machine.chain(inactive=True)[0] == expected[0]
    assert "mirror" not in machine.xml()
    # It is erased once the API server has the last word, which is what was waited for.
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    assert stack.domains[destination].files() == sorted(names)
    assert stack.domains[source].files() == []
