"""libvirtd answers while anything is answered; a question for its version that fails says that it does not."""

import pytest

from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.node.probe import ANSWER_SECONDS, ASK_SECONDS, LIBVIRT, LibvirtProbe
from diskmigration.observability.health import Health


@pytest.fixture
def health() -> Health:
    return Health(LIBVIRT)


@pytest.fixture
def probe(health: Health) -> LibvirtProbe:
    return LibvirtProbe("test:///default", health, now=0.0)


def problems(probe: LibvirtProbe, health: Health, now: float) -> list[str]:
    probe.report(now)
    return health.why_not_ready()


def test_it_is_not_ready_before_the_first_answer(probe: LibvirtProbe, health: Health) -> None:
    assert "has not answered yet" in problems(probe, health, 1.0)[0]
    assert probe.is_due(0.0)
    probe.answered(1.0)
    assert problems(probe, health, 1.0) == []


def test_nobody_asks_while_other_reads_are_answered(probe: LibvirtProbe) -> None:
    probe.answered(5.0)
    assert not probe.is_due(5.0 + ASK_SECONDS - 0.1)
    assert probe.is_due(5.0 + ASK_SECONDS)


def test_a_libvirtd_that_hangs_is_told_by_the_age_of_its_last_answer(probe: LibvirtProbe, health: Health) -> None:
    probe.answered(5.0)
    assert problems(probe, health, 5.0 + ANSWER_SECONDS - 0.1) == []
    (told,) = problems(probe, health, 5.0 + ANSWER_SECONDS)
    assert told.startswith("libvirtd does not answer: nothing came from test:///default within 10 s")
    with pytest.raises(HypervisorUnavailableError):
        probe.require_answers(5.0 + ANSWER_SECONDS)
    probe.answered(30.0)
    assert problems(probe, health, 30.0) == []


def test_one_that_cannot_be_reached_is_told_at_once(probe: LibvirtProbe, health: Health) -> None:
    probe.answered(5.0)
    probe.failed("refused")
    assert probe.is_due(5.0)
    assert problems(probe, health, 5.0) == ["libvirtd does not answer: refused"]
    probe.answered(6.0)
    assert problems(probe, health, 6.0) == []
