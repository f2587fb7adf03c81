"""The lane's VM: boots, shows its console, and ends by itself, or is ended when its time is over."""

import sys
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.lvm_lane.system import System
from testbed.processes import TestbedError

HOST_ADDRESS = "10.0.0.1"
"""What the VM reaches this machine's 127.0.0.1 by: the first address of the control plane's Services, which the
apiserver's certificate holds in any case."""

_NETWORK = "10.0.0.0/24"
_RESULTS_BYTES = 256 * 2**20
_MEMORY_MEBIBYTES = 3072
_PROCESSORS = 2
_LOOK_SECONDS = 0.1
_KERNEL_OPTIONS = (
    "root=/dev/vda rw console=ttyS0 quiet panic=-1 net.ifnames=0 init=/sbin/lane-init"
    # What guards and accounts costs more where the processor is emulated, and device-mapper waits for RCU.
    " mitigations=off init_on_alloc=0 hardened_usercopy=off audit=0 apparmor=0 rcupdate.rcu_expedited=1"
)
# lvm2 and udev know each disk by its serial number, as /dev/disk/by-id/virtio-….
_GROUP_DISKS: Mapping[str, int] = {
    "lvm-a": 1024 * 2**20,
    "lvm-b": 1024 * 2**20,
    "lvm-small": 256 * 2**20,
    "lvm-spare": 256 * 2**20,
    # The locks of a shared group take 256 MiB of it.
    "lvm-shared": 768 * 2**20,
}


@dataclass(frozen=True)
class Ending:
    """How the VM ended."""

    status: int
    """pytest's exit status, as the VM's first process saw it."""
    seconds: float


def run_machine(system: System, project: Path, directory: Path, results: Path, *, timeout_seconds: float) -> Ending:
    """Run the VM to its end, its console shown on stdout and kept in `results`, where its results are unpacked.

    `project` is the image of the disk with what is tested; other disks of the VM are made in `directory`.

    Raises:
        TestbedError: QEMU failed, the VM ended with no results, or its time was over; with its console's end.
    """
    console = results / "console.log"
    results_disk = directory / "results.img"
    disks = {"project": project, "results": results_disk}
    _make_sparse(results_disk, _RESULTS_BYTES)
    for name, size_bytes in _GROUP_DISKS.items():
        disks[name] = directory / f"{name}.img"
        _make_sparse(disks[name], size_bytes)
    started = time.monotonic()
    qemu = processes.start(_command(system, disks), log=console)
    try:
        shown = 0
        while qemu.poll() is None:
            shown = _show(console, shown)
            if time.monotonic() > started + timeout_seconds:
                raise TestbedError(f"The LVM lane's VM was not done after {timeout_seconds:.0f} s.\n{_tail(console)}")
            time.sleep(_LOOK_SECONDS)
        _show(console, shown)
    finally:
        if qemu.poll() is None:
            processes.stop(qemu)
    if qemu.returncode != 0:
        raise TestbedError(f"QEMU ended with status {qemu.returncode}.\n{_tail(console)}")
    return Ending(status=_unpack(results_disk, results, console), seconds=time.monotonic() - started)


def _make_sparse(disk: Path, size_bytes: int) -> None:
    with disk.open("wb") as opened:
        opened.truncate(size_bytes)


def _command(system: System, disks: Mapping[str, Path]) -> list[str]:
    command = [
        *["qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"],
        *["-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max"],
        *["-smp", str(_PROCESSORS), "-m", str(_MEMORY_MEBIBYTES)],
        *["-kernel", str(system.kernel), "-initrd", str(system.initrd)],
        *["-append", _KERNEL_OPTIONS],
        *["-netdev", f"user,id=network,net={_NETWORK},host={HOST_ADDRESS}", "-device", "virtio-net-pci,netdev=network"],
        # Whatever is written to it goes with the VM.
        *["-drive", f"file={system.root},if=none,id=root,format=raw,cache=unsafe,snapshot=on"],
        *["-device", "virtio-blk-pci,drive=root"],
    ]
    for name, disk in disks.items():
        command += ["-drive", f"file={disk},if=none,id={name},format=raw,cache=unsafe,discard=unmap"]
        command += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    return command


def _show(console: Path, shown: int) -> int:
    with console.open("rb") as opened:
        opened.seek(shown)
        new = opened.read()
    sys.stdout.write(new.decode(errors="replace").replace("\r\n", "\n"))
    sys.stdout.flush()
    return shown + len(new)


def _tail(console: Path) -> str:
    return processes.tail(console).replace("\r\n", "\n")


def _unpack(disk: Path, results: Path, console: Path) -> int:
    try:
        with tarfile.open(disk) as archive:
            archive.extractall(results, filter="data")
        return int((results / "status").read_text())
    except (tarfile.TarError, OSError, ValueError) as error:
        raise TestbedError(f"The LVM lane's VM ended with no results: {error}\n{_tail(console)}") from error
