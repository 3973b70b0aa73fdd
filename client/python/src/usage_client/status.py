"""Makes a `UsageError` of a gRPC status with its `google.rpc` details."""

from __future__ import annotations

from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from usage_client import reason as reasons
from usage_client.errors import ErrorKind, FieldViolation, UsageError
from usage_client.reason import Reason

_DETAILS = "grpc-status-details-bin"
_REQUEST_ID = "x-request-id"
_CAUSE_ID = "cause_id"

_BY_REASON = {
    Reason.KEY_REUSED: ErrorKind.KEY_REUSED,
    Reason.CUSTOMER_TAKEN: ErrorKind.CUSTOMER_TAKEN,
    Reason.ETAG_MISMATCH: ErrorKind.ETAG_MISMATCH,
    Reason.REPORTING_DISABLED: ErrorKind.REPORTING_DISABLED,
    # It has the code of an overload, but the same message is never accepted.
    Reason.MESSAGE_TOO_LARGE: ErrorKind.INVALID,
}
_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorKind.INVALID,
    grpc.StatusCode.OUT_OF_RANGE: ErrorKind.INVALID,
    grpc.StatusCode.ALREADY_EXISTS: ErrorKind.INVALID,
    grpc.StatusCode.ABORTED: ErrorKind.INVALID,
    grpc.StatusCode.FAILED_PRECONDITION: ErrorKind.PRECONDITION,
    grpc.StatusCode.NOT_FOUND: ErrorKind.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorKind.OVERLOADED,
    grpc.StatusCode.UNAVAILABLE: ErrorKind.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED: ErrorKind.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorKind.PERMISSION_DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorKind.DEADLINE,
    # Some proxies return it when the deadline has passed.
    grpc.StatusCode.CANCELLED: ErrorKind.DEADLINE,
    grpc.StatusCode.UNIMPLEMENTED: ErrorKind.UNIMPLEMENTED,
}
_MAY_TAKE_EFFECT = frozenset(
    {ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.INTERNAL, ErrorKind.TRANSPORT, ErrorKind.MALFORMED}
)
# How gRPC's library begins the text of a connection that was never made.
_NEVER_SENT = ("failed to connect to all addresses", "DNS resolution failed", "empty address list")
# How it begins the text of a stream that was cut off, which may have any code.
_CUT_OFF = ("Received RST_STREAM", "Stream removed")
_TLS = ("ssl handshake", "ssl_error", "certificate_verify_failed", "hostname verification", "tls handshake", "tsi_")


def from_rpc_error(error: grpc.RpcError) -> UsageError:
    """What a failed attempt means."""
    # Every error of a call that was made is a `grpc.Call` as well; their types do not say so.
    call = cast("grpc.Call", error)
    trailers: dict[str, str | bytes] = {}
    for name, value in call.trailing_metadata() or ():
        trailers.setdefault(name, value)
    code, text = call.code(), call.details() or ""
    failure = UsageError(_kind(code, text, bool(trailers)), text, True, code=code)
    _read_details(failure, trailers.get(_DETAILS))
    if isinstance(failure.reason, Reason):
        failure.kind = _BY_REASON.get(failure.reason, failure.kind)
    never_sent = failure.kind is ErrorKind.TRANSPORT and text.startswith(_NEVER_SENT)
    failure.may_have_taken_effect = failure.kind in _MAY_TAKE_EFFECT and not never_sent
    header = trailers.get(_REQUEST_ID)
    # A server in between may have given another id in the headers than that of the details.
    if failure.request_id is None and isinstance(header, str) and header:
        failure.request_id = header
    return failure


def _kind(code: grpc.StatusCode, text: str, was_answered: bool) -> ErrorKind:
    # Only a status that this process made has no trailers: no response was received.
    if code is grpc.StatusCode.UNAVAILABLE and not was_answered:
        is_tls = any(mark in text.lower() for mark in _TLS)
        return ErrorKind.TLS if is_tls else ErrorKind.TRANSPORT
    if not was_answered and text.startswith(_CUT_OFF):
        return ErrorKind.TRANSPORT
    return _BY_CODE.get(code, ErrorKind.INTERNAL)


def _read_details(failure: UsageError, details: str | bytes | None) -> None:
    if not isinstance(details, bytes):
        return
    try:
        status = status_pb2.Status.FromString(details)
    except DecodeError:
        # Another server's own format: the code and the text are all that is known.
        return
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == reasons.ERROR_DOMAIN:
            failure.reason = reasons.from_name(info.reason)
            failure.cause_id = info.metadata.get(_CAUSE_ID) or None
        elif detail.Unpack(bad):
            violations = bad.field_violations
            failure.violations = tuple(FieldViolation(one.field, one.description) for one in violations)
        elif detail.Unpack(retry) and retry.HasField("retry_delay"):
            failure.retry_after = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
        elif detail.Unpack(request):
            failure.request_id = request.request_id or None
