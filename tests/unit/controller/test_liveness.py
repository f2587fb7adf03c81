from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.cluster.leases import Lease
from diskmigration.controller.liveness import Liveness, Seen, judge, look
from tests.unit.controller.builders import EPOCH


def lease(renewed: float) -> Lease:
    return Lease("n1", EPOCH + timedelta(seconds=renewed), 40)


def test_a_clock_that_is_wrong_on_the_node_does_not_kill_it() -> None:
    seen = look({}, {"n1": lease(10_000)}, looked_for_seconds=0, now=EPOCH)
    for number in range(20):
        seen = look(seen, {"n1": lease(10_000 + number)}, looked_for_seconds=5, now=EPOCH)
    assert judge(seen, stale_seconds=30).live == {"n1"}


def test_a_lease_that_stays_the_same_goes_stale() -> None:
    seen = look({}, {"n1": lease(0)}, looked_for_seconds=0, now=EPOCH)
    for _ in range(5):
        seen = look(seen, {"n1": lease(0)}, looked_for_seconds=5, now=EPOCH)
    assert judge(seen, stale_seconds=30).live == {"n1"}
    seen = look(seen, {"n1": lease(0)}, looked_for_seconds=5, now=EPOCH)
    assert judge(seen, stale_seconds=30).live == frozenset()


def test_one_that_looks_old_at_first_is_not_judged_before_it_was_watched_for_the_whole_time() -> None:
    leases = {"old": lease(-100), "new": lease(-1)}
    seen = look({}, leases, looked_for_seconds=0, now=EPOCH)
    for _ in range(5):
        assert judge(seen, stale_seconds=30) == Liveness(frozenset({"new"}), frozenset({"old"}))
        seen = look(seen, leases, looked_for_seconds=5, now=EPOCH)
    again = look(seen, {**leases, "old": lease(-99)}, looked_for_seconds=5, now=EPOCH)
    assert judge(again, stale_seconds=30) == Liveness(frozenset({"old"})), "it was renewed, whatever its clock says"
    seen = look(seen, leases, looked_for_seconds=5, now=EPOCH)
    assert judge(seen, stale_seconds=30) == Liveness()


def test_one_that_is_deleted_is_not_alive() -> None:
    seen = look({"n1": Seen(EPOCH, 0)}, {}, looked_for_seconds=5, now=EPOCH)
    assert judge(seen, stale_seconds=30).live == frozenset()


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=20))
def test_it_is_alive_exactly_as_long_as_the_looks_since_its_renewal_take(looks: list[tuple[bool, float]]) -> None:
    seen = look({}, {"n1": lease(0)}, looked_for_seconds=0, now=EPOCH)
    renewed, unchanged = 0, 0.0
    for is_renewed, seconds in looks:
        renewed += is_renewed
        unchanged = 0.0 if is_renewed else unchanged + seconds
        seen = look(seen, {"n1": lease(renewed)}, looked_for_seconds=seconds, now=EPOCH)
        assert ("n1" in judge(seen, stale_seconds=30).live) == (unchanged < 30)
