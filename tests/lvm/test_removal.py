"""Layers on logical volumes: what cannot be read, or has LVM snapshots, keeps them."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import Stack
from tests.lvm.groups import run

pytestmark = pytest.mark.lvm

Machines = Callable[..., Machine]


def make_base(domain: Domain) -> Path:
    """A qcow2 volume with data that no VM has as its own."""
    path = domain.make_volume(f"base-{uuid.uuid4().hex[:8]}", 64 * MEBIBYTE)
    run("qemu-img", "create", "-q", "-f", "qcow2", str(path), str(CAPACITY_BYTES))
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 9 {80 * MEBIBYTE} {5 * MEBIBYTE}", str(path))
    return path


def clone(machines: Machines, base: Path, **options: Any) -> Machine:
    made = machines("lvm-a", below=(base, "qcow2"), **options)
    made.written |= {80 * MEBIBYTE: (5 * MEBIBYTE, 9)}
    return made


def retained(status: dict[str, Any]) -> dict[str, str]:
    return {volume["name"]: volume["reason"] for volume in status["source"]["retained"]}


def test_a_volume_that_is_not_active_keeps_what_it_may_stand_on(stack: Stack, machines: Machines) -> None:
    """As after a start of the node, or on a shared group, where volumes are active where their VM runs."""
    base = make_base(stack.domains["lvm-a"])
    moved, other = clone(machines, base), clone(machines, base, start=False)
    top = other.volumes[-1]
    run("lvchange", "--activate", "n", f"lvm-a/{top.name}")
    status = stack.migrate(moved, "file-a").succeed(seconds=120)
    run("lvchange", "--activate", "y", f"lvm-a/{top.name}")
    kept = retained(status)
    assert kept.keys() == {base.name}
    assert "not active" in kept[base.name]
    assert other.name in kept[base.name]
    stack.host.virsh("start", other.name, "--paused")
    other.verify()
    moved.verify()


@pytest.mark.nightly
def test_a_volume_of_another_vm_keeps_what_it_stands_on(stack: Stack, machines: Machines) -> None:
    base = make_base(stack.domains["lvm-a"])
    moved, other = clone(machines, base), clone(machines, base, start=False)
    status = stack.migrate(moved, "lvm-b").succeed(seconds=120)
    assert retained(status).keys() == {base.name}
    stack.host.virsh("start", other.name, "--paused")
    other.verify()
    moved.verify()


@pytest.mark.nightly
def test_a_volume_with_snapshots_is_kept_with_all_below_it(stack: Stack, machines: Machines) -> None:
    machine = machines("lvm-a", chain=2)
    base, top = (volume.name for volume in machine.volumes)
    run("lvcreate", "--yes", "--snapshot", "--size", "16m", "--name", "before", f"lvm-a/{top}")
    status = stack.migrate(machine, "file-a").succeed(seconds=120)
    kept = retained(status)
    assert kept.keys() == {top, base}
    assert "LVM snapshots (before)" in kept[top]
    assert {"before", top, base} <= set(stack.domains["lvm-a"].files())
    machine.verify()
    run("lvremove", "--yes", "lvm-a/before")
