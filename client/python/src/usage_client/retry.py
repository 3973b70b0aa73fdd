"""Retries of failed calls."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from typing import TypeVar

from usage_client.errors import UsageError

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Retry:
    """How failed calls are retried: with exponential backoff and jitter, until the call's deadline.

    Only failures that a retry can help are retried: an overloaded or unavailable server and a lost connection.
    Increments, batches and corrections use one idempotency key for all attempts, so they are counted once. A call that is
    not safe to repeat is only retried if it certainly had no effect.
    """

    attempts: int | None = None
    """The maximum number of attempts, including the first; none means as many as fit into the deadline."""
    first: float = 0.1
    """The first delay between attempts, in seconds. Jitter makes each up to twice as long."""
    longest: float = 5.0
    """The longest delay before jitter, in seconds."""

    @classmethod
    def never(cls) -> Retry:
        """No retries."""
        return cls(attempts=1)


class Attempts:
    """The attempts of one call, which share one deadline."""

    def __init__(self, retry: Retry, timeout: float, repeatable: bool) -> None:
        self._retry = retry
        self._repeatable = repeatable
        self._ends = time.monotonic() + timeout
        self._made = 0
        self._may_have_taken_effect = False

    def remaining(self) -> float:
        """The seconds until the deadline."""
        return max(0.0, self._ends - time.monotonic())

    def pause_after(self, error: UsageError) -> float | None:
        """The seconds to wait after this failure; none if the call has failed. Remembers the effect of earlier attempts."""
        self._made += 1
        error.may_have_taken_effect |= self._may_have_taken_effect
        self._may_have_taken_effect = error.may_have_taken_effect
        is_safe = self._repeatable or not error.may_have_taken_effect
        is_last = self._retry.attempts is not None and self._made >= self._retry.attempts
        if is_last or not is_safe or not error.is_retryable:
            return None
        # The exponent has a limit, so that the power has one.
        delay = min(self._retry.longest, self._retry.first * 2.0 ** min(self._made - 1, 62))
        delay = max(delay * (1 + random.random()), error.retry_after or 0.0)
        return delay if delay < self.remaining() else None


def call_with_retry(attempts: Attempts, attempt: Callable[[float], _T]) -> _T:
    """Repeats a call until it succeeds, cannot succeed, or its time has passed. `attempt` is given the remaining seconds."""
    while True:
        try:
            return attempt(attempts.remaining())
        except UsageError as error:
            pause = attempts.pause_after(error)
            if pause is None:
                raise
        time.sleep(pause)
