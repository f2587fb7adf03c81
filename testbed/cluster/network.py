"""A network namespace for a whole cluster, joined to this machine by one pair of virtual interfaces."""

import fcntl
import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.binaries import cache_directory
from testbed.processes import TestbedError

# A cluster takes the first that this machine has no route into.
_CANDIDATES = tuple(ipaddress.IPv4Network("10.213.0.0/16").subnets(new_prefix=24))
_FIRST_NODE = 11
_INSIDE = "cluster0"
_INTERFACE_NAME_BYTES = 15  # IFNAMSIZ, without its final zero


@dataclass(frozen=True)
class Network:
    """The namespace: `file` names it to nsenter, `address` is the control plane's in it."""

    file: Path
    address: str
    nodes: ipaddress.IPv4Network

    def node_address(self, index: int) -> str:
        """Return the address of a node, counted from 0."""
        return str(self.nodes[_FIRST_NODE + index])

    @property
    def prefix(self) -> tuple[str, ...]:
        """What starts a program in it, in place of nsenter itself."""
        return ("nsenter", f"--net={self.file}", "--")


@contextmanager
def running_network(interface: str, *, nodes: int, services: str, log: Path) -> Iterator[Network]:
    """Make the namespace and, on this machine, `interface`; both go with the block, and with this process.

    The addresses are the first of 10.213.0.0/16 that this machine does not use: one /24, the machine's own address
    first, the control plane's second. Service addresses (`services`) can be reached from in there too.

    Raises:
        TestbedError: there is no free address, or an interface of this name.
    """
    if len(interface) > _INTERFACE_NAME_BYTES:
        raise TestbedError(f"{interface}: an interface's name has at most {_INTERFACE_NAME_BYTES} characters.")
    holder = processes.start(["unshare", "--net", "sleep", "infinity"], log=log)
    file = Path("/proc", str(holder.pid), "ns", "net")
    try:
        own = Path("/proc/self/ns/net").readlink()
        processes.wait_for(
            lambda: _runs(holder.pid, "sleep") and file.readlink() != own,
            what="Making the cluster's network",
            process=holder,
            log=log,
        )
        with (cache_directory() / ".network.lock").open("w") as lock:
            # Two clusters that start at once must not find the same addresses free.
            fcntl.flock(lock, fcntl.LOCK_EX)
            addresses = _free_addresses()
            network = Network(file=file, address=str(addresses[2]), nodes=addresses)
            _ip(
                f"link add {interface} type veth peer name {_INSIDE} netns {holder.pid}",
                f"address add {addresses[1]}/{addresses.prefixlen} dev {interface}",
                f"link set {interface} up",
            )
        _ip(
            "link set lo up",
            f"link set {_INSIDE} up",
            f"address add {network.address}/{addresses.prefixlen} dev {_INSIDE}",
            *(f"address add {network.node_address(index)}/32 dev {_INSIDE}" for index in range(nodes)),
            # kube-proxy turns them into pods' addresses, after the kernel has found a route.
            f"route add {services} dev {_INSIDE}",
            prefix=network.prefix,
        )
        yield network
    finally:
        # The kernel would do it too, some time after the namespace's end.
        if Path("/sys/class/net", interface).exists():
            _ip(f"link delete {interface}")
        processes.stop(holder)


def _ip(*commands: str, prefix: tuple[str, ...] = ()) -> None:
    processes.run([*prefix, "ip", "-batch", "-"], stdin="".join(f"{command}\n" for command in commands))


def _runs(number: int, name: str) -> bool:
    return Path("/proc", str(number), "comm").read_text().strip() == name


def _free_addresses() -> ipaddress.IPv4Network:
    routes = json.loads(processes.run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    used = [ipaddress.ip_network(route["dst"]) for route in routes if route["dst"] != "default"]
    for candidate in _CANDIDATES:
        if not any(candidate.overlaps(each) for each in used):
            return candidate
    raise TestbedError(
        f"This machine has routes into every /24 of {_CANDIDATES[0].supernet(new_prefix=16)}, of which the cluster "
        "needs one: see `ip route show table all`."
    )
