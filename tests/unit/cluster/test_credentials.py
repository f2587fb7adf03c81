"""A service account's token is replaced on disk by the kubelet: it is read again, and kopf gets the new one too."""

import datetime
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from kubernetes.config import incluster_config

from diskmigration.cluster import client

FIRST, SECOND, THIRD = "first", "second", "third"


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[float], None]]:
    """A pod's token file, and what lets time pass."""
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(FIRST)
    authority.write_text("a certificate, which is not read before the first connection")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    passed = [0.0]

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Clock":
            return cls(2026, 1, 1, tzinfo=tz) + datetime.timedelta(seconds=passed[0])

    monkeypatch.setattr(incluster_config, "datetime", SimpleNamespace(datetime=Clock, timedelta=datetime.timedelta))

    def let_pass(seconds: float) -> None:
        passed[0] += seconds

    return token, let_pass


def test_a_token_that_was_replaced_is_read_within_a_minute(pod: tuple[Path, Callable[[float], None]]) -> None:
    token, let_pass = pod
    cluster = client.connect()
    assert cluster.credentials().token == FIRST
    token.write_text(SECOND)
    let_pass(61)
    assert cluster.credentials().token == SECOND
    # As often as it is replaced.
    token.write_text(THIRD)
    let_pass(61)
    assert cluster.credentials().token == THIRD


def test_who_writes_under_a_fence_has_the_new_token_too(pod: tuple[Path, Callable[[float], None]]) -> None:
    token, let_pass = pod
    cluster = client.connect()
    others = [cluster.fenced(lambda: True), cluster.impatient(timeout_seconds=1)]
    token.write_text(SECOND)
    let_pass(61)
    assert [other.credentials().token for other in others] == [SECOND, SECOND]
