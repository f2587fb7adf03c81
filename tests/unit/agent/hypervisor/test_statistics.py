"""libvirt's flat statistics, read by blockdev index."""

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.hypervisor import statistics
from diskmigration.agent.hypervisor.statistics import LayerStatistics

GIB = 2**30

# As virConnectGetAllDomainStats(BLOCK, BACKING) of libvirt 9.0 gives a disk of two layers with a mirror, and a CD-ROM.
RUNNING: dict[str, object] = {
    "state.state": 3,
    "state.reason": 5,
    "block.count": 4,
    "block.0.name": "vda",
    "block.0.path": "/dev/vg0/top",
    "block.0.backingIndex": 2,
    "block.0.rd.reqs": 11,
    "block.0.wr.bytes": 4096,
    "block.0.allocation": 3 * GIB,
    "block.0.capacity": 10 * GIB,
    "block.0.physical": 4 * GIB,
    "block.0.threshold": 3 * GIB + 17,
    "block.1.name": "vda",
    "block.1.path": "/dev/vg0/base",
    "block.1.backingIndex": 1,
    "block.1.allocation": 0,
    "block.1.capacity": 10 * GIB,
    "block.1.physical": GIB,
    "block.2.name": "vda",
    "block.2.path": "/srv/dm-1-overlay",
    "block.2.backingIndex": 7,
    "block.2.allocation": 5,
    "block.2.capacity": 10 * GIB,
    "block.2.physical": 2 * GIB,
    "block.3.name": "sda",
}


def test_every_open_volume_is_read_by_its_index() -> None:
    found = statistics.parse("u", 3, RUNNING)
    assert (found.uuid, found.run, found.state) == ("u", 3, (3, 5))
    assert [(layer.device, layer.path) for layer in found.layers] == [
        ("vda[2]", "/dev/vg0/top"),
        ("vda[1]", "/dev/vg0/base"),
        ("vda[7]", "/srv/dm-1-overlay"),
    ]
    assert found.layers[0] == LayerStatistics("vda", 2, "/dev/vg0/top", 3 * GIB, 10 * GIB, 4 * GIB, 3 * GIB + 17)


def test_without_an_armed_threshold_libvirt_gives_none() -> None:
    found = statistics.parse("u", 3, RUNNING).layers[1]
    assert (found.allocated_bytes, found.threshold_bytes) == (0, 0)


@given(st.sets(st.sampled_from(sorted(RUNNING))))
def test_what_libvirt_does_not_give_is_no_number(left_out: set[str]) -> None:
    whole = statistics.parse("u", 3, RUNNING)
    left_out -= {"block.count"}
    found = statistics.parse("u", 3, {key: value for key, value in RUNNING.items() if key not in left_out})
    assert found.state == (None if left_out & {"state.state", "state.reason"} else whole.state)
    positions = [position for position in range(3) if f"block.{position}.backingIndex" not in left_out]
    for position, layer in zip(positions, found.layers, strict=True):
        given_whole = whole.layers[position]
        for field in ("allocation", "capacity", "physical"):
            name = f"{'allocated' if field == 'allocation' else field}_bytes"
            is_left_out = f"block.{position}.{field}" in left_out
            assert getattr(layer, name) == (None if is_left_out else getattr(given_whole, name))


def test_a_qemu_that_does_not_answer_has_volumes_of_which_nothing_is_known() -> None:
    told = ("name", "path", "backingIndex", "count")
    found = statistics.parse("u", 3, {key: value for key, value in RUNNING.items() if key.endswith(told)})
    assert found.layers[0] == LayerStatistics("vda", 2, "/dev/vg0/top", None, None, None, None)
    assert len(found.layers) == 3


def test_a_volume_is_found_by_its_path_and_disk() -> None:
    found = statistics.parse("u", 3, RUNNING)
    layer = found.layer("/dev/vg0/base", "vda")
    assert layer is not None
    assert layer.index == 1
    assert found.layer("/dev/vg0/base", "vdb") is None
    assert found.layer("/dev/vg0/bas", "vda") is None


def test_a_vm_without_disks_has_none() -> None:
    assert statistics.parse("u", 3, {}).layers == ()
    assert statistics.parse("u", 3, {"block.count": 0, "state.state": 1}).layers == ()


fields = st.sampled_from(("name", "path", "backingIndex", "allocation", "capacity", "physical", "threshold", "odd"))
values = st.dictionaries(
    st.builds("block.{}.{}".format, st.integers(-1, 9), fields) | st.text(max_size=5),
    st.integers(-(2**63), 2**64 - 1) | st.text() | st.none() | st.floats() | st.booleans(),
    max_size=40,
)
counts = st.integers(-(2**31), 8) | st.text() | st.none() | st.floats()


@given(values, counts)
def test_no_answer_breaks_it(found: dict[str, object], count: object) -> None:
    layers = statistics.parse("u", 3, {**found, "block.count": count}).layers
    assert len(layers) <= sum(key.endswith(".backingIndex") for key in found)
    for layer in layers:
        assert all(isinstance(text, str) for text in (layer.target, layer.path))
        assert all(size is None or isinstance(size, int) for size in (layer.allocated_bytes, layer.physical_bytes))
