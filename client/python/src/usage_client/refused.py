"""Tells the program which usage will not be counted."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import threading
from collections.abc import Callable, Iterable

from usage_client.reason import Reason

_log = logging.getLogger("usage_client")

_MAX_SUMS = 1_000
"""Sums of dropped usage that are kept; what more accounts and meters have is summed without them."""
_MAX_SHOWN = 200
"""Longer account ids and meters are cut: they may be why it was dropped."""

FULL = "dropped: the recorder is full: see its capacity, and whether the server answers"
CLOSED = "dropped: the recorder is closed"
LIMITS = (
    "dropped: it is outside the limits of the server: a quantity is 1 to 1,000,000,000,000, "
    "an account id 1 to 128 bytes, a meter's name at most 100"
)


@dataclasses.dataclass(frozen=True)
class RefusedUsage:
    """Usage that is not counted: the server rejected it permanently, or the recorder dropped it."""

    account_id: str
    """The account; empty for the sum of dropped usage of too many accounts."""
    meter: str
    """The meter; empty for the server's default meter."""
    at: datetime.datetime
    """The second in which it was recorded; of a sum, the first one."""
    units: int
    calls: int
    """The calls of `Recorder.record` that it is the sum of."""
    why: str
    """Why it is not counted; of dropped usage, it begins with `dropped:`."""
    reason: Reason | str | None = None
    """The server's reason; none of dropped usage."""


def tell(on_refused: Callable[[RefusedUsage], None] | None, all: Iterable[RefusedUsage]) -> None:
    """Calls the program's function. What it raises stops nothing here."""
    if on_refused is None:
        return
    for usage in all:
        try:
            on_refused(usage)
        except Exception:
            _log.exception("the function that is called with refused usage failed")


class Drops:
    """Sums of dropped usage, until the program is told of it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # By account, meter and reason: the first second, units, calls.
        self._sums: dict[tuple[str, str, str], list[int]] = {}

    def add(self, why: str, account_id: str, meter: str, second: int, units: int) -> None:
        """Adds one call."""
        place = (str(account_id)[:_MAX_SHOWN], str(meter)[:_MAX_SHOWN], why)
        with self._lock:
            if len(self._sums) >= _MAX_SUMS and place not in self._sums:
                place = ("", "", why)
            dropped = self._sums.setdefault(place, [second, 0, 0])
            dropped[1] += units
            dropped[2] += 1

    def take(self) -> list[RefusedUsage]:
        """Takes all of them."""
        with self._lock:
            sums, self._sums = self._sums, {}
        return [
            RefusedUsage(account_id, meter, at(second), units, calls, why)
            for (account_id, meter, why), (second, units, calls) in sums.items()
        ]


def at(second: int) -> datetime.datetime:
    """A second of Unix time."""
    return datetime.datetime.fromtimestamp(second, datetime.timezone.utc)
