"""A volume that is merged into gets what it needs and no more, however often a move is cancelled or a merge fails."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender.watermark import ALIGNMENT_BYTES, fully_written_size
from diskmigration.agent.migration.sizing import MergeBase, Qcow2Layout, merge_growth, merged_volume_size

MIB = 2**20
LAYOUTS = [
    Qcow2Layout(512),
    Qcow2Layout(4096, refcount_bits=64),
    Qcow2Layout(65536),
    Qcow2Layout(65536, refcount_bits=1),
    Qcow2Layout(16384, l2_entry_bytes=16),
    Qcow2Layout(2**21),
]
CLUSTERS = 5000
"""Of the disk: with the smallest clusters that is many L2 tables, with the largest 10 GiB."""


@dataclass(frozen=True)
class Volume:
    """A model of a qcow2 volume: which clusters of the disk it has, and how many of its own are lost."""

    layout: Qcow2Layout
    clusters: frozenset[int]
    lost: int = 0

    @property
    def end(self) -> int:
        """Where its last cluster ends, without a gap between."""
        layout = self.layout
        tables = len({number // (layout.cluster_bytes // layout.l2_entry_bytes) for number in self.clusters})
        used = 3 + len(self.clusters) + tables + self.lost
        per_block = layout.cluster_bytes * 8 // layout.refcount_bits
        blocks = 1
        while blocks * per_block < used + blocks:
            blocks += 1
        return (used + blocks) * layout.cluster_bytes

    def merged(self, overlay: frozenset[int]) -> "Volume":
        return Volume(self.layout, self.clusters | overlay, self.lost)


clusters = st.frozensets(st.integers(0, CLUSTERS - 1), max_size=200) | st.builds(
    lambda start, length: frozenset(range(start, min(start + length, CLUSTERS))),
    st.integers(0, CLUSTERS - 1),
    st.integers(0, CLUSTERS),
)
layouts = st.sampled_from(LAYOUTS)
chunks = st.sampled_from([4096, ALIGNMENT_BYTES, 16 * MIB, 2560 * MIB])
# Some are as full as can be.
room = st.just(0) | st.integers(0, 64 * MIB)
watermarks = st.sampled_from([0, 8 * MIB, 512 * MIB])


def sized(
    volume: Volume,
    overlay: frozenset[int],
    *,
    size: int,
    watermark: int,
    chunk: int,
    first_end: int | None = None,
    has_failed: bool = False,
) -> int:
    layout = volume.layout
    capacity = CLUSTERS * layout.cluster_bytes
    added = merge_growth(data=len(overlay) * layout.cluster_bytes, layout=layout, capacity=capacity)
    base = MergeBase(
        size=size,
        end=volume.end,
        first_end=first_end if first_end is not None else volume.end,
        capacity=capacity,
        layout=layout,
        has_failed=has_failed,
    )
    return merged_volume_size(base, added=added, high_watermark=watermark, chunk=chunk)


@given(layouts, clusters, clusters, room, watermarks, chunks)
def test_a_merge_never_runs_full(
    layout: Qcow2Layout, before: frozenset[int], overlay: frozenset[int], free: int, watermark: int, chunk: int
) -> None:
    volume = Volume(layout, before)
    size = volume.end + free
    given_size = sized(volume, overlay, size=size, watermark=watermark, chunk=chunk)
    assert given_size >= max(volume.merged(overlay).end, size)


@given(layouts, clusters, clusters, room, watermarks, chunks)
def test_a_volume_that_has_room_keeps_its_size_and_another_grows_by_whole_chunks(
    layout: Qcow2Layout, before: frozenset[int], overlay: frozenset[int], free: int, watermark: int, chunk: int
) -> None:
    volume = Volume(layout, before)
    size = volume.end + free
    given_size = sized(volume, overlay, size=size, watermark=watermark, chunk=chunk)
    largest = fully_written_size(
        CLUSTERS * layout.cluster_bytes, layout.cluster_bytes, layout.l2_entry_bytes, layout.refcount_bits
    )
    assert (given_size - size) % chunk == 0 or given_size == largest
    added = merge_growth(
        data=len(overlay) * layout.cluster_bytes, layout=layout, capacity=CLUSTERS * layout.cluster_bytes
    )
    if free >= added + watermark:
        assert given_size == size


@dataclass
class Moves:
    """A volume over moves that are cancelled, each of which merges back what the guest wrote meanwhile."""

    volume: Volume
    size: int
    watermark: int
    chunk: int
    most_needed: int = field(init=False)

    def __post_init__(self) -> None:
        self.most_needed = self.size

    def cancel(self, overlay: frozenset[int], parts: list[int]) -> None:
        """The merge fails after so many clusters of each part, and is tried again."""
        layout = self.volume.layout
        first_end = self.volume.end
        growth = merge_growth(
            data=len(overlay) * layout.cluster_bytes, layout=layout, capacity=CLUSTERS * layout.cluster_bytes
        )
        self.most_needed = max(self.most_needed, first_end + growth + self.watermark)
        for part in (*parts, len(overlay)):
            self.size = sized(
                self.volume,
                overlay,
                size=self.size,
                watermark=self.watermark,
                chunk=self.chunk,
                first_end=first_end,
                # Something else than room is what it failed for.
                has_failed=False,
            )
            self.volume = self.volume.merged(frozenset(sorted(overlay)[:part]))
            assert self.volume.end <= self.size


@given(
    layouts,
    clusters,
    room,
    watermarks,
    chunks,
    st.lists(st.tuples(clusters, st.lists(st.integers(0, 300), max_size=3)), max_size=8),
)
def test_any_number_of_cancelled_moves_and_failed_merges_adds_what_the_guest_wrote_in_whole_chunks(
    layout: Qcow2Layout,
    before: frozenset[int],
    free: int,
    watermark: int,
    chunk: int,
    moves: list[tuple[frozenset[int], list[int]]],
) -> None:
    volume = Volume(layout, before)
    moved = Moves(volume, volume.end + free, watermark, chunk)
    initial = moved.size
    for overlay, parts in moves:
        moved.cancel(overlay, parts)
    grown = moved.size - initial
    assert grown <= -(-(moved.most_needed - initial) // chunk) * chunk
    # The guest writes nothing: the volume is left as the first one has made it.
    after_first = moved.size
    for _ in range(5):
        moved.cancel(frozenset(), [0])
    assert moved.size <= max(
        after_first, -(-(moved.volume.end + watermark - after_first) // chunk) * chunk + after_first
    )


@given(layouts, clusters, clusters, st.integers(1, 3000), watermarks, chunks)
def test_a_volume_with_lost_clusters_that_ran_full_is_given_more(
    layout: Qcow2Layout, before: frozenset[int], overlay: frozenset[int], lost: int, watermark: int, chunk: int
) -> None:
    """A QEMU that is killed may leave clusters that are in use and lie nowhere: the disk's size limits nothing then."""
    volume = Volume(layout, before, lost)
    size = sized(volume, overlay, size=volume.end, watermark=watermark, chunk=chunk)
    if volume.merged(overlay).end > size:
        full = Volume(layout, before, (size - volume.end) // layout.cluster_bytes + lost)
        size = sized(full, overlay, size=size, watermark=watermark, chunk=chunk, has_failed=True)
        assert full.merged(overlay).end <= size
