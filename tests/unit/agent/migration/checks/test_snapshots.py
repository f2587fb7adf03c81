"""Which dirty bitmaps a move carries: checked against libvirt's own rule."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.migration.checks.snapshots import require_carried_bitmaps, require_no_snapshots
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.storage.qcow2_header import Bitmap
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from tests.unit.agent import builders
from tests.unit.agent.migration.checks.test_managers import described

B0 = Bitmap("b0", is_enabled=True)


def judged(plan: Journal, layers: Sequence[Sequence[Bitmap]], *, checkpoints: Sequence[str] = ()) -> str:
    """What the refusal says, or nothing; `layers` are base first."""
    bitmaps = {volume.path: found for volume, found in zip(plan.source, layers, strict=True)}
    try:
        require_carried_bitmaps(plan, bitmaps, checkpoints=checkpoints)
    except MigrationError as refused:
        if refused.reason is not Reason.DISK_BUSY:
            raise
        return refused.message
    return ""


@pytest.mark.parametrize("strategy", ["Snapshot", "Direct"])
def test_a_chain_without_bitmaps_is_free(strategy: str) -> None:
    assert judged(builders.journal(strategy=strategy, length=2), [(), ()]) == ""


@pytest.mark.parametrize(("layers", "checkpoints"), [([(), (B0,)], ()), ([(B0,), ()], ()), ([(), ()], ("c0",))])
def test_a_snapshot_would_lose_them(layers: list[tuple[Bitmap, ...]], checkpoints: tuple[str, ...]) -> None:
    message = judged(builders.journal(length=2), layers, checkpoints=checkpoints)
    assert "Use strategy: Direct" in message
    assert judged(builders.journal(strategy="Direct", length=2), layers, checkpoints=checkpoints) == ""


def test_flattening_would_lose_those_of_lower_volumes() -> None:
    plan = builders.journal(strategy="Direct", length=2, flatten=True)
    assert "Use backingChain: Preserve" in judged(plan, [(B0,), (B0,)])


def test_a_raw_volume_has_none() -> None:
    plan = builders.journal(strategy="Direct")
    destination = plan.migration.spec.destination.model_copy(update={"format": VolumeFormat.RAW})
    spec = plan.migration.spec.model_copy(update={"destination": destination})
    plan = plan.model_copy(update={"migration": plan.migration.model_copy(update={"spec": spec})})
    assert "Use format: qcow2" in judged(plan, [(B0,)])


states = st.sampled_from(["absent", "enabled", "disabled"])


@given(st.lists(states, min_size=1, max_size=5))
def test_libvirt_carries_a_bitmap_of_the_top_that_goes_down_without_a_gap(chain: list[str]) -> None:
    """`chain` is active layer first. The rule is that of libvirt's qemuBlockBitmapChainIsValid."""
    layers = [() if state == "absent" else (Bitmap("b0", state == "enabled"),) for state in reversed(chain)]
    present = [state != "absent" for state in chain]
    is_contiguous = not any(lower and not upper for upper, lower in itertools.pairwise(present))
    # What the top does not have is no concern of the mirror: qemu-img copies each lower volume with its own.
    is_carried = not present[0] or (is_contiguous and "disabled" not in chain)
    message = judged(builders.journal(strategy="Direct", length=len(chain)), layers)
    assert (message == "") == is_carried
    if message:
        assert "qemu-img bitmap --remove" in message


def test_a_snapshot_of_libvirt_is_named_with_how_to_delete_it() -> None:
    require_no_snapshots(described(), "vda", ())
    with pytest.raises(MigrationError) as refused:
        require_no_snapshots(described(name="web 1"), "vda", ("s2", "s1"))
    assert refused.value.reason is Reason.DISK_BUSY
    assert "s1, s2" in refused.value.message
    assert "`virsh snapshot-delete 'web 1' NAME`" in refused.value.message
