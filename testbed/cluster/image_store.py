"""The images of the nodes' containerds, unpacked once on this machine.

A containerd of no node unpacks them into a store in the cache, where the layers that did not change stay. A node starts
with a copy of it whose files are hard links: nobody ever writes to an unpacked layer, and the nodes share its pages.
"""

import fcntl
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from testbed import processes
from testbed.binaries import cache_directory
from testbed.images import Image
from testbed.processes import TestbedError

# For a large image on a busy machine.
_IMPORT_SECONDS = 600
_RECORD = "images.json"
_STORE_CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
"""


def socket(directory: Path) -> Path:
    """Return the socket of the containerd that keeps its state in `directory`: a node's, or the store's."""
    return directory / "containerd.sock"


def ctr(directory: Path, *arguments: str) -> str:
    """Run containerd's own client on what Kubernetes sees of a containerd, and return what it printed.

    Raises:
        TestbedError: it failed; the message has its answer.
    """
    command = ["ctr", f"--address={socket(directory)}", "--namespace=k8s.io", *arguments]
    return processes.run(command, timeout_seconds=_IMPORT_SECONDS)


def answers(directory: Path) -> bool:
    """Whether a containerd answers."""
    try:
        ctr(directory, "images", "list", "--quiet")
    except TestbedError:
        return False
    return True


def load(directory: Path, *images: Image) -> None:
    """Give a running containerd images, each unless this very archive was the last under its name.

    Raises:
        TestbedError: an archive cannot be imported, or does not hold its image.
    """
    loaded = _loaded(directory)
    for image in images:
        if loaded.get(image.name) == str(image.archive):
            continue
        before = f"{image.name}-before"
        if image.name in loaded:
            # containerd collects the layers of an image whose name has gone to another, even while that one counts on
            # those that both have: "parent snapshot does not exist".
            ctr(directory, "images", "tag", "--force", image.name, before)
        ctr(directory, "images", "import", str(image.archive))
        if image.name in loaded:
            ctr(directory, "images", "remove", before)
        if image.name not in ctr(directory, "images", "list", "--quiet").split():
            raise TestbedError(f"{image.archive} does not hold the image {image.name}.")
        loaded[image.name] = str(image.archive)
        (directory / _RECORD).write_text(json.dumps(loaded))


def fill(directory: Path, root: Path, images: Sequence[Image]) -> None:
    """Give a node whose containerd never ran the store's images, `images` among them.

    `root` will be that containerd's root directory. Where it is on another file system than the cache, nothing is done:
    the images are to be loaded.

    Raises:
        TestbedError: containerd did not start, or an archive cannot be imported.
    """
    store = cache_directory() / "cluster-images"
    store.mkdir(parents=True, exist_ok=True)
    if directory.stat().st_dev != store.stat().st_dev:
        return
    with (cache_directory() / ".cluster-images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if any(_loaded(store).get(image.name) != str(image.archive) for image in images):
            _update(store, images)
        processes.run(["cp", "--archive", "--link", store / "root", root], timeout_seconds=_IMPORT_SECONDS)
        for database in root.rglob("*.db"):
            # Each containerd writes its own.
            linked = database.with_suffix(".linked")
            database.rename(linked)
            shutil.copy2(linked, database)
            linked.unlink()
        shutil.copy2(store / _RECORD, directory / _RECORD)


def _update(store: Path, images: Sequence[Image]) -> None:
    unfinished = store / "unfinished"
    if unfinished.exists():
        # What an interrupted one left may be anything.
        shutil.rmtree(store)
        store.mkdir()
    unfinished.touch()
    config, log = store / "containerd.toml", store / "containerd.log"
    config.write_text(_STORE_CONFIG.format(directory=store, socket=socket(store)))
    log.unlink(missing_ok=True)
    containerd = processes.start(
        ["unshare", "--mount", "--propagation", "private", "containerd", f"--config={config}"], log=log
    )
    try:
        processes.wait_for(
            lambda: answers(store), what="Starting the containerd that unpacks images", process=containerd, log=log
        )
        load(store, *images)
    finally:
        processes.stop(containerd)
    unfinished.unlink()


def _loaded(directory: Path) -> dict[str, str]:
    record = directory / _RECORD
    loaded: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    return loaded
