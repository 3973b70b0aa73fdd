"""What is counted, and what the server answers to it."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from usage_client import reason as reasons
from usage_client.errors import invalid, malformed
from usage_client.proto import usage_service_pb2 as messages
from usage_client.reason import Reason

MAX_BATCH = 1_000
"""The most increments in a batch."""


@dataclasses.dataclass(frozen=True)
class Increment:
    """One increment of a batch: by default one unit of the default meter, used now by the server's clock."""

    account_id: str
    """The caller's own id for the user: 1 to 128 characters from `A-Z a-z 0-9 . _ : @ / + = -`."""
    meter: str = ""
    """A meter that the server is configured with; empty means the default one."""
    quantity: int | None = None
    """In the meter's unit: 1 to 1,000,000,000,000; none means 1."""
    key: str | None = None
    """Its own idempotency key, at most 255 bytes. In a batch it needs none: the batch has one."""
    timestamp: datetime.datetime | None = None
    """When it was used, with a time zone: at most 34 days ago and 5 minutes in the future."""

    def to_message(self, within: str = "") -> messages.IncrementRequest:
        """The message, or an error of the kind `INVALID` if a field does not fit into it. `within` goes before its name."""
        check_key(f"{within}idempotency_key", self.key)
        try:
            return messages.IncrementRequest(
                account_id=self.account_id,
                meter=self.meter,
                quantity=self.quantity,
                idempotency_key=self.key or "",
                timestamp=to_timestamp(f"{within}timestamp", self.timestamp),
            )
        except (TypeError, ValueError) as error:
            raise invalid(within.rstrip(".") or "increment", str(error)) from error


@dataclasses.dataclass(frozen=True)
class Counted:
    """A durably counted increment."""

    duplicate: bool
    """Whether the key was counted before; this call then added nothing."""
    key: str
    """The key that it was sent with."""


class Outcome(enum.Enum):
    """Whether one increment of a batch was counted."""

    COUNTED = "counted"
    DUPLICATE = "duplicate"
    """Its own key was counted before. It added nothing."""
    REFUSED = "refused"
    """It was not counted."""
    UNRECOGNISED = "unrecognised"
    """What this version of the client does not know."""


@dataclasses.dataclass(frozen=True)
class IncrementResult:
    """The answer to one increment of a batch."""

    outcome: Outcome
    reason: Reason | str | None = None
    """Why it was refused."""
    field: str = ""
    """The invalid field, such as `quantity`."""
    message: str = ""
    """What is wrong, with the value and the limit."""


@dataclasses.dataclass(frozen=True)
class BatchOutcome:
    """The answers to a batch, in its order."""

    results: tuple[IncrementResult, ...]
    duplicate: bool
    """Whether the batch's key was used before: the results are those of then."""
    key: str
    """The key that the batch was sent with."""

    def refused(self) -> list[tuple[int, IncrementResult]]:
        """What was not counted, with its place in the batch."""
        counted = (Outcome.COUNTED, Outcome.DUPLICATE)
        return [(place, result) for place, result in enumerate(self.results) if result.outcome not in counted]


def check_key(field: str, key: str | None) -> None:
    """Refuses an empty key: it means none in the contract, so the program's own retry would count again."""
    if key == "":
        raise invalid(field, "the key is empty; it must have 1 to 255 bytes, or be left out")


def to_timestamp(field: str, at: datetime.datetime | None) -> Timestamp | None:
    """A time of a request."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise invalid(field, f"{at} has no time zone; use `datetime.now(timezone.utc)` and the like")
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp


def to_batch(increments: Sequence[Increment | str], key: str, dry_run: bool) -> messages.IncrementBatchRequest:
    """The message of a batch; a text is an account id."""
    check_key("idempotency_key", key)
    if not 1 <= len(increments) <= MAX_BATCH:
        raise invalid("increments", f"{len(increments)} increments are not between 1 and {MAX_BATCH}")
    items = [Increment(one) if isinstance(one, str) else one for one in increments]
    return messages.IncrementBatchRequest(
        increments=[item.to_message(f"increments[{place}].") for place, item in enumerate(items)],
        idempotency_key=key,
        dry_run=dry_run,
    )


def from_batch(answer: messages.IncrementBatchResponse, sent: int, key: str) -> BatchOutcome:
    """The answers, one for each increment that was sent."""
    if len(answer.results) != sent:
        raise malformed(f"{len(answer.results)} results for {sent} increments")
    return BatchOutcome(tuple(_result(result) for result in answer.results), answer.duplicate, key)


_OUTCOMES = {
    messages.INCREMENT_OUTCOME_COUNTED: Outcome.COUNTED,
    messages.INCREMENT_OUTCOME_DUPLICATE: Outcome.DUPLICATE,
    messages.INCREMENT_OUTCOME_REFUSED: Outcome.REFUSED,
}


def _result(result: messages.IncrementResult) -> IncrementResult:
    outcome = _OUTCOMES.get(result.outcome, Outcome.UNRECOGNISED)
    if outcome is not Outcome.REFUSED:
        return IncrementResult(outcome)
    error = result.error
    return IncrementResult(outcome, reasons.from_number(error.reason), error.field, error.message)
