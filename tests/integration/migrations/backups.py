"""Backups as a tool takes them through libvirt: a full one with a checkpoint, and what was written since."""

import json
import subprocess
from pathlib import Path

from tests.integration.migrations.machines import Machine
from tests.waiting import wait_until

CHECKPOINT = "backed-up"


def back_up(machine: Machine, folder: Path) -> Path:
    """A full backup that begins a checkpoint; returns its image."""
    checkpoint = folder / f"{machine.name}-checkpoint.xml"
    checkpoint.write_text(
        f"<domaincheckpoint><name>{CHECKPOINT}</name><disks><disk name='{machine.target}' checkpoint='bitmap'/>"
        "</disks></domaincheckpoint>"
    )
    return _run(machine, folder, "full", "", str(checkpoint))


def back_up_since(machine: Machine, folder: Path, full: Path) -> Path:
    """A backup of what was written since the checkpoint, on top of the full one; returns its image."""
    image = _run(machine, folder, "incremental", f"<incremental>{CHECKPOINT}</incremental>")
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", full, "-F", "qcow2", image], check=True)
    return image


def _run(machine: Machine, folder: Path, name: str, incremental: str, *checkpoint: str) -> Path:
    image = folder / f"{machine.name}-{name}.qcow2"
    document = folder / f"{machine.name}-{name}.xml"
    document.write_text(
        f"<domainbackup mode='push'>{incremental}<disks><disk name='{machine.target}' type='file'>"
        f"<driver type='qcow2'/><target file='{image}'/></disk></disks></domainbackup>"
    )
    machine.host.virsh("backup-begin", machine.name, str(document), *checkpoint)
    wait_until(lambda: "Unbounded" not in machine.host.virsh("domjobinfo", machine.name), f"the backup {name} ends")
    assert "Completed" in machine.host.virsh("domjobinfo", machine.name, "--completed")
    return image


def extents(image: Path) -> list[tuple[int, int]]:
    """Offset and length of what the image has itself, not below."""
    command = ["qemu-img", "map", "-U", "--output=json", "-f", "qcow2", str(image)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    joined: list[tuple[int, int]] = []
    for part in found:
        if part["depth"] != 0 or not part["present"]:
            continue
        if joined and sum(joined[-1]) == part["start"]:
            offset, length = joined.pop()
            joined.append((offset, length + part["length"]))
        else:
            joined.append((part["start"], part["length"]))
    return joined


def is_equal(image: Path, active_layer: str) -> bool:
    """Whether two qcow2 chains hold the same data."""
    command = ["qemu-img", "compare", "-U", "-q", "-f", "qcow2", "-F", "qcow2", str(image), active_layer]
    return subprocess.run(command, check=False).returncode == 0
