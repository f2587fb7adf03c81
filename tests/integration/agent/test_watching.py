"""Whatever the API server answers, and whoever answers in its place: the agent goes on, and watches again after it."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from diskmigration.api import names
from diskmigration.cluster import client
from testbed import processes
from testbed.control_plane import ControlPlane, running_control_plane
from testbed.libvirt_host import LibvirtHost
from testbed.programs import Program, running_agent
from tests.integration.agent.probes import Probes, free_port
from tests.integration.agent.stranger import Answer, stranger
from tests.integration.migrations.stack import make_domain, storage_domain
from tests.waiting import wait_until

NODE = "node-of-the-watch"
CRDS = ("storagedomains", "diskmigrations", "libvirthosts")

Break = Callable[[ControlPlane], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def own_control_plane(session_directory: Path) -> Iterator[ControlPlane]:
    """A control plane that these tests may break."""
    with running_control_plane(session_directory / "watched-control-plane") as control_plane:
        control_plane.install_manifests()
        control_plane.create_node(NODE, {})
        yield control_plane


@pytest.fixture
def probes() -> Probes:
    return Probes(free_port())


@pytest.fixture
def agent(
    own_control_plane: ControlPlane, libvirt_host: LibvirtHost, scratch: Path, probes: Probes
) -> Iterator[Program]:
    with running_agent(own_control_plane, libvirt_host, NODE, scratch, f"--http-port={probes.port}") as program:
        wait_until(probes.is_ready, "the agent is ready", seconds=60)
        yield program


@contextmanager
def kinds_are_not_installed(control_plane: ControlPlane) -> Iterator[None]:
    """Delete the CRDs, and with them all that was of their kinds."""
    control_plane.kubectl("delete", "crd", *(f"{plural}.{names.GROUP}" for plural in CRDS))
    yield
    control_plane.install_manifests()


@contextmanager
def credentials_are_refused(control_plane: ControlPlane) -> Iterator[None]:
    """Have the API server know another key, so that it answers 401 to every service account."""
    public = control_plane.service_account_key.with_suffix(".pub")
    kept = public.with_suffix(".kept")
    # A watch that has begun goes on, whatever becomes of its credentials.
    control_plane.stop_api_server()
    shutil.copy(public, kept)
    processes.run(["openssl", "genrsa", "-out", public.with_suffix(".other"), "2048"])
    processes.run(["openssl", "rsa", "-in", public.with_suffix(".other"), "-pubout", "-out", public])
    control_plane.start_api_server()
    yield
    control_plane.stop_api_server()
    kept.replace(public)
    control_plane.start_api_server()


def answered_by_another(status: int, body: str, content_type: str = "application/json") -> Break:
    """Have another program answer at the API server's address."""

    @contextmanager
    def breaking(control_plane: ControlPlane) -> Iterator[None]:
        control_plane.stop_api_server()
        with stranger(control_plane, Answer(status, content_type, body)):
            yield
        control_plane.start_api_server()

    return breaking


WATCH_ERROR = json.dumps(
    {
        "type": "ERROR",
        "object": {"kind": "Status", "code": 500, "message": "etcdserver: no leader"},
        "items": [],
        "metadata": {"resourceVersion": "1"},
    }
)
EMPTY_LIST = {"kind": "List", "apiVersion": "v1", "items": [], "metadata": {"resourceVersion": "1"}}
"""A Node, perhaps, but no list of a kind of ours."""
UNANSWERED = re.compile("cannot be (asked|read)")

BREAKS = [
    pytest.param(kinds_are_not_installed, id="kinds-are-not-installed", marks=pytest.mark.nightly),
    pytest.param(credentials_are_refused, id="credentials-are-refused"),
    pytest.param(answered_by_another(404, "default backend", "text/plain"), id="404", marks=pytest.mark.nightly),
    pytest.param(answered_by_another(400, "Bad Request", "text/plain"), id="400", marks=pytest.mark.nightly),
    pytest.param(answered_by_another(200, "<html></html>", "text/html"), id="html", marks=pytest.mark.nightly),
    pytest.param(answered_by_another(200, "{}"), id="no-list", marks=pytest.mark.nightly),
    pytest.param(answered_by_another(200, WATCH_ERROR), id="error-event", marks=pytest.mark.nightly),
]


@pytest.mark.parametrize("breaking", BREAKS)
def test_a_watch_that_breaks_is_begun_again_by_the_same_agent(
    agent: Program, probes: Probes, own_control_plane: ControlPlane, scratch: Path, breaking: Break
) -> None:
    with breaking(own_control_plane):
        wait_until(lambda: begun_again(agent), "the watch broke and is begun again", seconds=60)
        assert probes.is_live()

    domain = make_domain(scratch, "after", "file")
    document = json.dumps(storage_domain(domain))
    # The fences of deploy/base ask for kinds that are just installed.
    wait_until(lambda: applied(own_control_plane, document), "the StorageDomain is taken")
    try:
        # The back-off is a minute at most.
        wait_until(lambda: "after" in served(own_control_plane), "the agent has seen it", seconds=90)
    finally:
        own_control_plane.kubectl("delete", "storagedomain", "after")
    # It is the one that was started.
    agent.terminate()
    assert agent.wait() == 0


@pytest.mark.nightly
def test_what_was_deleted_while_nothing_was_watched_is_forgotten(
    agent: Program, own_control_plane: ControlPlane, scratch: Path
) -> None:
    domain = make_domain(scratch, "deleted", "file")
    own_control_plane.kubectl("apply", "--filename=-", stdin=json.dumps(storage_domain(domain)))
    wait_until(lambda: "deleted" in served(own_control_plane), "the agent has seen it", seconds=60)

    with credentials_are_refused(own_control_plane):
        wait_until(lambda: begun_again(agent), "nothing is watched", seconds=60)
        own_control_plane.kubectl("delete", "storagedomain", "deleted")

    wait_until(lambda: "deleted" not in served(own_control_plane), "the agent has forgotten it", seconds=90)


@pytest.mark.nightly
def test_told_to_end_while_its_watch_is_broken_it_ends(agent: Program, own_control_plane: ControlPlane) -> None:
    with credentials_are_refused(own_control_plane):
        wait_until(lambda: begun_again(agent), "the watch broke", seconds=60)
        agent.terminate()
        assert agent.wait() == 0


@pytest.mark.parametrize("body", ["{}", pytest.param(json.dumps(EMPTY_LIST), marks=pytest.mark.nightly)])
def test_one_that_starts_while_another_answers_waits_for_the_api_server(
    agent: Program, probes: Probes, own_control_plane: ControlPlane, body: str
) -> None:
    agent.stop()
    with answered_by_another(200, body)(own_control_plane):
        agent.start()
        wait_until(lambda: len(UNANSWERED.findall(agent.log.read_text())) > 1, "it asks again", seconds=60)
        assert probes.is_live()
    wait_until(probes.is_ready, "the agent is ready", seconds=60)
    agent.terminate()
    assert agent.wait() == 0


def begun_again(agent: Program) -> bool:
    return "it is begun again" in agent.log.read_text()


def applied(control_plane: ControlPlane, document: str) -> bool:
    try:
        control_plane.kubectl("apply", "--filename=-", stdin=document)
    except processes.TestbedError:
        return False
    return True


def served(control_plane: ControlPlane) -> set[str]:
    """The storage domains that the node serves, as its agent has written it."""
    found = client.connect(control_plane.admin_kubeconfig).get(names.LIBVIRT_HOSTS, NODE) or {}
    return {domain["name"] for domain in found.get("status", {}).get("storageDomains", [])}
