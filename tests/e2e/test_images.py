"""The images as a node gets them, from their archives: what is in them, what is not, and that the programs start."""

import json
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed import processes
from testbed.images import Image, Images, build_images
from testbed.images.storage import Storage, open_storage
from testbed.processes import TestbedError

# With an empty cache, the base and both images are built first.
pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Container:
    """An unpacked image, to run single commands in as its user."""

    storage: Storage
    name: str

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration, as OCI has it."""
        found: dict[str, Any] = json.loads(self.storage.buildah("inspect", self.name))["OCIv1"]
        return found

    def run(self, *command: str) -> str:
        """Run a command and return what it printed."""
        return self._printed(command)

    def find(self, *arguments: str) -> list[str]:
        """Return the paths that find(1) finds, as root: it sees all."""
        return self._printed(("find", *arguments), "--user=0:0").split()

    def _printed(self, command: Sequence[str], *options: str) -> str:
        """By way of a file: buildah loses what a command prints now and then, and nothing found proves much here."""
        with tempfile.TemporaryDirectory(prefix="dm-") as directory:
            printed = Path(directory) / "printed"
            printed.touch()
            printed.chmod(0o666)
            told = ("sh", "-c", 'exec "$@" >/printed', "sh", *command)
            self.storage.buildah("run", f"--volume={printed}:/printed", *options, self.name, "--", *told)
            return printed.read_text()


@pytest.fixture(scope="module")
def images() -> Images:
    return build_images()


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    """A storage of its own: what is in it comes from the archives alone."""
    directory = Path(tempfile.mkdtemp(prefix="dm-", dir="/var/tmp"))
    scratch = directory / "scratch"
    scratch.mkdir()
    yield open_storage(directory, scratch)
    shutil.rmtree(directory)


def _unpacked(storage: Storage, image: Image) -> Container:
    storage.buildah("pull", "--quiet", f"docker-archive:{image.archive}")
    return Container(storage, storage.buildah("from", "--pull=never", image.name).strip())


@pytest.fixture(scope="module")
def operator(storage: Storage, images: Images) -> Container:
    return _unpacked(storage, images.operator)


@pytest.fixture(scope="module")
def agent(storage: Storage, images: Images) -> Container:
    return _unpacked(storage, images.agent)


@pytest.fixture(scope="module", params=["operator", "agent"])
def each(request: pytest.FixtureRequest) -> Container:
    container: Container = request.getfixturevalue(request.param)
    return container


def test_the_operator_starts(operator: Container) -> None:
    assert operator.run(*operator.config["config"]["Entrypoint"], "--help").startswith("usage: diskmigration-operator")


def test_the_agent_starts(agent: Container) -> None:
    assert agent.run(*agent.config["config"]["Entrypoint"], "--help").startswith("usage: diskmigration-agent")


def test_the_operator_is_not_root(operator: Container) -> None:
    # A number: the kubelet must see that it is not root without looking into the image.
    assert operator.config["config"]["User"] == "65532:65532"
    assert operator.run("id", "-u").strip() == "65532"
    assert operator.run("id", "-G").strip() == "65532"


def test_the_operator_can_change_nothing_of_its_own(operator: Container) -> None:
    writable = ("!", "-readable", "-prune", "-o", "!", "-type", "l", "-writable", "-print")
    assert operator.run("find", "/opt", "/usr", "/etc", "/var/lib", "-xdev", *writable) == ""


def test_the_operator_has_no_libvirt(operator: Container) -> None:
    # The project's own modules are about its hosts.
    others = ("-not", "-path", "*/site-packages/diskmigration/*")
    assert operator.find("/usr", "/opt", "-xdev", "-iname", "*libvirt*", *others) == []
    with pytest.raises(TestbedError, match="No module named 'libvirt'"):
        operator.run("/opt/diskmigration/bin/python", "-c", "import libvirt")


def test_no_image_holds_what_it_was_built_with(each: Container) -> None:
    tools = ["gcc", "cc", "ld", "pip", "pip3", "hatchling", "pkg-config"]
    names = [word for tool in tools for word in ("-name", tool, "-o")][:-1]
    assert each.find("/usr", "/opt", "-xdev", "!", "-type", "d", "(", *names, ")") == []
    installed = each.run("/opt/diskmigration/bin/python", "-c", _DISTRIBUTIONS).split()
    assert "diskmigration" in installed
    assert not {"pip", "setuptools", "hatchling"} & set(installed)


_DISTRIBUTIONS = "import importlib.metadata as m; print(*(each.metadata['Name'] for each in m.distributions()))"


def test_no_image_holds_settings_of_the_machine_that_built_it(each: Container) -> None:
    assert set(each.config["config"]["Env"]) == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
    }
    assert not each.config["config"].get("Volumes")
    assert each.find("/etc", "/opt", "/root", "/usr", "-xdev", "-name", "pip.conf") == []
    assert each.run("ls", "/etc/apt/apt.conf.d").split() == ["01autoremove", "70debconf", "slim"]


def test_the_images_say_what_they_are(each: Container) -> None:
    labels = each.config["config"]["Labels"]
    assert labels["org.opencontainers.image.title"] in {"diskmigration-operator", "diskmigration-agent"}
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


@pytest.mark.parametrize(
    "command",
    [
        ("qemu-img", "--version"),
        ("losetup", "--version"),
        ("lvs", "--version"),
        ("/opt/diskmigration/bin/python", "-c", "import libvirt; print(libvirt.getVersion())"),
    ],
    ids=lambda command: command[0].rpartition("/")[2],
)
def test_the_agent_has_its_tools(agent: Container, command: tuple[str, ...]) -> None:
    assert agent.run(*command) != ""


def test_what_is_built_is_not_built_again(images: Images) -> None:
    made = images.operator.archive.stat()
    assert build_images() == images
    assert images.operator.archive.stat().st_ino == made.st_ino


def test_pause_ends_when_it_is_told_to(images: Images, tmp_path: Path) -> None:
    with tarfile.open(images.pause.archive) as archive:
        (image,) = json.load(_member(archive, "manifest.json"))
        (layer,) = image["Layers"]
        with tarfile.open(fileobj=_member(archive, layer)) as files:
            files.extract("pause", tmp_path)
    assert image["RepoTags"] == [images.pause.name]
    log = tmp_path / "pause.log"
    process = processes.start([tmp_path / "pause"], log=log)

    def waits_for_signals() -> bool:
        # It sleeps nowhere else.
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        return fields["Name"].strip() == "pause" and fields["State"].split()[0] == "S"

    processes.wait_for(waits_for_signals, what="Waiting for pause", process=process, log=log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def _member(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    assert found is not None
    return found
