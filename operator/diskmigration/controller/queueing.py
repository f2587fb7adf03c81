"""Who goes next where room is short: the namespace that was served longest ago, and in it the oldest migration.

Migrations between the same two storage domains wait in one lane. A lane whose domains are full holds up no other.
Choosing costs the number of lanes times the logarithm of the number of namespaces.
"""

import bisect
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

EXACT_POSITIONS = 10

Lane = tuple[str, str]
"""The source's and the destination's StorageDomain."""

HasRoom = Callable[[str, str], bool]
"""Whether one more migration may read from the first and write to the second storage domain."""


@dataclass(frozen=True, order=True, slots=True)
class Ticket:
    """A place in the queue. Tickets sort by age."""

    created: datetime
    uid: str
    namespace: str = field(compare=False)
    key: str = field(compare=False)
    lane: Lane = field(compare=False)


_Turn = tuple[int, Ticket]
"""When a namespace was last served, and its oldest ticket: the smallest goes next."""


class FairQueue:
    """Round-robin over namespaces, oldest first within each."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._tickets: dict[str, Ticket] = {}
        self._lanes: dict[Lane, _Lane] = {}
        self._turn = 0
        self._served: dict[str, int] = {}

    def __contains__(self, uid: str) -> bool:
        """Whether the migration waits."""
        return uid in self._tickets

    def __len__(self) -> int:
        """How many wait."""
        return len(self._tickets)

    def add(self, ticket: Ticket) -> None:
        """Queues a migration; one that waits in that lane already keeps its place."""
        if (known := self._tickets.get(ticket.uid)) is not None:
            if known.lane == ticket.lane:
                return
            self.remove(ticket.uid)
        self._tickets[ticket.uid] = ticket
        self._lanes.setdefault(ticket.lane, _Lane()).add(ticket, self._served.get(ticket.namespace, 0))

    def remove(self, uid: str) -> None:
        """Takes a migration out; nothing if it does not wait."""
        ticket = self._tickets.pop(uid, None)
        if ticket is not None:
            lane = self._lanes[ticket.lane]
            lane.remove(ticket)
            if not lane.waiting:
                del self._lanes[ticket.lane]

    def take(self, has_room: HasRoom) -> Ticket | None:
        """Takes out the one whose turn it is among those that have room; None if there is none."""
        candidates = [
            candidate
            for (source, destination), lane in self._lanes.items()
            if has_room(source, destination) and (candidate := lane.first(self._served)) is not None
        ]
        if not candidates:
            return None
        _, chosen = min(candidates)
        self._turn += 1
        self._served[chosen.namespace] = self._turn
        self.remove(chosen.uid)
        return chosen

    def ticket(self, uid: str) -> Ticket | None:
        """A waiting migration's ticket."""
        return self._tickets.get(uid)

    def position(self, uid: str) -> int:
        """How many of the same lane go before it as things are, plus one. Costs the lane's number of namespaces.

        Raises:
            KeyError: it does not wait.
        """
        ticket = self._tickets[uid]
        return self._lanes[ticket.lane].position(ticket, self._served)

    def positions(self) -> dict[str, int]:
        """Every waiting migration's position, in one pass per lane."""
        found: dict[str, int] = {}
        for lane in self._lanes.values():
            found |= lane.positions(self._served)
        return found


def is_position_worth_writing(published: int | None, actual: int) -> bool:
    """Whether a position that changed is to be written again.

    Each write is a request and an event. So a position is right near the head, and else within a factor of two: a
    migration that starts as number n in the queue is written log2(n) + 10 times, and not n times.
    """
    if published is None or actual <= EXACT_POSITIONS:
        return published != actual
    return actual * 2 <= published


class _Lane:
    """The tickets of one pair of storage domains, by namespace, each namespace's oldest first.

    The heap of namespaces is lazy: it has one entry that counts for each, and an entry that no longer holds is put
    right when it comes to the top. That is never too late, as a namespace's turn only moves back; what moves it
    forward, an older ticket, makes a new entry.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, list[Ticket]] = {}
        self._turns: list[_Turn] = []
        self._current: dict[str, _Turn] = {}

    def add(self, ticket: Ticket, served: int) -> None:
        tickets = self.waiting.setdefault(ticket.namespace, [])
        bisect.insort(tickets, ticket)
        if tickets[0] is ticket:
            self._enter((served, ticket))

    def remove(self, ticket: Ticket) -> None:
        tickets = self.waiting[ticket.namespace]
        del tickets[bisect.bisect_left(tickets, ticket)]
        if not tickets:
            del self.waiting[ticket.namespace]
            del self._current[ticket.namespace]

    def first(self, served: dict[str, int]) -> _Turn | None:
        while self._turns:
            entry = self._turns[0]
            namespace = entry[1].namespace
            if self._current.get(namespace) is not entry:
                heapq.heappop(self._turns)
                continue
            now = self._turn_of(namespace, served)
            if now == entry:
                return entry
            heapq.heappop(self._turns)
            self._enter(now)
        return None

    def position(self, ticket: Ticket, served: dict[str, int]) -> int:
        tickets = self.waiting[ticket.namespace]
        ahead_of_it = bisect.bisect_left(tickets, ticket)
        mine = self._turn_of(ticket.namespace, served)
        before = ahead_of_it
        for namespace, others in self.waiting.items():
            if namespace != ticket.namespace:
                goes_first = self._turn_of(namespace, served) < mine
                before += min(len(others), ahead_of_it + (1 if goes_first else 0))
        return before + 1

    def positions(self, served: dict[str, int]) -> dict[str, int]:
        order = sorted(self.waiting, key=lambda namespace: self._turn_of(namespace, served))
        rounds = sorted(
            (ahead_of_it, rank, ticket.uid)
            for rank, namespace in enumerate(order)
            for ahead_of_it, ticket in enumerate(self.waiting[namespace])
        )
        return {uid: place for place, (_, _, uid) in enumerate(rounds, start=1)}

    def _enter(self, turn: _Turn) -> None:
        self._current[turn[1].namespace] = turn
        heapq.heappush(self._turns, turn)

    def _turn_of(self, namespace: str, served: dict[str, int]) -> _Turn:
        return served.get(namespace, 0), self.waiting[namespace][0]
