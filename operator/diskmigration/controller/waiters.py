"""Which migrations were judged by which topics, so that a change wakes those that it concerns."""

from collections import defaultdict
from collections.abc import Iterable

from diskmigration.controller.topics import Topic


class Waiters:
    """Not thread-safe: one event loop owns it."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._by_topic: defaultdict[Topic, set[str]] = defaultdict(set)
        self._topics_of: dict[str, frozenset[Topic]] = {}

    def wait(self, key: str, topics: frozenset[Topic]) -> None:
        """Says what a migration waits for, in place of what it waited for."""
        before = self._topics_of.get(key, frozenset())
        for topic in before - topics:
            self._by_topic[topic].discard(key)
            if not self._by_topic[topic]:
                del self._by_topic[topic]
        for topic in topics - before:
            self._by_topic[topic].add(key)
        if topics:
            self._topics_of[key] = topics
        else:
            self._topics_of.pop(key, None)

    def forget(self, key: str) -> None:
        """Ends its waiting."""
        self.wait(key, frozenset())

    def concerned(self, topics: Iterable[Topic]) -> set[str]:
        """Who waits for any of the topics."""
        return {key for topic in topics for key in self._by_topic.get(topic, ())}
