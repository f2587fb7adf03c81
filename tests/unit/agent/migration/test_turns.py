"""The disks of one VM take turns for one act each; nobody waits with a lock in hand."""

from functools import partial

import pytest

from diskmigration.agent.migration.turns import Turns, TurnTakenError


def test_a_turn_that_is_taken_is_told_and_free_again_at_its_end() -> None:
    turns = Turns()
    woken: list[str] = []
    wake = partial(woken.append, "vdb")
    with turns.take("vm", "vda of DiskMigration vms/one", wake=lambda: woken.append("vda")):
        for _ in range(2):
            with (
                pytest.raises(TurnTakenError, match="Waiting for vda of DiskMigration vms/one") as taken,
                turns.take("vm", "vdb", wake=wake),
            ):
                pytest.fail("it was taken twice")
        assert "since 20" in str(taken.value)
        with turns.take("another", "vda", wake=lambda: None):
            assert woken == []
    assert woken == ["vdb"]
    with turns.take("vm", "vdb", wake=lambda: None):
        """It is free."""


def test_an_act_that_fails_gives_the_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="no"), turns.take("vm", "vda", wake=lambda: None):
        raise ValueError("no")
    with turns.take("vm", "vdb", wake=lambda: None):
        """It is free."""
    assert turns.__dict__["_taken"] == turns.__dict__["_waiting"] == {}
