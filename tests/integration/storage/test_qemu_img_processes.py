"""Real qemu-img processes: so many at once, of bounded memory, and those of a storage that hangs keep no other."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from diskmigration.agent.storage import long_command, process_limit, qemu_img, qemu_img_process
from diskmigration.agent.storage.long_command import KeepOn, StoppedError, always, ignore
from diskmigration.agent.storage.process_limit import DEFAULT_LIMIT
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import Reason
from diskmigration.api.storage_domain import StorageType
from tests.integration.storage.frozen import file_system, frozen
from tests.waiting import wait_until

CAPACITY = 32 * 2**20
SLOW = 2**20
LIMIT = 3
COPIES = 6


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(process_limit, "QUIET_SECONDS", 2.0)
    qemu_img_process.limit_processes(LIMIT)
    yield
    qemu_img_process.limit_processes(DEFAULT_LIMIT)


def image(path: Path, *, is_written: bool = False) -> Image:
    made = Image(path, VolumeFormat.QCOW2, StorageType.FILE)
    qemu_img.create(made, CAPACITY, backing=None)
    if is_written:
        long_command.run(
            ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {CAPACITY}", str(path)],
            doing="writing",
            failure=Reason.COPY_FAILED,
            watch=long_command.Watch(),
        )
    return made


def copy(source: Image, target: Image, *, keep_on: KeepOn = always, bandwidth: int | None = None) -> bool:
    return qemu_img.copy(
        [source],
        [target],
        target_is_zero=True,
        bandwidth_bytes_per_second=bandwidth,
        on_progress=ignore,
        keep_on=keep_on,
    )


def processes_with(text: str) -> list[int]:
    """The qemu-img processes, ours and others', whose arguments have that text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if arguments[0] == "qemu-img" and any(text in argument for argument in arguments):
            found.append(int(folder.name))
    return found


def hanging_with(text: str) -> list[int]:
    """Those of them that nothing can interrupt."""
    return [pid for pid in processes_with(text) if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "D"]


def test_no_more_run_at_once_and_all_come_to_their_end(scratch: Path) -> None:
    source = image(scratch / "source", is_written=True)
    targets = [image(scratch / f"target-{number}") for number in range(COPIES)]
    most = 0

    def is_wanted() -> bool:
        nonlocal most
        most = max(most, len(processes_with(str(scratch / "target-"))))
        return True

    with ThreadPoolExecutor(COPIES) as pool:
        ended = [pool.submit(copy, source, target, keep_on=is_wanted, bandwidth=16 * SLOW) for target in targets]
        wait_until(lambda: len(processes_with(str(scratch / "target-"))) == LIMIT - 1, "as many as may run do")
        # What takes a moment does not wait for copies.
        assert not qemu_img.has_own_data(image(scratch / "small"))
        assert qemu_img_process.waiting() > 0
        assert all(each.result() for each in ended)
    assert most == LIMIT - 1
    assert all(qemu_img.is_equal([source], [target]) for target in targets)
    assert (qemu_img_process.running(), qemu_img_process.waiting()) == (0, 0)


def test_one_that_waits_is_stopped_at_once(scratch: Path) -> None:
    source = image(scratch / "source", is_written=True)
    targets = [image(scratch / f"target-{number}") for number in range(LIMIT)]
    ending = threading.Event()
    with ThreadPoolExecutor(LIMIT) as pool:
        running = [
            pool.submit(copy, source, target, keep_on=lambda: not ending.is_set(), bandwidth=SLOW // 16)
            for target in targets[1:]
        ]
        wait_until(lambda: qemu_img_process.running() == LIMIT - 1, "the others run")
        wanted = iter([True, True, False])
        assert not copy(source, targets[0], keep_on=lambda: next(wanted))
        assert not processes_with(str(targets[0].path))
        ending.set()
        assert not any(each.result() for each in running)


def test_its_memory_is_bounded_and_it_goes_before_the_guests(scratch: Path) -> None:
    source, target = image(scratch / "source", is_written=True), image(scratch / "target")
    ending = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(copy, source, target, keep_on=lambda: not ending.is_set(), bandwidth=SLOW)
        try:
            (pid,) = wait_until(partial(processes_with, str(target.path)), "it runs")
            limits = Path(f"/proc/{pid}/limits").read_text()
            found = re.search(r"^Max address space +(\d+) +(\d+) ", limits, re.MULTILINE)
            assert found is not None
            assert int(found[1]) == int(found[2]) == 8 * 2**30 + 2 * 64 * 2**20
            assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 500
        finally:
            ending.set()
        assert not running.result()


@pytest.mark.parametrize("is_stopped", [False, True])
def test_storage_that_hangs_keeps_its_own_work_alone(scratch: Path, *, is_stopped: bool) -> None:
    """Also where its processes are told to stop, which they cannot."""
    wanted = threading.Event()
    wanted.set()
    healthy, target = image(scratch / "source", is_written=True), image(scratch / "target")

    def form(number: int) -> None:
        made = Image(mount / f"volume-{number}", VolumeFormat.QCOW2, StorageType.FILE)
        qemu_img.create(made, CAPACITY, backing=None, keep_on=wanted.is_set)

    with file_system(scratch) as mount, ThreadPoolExecutor(2 * LIMIT) as pool:
        with frozen(mount):
            hanging = [pool.submit(form, number) for number in range(2 * LIMIT)]
            wait_until(lambda: len(hanging_with(str(mount))) == LIMIT, "as many as may hang on one storage do")
            if is_stopped:
                wanted.clear()
                wait_until(lambda: all(each.done() for each in hanging), "nobody waits for them any more")
            assert copy(healthy, target)
            assert len(hanging_with(str(mount))) == LIMIT == qemu_img_process.running()
        for each in hanging:
            with pytest.raises(StoppedError) if is_stopped else nullcontext():
                each.result()
        wait_until(lambda: qemu_img_process.running() == 0, "they have ended")
