"""How a request to the Kubernetes API can fail, told by what the caller can do about it."""


class ClusterError(Exception):
    """A request to the Kubernetes API failed; the message says which one and what was answered.

    `http_status` is 0 where there was no answer.
    """

    def __init__(self, message: str, *, http_status: int = 0) -> None:
        """Keeps the status for who must tell a 403 from a 422."""
        super().__init__(message)
        self.http_status = http_status


class ClusterUnavailableError(ClusterError):
    """No answer, or none that settles anything: connection, time-out, 401, 429, 5xx. Try again later."""


class ObjectGoneError(ClusterError):
    """The object is not there any more, or another one has taken its name (its uid differs)."""


class ConflictError(ClusterError):
    """The object was changed meanwhile: read it again, then decide again."""


class RefusedError(ClusterError):
    """The server understood and says no (400, 403, 413, 422): by its schema, its rules or its rights."""


class UndeclaredFieldError(RefusedError):
    """The CRD in the cluster is older than this program, and does not declare a field that it writes (500)."""
