"""What is read of no VM is an answer of libvirtd's all the same."""

import pytest

from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.hypervisor.vm_reader import VmReader


def test_the_statistics_of_no_vm_are_no_answer_of_a_libvirtd_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(_reader: VmReader) -> tuple[str, str]:
        raise HypervisorUnavailableError("It hangs.")

    monkeypatch.setattr(VmReader, "versions", hangs)
    with pytest.raises(HypervisorUnavailableError):
        VmReader("test:///default").statistics_of(())
