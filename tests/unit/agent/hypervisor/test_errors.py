"""libvirt's answers as the project's own errors."""

import libvirt
import pytest

from diskmigration.agent.hypervisor.errors import (
    DomainGoneError,
    HypervisorUnavailableError,
    VirtualMachinePausedError,
    answered,
)
from diskmigration.api.errors import MigrationError, Reason


def libvirt_error(code: int, domain: int, message: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(message)
    error.err = (code, domain, message, 2, "", None, None, -1, -1)
    return error


def raised(code: int, domain: int, message: str) -> MigrationError:
    with pytest.raises(MigrationError) as found, answered("pivoting vda", failure=Reason.PIVOT_FAILED):
        raise libvirt_error(code, domain, message)
    return found.value


def test_an_answer_is_told_with_what_was_being_done() -> None:
    error = raised(libvirt.VIR_ERR_BLOCK_COPY_ACTIVE, libvirt.VIR_FROM_QEMU, "disk 'vda' has a job")
    assert error.reason is Reason.PIVOT_FAILED
    assert error.message == "While pivoting vda, libvirt answered: disk 'vda' has a job"


@pytest.mark.parametrize(
    ("code", "domain"),
    [
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC),
        (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_REMOTE),
    ],
)
def test_a_lost_connection_is_no_failure_of_the_act(code: int, domain: int) -> None:
    error = raised(code, domain, "client socket is closed")
    assert isinstance(error, HypervisorUnavailableError)
    assert error.reason is Reason.HYPERVISOR_UNAVAILABLE


def test_an_internal_error_of_qemu_is_a_failure_of_the_act() -> None:
    error = raised(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "unable to execute QEMU command")
    assert not isinstance(error, HypervisorUnavailableError)
    assert error.reason is Reason.PIVOT_FAILED


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (libvirt.VIR_ERR_SYSTEM_ERROR, "Unable to read from monitor: Connection reset by peer"),
        (libvirt.VIR_ERR_SYSTEM_ERROR, "Unable to write to monitor: Broken pipe"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "End of file from qemu monitor (vm='a')"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "QEMU unexpectedly closed the monitor (vm='a')"),
        (libvirt.VIR_ERR_OPERATION_FAILED, "QEMU monitor was closed"),
        (libvirt.VIR_ERR_OPERATION_FAILED, "domain is no longer running"),
    ],
)
def test_what_a_qemu_was_asked_that_ended_may_have_happened(code: int, answer: str) -> None:
    error = raised(code, libvirt.VIR_FROM_QEMU, answer)
    assert isinstance(error, HypervisorUnavailableError)
    assert answer in error.message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, "Domain not found"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: domain is not running"),
    ],
)
def test_a_vm_that_is_gone_is_known(code: int, message: str) -> None:
    error = raised(code, libvirt.VIR_FROM_QEMU, message)
    assert isinstance(error, DomainGoneError)
    assert error.reason is Reason.VIRTUAL_MACHINE_STOPPED


def test_another_invalid_operation_is_no_lost_vm() -> None:
    error = raised(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_QEMU, "disk vda already in active block job")
    assert not isinstance(error, DomainGoneError)


@pytest.mark.parametrize(
    "answer",
    [
        "Inactive 'libvirt-1-format' can't be a backing child of active '#block060'",
        "Inactive 'libvirt-3-format' can't be a file child of active 'libvirt-4-format'",
    ],
)
@pytest.mark.parametrize("command", ["blockdev-mirror", "block-commit"])
def test_a_vm_that_was_restored_while_paused_has_to_be_resumed(command: str, answer: str) -> None:
    message = f"internal error: unable to execute QEMU command '{command}': {answer}"
    error = raised(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, message)
    assert isinstance(error, VirtualMachinePausedError)
    assert "virsh resume" in error.message
    assert answer in error.message


def test_another_inactive_thing_is_a_failure_of_the_act() -> None:
    error = raised(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, "Inactive device, or a backing child of it")
    assert not isinstance(error, VirtualMachinePausedError)
