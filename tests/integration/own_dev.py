"""A process with a /dev of its own, as libvirt gives one to each QEMU: its nodes are other inodes than the host's."""

from pathlib import Path

_SCRIPT = """
mount -t tmpfs tmpfs "$2"
mknod "$2/node" b "0x$(stat -Lc %t "$1")" "0x$(stat -Lc %T "$1")"
directory="$2"
shift 2
exec "$@" "$directory/node"
"""


def in_own_dev(device: Path, directory: Path, command: list[str]) -> list[str]:
    """Return the command that runs `command` with a node of its own for the device as last argument.

    `directory` is empty, and the process alone sees what is mounted there.
    """
    arguments = ["sh", str(device), str(directory), *command]
    return ["unshare", "--mount", "--propagation=private", "sh", "-ec", _SCRIPT, *arguments]
