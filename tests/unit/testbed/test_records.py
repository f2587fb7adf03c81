"""The judge of a guest's records accepts every honest end of a run, and nothing else."""

import io
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from testbed.guest.records import Layout, RecordMaker, Report, verify_records, whole_sequence

RECORD_BYTES = 4096
SECTORS = RECORD_BYTES // 512


@dataclass(frozen=True)
class Run:
    """A run whose power was cut: `torn` says which sectors of the write under way had arrived."""

    layout: Layout
    acknowledged: int
    written: int
    torn: tuple[bool, ...]

    def disk(self) -> bytearray:
        layout = self.layout
        maker = RecordMaker(layout)
        disk = bytearray(layout.span_bytes)
        for sequence in range(self.written + 1):
            start = sequence % layout.slots * RECORD_BYTES
            disk[start : start + RECORD_BYTES] = maker.record(sequence)
        record = maker.record(self.written + 1)
        start = (self.written + 1) % layout.slots * RECORD_BYTES
        for sector, arrived in enumerate(self.torn):
            if arrived:
                part = slice(sector * 512, (sector + 1) * 512)
                disk[start + part.start : start + part.stop] = record[part]
        return disk

    def expected(self, slot: int) -> int:
        return self.acknowledged - (self.acknowledged - slot) % self.layout.slots


@st.composite
def runs(draw: st.DrawFn) -> Run:
    slots = draw(st.integers(2, 5))
    acknowledged = draw(st.integers(0, 3 * slots))
    return Run(
        layout=Layout(seed=draw(st.integers(0, 2**63 - 1)), span_bytes=slots * RECORD_BYTES, record_bytes=RECORD_BYTES),
        acknowledged=acknowledged,
        # The console is behind the disk by a batch of lines.
        written=acknowledged + draw(st.integers(0, 4)),
        torn=draw(st.tuples(*[st.booleans()] * SECTORS)),
    )


def slots_with_problems(report: Report) -> list[str]:
    return [problem.split(":")[0] for problem in report.problems]


@given(runs())
def test_a_run_cut_anywhere_is_accepted(run: Run) -> None:
    report = verify_records(io.BytesIO(run.disk()), run.layout, run.acknowledged)
    assert report.ok, report.problems
    assert report.slots_checked == min(run.layout.slots, run.acknowledged + 1)


@given(runs(), st.data())
def test_any_changed_byte_of_an_acknowledged_record_is_found(run: Run, data: st.DataObject) -> None:
    disk = run.disk()
    slot = data.draw(st.integers(0, min(run.layout.slots, run.acknowledged + 1) - 1))
    place = slot * RECORD_BYTES + data.draw(st.integers(0, RECORD_BYTES - 1))
    disk[place] ^= data.draw(st.integers(1, 255))
    # Sectors of the write under way may have arrived: a change to what it writes there is no loss.
    under_way = run.written + 1
    if under_way % run.layout.slots == slot:
        sector = slice(place // 512 * 512, (place // 512 + 1) * 512)
        within = slice(sector.start - slot * RECORD_BYTES, sector.stop - slot * RECORD_BYTES)
        record = RecordMaker(run.layout)
        honest = (record.record(under_way)[within], record.record(under_way - run.layout.slots)[within])
        assume(bytes(disk[sector]) not in honest)
    report = verify_records(io.BytesIO(disk), run.layout, run.acknowledged)
    assert not report.ok
    assert f"slot {slot}" in slots_with_problems(report)


@given(runs(), st.data())
def test_a_lost_write_is_found(run: Run, data: st.DataObject) -> None:
    disk = run.disk()
    slot = data.draw(st.integers(0, min(run.layout.slots, run.acknowledged + 1) - 1))
    older = run.expected(slot) - run.layout.slots
    content = RecordMaker(run.layout).record(older) if older >= 0 else bytes(RECORD_BYTES)
    disk[slot * RECORD_BYTES : (slot + 1) * RECORD_BYTES] = content
    report = verify_records(io.BytesIO(disk), run.layout, run.acknowledged)
    assert not report.ok
    assert f"slot {slot}" in slots_with_problems(report)


def test_a_record_of_another_run_or_slot_is_none() -> None:
    layout = Layout(seed=1, span_bytes=4 * RECORD_BYTES, record_bytes=RECORD_BYTES)
    other = Layout(seed=2, span_bytes=4 * RECORD_BYTES, record_bytes=RECORD_BYTES)
    record = RecordMaker(layout).record(6)
    assert whole_sequence(record, layout, 2) == 6
    assert whole_sequence(record, layout, 3) is None
    assert whole_sequence(record, other, 2) is None


def test_a_disk_that_ends_too_early_has_lost_its_records() -> None:
    layout = Layout(seed=1, span_bytes=4 * RECORD_BYTES, record_bytes=RECORD_BYTES)
    maker = RecordMaker(layout)
    disk = b"".join(maker.record(sequence) for sequence in range(2))
    report = verify_records(io.BytesIO(disk), layout, 3)
    assert slots_with_problems(report) == ["slot 2", "slot 3"]


def test_a_run_without_an_acknowledgement_proves_nothing() -> None:
    with pytest.raises(ValueError, match="nothing to check"):
        verify_records(io.BytesIO(b""), Layout(seed=1, span_bytes=2 * RECORD_BYTES, record_bytes=RECORD_BYTES), -1)


@pytest.mark.parametrize(
    ("record_bytes", "span_bytes", "seed", "said"),
    [
        (4095, 1 << 20, 1, "no multiple"),
        (0, 1 << 20, 1, "no multiple"),
        (4096, 8191, 1, "fit into"),
        (4096, 8192, -1, "seed"),
    ],
)
def test_an_impossible_layout_is_refused(record_bytes: int, span_bytes: int, seed: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Layout(seed=seed, span_bytes=span_bytes, record_bytes=record_bytes)
