import json

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from diskmigration.cluster.errors import (
    ClusterError,
    ClusterUnavailableError,
    ConflictError,
    ObjectGoneError,
    RefusedError,
    UndeclaredFieldError,
)
from diskmigration.cluster.events import NOTE_LIMIT_BYTES, _cut
from diskmigration.cluster.resources import BY_PLURAL
from diskmigration.cluster.text import printable
from diskmigration.cluster.wire import answer, as_yaml, items


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RefusedError),
        (401, ClusterUnavailableError),
        (403, RefusedError),
        (404, ObjectGoneError),
        (408, ClusterUnavailableError),
        (409, ConflictError),
        (410, ObjectGoneError),
        (413, RefusedError),
        (422, RefusedError),
        (429, ClusterUnavailableError),
        (500, ClusterUnavailableError),
        (503, ClusterUnavailableError),
        (504, ClusterUnavailableError),
    ],
)
def test_an_error_says_what_the_caller_can_do_and_what_the_server_said(status: int, error: type[ClusterError]) -> None:
    with pytest.raises(error, match=rf"PATCH /x: HTTP {status}: the server's words"):
        answer("PATCH /x", status, json.dumps({"kind": "Status", "message": "the server's words"}).encode())


def test_a_balancers_page_is_noanswer() -> None:
    with pytest.raises(ClusterUnavailableError, match=r"HTTP 502 .* not JSON: '<html>Bad Gateway</html>'"):
        answer("GET /x", 502, b"<html>Bad Gateway</html>")


@pytest.mark.parametrize("status", [200, 201, 400, 404, 409, 410, 503])
@pytest.mark.parametrize(
    "body",
    [None, [], "x", 3, {}, {"kind": 3}, {"kind": "Error", "metadata": []}, {"message": "no backend", "code": 404}],
)
def test_an_object_that_is_not_the_apis_settles_nothing(status: int, body: object) -> None:
    with pytest.raises(ClusterUnavailableError, match="not the Kubernetes API's"):
        answer("GET /x", status, json.dumps(body).encode())


def test_what_is_nested_without_end_is_no_answer() -> None:
    with pytest.raises(ClusterUnavailableError, match="not JSON"):
        answer("GET /x", 200, b"[" * 100_000)


@pytest.mark.parametrize(
    "listed",
    [{"items": []}, {"kind": "StatusList", "items": []}, {"kind": "LeaseList"}, {"kind": "LeaseList", "items": 3}],
)
def test_what_is_no_list_of_the_kind_tells_of_no_deletion(listed: dict[str, object]) -> None:
    with pytest.raises(ClusterUnavailableError, match="a list of Lease objects"):
        items(listed, "Lease")
    assert items({"kind": "LeaseList", "items": [{}]}, "Lease") == [{}]


@pytest.mark.parametrize(
    ("plural", "arguments", "path"),
    [
        ("diskmigrations", {}, "/apis/diskmigration.dev/v1alpha1/diskmigrations"),
        (
            "diskmigrations",
            {"name": "m", "namespace": "vms", "subresource": "status"},
            "/apis/diskmigration.dev/v1alpha1/namespaces/vms/diskmigrations/m/status",
        ),
        ("libvirthosts", {"name": "n1"}, "/apis/diskmigration.dev/v1alpha1/libvirthosts/n1"),
        ("nodes", {"name": "n1"}, "/api/v1/nodes/n1"),
        ("leases", {"name": "a/../b", "namespace": "s"}, "/apis/coordination.k8s.io/v1/namespaces/s/leases/a%2F..%2Fb"),
    ],
)
def test_paths_are_those_of_the_api_and_a_name_stays_one_part(
    plural: str, arguments: dict[str, str], path: str
) -> None:
    assert BY_PLURAL[plural].path(**arguments) == path


@pytest.mark.parametrize(
    "text", ["", "short", "ä" * 2000, "x" * NOTE_LIMIT_BYTES, "x" * (NOTE_LIMIT_BYTES + 1), "\udce9" * 999]
)
def test_a_note_is_cut_to_what_the_server_takes_between_characters(text: str) -> None:
    cut = _cut(text, NOTE_LIMIT_BYTES)
    assert len(cut.encode()) <= NOTE_LIMIT_BYTES
    assert cut == text or (cut.endswith("…") and printable(text).startswith(cut[:-1]))


@given(st.dictionaries(st.text(max_size=5), st.text(st.characters(codec="utf-8"))))
@example({"name": "\U0001f600 \\ud83d\\ude00 \ufeff \x00\x7f\x85\u2028"})
def test_what_is_applied_is_the_same_in_yaml_whatever_its_characters(body: dict[str, str]) -> None:
    assert yaml.safe_load(as_yaml(body)) == body


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (".status.attempts: field not declared in schema", UndeclaredFieldError),
        ("etcdserver: request timed out", ClusterUnavailableError),
    ],
)
def test_a_field_that_the_crd_does_not_know_is_no_outage(message: str, error: type[ClusterError]) -> None:
    with pytest.raises(error) as raised:
        answer("PATCH /x", 500, json.dumps({"kind": "Status", "message": message}).encode())
    assert type(raised.value) is error


def test_a_document_need_be_no_object_but_its_refusal_is_one() -> None:
    assert answer("GET /openapi", 200, b'{"openapi": "3.0.0"}', is_object=False) == {"openapi": "3.0.0"}
    with pytest.raises(ClusterUnavailableError):
        answer("GET /openapi", 200, b'{"openapi": "3.0.0"}')
    for status, body in ((200, b"[]"), (502, b'{"openapi": "3.0.0"}')):
        with pytest.raises(ClusterUnavailableError):
            answer("GET /openapi", status, body, is_object=False)
