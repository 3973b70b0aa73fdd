"""The thread that sends batches until each has its final answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from usage_client import refused
from usage_client.errors import ErrorKind, UsageError
from usage_client.figures import NONE
from usage_client.increments import Increment, IncrementResult, Outcome
from usage_client.reason import Reason
from usage_client.refused import RefusedUsage
from usage_client.sums import Batch, Sum, Sums

if TYPE_CHECKING:
    from usage_client.client import UsageClient

_log = logging.getLogger("usage_client")

# The pauses after a call failed despite the client's own retries.
_MIN_PAUSE = 0.2
_MAX_PAUSE = 10.0
_MAX_RETRY_AFTER = 60.0
# The delay, in intervals, before usage from the future of the server's clock is sent again, and its limit.
_EARLY_INTERVALS = 30
_MAX_EARLY_DELAY = 60.0
# For how long usage is sent again that the API key may not count: the key may be replaced or given other limits.
_DENIED_FOR = 3_600
_LOG_INTERVAL = 1.0


class Sender:
    """Sends one batch after the other."""

    def __init__(
        self,
        client: UsageClient,
        sums: Sums,
        interval: float,
        on_refused: Callable[[RefusedUsage], None] | None,
        closed: threading.Event,
    ) -> None:
        self._client = client
        self._sums = sums
        self._interval = interval
        self._on_refused = on_refused
        self._closed = closed
        self._logged_drops_at = float("-inf")

    def run(self) -> None:
        """Runs until the recorder is closed and everything is sent."""
        while not self._sums.is_over():
            batch = self._sums.next_batch(self._interval)
            self.tell_dropped()
            if batch is not None:
                self._send(batch)

    def tell_dropped(self) -> None:
        """Tells the program what was dropped since it was last told."""
        dropped = self._sums.drops.take()
        now = time.monotonic()
        if dropped and now - self._logged_drops_at >= _LOG_INTERVAL:
            self._logged_drops_at = now
            _log.error("usage was dropped: %s", dropped[0])
        refused.tell(self._on_refused, dropped)

    def _send(self, batch: Batch) -> None:
        """Sends a batch until it has its final answer."""
        items = [Increment(one.account_id, one.meter, one.units, None, refused.at(one.second)) for one in batch.sums]
        pause = _MIN_PAUSE
        while True:
            asked = 0.0
            try:
                outcome = self._client.increment_batch(items, key=batch.key)
                return self._take(batch, list(outcome.results))
            except UsageError as error:
                if _is_permanent(error):
                    result = IncrementResult(Outcome.REFUSED, error.reason, "", str(error))
                    return self._take(batch, [result] * len(items))
                _log.warning("a batch of usage was not counted; it is sent again with its key %s: %s", batch.key, error)
                asked = min(error.retry_after or 0.0, _MAX_RETRY_AFTER)
            except Exception:
                # Such as a client that was closed: the thread must not end with usage in its hands.
                _log.exception("a batch of usage could not be sent; it is sent again with its key %s", batch.key)
            pause = self._pause(pause, asked)

    def _pause(self, pause: float, asked: float) -> float:
        """Waits before a batch is sent again; returns the next pause. At its end, the recorder tries again at once."""
        if self._closed.is_set():
            time.sleep(max(pause, asked))
        elif self._closed.wait(max(pause, asked)):
            return _MIN_PAUSE
        return min(pause * 2, _MAX_PAUSE)

    def _take(self, batch: Batch, results: list[IncrementResult]) -> None:
        counted = rejected = NONE
        later: list[Sum] = []
        told: list[RefusedUsage] = []
        for one, result in zip(batch.sums, results, strict=True):
            if result.outcome in (Outcome.COUNTED, Outcome.DUPLICATE):
                counted += one.recorded
            elif _can_be_counted_later(one, result):
                later.append(one)
            else:
                rejected += one.recorded
                why = result.message or result.outcome.value
                at = refused.at(one.second)
                told.append(RefusedUsage(one.account_id, one.meter, at, one.units, one.calls, why, result.reason))
        if later:
            _log.warning("usage of %s sums cannot be counted yet, such as %s; it is sent again", len(later), later[0])
        if told:
            # One line for each batch: with an unknown meter, every sum is rejected.
            _log.error("usage was rejected: %s sums of %s units, such as %s", len(told), rejected.units, told[0])
        # Before those who wait for the batch go on.
        refused.tell(self._on_refused, told)
        pause = min(self._interval * _EARLY_INTERVALS, _MAX_EARLY_DELAY)
        self._sums.finish(batch, counted, rejected, later, pause)


def _can_be_counted_later(one: Sum, result: IncrementResult) -> bool:
    """In the future of the server's clock, or not allowed to the key while it may still be given other limits."""
    if result.reason is Reason.TIMESTAMP_IN_FUTURE:
        return True
    return result.reason is Reason.PERMISSION_DENIED and time.time() - one.second < _DENIED_FOR


def _is_permanent(error: UsageError) -> bool:
    """Whether the same batch would always be rejected. Only a reason of the server itself proves that."""
    return error.kind in (ErrorKind.INVALID, ErrorKind.KEY_REUSED) and error.reason is not None
