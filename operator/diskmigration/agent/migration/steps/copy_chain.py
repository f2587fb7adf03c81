"""CopyingChain: fill the internal volumes at the destination from those that the snapshot froze."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.migration.context import SIDE_BY_SIDE, MigrationContext
from diskmigration.agent.migration.full_domain import seen_if_full
from diskmigration.agent.migration.journal import JournalVolume, Stage
from diskmigration.agent.migration.steps.copy_volume import copy_volume, stands_alone
from diskmigration.agent.migration.steps.mirror_volume import format_volume
from diskmigration.agent.storage.long_command import StoppedError
from diskmigration.api.errors import Reason


def copy_chain(context: MigrationContext) -> None:
    """Copy what is not copied yet, base first; return early when something else has to be looked at.

    A volume whose copy was interrupted is emptied and copied again: its source is frozen, so the result is the same. A
    qemu-img that was killed may have taken clusters that it entered nowhere, and there is no room for them twice.

    Raises:
        MigrationError: CopyFailed, DestinationFull.
    """
    journal = context.journal
    pairs = tuple(zip(journal.internal_copies, journal.copy_bytes, strict=True))
    waiting = [pair for pair, _ in pairs if pair[1].name not in journal.copied]
    progress = _Progress(context, {destination.name: size for (_, destination), size in pairs})
    with ThreadPoolExecutor(_at_once(context, waiting), thread_name_prefix="copy") as pool:
        running = {pool.submit(_copy, context, *pair, progress): pair[1].name for pair in waiting}
        try:
            for ended in as_completed(running):
                if not ended.result():
                    break
                context.failpoint("midway")
                _note_copied(context, running[ended])
        finally:
            # After one that was stopped or has failed, no other is gone on with, or begun.
            progress.stop()
            pool.shutdown(wait=False, cancel_futures=True)
    if len(context.journal.copied) == len(pairs):
        context.failpoint("acted")
        context.record(stage=Stage.COPIED)


def _note_copied(context: MigrationContext, name: str) -> None:
    """Note a volume as copied. As long as nobody can be asked to note it, the other copies go on.

    Raises:
        StoppedError: something else has to be looked at.
    """
    while True:
        try:
            context.record(copied=(*context.journal.copied, name))
        except HypervisorUnavailableError as error:
            if not context.keep_on():
                raise StoppedError from error
            context.await_answer(error)
        else:
            context.note_answer()
            return


def _at_once(context: MigrationContext, waiting: list[tuple[JournalVolume, JournalVolume]]) -> int:
    """Return how many of these to copy at once: one where a bandwidth is kept, or where one needs the one below."""
    is_free = context.latest().spec.bandwidth is None and all(
        stands_alone(context.journal, each) for each, _ in waiting
    )
    return max(min(len(waiting), SIDE_BY_SIDE if is_free else 1), 1)


_SHOW_SECONDS = 0.5
"""How often progress is shown at most: each time all volumes of the chain are looked at."""


class _Progress:
    """What all copies of a chain have come to. Thread-safe."""

    def __init__(self, context: MigrationContext, sizes: dict[str, int]) -> None:
        """`sizes` has for each destination volume what is to be copied into it, in bytes."""
        self._context_of = context
        self._sizes = sizes
        self._done = {name: size for name, size in sizes.items() if name in context.journal.copied}
        self._guard = threading.Lock()
        self._shown_at = -math.inf
        self._is_stopped = threading.Event()

    def show(self, name: str, share: float) -> None:
        """So much of that volume is copied, 0 to 1."""
        with self._guard:
            self._done[name] = int(self._sizes[name] * share)
            now, copied, total = time.monotonic(), sum(self._done.values()), sum(self._sizes.values())
            if now < self._shown_at + _SHOW_SECONDS:
                self._context_of.status.measure(now=now, copied=copied, total=total)
                return
            self._shown_at = now
            self._context_of.status.show_progress(now=now, copied=copied, total=total)

    def note_beat(self) -> None:
        """A copy reads or writes, but has not come a percent further."""
        with self._guard:
            self._context_of.status.note_beat()

    def stop(self) -> None:
        """The others are not gone on with."""
        self._is_stopped.set()

    def is_stopped(self) -> bool:
        """Return whether the others were told not to go on."""
        return self._is_stopped.is_set()


def _copy(context: MigrationContext, source: JournalVolume, destination: JournalVolume, progress: _Progress) -> bool:
    bandwidth = context.latest().spec.bandwidth
    progress.show(destination.name, 0.0)
    with seen_if_full(context.destination, destination.name, Reason.DESTINATION_FULL):
        if destination.name not in context.fresh:
            format_volume(context, destination)
        context.fresh.discard(destination.name)
        return copy_volume(
            context.journal,
            source,
            destination,
            bandwidth=bandwidth,
            on_progress=lambda share: progress.show(destination.name, share),
            on_beat=progress.note_beat,
            keep_on=lambda: not progress.is_stopped() and context.keeps_on_at(bandwidth),
        )
