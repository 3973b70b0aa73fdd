"""Messages that the clients with and without asyncio make alike."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from usage_client.errors import invalid, malformed
from usage_client.increments import check_key, to_timestamp
from usage_client.proto import period_pb2
from usage_client.proto import usage_service_pb2 as messages

_MAX_PAGE_SIZE = 1_000


def get_request(
    account_id: str,
    meter: str,
    start: datetime.datetime | None,
    end: datetime.datetime | None,
    granularity: messages.Granularity.ValueType,
    time_zone: str,
    round_outward: bool,
) -> messages.GetRequest:
    """What `get` sends."""
    period = None
    if (start is None) is not (end is None):
        raise invalid("period", "one of start and end is given; both are needed")
    if start is not None:
        period = period_pb2.Period(start=to_timestamp("start", start), end=to_timestamp("end", end))
    return messages.GetRequest(
        account_id=account_id,
        meter=meter,
        period=period,
        granularity=granularity,
        time_zone=time_zone,
        round_outward=round_outward,
    )


def correct_request(
    account_id: str,
    quantity: int,
    reason: str,
    meter: str,
    requested_by: str,
    key: str,
    timestamp: datetime.datetime | None,
) -> messages.CorrectRequest:
    """What `correct` sends."""
    check_key("idempotency_key", key)
    try:
        return messages.CorrectRequest(
            account_id=account_id,
            meter=meter,
            quantity=quantity,
            reason=reason,
            timestamp=to_timestamp("timestamp", timestamp),
            requested_by=requested_by,
            idempotency_key=key,
        )
    except (TypeError, ValueError) as error:
        raise invalid("correction", str(error)) from error


def first_page(filter: messages.ListReportsRequest) -> messages.ListReportsRequest:
    """The first call of a list of reports."""
    request = messages.ListReportsRequest()
    request.CopyFrom(filter)
    request.page_size = request.page_size or _MAX_PAGE_SIZE
    return request


def turn_page(request: messages.ListReportsRequest, page: messages.ListReportsResponse) -> bool:
    """Makes the request that of the next page; false if this was the last one."""
    if not page.next_page_token:
        return False
    # A server that does not get on would be called forever.
    if page.next_page_token == request.page_token:
        raise malformed("a page of reports leads to itself")
    request.page_token = page.next_page_token
    return True


def check(meters: Iterable[str], known: Sequence[messages.Meter]) -> None:
    """Raises an error that names the first meter that is not known."""
    names = ", ".join(one.name for one in known)
    usable = f"the meters that can be used here are {names}" if names else "no meter can be used with this API key"
    for meter in meters:
        if any(one.name == meter if meter else one.is_default for one in known):
            continue
        if not meter:
            raise invalid("meter", f"there is no default meter, which an empty name stands for; {usable}")
        why = f"the server does not count the meter {meter!r}, or this API key may not use it"
        raise invalid("meter", f"{why}; {usable}")
