"""A domain with one disk and no operating system, for the testbed's own tests."""

import json
import subprocess
from pathlib import Path

from testbed.libvirt_host import LibvirtHost

MEBIBYTE = 1024 * 1024


def start_paused(host: LibvirtHost, name: str, volume: Path) -> None:
    """Define and start a domain, paused, whose only disk is a new qcow2 volume of 64 MiB."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", volume, "64M"], check=True)
    definition = volume.with_suffix(".xml")
    definition.write_text(
        f"""<domain type='qemu'>
          <name>{name}</name>
          <memory unit='MiB'>64</memory>
          <os><type arch='x86_64' machine='q35'>hvm</type></os>
          <devices>
            <disk type='file' device='disk'>
              <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
              <source file='{volume}'/>
              <target dev='vda' bus='virtio'/>
            </disk>
          </devices>
        </domain>"""
    )
    host.virsh("define", str(definition))
    host.virsh("start", name, "--paused")


def remove(host: LibvirtHost, name: str) -> None:
    """End a domain and forget it."""
    host.virsh("destroy", name)
    host.virsh("undefine", name)


def qemu_thread_count(host: LibvirtHost, name: str) -> int:
    """Ask the domain's QEMU itself, by its monitor, how many virtual CPUs it runs."""
    answer = json.loads(host.virsh("qemu-monitor-command", name, '{"execute": "query-cpus-fast"}'))
    return len(answer["return"])
