"""What every model of the API has in common: frozen, camelCase on the wire, lenient on reading."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{moment.isoformat()} is past the years that can be told") from error


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC as metav1.Time writes it, in whole seconds."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


Time = Annotated[AwareDatetime, AfterValidator(_in_utc), PlainSerializer(rfc3339, return_type=str, when_used="json")]
"""RFC 3339 with seconds, as metav1.Time writes it; one without a time zone is refused, as it could be any moment."""


class Model(BaseModel):
    """One object, or part of one, of the API.

    Unknown fields are passed over, as a newer API server may send some. None means absent.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    def to_wire(self) -> dict[str, Any]:
        """The JSON object for the API server: camelCase, absent fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def from_wire(cls, value: Any) -> Self:
        """Reads JSON as decoded by any client.

        Raises:
            pydantic.ValidationError: a field is missing or not of its type.
        """
        return cls.model_validate(value)


class OwnerReference(Model):
    """metav1.OwnerReference."""

    api_version: str
    kind: str
    name: str
    uid: str


class ObjectMeta(Model):
    """The part of metav1.ObjectMeta that is read here."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
