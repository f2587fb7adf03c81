"""A guest that writes against the pure decisions, step by step: who is caught at the end of its volume, and who not.

Modelled after what was seen: an event comes at once, a volume has grown some time later, and only then is the next
threshold armed; what is passed before that sends no event, and is found by the look that follows. The classical design
polls every two seconds and knows one watermark and one chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskmigration.agent.extender import watermark, write_rate
from diskmigration.agent.extender.watermark import Policy, ThinVolume
from diskmigration.agent.extender.write_rate import DecayingMax, WriteRate

MIB = 2**20
GIB = 2**30
POLICY = Policy(high_watermark=16 * MIB, chunk=64 * MIB)
CAPACITY = 1024 * GIB
STEP_SECONDS = 0.004
POLL_SECONDS = 2.0
LOOK_SECONDS = 0.02

Rate = Callable[[float], float]


@dataclass(frozen=True)
class Outcome:
    """Whether the guest met the end, and what was free at the end of the time."""

    is_caught: bool
    free: int


@dataclass
class Writer:
    """A guest's volume: written at a rate that depends on the time."""

    rate: Rate
    allocated: float = 16.0 * MIB
    physical: int = 96 * MIB
    now: float = 0.0

    def step(self) -> bool:
        """Whether it still fits."""
        self.now += STEP_SECONDS
        self.allocated += self.rate(self.now) * STEP_SECONDS
        return self.allocated <= self.physical

    def outcome(self) -> Outcome:
        return Outcome(self.allocated > self.physical, self.physical - int(self.allocated))

    def volume(self, policy: Policy) -> ThinVolume:
        return ThinVolume("/dev/volume", int(self.allocated), self.physical, CAPACITY, policy)


def run_classical(rate: Rate, *, latency: float, seconds: float) -> Outcome:
    writer = Writer(rate)
    next_look, grown = 0.0, None
    while writer.now < seconds:
        if not writer.step():
            break
        if grown is not None and writer.now >= grown[0]:
            writer.physical, grown = grown[1], None
        if writer.now >= next_look:
            next_look += POLL_SECONDS
            if grown is None and (plan := watermark.plan(writer.volume(POLICY))):
                grown = (writer.now + latency, plan[0].size)
    return writer.outcome()


def run_adaptive(rate: Rate, *, latency: float, seconds: float) -> Outcome:
    writer = Writer(rate)
    written, lasted = WriteRate(0.0, int(writer.allocated)), DecayingMax()
    armed = watermark.threshold(writer.volume(POLICY), physical=writer.physical)
    next_look, passed_at, grown = 0.0, None, None
    while writer.now < seconds:
        if not writer.step():
            break
        is_event = bool(armed) and writer.allocated > armed
        is_look = writer.now >= next_look
        if grown is not None and writer.now >= grown[0]:
            writer.physical, grown = grown[1], None
            lasted = lasted.raised_to(writer.now - (passed_at or writer.now), writer.now)
            passed_at, next_look = None, writer.now + LOOK_SECONDS
        if not (is_event or is_look) or grown is not None:
            continue
        armed = 0
        written = written.updated(writer.now, int(writer.allocated))
        policy = write_rate.adapted_policy(POLICY, rate=written.rate.now(writer.now), latency=lasted.now(writer.now))
        volume = writer.volume(policy)
        if plan := watermark.plan(volume):
            passed_at, grown = writer.now, (writer.now + latency, plan[0].size)
        else:
            armed = watermark.threshold(volume, physical=writer.physical)
        if is_look:
            next_look = writer.now + POLL_SECONDS
    return writer.outcome()


@pytest.mark.parametrize("latency", [0.005, 0.02, 0.05])
def test_a_steady_writer_is_kept_ahead_at_more_than_ten_times_the_classical_rate(latency: float) -> None:
    rates = [2.0**power * MIB for power in range(2, 12)]
    warm = 0.8 * POLICY.high_watermark / latency
    classical = max(
        rate
        for rate in rates
        if not run_classical(lambda _: rate, latency=latency, seconds=12.0).is_caught  # noqa: B023
    )
    adaptive = max(
        rate
        for rate in rates
        if not run_adaptive(lambda now: min(rate, warm * (1 + now)), latency=latency, seconds=12.0).is_caught  # noqa: B023
    )
    assert adaptive >= 10 * classical


@given(
    st.lists(st.floats(0, 0.45), min_size=1, max_size=8),
    st.floats(0.002, 0.1),
)
@settings(max_examples=20, deadline=None)
def test_bursts_that_the_watermark_can_take_once_never_catch_the_guest(parts: list[float], latency: float) -> None:
    """Each second another share of what the bare watermark holds for one extension, from nothing to nearly half."""
    most = POLICY.high_watermark / (latency + LOOK_SECONDS)

    def rate(now: float) -> float:
        return parts[int(now) % len(parts)] * most

    assert not run_adaptive(rate, latency=latency, seconds=8.0).is_caught


@given(st.floats(0.01, 0.2))
@settings(max_examples=10, deadline=None)
def test_a_writer_that_speeds_up_outgrows_the_watermark_and_is_not_caught(latency: float) -> None:
    start = 0.5 * POLICY.high_watermark / (latency + LOOK_SECONDS)

    def rate(now: float) -> float:
        return start * min(1 + now / 2, 4)

    assert not run_adaptive(rate, latency=latency, seconds=10.0).is_caught
    assert run_classical(rate, latency=latency, seconds=10.0).is_caught


def test_a_slow_writer_costs_no_more_than_with_the_classical_design() -> None:
    found = run_adaptive(lambda _: 4.0 * MIB, latency=0.05, seconds=60.0)
    assert not found.is_caught
    assert found.free <= POLICY.high_watermark + POLICY.chunk
