"""libvirt's answers as the project's own errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from diskmigration.api.errors import MigrationError, Reason

_CONNECTION_LOST = frozenset(
    {
        libvirt.VIR_ERR_INTERNAL_ERROR,  # "client socket is closed"
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
    }
)
_FROM_TRANSPORT = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})


class HypervisorUnavailableError(MigrationError):
    """libvirtd, or a QEMU that ended meanwhile, gave no answer. What was asked may have happened: look again."""

    def __init__(self, message: str) -> None:
        """Name the call that got no answer."""
        super().__init__(Reason.HYPERVISOR_UNAVAILABLE, message)


class DomainGoneError(MigrationError):
    """The VM is not there any more, or has no QEMU process."""

    def __init__(self, message: str) -> None:
        """Name the VM."""
        super().__init__(Reason.VIRTUAL_MACHINE_STOPPED, message)


class VirtualMachinePausedError(MigrationError):
    """QEMU refuses block jobs on the VM's disks until the VM is resumed."""

    def __init__(self, message: str) -> None:
        """Name the call that was refused."""
        super().__init__(Reason.VIRTUAL_MACHINE_PAUSED, message)


_INACTIVE_NODE = re.compile(
    r"internal error: unable to execute QEMU command '[a-z-]+': "
    r"Inactive '[^']*' can't be a [a-z]+ child of active '[^']*'"
)
"""What QEMU 10 answers of a VM that was restored while paused: its block nodes stay inactive until it is resumed.

Source: bdrv_attach_child_noperm in QEMU's block.c, tests/qemu-iotests/tests/inactive-node-nbd. A node is named by
libvirt or by QEMU, never by a user.
"""

_QEMU_HAS_ENDED = re.compile(
    r"(internal error: |operation failed: )?"
    r"(Unable to (read from|write to) monitor"
    r"|(End of file from|Invalid file descriptor while waiting for) (qemu )?monitor"
    r"|Error while processing monitor IO|(QEMU|qemu) unexpectedly closed the monitor"
    r"|QEMU monitor was closed|domain is no longer running)"
    r"( \(vm='.*'\))?(: .*)?",
    re.DOTALL,
)
"""libvirt's answers when QEMU ended during a call. libvirt still reports the VM as running for a moment.

Source: qemuMonitorIO and qemuMonitorSend in libvirt's qemu_monitor.c, qemuDomainObjExitMonitor in qemu_domain.c.
"""

_IS_NOT_RUNNING = re.compile(r"Requested operation is not valid: [Dd]omain( '.*')? is not running", re.DOTALL)
"""virDomainObjCheckActive in libvirt's domain_conf.c, and the older checks in qemu_driver.c."""

_LOCK_IS_HELD = re.compile(r"(operation failed: )?cannot acquire state change lock.*", re.DOTALL)
"""What libvirt answers at once where too many calls wait for the VM's lock already.

One that waits for it in vain for 30 s has an error code of its own. Nothing has begun of what was asked.
Source: qemuDomainObjBeginJobInternal in libvirt's qemu_domainjob.c.
"""


def _is_busy(error: libvirt.libvirtError, answer: str) -> bool:
    """Return whether libvirt did not get to what it was asked, as the VM's QEMU or another tool keeps it waiting."""
    is_late = error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT
    return is_late or _LOCK_IS_HELD.fullmatch(answer) is not None


def is_connection_loss(error: libvirt.libvirtError) -> bool:
    """Return whether the answer is the transport's, so that the call's own outcome is unknown."""
    return error.get_error_domain() in _FROM_TRANSPORT and error.get_error_code() in _CONNECTION_LOST


@contextmanager
def answered(doing: str, *, failure: Reason) -> Iterator[None]:
    """Turn libvirtError into the project's errors, saying what was being done and what libvirt answered.

    Raises:
        HypervisorUnavailableError: libvirtd did not answer or is busy with the VM, or QEMU ended while it was asked.
        DomainGoneError: there is no such VM, or it is not running.
        MigrationError: with the given reason, for every other answer.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        # Only whole answers are compared: a VM's name or a volume's may read like a part of any of them.
        answer = error.get_error_message() or str(error)
        message = f"While {doing}, libvirt answered: {answer}"
        if is_connection_loss(error):
            raise HypervisorUnavailableError(f"{message}. The migration goes on when libvirtd is back.") from error
        if _is_busy(error, answer):
            raise HypervisorUnavailableError(
                f"{message}. The VM's QEMU stands still, or another tool works on the VM. It is waited for, and "
                "nothing that was copied is lost."
            ) from error
        if error.get_error_domain() == libvirt.VIR_FROM_QEMU and _QEMU_HAS_ENDED.fullmatch(answer):
            raise HypervisorUnavailableError(f"{message}. QEMU has ended: the VM is looked at again.") from error
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID) and (
            error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN or _IS_NOT_RUNNING.fullmatch(answer)
        ):
            raise DomainGoneError(message) from error
        if _INACTIVE_NODE.fullmatch(answer):
            raise VirtualMachinePausedError(
                "The VM was restored while paused, and QEMU lets nothing work on its disks until it runs. Resume it "
                f"(`virsh resume`): the migration then goes on. {message}"
            ) from error
        raise MigrationError(failure, message) from error
