"""What is sent to the Kubernetes API server, and what its answers mean. Pure."""

import json
import re
from typing import Any

from diskmigration.cluster.errors import (
    ClusterUnavailableError,
    ConflictError,
    ObjectGoneError,
    RefusedError,
    UndeclaredFieldError,
)

# What YAML takes unescaped, of https://yaml.org/spec/1.2.2/#51-character-set; not the byte order mark, to be sure.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\u00a0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")

_UNDECLARED = "field not declared in schema"
"""So server-side apply words it, in an error 500; see schemas.py."""

_EXCERPT_BYTES = 200
"""Of an answer that is not the API's: an overloaded server's words, or a proxy's page."""


def encoded(body: dict[str, Any] | None, *, is_apply: bool) -> dict[str, Any] | bytes | None:
    """Return the body as the client takes it. The server reads an apply as YAML."""
    return as_yaml(body) if is_apply and body is not None else body


def as_yaml(body: dict[str, Any]) -> bytes:
    """Return the object as YAML, which knows no JSON escapes of characters past U+FFFF."""
    whole = json.dumps(body, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", whole).encode()


def answer(doing: str, status: int, content: bytes, *, is_object: bool = True) -> dict[str, Any]:
    """Return the object of an answer, or raise the error that its HTTP status stands for.

    What is no object of the API is another document of its server, as its schemas are.

    Another program may answer at the API server's address, a balancer without a backend say: only an object of the API
    counts, as a 404 of the API server ends a migration.
    """
    excerpt = content[:_EXCERPT_BYTES].decode(errors="replace").strip()
    try:
        decoded = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ClusterUnavailableError(f"{doing}: HTTP {status} with a body that is not JSON: {excerpt!r}") from error
    is_error = not 200 <= status < 300
    is_expected = _is_of_the_api(decoded, is_error=is_error) if is_object or is_error else isinstance(decoded, dict)
    if not is_expected:
        raise ClusterUnavailableError(
            f"{doing}: HTTP {status} with a body that is not the Kubernetes API's: {excerpt!r}", http_status=status
        )
    if not is_error:
        return dict(decoded)
    message = f"{doing}: HTTP {status}: {decoded.get('message', 'no message')}"
    if status in (404, 410):
        raise ObjectGoneError(message, http_status=status)
    if status == 409:
        raise ConflictError(message, http_status=status)
    if status == 500 and _UNDECLARED in message:
        raise UndeclaredFieldError(
            f"{message}. The CRDs in the cluster are older than this program: apply those of its version.",
            http_status=status,
        )
    if status in (401, 408, 429) or status >= 500:
        # 401 too: a service account's token is replaced on disk now and then.
        raise ClusterUnavailableError(message, http_status=status)
    raise RefusedError(message, http_status=status)


def items(listed: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the objects of a list.

    Raises:
        ClusterUnavailableError: it is no list of that kind: an empty one would tell that every object is gone.
    """
    found = listed.get("items")
    if listed.get("kind") != f"{kind}List" or not isinstance(found, list):
        raise ClusterUnavailableError(f"a list of {kind} objects was asked for, and a {listed.get('kind')} was given")
    return found


def _is_of_the_api(decoded: object, *, is_error: bool) -> bool:
    if not isinstance(decoded, dict) or not isinstance(decoded.get("kind"), str):
        return False
    return decoded["kind"] == "Status" if is_error else isinstance(decoded.get("metadata"), dict)
