"""buildah on a storage of the project's own, whose mounts nobody else sees and which end with the command."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.processes import TestbedError

_BUILD_TIMEOUT_SECONDS = 1800
# overlay keeps each file once; vfs, a whole copy for each layer, works where the cache itself lies on an overlay.
_DRIVERS = ("overlay", "vfs")


@dataclass(frozen=True)
class Storage:
    """Where buildah keeps images. Made by `open_storage`."""

    root: Path
    driver: str
    scratch: Path

    def buildah(self, *arguments: str | Path) -> str:
        """Run buildah to its end and return what it printed.

        It has mount and pid namespaces of its own, and the kernel ends it and all that it started with this process.

        Raises:
            TestbedError: buildah failed; the message has its output, the build's included.
        """
        return processes.run(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                "buildah",
                f"--root={self.root / 'images'}",
                f"--runroot={self.root / 'run'}",
                f"--storage-driver={self.driver}",
                *arguments,
            ],
            # It has no engine to ask for a container: a build's commands run in a chroot.
            environment={**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.scratch)},
            timeout_seconds=_BUILD_TIMEOUT_SECONDS,
        )

    def build(self, context: Path, *, name: str, target: str | None = None, volumes: Sequence[str] = ()) -> None:
        """Build an image from the Dockerfile in `context`; each step that was built before is taken from there.

        `volumes` (`SOURCE:TARGET:ro`) are what the build's commands see besides, and do not end in the image.
        """
        options = [f"--volume={volume}" for volume in volumes]
        if target is not None:
            options.append(f"--target={target}")
        self.buildah("bud", "--quiet", "--pull=never", "--layers", f"--tag={name}", *options, context)

    def write_files(self, context: Path, directory: Path, *, volumes: Sequence[str] = ()) -> None:
        """Build the image as `build` does, and write its files to `directory`, which is made; it gets no name."""
        options = [f"--volume={volume}" for volume in volumes]
        output = f"--output=type=local,dest={directory}"
        self.buildah("bud", "--quiet", "--pull=never", "--layers", output, *options, context)

    def has(self, name: str) -> bool:
        """Return whether there is an image of that name."""
        return name in self.buildah("images", "--format={{.Name}}:{{.Tag}}").split()

    def write_archive(self, name: str, archive: Path) -> None:
        """Write an image to a file that `docker load` and `ctr images import` take."""
        self.buildah("push", "--quiet", name, f"docker-archive:{archive}:{name}")

    def prune(self) -> None:
        """Remove what interrupted builds left, and every layer that no named image is built on."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--prune", "--force")


def open_storage(directory: Path, scratch: Path) -> Storage:
    """Return the storage in `directory`, made where it is missing; nobody else may use it meanwhile.

    What has no need to stay goes to `scratch`, an empty directory on the same file system.

    Raises:
        TestbedError: buildah is missing, or can use none of its storage drivers here.
    """
    if shutil.which("buildah") is None:
        raise TestbedError("buildah is needed to build the images: run `make venv`, which installs it.")
    refusals = []
    for driver in _DRIVERS:
        storage = Storage(root=directory / driver, driver=driver, scratch=scratch)
        is_new = not storage.root.exists()
        storage.root.mkdir(parents=True, exist_ok=True)
        try:
            storage.buildah("info")
        except TestbedError as error:
            refusals.append(str(error))
            if is_new:
                shutil.rmtree(storage.root)
        else:
            return storage
    raise TestbedError(f"buildah has no storage driver that works in {directory}.\n" + "\n".join(refusals))
