"""Head room and chunks follow what is measured, between the administrator's bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender import watermark, write_rate
from diskmigration.agent.extender.watermark import Policy, ThinVolume
from diskmigration.agent.extender.write_rate import DecayingMax, WriteRate

MIB = 2**20
GIB = 2**30

policies = st.builds(Policy, high_watermark=st.integers(MIB, 64 * GIB), chunk=st.integers(MIB, 64 * GIB))
rates = st.floats(0, 100 * GIB)
latencies = st.floats(0, 3600)
times = st.floats(0, 10**6)


@given(policies, rates, latencies)
def test_it_never_goes_below_what_the_administrator_set(policy: Policy, rate: float, latency: float) -> None:
    found = write_rate.adapted_policy(policy, rate=rate, latency=latency)
    assert found.high_watermark >= policy.high_watermark
    assert found.chunk >= policy.chunk
    assert found.chunk % policy.chunk == 0


@given(policies, rates, latencies)
def test_waste_is_bounded_whatever_is_measured(policy: Policy, rate: float, latency: float) -> None:
    found = write_rate.adapted_policy(policy, rate=rate, latency=latency)
    assert found.high_watermark <= max(policy.high_watermark, write_rate.MOST_CHUNKS * policy.chunk)
    assert found.chunk <= write_rate.MOST_CHUNKS * policy.chunk


@given(policies, rates, rates, latencies, latencies)
def test_a_faster_writer_or_a_slower_storage_never_gets_less(
    policy: Policy, rate: float, more_rate: float, latency: float, more_latency: float
) -> None:
    low = write_rate.adapted_policy(policy, rate=rate, latency=latency)
    high = write_rate.adapted_policy(policy, rate=rate + more_rate, latency=latency + more_latency)
    assert high.high_watermark >= low.high_watermark
    assert high.chunk >= low.chunk


@given(policies, rates, latencies)
def test_what_is_written_during_an_extension_fits_where_the_bound_allows_it(
    policy: Policy, rate: float, latency: float
) -> None:
    found = write_rate.adapted_policy(policy, rate=rate, latency=latency)
    written = rate * latency
    assert found.high_watermark >= min(written, write_rate.MOST_CHUNKS * policy.chunk)


@given(policies)
def test_where_nothing_was_measured_the_policy_is_the_administrators(policy: Policy) -> None:
    assert write_rate.adapted_policy(policy, rate=0.0, latency=5.0) == policy
    assert write_rate.adapted_policy(policy, rate=float(GIB), latency=0.0) == policy


@given(policies, rates, latencies, st.integers(0, 64 * GIB), st.integers(1, 64 * GIB))
def test_an_adapted_volume_never_grows_past_its_largest_useful_size(
    policy: Policy, rate: float, latency: float, allocated: int, physical: int
) -> None:
    found = write_rate.adapted_policy(policy, rate=rate, latency=latency)
    volume = ThinVolume("/dev/volume", allocated, physical, 32 * GIB, found)
    assert watermark.wanted_size(volume) <= max(physical, watermark.limit_of(volume))


@given(st.floats(0, 10**12), times, st.floats(0, 1000))
def test_a_peak_is_believed_at_once_and_fades(value: float, at: float, later: float) -> None:
    peak = DecayingMax().raised_to(value, at)
    assert peak.now(at) == value
    assert peak.now(at + later) <= value


def test_a_burst_is_forgotten_within_half_a_minute() -> None:
    assert DecayingMax(1.0, 100.0).now(130.0) < 0.05


@given(st.integers(1, GIB), st.integers(0, GIB), st.floats(write_rate.SHORTEST_SECONDS * 2, 100), times)
def test_the_rate_is_what_was_written_over_the_time(start: int, written: int, seconds: float, at: float) -> None:
    found = WriteRate(at, start).updated(at + seconds, start + written)
    assert found.rate.value == pytest.approx(written / seconds, rel=0.01)


def test_the_first_offset_that_qemu_tells_is_no_writing() -> None:
    found = WriteRate(0.0, 0).updated(1.0, 0).updated(2.0, 40 * GIB)
    assert found.rate.value == 0.0
    assert found.updated(3.0, 40 * GIB + 10 * MIB).rate.value == pytest.approx(10 * MIB)


def test_reports_that_follow_too_closely_are_measured_over_the_shortest_time() -> None:
    found = WriteRate(10.0, MIB).updated(10.001, 2 * MIB)
    assert found.rate.value == pytest.approx(MIB / write_rate.SHORTEST_SECONDS)
    assert found.updated(10.04, 3 * MIB).rate.value == pytest.approx(2 * MIB / 0.04, rel=0.01)


def test_a_report_that_is_older_than_the_last_one_takes_nothing_back() -> None:
    found = WriteRate(1.0, 10 * MIB).updated(2.0, 5 * MIB)
    assert found.rate.value == 0.0
    assert found.allocated == 10 * MIB


def test_when_a_threshold_was_passed_is_reckoned_but_never_before_it_was_armed() -> None:
    def passed(armed_at: float, rate: float) -> float:
        return write_rate.passed_at(allocated=30 * MIB, armed=20 * MIB, armed_at=armed_at, rate=rate, now=100.0)

    assert passed(0.0, 10.0 * MIB) == pytest.approx(99.0)
    assert passed(99.5, 10.0 * MIB) == 99.5
    assert passed(0.0, 0.0) == 100.0
    assert write_rate.passed_at(allocated=MIB, armed=2 * MIB, armed_at=0.0, rate=1.0, now=100.0) == 100.0


@given(st.integers(0, 64 * GIB), rates, latencies)
def test_who_waits_so_long_has_grown_before_the_volume_is_full(free: int, rate: float, seconds: float) -> None:
    spare = write_rate.seconds_to_spare(free=free, rate=rate, extension_seconds=seconds)
    assert spare >= 0
    if 0 < spare < math.inf:
        assert rate * (spare + seconds) <= free * (1 + 1e-9)


def test_who_has_no_room_for_an_extension_does_not_wait() -> None:
    assert write_rate.seconds_to_spare(free=MIB, rate=float(MIB), extension_seconds=0.5) == 0
    assert write_rate.seconds_to_spare(free=0, rate=1.0, extension_seconds=0.0) == 0
    assert write_rate.seconds_to_spare(free=10 * MIB, rate=float(MIB), extension_seconds=1.0) == 8
    assert write_rate.seconds_to_spare(free=0, rate=0.0, extension_seconds=1.0) == math.inf
