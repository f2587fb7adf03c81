"""QEMU's own locks on what it has open: they tell of every QEMU on the node, and with NFS 4 on the others."""

import fcntl
import os
import struct
from pathlib import Path

# RAW_LOCK_PERM_BASE and the number of BLK_PERM_WRITE, of QEMU's block/file-posix.c: held, shared, by each writer.
_WRITER_BYTE = 101
# struct flock of fcntl(2): type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


def is_written_to(path: Path) -> bool:
    """Whether a QEMU has the file or device open for writing. Without locks, as on some file systems, none is seen."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _WRITER_BYTE, 1, 0)
    try:
        with path.open("rb") as opened:
            answer = fcntl.fcntl(opened, fcntl.F_OFD_GETLK, asked)
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
