"""libvirt's answers as the project's own errors."""

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        (
            libvirt.VIR_ERR_OPERATION_TIMEOUT,
            "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomain)",
        ),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, "Timed out during operation: cannot acquire state change lock"),
        (libvirt.VIR_ERR_OPERATION_FAILED, "cannot acquire state change lock due to max_queued limit"),
        (
            libvirt.VIR_ERR_OPERATION_FAILED,
            "operation failed: cannot acquire state change lock due to max_queued limit",
        ),
    ],
)
def test_a_vm_with_which_libvirt_is_busy_is_asked_again(code: int, answer: str) -> None:
    error = raised(code, libvirt.VIR_FROM_QEMU, answer)
    assert isinstance(error, HypervisorUnavailableError)
    assert answer in error.message


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (libvirt.VIR_ERR_SYSTEM_ERROR, "Unable to read from monitor: Connection reset by peer"),
        (libvirt.VIR_ERR_SYSTEM_ERROR, "Unable to write to monitor: Broken pipe"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "End of file from qemu monitor (vm='a')"),
        (libvirt.VIR_ERR_SYSTEM_ERROR, "Unable to read from monitor (vm='a'): Connection reset by peer"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "internal error: End of file from qemu monitor (vm='a')"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "internal error: QEMU unexpectedly closed the monitor (vm='a')"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "internal error: qemu unexpectedly closed the monitor: 2026-11-28: a\nb"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "internal error: Error while processing monitor IO (vm='a')"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "Invalid file descriptor while waiting for monitor (vm='a')"),
        (libvirt.VIR_ERR_OPERATION_FAILED, "operation failed: domain is no longer running"),
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
        (libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: domain 'a' is not running"),
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


ENDED = "operation failed: QEMU monitor was closed"
STOPPED = "Requested operation is not valid: domain is not running"
INACTIVE = (
    "internal error: unable to execute QEMU command 'block-commit': "
    "Inactive 'libvirt-1-format' can't be a backing child of active '#block060'"
)
WORDS = [
    *(ENDED, STOPPED, INACTIVE),
    *("cannot acquire state change lock", "operation failed: cannot acquire state change lock"),
    *("QEMU monitor was closed", "domain is no longer running", "Unable to read from monitor: x", "is not running"),
    *("End of file from qemu monitor (vm='x')", "qemu unexpectedly closed the monitor", "No space left on device"),
]
NAMES = st.lists(st.sampled_from([*WORDS, "'", ": ", "\n", "/", " ", "a"]), min_size=1, max_size=4).map("".join)
ANSWERS = [
    (libvirt.VIR_ERR_INTERNAL_ERROR, "unable to execute QEMU command 'blockdev-add': Could not open '{}'"),
    (libvirt.VIR_ERR_INTERNAL_ERROR, "internal error: unable to execute QEMU command 'block-commit': '{}' is in use"),
    (libvirt.VIR_ERR_INVALID_ARG, "invalid argument: disk '{}' not found in domain '{}'"),
    (libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: disk '{}' already in active block job"),
    (libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: '{}' has no backing file, {}"),
    (libvirt.VIR_ERR_OPERATION_FAILED, "operation failed: cannot access '{}': {}"),
    (libvirt.VIR_ERR_SYSTEM_ERROR, "Cannot access storage file '{}': No such file or directory"),
]


@given(st.sampled_from(ANSWERS), st.tuples(NAMES, NAMES), NAMES)
def test_a_name_never_changes_what_an_answer_means(answer: tuple[int, str], names: tuple[str, str], doing: str) -> None:
    code, template = answer
    with pytest.raises(MigrationError) as found, answered(f"copying {doing}", failure=Reason.PIVOT_FAILED):
        raise libvirt_error(code, libvirt.VIR_FROM_QEMU, template.format(*names))
    assert type(found.value) is MigrationError
    assert found.value.reason is Reason.PIVOT_FAILED


@given(NAMES)
def test_a_name_hides_no_answer(name: str) -> None:
    ended = raised(
        libvirt.VIR_ERR_INTERNAL_ERROR,
        libvirt.VIR_FROM_QEMU,
        f"internal error: End of file from qemu monitor (vm='{name}')",
    )
    assert isinstance(ended, HypervisorUnavailableError)
    stopped = raised(
        libvirt.VIR_ERR_OPERATION_INVALID,
        libvirt.VIR_FROM_QEMU,
        f"Requested operation is not valid: domain '{name}' is not running",
    )
    assert isinstance(stopped, DomainGoneError)
