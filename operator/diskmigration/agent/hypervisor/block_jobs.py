"""Block jobs of a running VM: copy, active commit, pivot, abort.

Facts of libvirt that this relies on: a job is ready when the XML says `<mirror ready='yes'>` and cur == end > 0 (either
alone comes too early: BZ1376580, BZ1442266); a pivot may return before the XML has changed (BZ1202719). A libvirtd that
is killed just after it has started a job in QEMU knows the next time that there is one, and of which kind, but its XML
has no `<mirror>` (seen in 9.0). An active commit needs none: it can be pivoted. A copy does: it can only be aborted.
"""

import re
from dataclasses import dataclass

import libvirt

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.errors import answered
from diskmigration.api.errors import MigrationError, Reason


class JobGoneError(MigrationError):
    """The disk has no block job: nothing was asked of QEMU."""

    def __init__(self, target: str) -> None:
        """`target` is the disk's target device."""
        super().__init__(Reason.PIVOT_FAILED, f"The block job of {target} ended before it was pivoted.")


@dataclass(frozen=True)
class BlockJob:
    """The block job of a disk: what it is, where it writes, how far it is, in bytes as QEMU counts them.

    `bandwidth_bytes_per_second` is its speed limit; None means no limit.
    """

    kind: str
    mirror: domain_xml.Mirror | None
    current_bytes: int
    end_bytes: int
    bandwidth_bytes_per_second: int | None = None

    @property
    def is_copy(self) -> bool:
        """Whether it mirrors the disk to another volume."""
        return self.mirror is not None and self.mirror.job == "copy"

    @property
    def is_commit(self) -> bool:
        """Whether it commits the active layer into one below."""
        return self.kind == "active-commit"

    @property
    def is_copy_without_mirror(self) -> bool:
        """Whether it is a copy of which libvirt has lost where it writes to."""
        return self.kind == "copy" and self.mirror is None

    @property
    def is_ready(self) -> bool:
        """Whether both sides are in step at this moment, so that it may be pivoted."""
        return self.stays_ready and self.current_bytes == self.end_bytes > 0

    @property
    def stays_ready(self) -> bool:
        """Whether libvirt says so still: of a job that was once in step, a guest's newest writes aside.

        It cannot say so of a commit that has lost its mirror; there it refuses a pivot that comes too early.
        """
        return self.mirror.ready == "yes" if self.mirror is not None else self.is_commit


_KINDS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: "pull",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: "copy",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: "commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: "active-commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: "backup",
}


_IS_BEING_ENDED = re.compile(r"Requested operation is not valid: block job on disk '[^']*' is still being ended")
"""What libvirt answers where it was asked before. Source: qemuDomainBlockJobAbort in libvirt's qemu_driver.c."""


@dataclass(frozen=True)
class DiskReading:
    """A disk and its block job as of one moment; `run` is the mark of the run of QEMU. Each is None where it is not."""

    disk: domain_xml.DomainDisk
    job: BlockJob | None
    run: str | None
    is_running: bool

    @property
    def active_path(self) -> str:
        """The path of the active layer, "" if the disk has none."""
        return self.disk.active.path if self.disk.active is not None else ""


def read_disk(domain: Domain, target: str) -> DiskReading | None:
    """Return the disk with its block job, None if the VM has no such disk; a VM that is off has no job.

    The XML does not tell how far a job is, nor always that there is one, and the job does not tell where it writes. So
    the XML is read before and after the job, until both say the same: a job may begin or end between the calls.
    """
    with domain.call(f"reading the disk {target}", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        described = domain_xml.parse(handle.XMLDesc(0))
        while (disk := described.disk(target)) is not None:
            if not described.is_running:
                return DiskReading(disk, None, described.run, is_running=False)
            with domain.connection.qemu_calls.one(domain.uuid):
                job = _job_of(handle, disk)
            before, described = described, domain_xml.parse(handle.XMLDesc(0))
            if described.is_running and (disk, before.run) == (described.disk(target), described.run):
                return DiskReading(disk, job, described.run, is_running=True)
    return None


def current(domain: Domain, disk: domain_xml.DomainDisk) -> BlockJob | None:
    """Return the disk's block job now, or None. `disk` is read before the call, so that a job's end is not missed."""
    with domain.qemu_call(f"looking for the block job of {disk.target}", failure=Reason.BLOCK_JOB_FAILED) as handle:
        return _job_of(handle, disk)


def _job_of(handle: libvirt.virDomain, disk: domain_xml.DomainDisk) -> BlockJob | None:
    doing = f"asking for the block job of {disk.target} (VM {handle.UUIDString()})"
    with answered(doing, failure=Reason.BLOCK_JOB_FAILED):
        info = handle.blockJobInfo(disk.target, libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
    if not info:
        return None
    return BlockJob(
        kind=_KINDS.get(info["type"], "unknown"),
        mirror=disk.mirror,
        current_bytes=info["cur"],
        end_bytes=info["end"],
        bandwidth_bytes_per_second=info["bandwidth"] or None,
    )


def start_copy(
    domain: Domain,
    *,
    target: str,
    kind: str,
    path: str,
    image_format: str,
    shallow: bool,
    write_blocking: bool,
    bandwidth_bytes_per_second: int | None,
) -> None:
    """Mirror the active layer, and what is below it unless shallow, to an existing volume.

    Source: virDomainBlockCopy with REUSE_EXT and TRANSIENT_JOB (required for persistent domains).

    Raises:
        MigrationError: BlockJobFailed.
    """
    flags = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    if shallow:
        flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW
    if write_blocking:
        flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
    parameters = {}
    if bandwidth_bytes_per_second is not None:
        parameters[libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH] = bandwidth_bytes_per_second
    document = domain_xml.copy_document(kind=kind, path=path, image_format=image_format)
    with domain.qemu_call(f"starting the copy of {target} to {path}", failure=Reason.BLOCK_JOB_FAILED) as handle:
        handle.blockCopy(target, document, parameters, flags)


def start_commit(domain: Domain, *, target: str, into_path: str, bandwidth_bytes_per_second: int | None) -> None:
    """Commit the active layer into the volume right below it, while the guest writes.

    Source: virDomainBlockCommit with ACTIVE, SHALLOW and BANDWIDTH_BYTES.

    Raises:
        MigrationError: MergeFailed.
    """
    flags = (
        libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
        | libvirt.VIR_DOMAIN_BLOCK_COMMIT_SHALLOW
        | libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES
    )
    doing = f"merging the active layer of {target} into {into_path}"
    with domain.qemu_call(doing, failure=Reason.MERGE_FAILED) as handle:
        handle.blockCommit(target, into_path, None, bandwidth_bytes_per_second or 0, flags)


def pivot(domain: Domain, *, target: str) -> None:
    """Make the job's target the active layer. The job stays synchronized where libvirt refuses.

    Raises:
        JobGoneError: the disk has no block job, so no pivot was asked for.
        MigrationError: PivotFailed.
    """
    with domain.qemu_call(f"pivoting {target}", failure=Reason.PIVOT_FAILED) as handle:
        if not handle.blockJobInfo(target, 0):
            raise JobGoneError(target)
        handle.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def abort(domain: Domain, *, target: str) -> None:
    """Have the disk's job end without a pivot, which may be later; one that has just ended is as good.

    Source: virDomainBlockJobAbort with ASYNC. Without it libvirt holds the VM's lock until QEMU has ended the job.

    Raises:
        MigrationError: BlockJobFailed.
    """
    with domain.qemu_call(f"aborting the block job of {target}", failure=Reason.BLOCK_JOB_FAILED) as handle:
        if not handle.blockJobInfo(target, 0):
            return
        try:
            handle.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC)
        except libvirt.libvirtError as error:
            if not _IS_BEING_ENDED.fullmatch(error.get_error_message() or ""):
                raise


def set_bandwidth(domain: Domain, *, target: str, bytes_per_second: int | None) -> None:
    """Set the job's speed limit; None means no limit.

    Raises:
        MigrationError: BlockJobFailed.
    """
    with domain.qemu_call(f"setting the bandwidth of {target}'s block job", failure=Reason.BLOCK_JOB_FAILED) as handle:
        handle.blockJobSetSpeed(target, bytes_per_second or 0, libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)
