from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.migration.checks.openable import Access, require_access
from diskmigration.agent.migration.volume_access import replaced
from diskmigration.agent.storage.ownership import Ownership
from diskmigration.api.errors import MigrationError, Reason
from tests.unit.agent.builders import journal

ROOTS_FILE = Access(
    path=Path("/srv/nfs/dm-1-1-0.qcow2"),
    ownership=Ownership(Credentials(0, 0), 0o600),
    user=Credentials(64055, 107),
    passes=True,
    libvirt_changes_owners=True,
    libvirt_can_give=True,
    is_device=False,
)


def test_what_libvirt_gives_away_when_the_vm_starts_may_be_roots() -> None:
    require_access(ROOTS_FILE)


@pytest.mark.parametrize(
    ("changes", "way_out"),
    [
        ({"passes": False}, r"chmod o\+x"),
        ({"libvirt_can_give": False}, "all_squash,anonuid=64055,anongid=107"),
        ({"libvirt_changes_owners": False, "is_device": True}, "udev rule"),
        ({"libvirt_changes_owners": False}, "dynamic_ownership"),
    ],
)
def test_what_qemu_could_not_open_is_refused_with_the_way_out(changes: dict[str, Any], way_out: str) -> None:
    with pytest.raises(MigrationError, match=way_out) as refused:
        require_access(replace(ROOTS_FILE, **changes))
    assert refused.value.reason is Reason.VOLUME_NOT_ACCESSIBLE
    for word in ("64055:107", "/srv/nfs/dm-1-1-0.qcow2", "0:0", "0600"):
        assert word in refused.value.message


@given(passes=st.booleans(), changes=st.booleans(), can_give=st.booleans(), is_device=st.booleans())
def test_only_what_libvirt_both_would_and_could_give_is_trusted_to_it(
    passes: bool, changes: bool, can_give: bool, is_device: bool
) -> None:
    access = replace(
        ROOTS_FILE,
        passes=passes,
        libvirt_changes_owners=changes,
        libvirt_can_give=can_give,
        is_device=is_device,
    )
    if passes and changes and can_give:
        require_access(access)
    else:
        with pytest.raises(MigrationError):
            require_access(access)


def test_each_copy_takes_the_place_of_its_own_source() -> None:
    found = journal(length=3)
    assert [replaced(found, copy).name for copy in found.destination] == ["layer-0", "layer-1", "layer-2"]
    assert found.snapshot is not None
    assert found.overlay is not None
    assert {replaced(found, volume).name for volume in (found.snapshot, found.overlay)} == {"layer-2"}


def test_one_copy_of_a_whole_chain_takes_the_place_of_its_top() -> None:
    found = journal(length=3, flatten=True)
    assert [replaced(found, copy).name for copy in found.destination] == ["layer-2"]


def owned(gid: int, mode: int, acl: bytes | None = None, *, is_changed: bool = False) -> Ownership:
    return Ownership(Credentials(0, gid), mode, acl, is_changed)


def test_what_a_group_may_write_to_tells_nothing_of_libvirt() -> None:
    """QEMU's process has more groups than the one that libvirt tells of."""
    assert owned(64055, 0o660).is_open_to_a_group
    assert owned(0, 0o600, b"acl").is_open_to_a_group
    assert not owned(64055, 0o600).is_open_to_a_group
    assert not owned(0, 0o660).is_open_to_a_group


def test_volumes_are_alike_where_everybody_may_do_the_same_with_them() -> None:
    assert owned(1, 0o660).is_alike(owned(1, 0o660, is_changed=True))
    others = (owned(2, 0o660), owned(1, 0o600), owned(1, 0o660, b"acl"))
    assert not any(owned(1, 0o660).is_alike(other) for other in others)
