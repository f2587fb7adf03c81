"""Each call to libvirtd is counted by its name, on whichever object it is made; what the client knows is not."""

import pytest
from prometheus_client import REGISTRY

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import every_domain


def calls(name: str) -> float:
    return REGISTRY.get_sample_value("diskmigration_libvirt_calls_total", {"call": name}) or 0.0


@pytest.fixture
def connection() -> Connection:
    return Connection("test:///default")


def test_calls_of_a_connection_and_of_a_vm_are_counted(connection: Connection) -> None:
    before = {
        name: calls(name) for name in ("virConnectListAllDomains", "virDomainLookupByUUIDString", "virDomainGetXMLDesc")
    }
    (domain,) = every_domain(connection)
    domain.describe()
    domain.describe()
    counted = {name: calls(name) - before[name] for name in before}
    assert counted == {
        "virConnectListAllDomains": 1,
        "virDomainLookupByUUIDString": 2,
        "virDomainGetXMLDesc": 2,
    }


def test_a_call_that_fails_is_counted(connection: Connection) -> None:
    before = calls("virDomainLookupByName")
    with pytest.raises(Exception, match="not found"):
        connection.get().lookupByName("nobody")
    assert calls("virDomainLookupByName") == before + 1


def test_what_the_client_answers_itself_is_not_counted(connection: Connection) -> None:
    (handle,) = connection.get().listAllDomains(0)
    handle.name()
    handle.UUIDString()
    handle.ID()
    connection.get().isAlive()
    assert [
        calls(name) for name in ("virDomainGetName", "virDomainGetUUIDString", "virDomainGetID", "virConnectIsAlive")
    ] == [0.0] * 4
