"""The error of the client. `status.py` makes it of a gRPC status, and `retry.py` decides by it."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc

from usage_client.reason import Reason

if TYPE_CHECKING:
    from usage_client.figures import Figures


class ErrorKind(enum.Enum):
    """What a failure means for the caller."""

    INVALID = "invalid"
    """The call can never succeed; see `UsageError.violations`. Nothing was sent or nothing was changed."""
    KEY_REUSED = "key reused"
    """The idempotency key was used before with different content. Nothing was counted."""
    CUSTOMER_TAKEN = "customer taken"
    """The Stripe customer is linked to another account."""
    ETAG_MISMATCH = "etag mismatch"
    """The account has changed since its etag was read. Read it again."""
    NOT_FOUND = "not found"
    """The account, report or report run does not exist."""
    OVERLOADED = "overloaded"
    """The server's queue is full. Nothing was counted. Call again after `UsageError.retry_after`."""
    UNAVAILABLE = "unavailable"
    """The server cannot do it now: its database does not respond, or it is shutting down."""
    REPORTING_DISABLED = "reporting disabled"
    """The server has no Stripe key, so it does not report."""
    PRECONDITION = "failed precondition"
    """Not possible in the current state; the reason and the message say what must change first. Nothing was changed."""
    UNAUTHENTICATED = "unauthenticated"
    """The call has no valid API key. Nothing was done."""
    PERMISSION_DENIED = "permission denied"
    """The API key does not allow the call. Nothing was done."""
    DEADLINE = "deadline exceeded"
    """No response before the deadline."""
    UNIMPLEMENTED = "not implemented by the server"
    """The server is older than this client and does not know this call."""
    INTERNAL = "internal server error"
    """A bug in the server; its log contains the cause."""
    TLS = "TLS"
    """TLS failed. Nothing was sent that the server has read."""
    TRANSPORT = "connection failed"
    """The connection failed, or was lost before the response."""
    INCOMPLETE = "not all is counted"
    """A `with` block of a recorder ended, and usage was refused or dropped; see `UsageError.figures`."""
    MALFORMED = "malformed response"
    """The response does not conform to the contract."""


_RETRYABLE = frozenset({ErrorKind.OVERLOADED, ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.TRANSPORT})


@dataclasses.dataclass(frozen=True)
class FieldViolation:
    """An invalid field of a call."""

    field: str
    """The path of the field, such as `quantity`."""
    description: str
    """What is wrong, with the value and the limit."""


@dataclasses.dataclass(eq=False)
class UsageError(Exception):
    """Why a call failed.

    `kind` says what to do, `is_retryable` whether the same call can succeed later, and `may_have_taken_effect` whether
    repeating a call without an idempotency key could count twice.
    """

    kind: ErrorKind
    message: str
    may_have_taken_effect: bool
    """False is certain."""
    reason: Reason | str | None = None
    """The server's reason; none if the server was not reached or gave none. One that this version does not know is text."""
    violations: tuple[FieldViolation, ...] = ()
    """The invalid fields of the call, at most 16; empty for most errors."""
    retry_after: float | None = None
    """The delay that the server requests before the next attempt, in seconds."""
    idempotency_key: str | None = None
    """The key that the failed call was sent with, also if the client made it. The next attempt must use the same key."""
    request_id: str | None = None
    """The id of the failed call; none if no server answered. The audit table and the server's log have it."""
    cause_id: str | None = None
    """The field `cause_id` of the line in the server's log that has the cause; none if the log has no line of it."""
    code: grpc.StatusCode | None = None
    """The gRPC code; none if the client rejected the call."""
    figures: Figures | None = None
    """What a recorder had done, if its `flush` or `close` took too long or its `with` block was incomplete."""

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[UsageError], tuple[object, ...]]:
        """Copies and pickles all fields: an exception's own way keeps the message alone."""
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @property
    def is_retryable(self) -> bool:
        """Whether the same call can succeed later. Repeat it with the same `idempotency_key`, so that it is counted once."""
        return self.kind in _RETRYABLE

    def __str__(self) -> str:
        reason = "" if self.reason is None else f" ({self.reason})"
        message = f": {self.message}" if self.message else ""
        # The message of a server is that of the first violation.
        others = (one for one in self.violations if one.description != self.message)
        return "; ".join([f"{self.kind.value}{reason}{message}", *(f"{one.field}: {one.description}" for one in others)])


@contextlib.contextmanager
def key_in_error(key: str) -> Iterator[None]:
    """Adds the key to the error of a call."""
    try:
        yield
    except UsageError as error:
        error.idempotency_key = key
        raise


def invalid(field: str, description: str) -> UsageError:
    """An argument that is rejected before the call is sent."""
    violation = FieldViolation(field, description)
    return UsageError(ErrorKind.INVALID, "the call was not sent", False, violations=(violation,))


def malformed(message: str) -> UsageError:
    """A response that does not conform to the contract. The call has taken effect."""
    return UsageError(ErrorKind.MALFORMED, message, True)
