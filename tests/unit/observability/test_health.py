"""What makes a program un-live, and what merely not ready."""

from diskmigration.observability.health import Health


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_that_turns_in_time_is_live() -> None:
    clock = Clock()
    health = Health(clock=clock)
    health.turned("the loop", within_seconds=10)
    clock.now += 10
    assert health.why_not_live() == []
    clock.now += 5
    assert health.why_not_live() == ["the loop should have turned 5 s ago"]
    health.turned("the loop", within_seconds=10)
    assert health.why_not_live() == []


def test_a_part_that_does_not_answer_is_told_and_kills_nobody() -> None:
    health = Health("libvirtd", "the Kubernetes API")
    assert health.why_not_ready() == ["libvirtd has not answered yet", "the Kubernetes API has not answered yet"]
    health.answers("libvirtd")
    health.answers("the Kubernetes API")
    assert health.why_not_ready() == []
    health.fails("libvirtd", "connection refused")
    assert health.why_not_ready() == ["libvirtd does not answer: connection refused"]
    assert health.why_not_live() == []


def test_what_is_not_there_yet_is_told_as_it_is() -> None:
    health = Health()
    health.lacks("the books", "not everything has been read yet")
    assert health.why_not_ready() == ["not everything has been read yet"]
    health.answers("the books")
    assert health.why_not_ready() == []


def test_a_loop_that_waits_for_what_does_not_answer_is_not_late() -> None:
    clock = Clock()
    health = Health("libvirtd", clock=clock)
    health.answers("libvirtd")
    health.turned("the survey", within_seconds=10, waits_for="libvirtd")
    health.turned("the Lease", within_seconds=10)
    health.check(lambda: ["every worker hangs"], waits_for="libvirtd")
    health.fails("libvirtd", "it hangs")
    clock.now += 11
    assert health.why_not_live() == ["the Lease should have turned 1 s ago"]
    health.turned("the Lease", within_seconds=1000)
    clock.now += 500
    assert health.why_not_live() == []
    # It has its time anew, but not once more with each answer.
    health.answers("libvirtd")
    assert health.why_not_live() == ["every worker hangs"]
    clock.now += 9
    health.answers("libvirtd")
    clock.now += 2
    assert health.why_not_live() == ["the survey should have turned 1 s ago", "every worker hangs"]


def test_a_check_is_asked_each_time() -> None:
    problems: list[str] = []
    health = Health()
    health.check(lambda: problems)
    assert health.why_not_live() == []
    problems.append("worker 3 hangs")
    assert health.why_not_live() == ["worker 3 hangs"]
