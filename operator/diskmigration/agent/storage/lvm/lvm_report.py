"""lvm2's reports as values. Pure; sizes in bytes.

Source: lvmreport(7); the fields are those of `lvs -o help` and `vgs -o help`. With --binary a condition is 0 or 1, or
-1 where it cannot be told.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from diskmigration.agent.storage.lvm import tags
from diskmigration.api.errors import MigrationError, Reason

NO_LOCK_TYPE = "none"
_PARTS = frozenset("tTedDlimI")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _split(value: Any) -> Any:
    return tuple(tag for tag in value.split(",") if tag) if isinstance(value, str) else value


def _is_one(value: Any) -> Any:
    return value == "1" if isinstance(value, str) else value


def _is_one_if_known(value: Any) -> Any:
    # lvm2 prints -1 for what it cannot tell, as of a volume that is not active.
    return None if value == "-1" else _is_one(value)


Flag = Annotated[bool, BeforeValidator(_is_one)]
KnownFlag = Annotated[bool | None, BeforeValidator(_is_one_if_known)]
Tags = Annotated[tuple[str, ...], BeforeValidator(_split)]


class GroupReport(_Row):
    """A volume group. `devices` are those of its physical volumes, none where one of them is missing.

    `is_unlocked` says that it is shared and has no locks on this node.
    """

    vg_name: str
    vg_uuid: str
    vg_size: int
    vg_free: int
    vg_extent_size: int
    vg_lock_type: str
    vg_shared: Flag
    vg_missing_pv_count: int
    vg_exported: Flag
    vg_permissions: str
    devices: tuple[str, ...] = ()
    is_unlocked: bool = False

    @property
    def lock_type(self) -> str:
        """Who keeps several nodes from writing its metadata at once: sanlock, dlm, or none."""
        return self.vg_lock_type or NO_LOCK_TYPE

    @property
    def is_locked(self) -> bool:
        """Whether a lock manager does, so that volumes are activated exclusively."""
        return self.lock_type in ("sanlock", "dlm", "idm")

    def extents(self, size_bytes: int) -> int:
        """Return how many extents hold that size."""
        return -(-size_bytes // self.vg_extent_size)


class VolumeReport(_Row):
    """A logical volume."""

    lv_name: str
    lv_uuid: str
    lv_size: int
    lv_tags: Tags
    lv_attr: str
    lv_active_locally: Flag
    lv_device_open: KnownFlag
    lv_suspended: Flag
    origin: str

    @property
    def may_hold_image(self) -> bool:
        """Whether it is a volume by itself, and no pool or other part of volumes (lvs(8), the first of lv_attr)."""
        return self.lv_attr[:1] not in _PARTS

    @property
    def ownership(self) -> tags.Ownership:
        """What its tags say."""
        return tags.read(self.lv_tags)


class _PhysicalVolume(GroupReport):
    """A row of a group's report: lvm2 repeats the group for each of its physical volumes."""

    pv_name: str


GROUP_FIELDS = tuple(name for name in _PhysicalVolume.model_fields if name not in ("devices", "is_unlocked"))
VOLUME_FIELDS = tuple(VolumeReport.model_fields)


class _Section(_Row):
    vg: tuple[_PhysicalVolume, ...] = ()
    lv: tuple[VolumeReport, ...] = ()


class _Document(_Row):
    report: tuple[_Section, ...]


def read_group(printed: str, group: str, *, is_unlocked: bool = False) -> GroupReport:
    """Return the group of that name from what `vgs` printed.

    Raises:
        MigrationError: StorageFailed, also where it is not in the report, or several groups have its name.
    """
    found = [row for section in _read(printed, group).report for row in section.vg if row.vg_name == group]
    uuids = {row.vg_uuid for row in found}
    if len(uuids) != 1:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"lvm2 reports {len(uuids)} volume groups of the name {group}. Look at `vgs -o+vg_uuid`; of several that "
            "share a name, rename all but one by their uuid (`vgrename UUID NAME`).",
        )
    names = tuple(row.pv_name for row in found)
    # A missing one is shown as [unknown]. --devices takes several names with commas between them.
    are_known = all(name.startswith("/") and "," not in name for name in names)
    return found[0].model_copy(update={"devices": names if are_known else (), "is_unlocked": is_unlocked})


def read_volumes(printed: str, group: str) -> tuple[VolumeReport, ...]:
    """Return every volume from what `lvs` printed, in its order.

    Raises:
        MigrationError: StorageFailed.
    """
    return tuple(row for section in _read(printed, group).report for row in section.lv)


def _read(printed: str, group: str) -> _Document:
    try:
        return _Document.model_validate_json(printed)
    except ValidationError as error:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"lvm2's report of the volume group {group} cannot be read: {error}"
        ) from error
