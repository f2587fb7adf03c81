"""`python -m testbed.cluster up|down`: a cluster in the background, for as long as one likes."""

import argparse
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from testbed import processes
from testbed.binaries import cache_directory, cluster_binaries, control_plane_binaries
from testbed.cluster import claims, image_store
from testbed.cluster.node import STORAGE_ROOT
from testbed.cluster.running import Cluster, running_cluster
from testbed.images import Image, Images, build_images
from testbed.processes import TestbedError

# On a disk, as volumes are opened with O_DIRECT; and short, as libvirt's sockets lie in it.
_DIRECTORY = Path("/var/tmp/diskmigration-cluster")  # noqa: S108 - made by root, who alone may run it
_START_SECONDS = 300
_END_SECONDS = 60


def main() -> None:
    """Read the command line and do it."""
    description = sys.modules["testbed.cluster"].__doc__
    parser = argparse.ArgumentParser(prog="python -m testbed.cluster", description=description)
    parser.add_argument("--directory", type=Path, default=_DIRECTORY, help="where it lives (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser(
        "up", help="start it in the background; where it runs, give it the images of this checkout"
    )
    run = commands.add_parser("run", help="run it until it is told to end")
    for command in (up, run):
        command.add_argument("nodes", nargs="*", default=["node-a"], help="the nodes' names (default: node-a)")
    run.add_argument("--images", type=_images, help="JSON, as `up` has it; without, those of this checkout")
    commands.add_parser("down", help="end the cluster, and remove what killed ones left")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    try:
        if arguments.command == "run":
            _run(directory, arguments.nodes, arguments.images)
        elif arguments.command == "up":
            with _alone():
                _up(directory, arguments.nodes)
        else:
            with _alone():
                _down(directory)
    except TestbedError as error:
        sys.exit(str(error))


def _run(directory: Path, nodes: Sequence[str], images: Images | None) -> None:
    # Not blocked, as all programs, pods' too, would inherit that; what comes in the midst of the start waits for it.
    heard, told = socket.socketpair()
    told.settimeout(0)
    signal.set_wakeup_fd(told.fileno())
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: None)
    with running_cluster(directory, nodes=nodes, images=images) as cluster:
        _write_state(directory, cluster)
        heard.recv(1)
    shutil.rmtree(directory)


def _up(directory: Path, nodes: Sequence[str]) -> None:
    control_plane_binaries()
    cluster_binaries()
    images = build_images()
    _remove_abandoned()
    if claims.holder(directory) is None:
        if directory.exists() and any(directory.iterdir()):
            raise TestbedError(f"{directory} is not empty, and no cluster's: remove it, or choose another directory.")
        _start(directory, nodes, images)
        print("The cluster is ready.")
    elif _state_file(directory).exists():
        print("The cluster runs already.")
    else:
        raise TestbedError(f"Process {claims.holder(directory)} is starting or ending a cluster there: try again.")
    state = json.loads(_state_file(directory).read_text())
    if sorted(state["nodes"]) != sorted(nodes):
        raise TestbedError(f"Its nodes are {', '.join(state['nodes'])}: to have others, end it first.")
    for node in state["nodes"]:
        image_store.load(directory / node, images.operator, images.agent)
    print("\n".join(state["to_use_it"]))
    print("# To end it: make cluster-down")


def _start(directory: Path, nodes: Sequence[str], images: Images) -> None:
    log = claims.log_of(directory)
    told = json.dumps(asdict(images), default=str)
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "testbed.cluster", f"--directory={directory}", "run", f"--images={told}", *nodes],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        processes.wait_for(
            _state_file(directory).exists,
            what="Starting the cluster",
            process=supervisor,
            log=log,
            timeout_seconds=_START_SECONDS,
        )
    except BaseException:
        # Ctrl-C too: nobody would know of it.
        processes.stop(supervisor, timeout_seconds=_END_SECONDS)
        raise


def _images(told: str) -> Images:
    parts = json.loads(told).items()
    return Images(**{part: Image(image["name"], Path(image["archive"])) for part, image in parts})


def _down(directory: Path) -> None:
    runs = claims.holder(directory)
    if runs is not None:
        # It may be ending by itself.
        with suppress(ProcessLookupError):
            _end(runs)
    _remove_abandoned()
    left = claims.remains(directory)
    if directory.exists():
        left.append(f"directory {directory}")
    if left:
        raise TestbedError(f"The cluster has ended, and left: {', '.join(left)}.")
    claims.log_of(directory).unlink(missing_ok=True)
    if runs is not None:
        print("The cluster has ended, and left nothing.")


def _end(process: int) -> None:
    ended = select.poll()
    descriptor = os.pidfd_open(process)
    try:
        # It can be read when the process has ended.
        ended.register(descriptor, select.POLLIN)
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not ended.poll(_END_SECONDS * 1000):
            print(f"Process {process}, which runs the cluster, does not end: killing it.", file=sys.stderr)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            ended.poll()
    finally:
        os.close(descriptor)


def _remove_abandoned() -> None:
    for directory in claims.remove_abandoned():
        print(f"Removed what a cluster left in {directory}.", file=sys.stderr)


@contextmanager
def _alone() -> Iterator[None]:
    """One of these commands at a time."""
    with (cache_directory() / ".cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _state_file(directory: Path) -> Path:
    return directory / "cluster.json"


def _write_state(directory: Path, cluster: Cluster) -> None:
    lines = [f"export KUBECONFIG={cluster.admin_kubeconfig}", f"alias kubectl={cluster.control_plane.kubectl_path}"]
    for name, node in cluster.nodes.items():
        lines.append(f"# {name}: virsh -c '{node.libvirt.uri}'; its {STORAGE_ROOT} is {node.storage}")
    unfinished = directory / "cluster.unfinished"
    unfinished.write_text(json.dumps({"nodes": list(cluster.nodes), "to_use_it": lines}))
    unfinished.rename(_state_file(directory))


if __name__ == "__main__":
    main()
