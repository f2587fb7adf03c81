import re

import pytest

from diskmigration.agent.storage.volume_names import OVERLAY, SNAPSHOT, OwnName, read_own_name, volume_name
from diskmigration.api.disk_migration import VolumeFormat

UID = "8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11"

# Debian's /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper: what it may read of a chain, wherever it lies.
READABLE = re.compile(r".*\.(img|raw|qcow|qcow2|qed|vmdk|vhd|iso)")


def test_a_name_tells_the_migration_the_attempt_the_role_and_the_format() -> None:
    assert volume_name(UID, 1, OVERLAY, VolumeFormat.QCOW2) == f"dm-{UID}-1-overlay.qcow2"
    assert volume_name(UID, 2, "0", VolumeFormat.RAW) == f"dm-{UID}-2-0.raw"


@pytest.mark.parametrize("image_format", list(VolumeFormat))
@pytest.mark.parametrize("role", ["0", "17", SNAPSHOT, OVERLAY])
def test_apparmor_lets_libvirt_read_what_has_such_a_name(role: str, image_format: VolumeFormat) -> None:
    assert READABLE.fullmatch(volume_name(UID, 3, role, image_format))


def test_no_two_volumes_of_a_migration_have_one_name() -> None:
    roles = [SNAPSHOT, OVERLAY, *map(str, range(12))]
    names = {volume_name(UID, attempt, role, VolumeFormat.QCOW2) for attempt in range(1, 12) for role in roles}
    assert len(names) == 11 * len(roles)


@pytest.mark.parametrize("role", ["0", "17", SNAPSHOT, OVERLAY])
def test_a_name_is_read_as_it_was_written(role: str) -> None:
    name = volume_name(UID, 12, role, VolumeFormat.QCOW2)
    assert read_own_name(UID, name) == OwnName(12, role)
    assert read_own_name("8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a12", name) is None


@pytest.mark.parametrize("name", ["disk.qcow2", f"dm-{UID}", f"dm-{UID}-notes", f"x-dm-{UID}-1-0.raw", ""])
def test_a_name_of_somebody_else_is_not_read(name: str) -> None:
    assert read_own_name(UID, name) is None


@pytest.mark.parametrize("role", ["0", "17", SNAPSHOT, OVERLAY])
def test_a_name_of_an_earlier_version_is_read(role: str) -> None:
    assert read_own_name(UID, f"dm-{UID}-{role}") == OwnName(1, role)
