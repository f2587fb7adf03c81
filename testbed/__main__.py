"""`python -m testbed up --directory DIR`: a control plane and a libvirt host, until Ctrl-C."""

import argparse
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from testbed.binaries import cluster_binaries, control_plane_binaries, kstatus_binary
from testbed.control_plane import running_control_plane
from testbed.guest.image import guest_image
from testbed.images import build_images
from testbed.libvirt_host import running_libvirt
from testbed.processes import TestbedError


def main() -> None:
    """Read the command line and run the testbed."""
    parser = argparse.ArgumentParser(prog="python -m testbed", description=sys.modules["testbed"].__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build Kubernetes, the guest and the images where they are missing")
    up = commands.add_parser("up", help="run a control plane and a libvirt host until Ctrl-C")
    up.add_argument("--directory", type=Path, required=True, help="where both keep their state; kept at the end")
    up.add_argument("--node", default="node-a", help="the name of the one Node to create (default: %(default)s)")
    up.add_argument("--bare", action="store_true", help="leave out the project's own manifests")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            control_plane_binaries()
            cluster_binaries()
            kstatus_binary()
            guest_image()
            build_images()
        else:
            _up(arguments.directory, arguments.node, bare=arguments.bare)
    except TestbedError as error:
        sys.exit(str(error))


def _up(directory: Path, node: str, *, bare: bool) -> None:
    endings = {signal.SIGINT, signal.SIGTERM}
    # Blocked before anything starts, so that an ending in the midst of the start is answered when all is up.
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    with ExitStack() as running:
        control_plane = running.enter_context(running_control_plane(directory.resolve() / "control-plane"))
        libvirt = running.enter_context(running_libvirt(directory.resolve() / "libvirt"))
        if not bare:
            control_plane.install_manifests()
        control_plane.create_node(node, {})
        print(f"export KUBECONFIG={control_plane.admin_kubeconfig}")
        print(f"export LIBVIRT_DEFAULT_URI='{libvirt.uri}'")
        print(f"kubectl is {control_plane.kubectl_path}. Ctrl-C ends it all.", flush=True)
        signal.sigwait(endings)


if __name__ == "__main__":
    main()
