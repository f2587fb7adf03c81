"""Find the processes of the node that have a file or a block device open, whatever node or name they opened.

libvirt gives each QEMU a /dev of its own. QEMU's node of a device is then another inode than the host's, and QEMU's
image locks, which belong to the inode, are not seen from outside. The number of a device is the same everywhere, and
stat(2) of /proc/PID/fd/N follows an open descriptor into any mount namespace (proc_pid_fd(5)).

Some process may have a file open whose server is away: nothing that is asked here waits for one.
"""

import errno
import fcntl
import functools
import os
import signal
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage import access, loop_devices
from diskmigration.agent.storage.known_attributes import KnownAttributes, known_attributes
from diskmigration.agent.storage.loop_devices import Attached
from diskmigration.api.errors import MigrationError, Reason

_PROC = "/proc"
_INIT = "1"
_BLOCK = -1
"""In place of a file system's number, for a block device."""
_UCRED = struct.Struct("3i")
_CONNECT_SECONDS = 2.0
_ENDED = (errno.ENOENT, errno.ESRCH)
_OF_ANOTHER_FILE_SYSTEM = (errno.EACCES, errno.EIO, errno.ENOTCONN, errno.ESTALE)
"""What the kernel says of a descriptor in a FUSE mount that is another user's or dead, of a file that its server has
replaced by another one of the same number, and of one that an NFS server has removed.

No server was asked, so these pass no more; and what is looked for was found without an error just before."""

_Identity = tuple[int, int]


@dataclass(frozen=True)
class Opener:
    """A process that has a file or device open.

    Process 0 is the kernel itself: the device is mounted, is used as swap, or is a part of another device.
    """

    pid: int
    command: str
    writes: bool

    def __str__(self) -> str:
        """Name it for a message."""
        return f"process {self.pid} ({self.command})" if self.pid else self.command


_KERNEL = Opener(0, "the kernel, as a mounted file system or as a part of another device", writes=True)


def openers_of(path: Path) -> tuple[Opener, ...]:
    """Return every process of the node that has the file or block device open, by number; see `openers_of_any`.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    return openers_of_any([path])[path]


def openers_of_any(paths: Iterable[Path]) -> Mapping[Path, tuple[Opener, ...]]:
    """Return for each path every process that has it open, in one scan; nobody has open what is not there.

    A loop device and the file behind it count as one. This process itself is left out: what it has open are locks and
    headers. The programs that it started are not.

    Raises:
        MigrationError: StorageFailed, it cannot be told. Never take that for "nobody".
    """
    attached = functools.cache(lambda: tuple(loop_devices.attached()))
    identities = {path: _identities_at(path, attached) for path in paths}
    found: dict[Path, dict[int, Opener]] = {path: {} for path in identities}
    wanted = frozenset().union(*identities.values())
    if wanted:
        require_sight()
        for identity, opener in _scan(wanted):
            for path, own in identities.items():
                if identity in own:
                    known = found[path].get(opener.pid)
                    writes = opener.writes or (known is not None and known.writes)
                    found[path][opener.pid] = Opener(opener.pid, opener.command, writes)
    for path, own in identities.items():
        if 0 not in found[path] and (device := _device_that_may_have(path, own, attached)) is not None:
            found[path][0] = Opener(0, f"perhaps the kernel, as {device} does not tell which file it has", writes=True)
    return {path: tuple(found[path][pid] for pid in sorted(found[path])) for path in identities}


def _identities_at(path: Path, attached: Callable[[], Sequence[Attached]]) -> frozenset[_Identity]:
    """Whatever the data of the file or device at the path are known by to those who open them."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise _cannot_tell(f"{path} cannot be read: {error}") from error
    own = _identity(status)
    if stat.S_ISBLK(status.st_mode):
        backing = loop_devices.backing_of(path)
        if backing is None:
            return frozenset({own})
        own = (backing.file_system, backing.inode)
        return frozenset({own, _identity(status), *_loop_devices_on(own, attached)})
    return frozenset({own, *_loop_devices_on(own, attached)})


def _identity(status: os.stat_result | KnownAttributes) -> _Identity:
    return (_BLOCK, status.st_rdev) if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)


def _loop_devices_on(file: _Identity, attached: Callable[[], Sequence[Attached]]) -> Iterator[_Identity]:
    for device in attached():
        if device.backing is not None and (device.backing.file_system, device.backing.inode) == file:
            yield _BLOCK, device.number


def _device_that_may_have(
    path: Path, identities: frozenset[_Identity], attached: Callable[[], Sequence[Attached]]
) -> Path | None:
    """Return a loop device that does not tell its file and may have this one; only files are behind loop devices."""
    if all(file_system == _BLOCK for file_system, _ in identities):
        return None
    silent = next((device.device for device in attached() if device.backing is None), None)
    return silent if silent is not None and not _is_open_nowhere(path) else None


def _is_open_nowhere(path: Path) -> bool:
    """Whether nobody has the file open, the kernel included; False where that cannot be told.

    The kernel grants a lease for writing on such a file alone (fcntl(2), F_SETLEASE).
    """
    try:
        descriptor = access.open_image(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Whoever opens the file now waits for the lease's end, and this process gets a signal: one that it ignores.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _scan(wanted: frozenset[_Identity]) -> Iterator[tuple[_Identity, Opener]]:
    for file_system, number in wanted:
        if file_system == _BLOCK and _is_claimed(number):
            yield (_BLOCK, number), _KERNEL
    own = str(os.getpid())
    try:
        with os.scandir(_PROC) as entries:
            processes = [entry.name for entry in entries if entry.name.isdecimal() and entry.name != own]
    except OSError as error:
        raise _cannot_tell(f"{_PROC} cannot be read: {error}") from error
    for process in processes:
        try:
            yield from _scan_process(process, wanted)
        except OSError as error:
            # The host's init opens no volume, and a host may let nobody look into it.
            if error.errno not in _ENDED and process != _INIT:
                raise _cannot_tell(f"the open files of process {process} cannot be read: {error}") from error


def _scan_process(process: str, wanted: frozenset[_Identity]) -> Iterator[tuple[_Identity, Opener]]:
    folder = f"{_PROC}/{process}/fd/"
    with os.scandir(folder) as entries:
        descriptors = [entry.name for entry in entries]
    for descriptor in descriptors:
        try:
            identity = _identity_of_target(folder + descriptor)
            if identity is not None and identity in wanted:
                yield identity, Opener(int(process), _command(process), writes=_writes(process, descriptor))
        except OSError as error:
            # It may have been closed meanwhile.
            if error.errno not in _ENDED:
                raise


def _identity_of_target(link: str) -> _Identity | None:
    # A socket or a pipe has no path, and most descriptors are of these. Path would double the cost of a scan.
    if not os.readlink(link).startswith("/"):  # noqa: PTH115 - see above
        return None
    try:
        return _identity(known_attributes(link))
    except OSError as error:
        if error.errno in _OF_ANOTHER_FILE_SYSTEM:
            return None
        raise


def _command(process: str) -> str:
    with open(f"{_PROC}/{process}/comm", encoding="utf-8", errors="backslashreplace") as opened:  # noqa: PTH123 - Path would double the cost
        return opened.read().strip()


def _writes(process: str, descriptor: str) -> bool:
    with open(f"{_PROC}/{process}/fdinfo/{descriptor}", encoding="ascii") as opened:  # noqa: PTH123 - Path would double the cost
        flags = next(line for line in opened if line.startswith("flags:"))
    return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY


_claiming = threading.Lock()


def _is_claimed(number: int) -> bool:
    """Return whether the kernel has claimed the device, and so refuses to open it exclusively (open(2), O_EXCL)."""
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    # The kernel writes a slash of a device's name as "!" here.
    node = Path("/dev") / entry.resolve().name.replace("!", "/")
    try:
        # One claim at a time: another thread's would be taken for the kernel's.
        with _claiming:
            os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        # It may have been detached or deactivated since.
        if entry.exists():
            raise _cannot_tell(f"{node} cannot be opened: {error}") from error
    return False


def _cannot_tell(why: str) -> MigrationError:
    return MigrationError(
        Reason.STORAGE_FAILED,
        f"Who has the disk's volumes open on this node cannot be told, and nothing was done: {why}",
    )


class _Sight:
    """Whether this process sees libvirt's processes. Neither namespace changes while the process lives."""

    def __init__(self) -> None:
        self.sockets: tuple[Path, ...] = ()
        self.is_proven = False


_sight = _Sight()


def rely_on_sockets(sockets: Sequence[Path]) -> None:
    """Have every scan fail until the process that listens on one of libvirt's sockets was found to be visible."""
    _sight.sockets, _sight.is_proven = tuple(sockets), False


def require_sight() -> None:
    """Check that this process sees libvirt's processes: in a pid namespace of its own it would see no QEMU either.

    The kernel tells who listens on a socket, and says 0 where that process is outside the pid namespace of who asks
    (unix(7), SO_PEERCRED; pid_namespaces(7)). With socket activation it is systemd that listens.

    Raises:
        MigrationError: StorageFailed.
    """
    if _sight.is_proven or not _sight.sockets:
        return
    listeners = [number for path in _sight.sockets if (number := _listener(path)) is not None]
    if not listeners:
        raise _cannot_tell(
            f"libvirt does not answer at {' or '.join(map(str, _sight.sockets))}, so whether the agent sees its "
            "processes could not be checked."
        )
    if not all(listeners):
        raise _cannot_tell(
            "the agent does not see the processes of its host. Its pod needs hostPID: true, as deploy/base has it."
        )
    _sight.is_proven = True


def _listener(path: Path) -> int | None:
    """Return the number of the process that listens there, 0 for one that is not visible, None where nobody answers."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        connection.connect(str(path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(credentials)[0])
    return None
