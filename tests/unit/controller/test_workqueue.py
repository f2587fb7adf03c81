import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.controller.workqueue import WorkQueue


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


async def ready(queue: WorkQueue) -> list[str]:
    """All that is ready now, each done at once."""
    found = []
    while len(queue):
        key = await queue.get()
        found.append(key)
        queue.done(key)
    return found


def test_a_key_waits_once_however_often_it_is_added() -> None:
    async def story() -> None:
        queue = WorkQueue()
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        assert await ready(queue) == ["a", "b"]

    run(story())


def test_a_key_in_work_comes_again_only_when_that_is_done() -> None:
    async def story() -> None:
        queue = WorkQueue()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("b")
        assert await queue.get() == "b"
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.done("a")
        assert await waiting == "a"

    run(story())


def test_of_several_times_the_earliest_counts_and_now_is_earliest() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        queue = WorkQueue()
        queue.add_after("a", 3600)
        queue.add_after("a", 0.01)
        queue.add_after("a", 7200)
        begun = loop.time()
        assert await queue.get() == "a"
        assert loop.time() - begun < 5
        queue.done("a")
        queue.add_after("b", 3600)
        queue.add("b")
        assert await ready(queue) == ["b"]
        queue.add_after("c", 0)
        assert await ready(queue) == ["c"]

    run(story())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("add", "get", "done"))), max_size=40))
def test_no_key_is_lost_and_none_is_worked_on_twice_at_once(acts: list[tuple[str, str]]) -> None:
    async def story() -> None:
        queue = WorkQueue()
        wanted: set[str] = set()
        in_work: set[str] = set()
        for key, act in acts:
            if act == "add":
                queue.add(key)
                wanted.add(key)
            elif act == "get" and wanted - in_work:
                got = await queue.get()
                assert got in wanted - in_work
                wanted.discard(got)
                in_work.add(got)
            elif act == "done" and key in in_work:
                queue.done(key)
                in_work.discard(key)
        for key in in_work:
            queue.done(key)
        assert sorted(await ready(queue)) == sorted(wanted)

    run(story())
