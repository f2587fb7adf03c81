from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.controller.disk_claims import Claim, DiskClaims, Rank
from diskmigration.controller.reservations import Reservation, Reservations
from tests.unit.controller.builders import EPOCH

UIDS = ("u1", "u2", "u3", "u4")
holds = st.builds(
    Reservation,
    source=st.sampled_from("abc"),
    destination=st.sampled_from("def"),
    node=st.sampled_from(("n1", "n2")),
    needed_bytes=st.integers(0, 100),
    written_bytes=st.integers(0, 150),
    awaits_cutover=st.booleans(),
)


@given(st.lists(st.tuples(st.sampled_from(UIDS), st.one_of(st.none(), holds, st.integers(0, 150))), max_size=40))
def test_the_counts_are_those_of_the_holds(acts: list[tuple[str, Reservation | int | None]]) -> None:
    reservations = Reservations()
    held: dict[str, Reservation] = {}
    for uid, act in acts:
        if act is None:
            assert reservations.release(uid) == held.pop(uid, None)
        elif isinstance(act, Reservation):
            reservations.hold(uid, act)
            held[uid] = act
        else:
            reservations.progress(uid, act)
            if uid in held:
                old = held[uid]
                held[uid] = Reservation(old.source, old.destination, old.node, old.needed_bytes, act)
        for name in "abcdef":
            there = [hold for hold in held.values() if name in (hold.source, hold.destination)]
            awaiting = sum(hold.awaits_cutover for hold in there)
            for most in range(4):
                assert reservations.active(name, most_awaiting=most) == len(there) - min(awaiting, most)
        for name in "def":
            for node in ("n1", "n2"):
                for but in ("", *UIDS):
                    assert reservations.outstanding_bytes(name, node, but=but) == sum(
                        max(0, hold.needed_bytes - hold.written_bytes)
                        for uid, hold in held.items()
                        if (hold.destination, hold.node) == (name, node) and uid != but
                    )


def rank(age: int, uid: str, *, waits: bool = True) -> Rank:
    return Rank(waits, EPOCH - timedelta(seconds=age), uid)


def test_the_older_claim_wins_whoever_came_first() -> None:
    claims = DiskClaims()
    claims.claim("young", ("d",), Claim(rank(1, "young"), "vms/young"))
    claims.claim("old", ("d",), Claim(rank(9, "old"), "vms/old"))
    assert claims.blocker(("d",), rank(9, "old")) is None
    assert claims.blocker(("d",), rank(1, "young")) == "vms/old"


def test_one_that_an_agent_has_wins_over_an_older_one() -> None:
    claims = DiskClaims()
    claims.claim("young", ("d",), Claim(rank(1, "young", waits=False), "vms/young"))
    assert claims.blocker(("d",), rank(9, "old")) == "vms/young"


def test_of_the_same_age_exactly_one_wins() -> None:
    claims = DiskClaims()
    ranks = {uid: rank(5, uid) for uid in UIDS}
    for uid, one in ranks.items():
        claims.claim(uid, ("d",), Claim(one, uid))
    assert [uid for uid, one in ranks.items() if claims.blocker(("d",), one) is None] == ["u1"]


def test_they_meet_under_any_of_a_disks_names() -> None:
    claims = DiskClaims()
    claims.claim("old", ("by-name",), Claim(rank(9, "old"), "vms/old"))
    assert claims.blocker(("by-uuid", "by-name"), rank(1, "young")) == "vms/old"


def test_withdrawing_frees_the_disk_and_says_so() -> None:
    claims = DiskClaims()
    claim = Claim(rank(9, "old"), "vms/old")
    assert claims.claim("old", ("d", "e"), claim) == {"d", "e"}
    assert claims.claim("old", ("d", "e"), claim) == set()
    assert claims.withdraw("old") == {"d", "e"}
    assert claims.withdraw("old") == set()
    assert claims.blocker(("d", "e"), rank(1, "young")) is None
