"""The stable names of error reasons, the same for a whole call and for one item of a batch."""

from __future__ import annotations

import enum

from usage_client.proto import error_reason_pb2

ERROR_DOMAIN = "usage-billing"
_PREFIX = "ERROR_REASON_"


class Reason(str, enum.Enum):
    """Why a call, or one item of a batch, was rejected; `proto.error_reason_pb2` says what each one means.

    Reasons are stable: new ones may be added, none is renamed. A reason that this version does not know is plain text.
    """

    INVALID_FIELD = "INVALID_FIELD"
    UNKNOWN_METER = "UNKNOWN_METER"
    TIMESTAMP_TOO_OLD = "TIMESTAMP_TOO_OLD"
    TIMESTAMP_IN_FUTURE = "TIMESTAMP_IN_FUTURE"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    PERIOD_NOT_ALIGNED = "PERIOD_NOT_ALIGNED"
    TOO_MANY_POINTS = "TOO_MANY_POINTS"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"
    KEY_REUSED = "KEY_REUSED"
    CUSTOMER_TAKEN = "CUSTOMER_TAKEN"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    OVERLOADED = "OVERLOADED"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    REPORTING_DISABLED = "REPORTING_DISABLED"
    INTERNAL = "INTERNAL"
    STRIPE_UNAVAILABLE = "STRIPE_UNAVAILABLE"
    CHANGE_IN_PROGRESS = "CHANGE_IN_PROGRESS"
    SUBSCRIPTION_NOT_CHANGEABLE = "SUBSCRIPTION_NOT_CHANGEABLE"
    USAGE_NEEDS_DECISION = "USAGE_NEEDS_DECISION"
    CHANGE_TIMED_OUT = "CHANGE_TIMED_OUT"
    BELOW_ZERO = "BELOW_ZERO"
    REPORT_NOT_FOUND = "REPORT_NOT_FOUND"
    NOT_RESOLVABLE = "NOT_RESOLVABLE"
    CLOCK_IN_DOUBT = "CLOCK_IN_DOUBT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    MALFORMED_MESSAGE = "MALFORMED_MESSAGE"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    UNKNOWN_CUSTOMER = "UNKNOWN_CUSTOMER"
    UNKNOWN_SUBSCRIPTION = "UNKNOWN_SUBSCRIPTION"
    NO_CHANGE_IN_PROGRESS = "NO_CHANGE_IN_PROGRESS"
    CHANGE_ABORTED = "CHANGE_ABORTED"
    DIFFERENCE_NOT_FOUND = "DIFFERENCE_NOT_FOUND"
    INCREMENT_NOT_FOUND = "INCREMENT_NOT_FOUND"
    INVOICE_NOT_FOUND = "INVOICE_NOT_FOUND"
    MONTH_NOT_CLOSED = "MONTH_NOT_CLOSED"
    ORIGIN_NOT_ALLOWED = "ORIGIN_NOT_ALLOWED"
    HOST_NOT_LOCAL = "HOST_NOT_LOCAL"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    API_KEY_NOT_FOUND = "API_KEY_NOT_FOUND"
    RATE_LIMITED = "RATE_LIMITED"
    MESSAGE_TOO_SLOW = "MESSAGE_TOO_SLOW"
    ACCOUNT_DELETED = "ACCOUNT_DELETED"
    ACCOUNT_NOT_DELETABLE = "ACCOUNT_NOT_DELETABLE"

    def __str__(self) -> str:
        return self.value


def from_name(name: str) -> Reason | str:
    """The reason in a `google.rpc.ErrorInfo`."""
    try:
        return Reason(name)
    except ValueError:
        return name


def from_number(number: int) -> Reason | str:
    """The reason in a result of a batch."""
    by_number = error_reason_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"].values_by_number
    known = by_number.get(number)
    return str(number) if known is None else from_name(known.name.removeprefix(_PREFIX))
