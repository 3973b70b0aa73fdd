"""Recorded usage in memory: sums that are open, batches of them that wait, and the figures of both."""

from __future__ import annotations

import dataclasses
import threading
import time

from usage_client import refused
from usage_client.figures import NONE, Figures, Recorded
from usage_client.key import new_key
from usage_client.refused import Drops

MAX_QUANTITY = 1_000_000_000_000


@dataclasses.dataclass
class Sum:
    """Usage of one account, meter and second."""

    account_id: str
    meter: str
    second: int
    units: int
    calls: int

    @property
    def recorded(self) -> Recorded:
        """Its part of the figures."""
        return Recorded(self.calls, self.units)


@dataclasses.dataclass
class Batch:
    """Sums that are sent together, with one key until the server has answered."""

    number: int
    key: str
    sums: list[Sum]
    due: float = 0.0
    """When it may be sent, on the monotonic clock."""


class Sums:
    """All of them, for many threads. Their number is limited by the capacity, those of batches included."""

    def __init__(self, capacity: int, batch_size: int) -> None:
        self._capacity = capacity
        self._batch_size = batch_size
        # So many are sent before the interval ends.
        self._enough = min(batch_size, max(1, capacity // 4))
        # A signal handler may record while its thread has the lock.
        self._changed = threading.Condition(threading.RLock())
        self._open: dict[tuple[str, str, int], Sum] = {}
        # Sums that have reached the most that one increment can have.
        self._full: list[Sum] = []
        self._waiting: list[Batch] = []
        self._unfinished: set[int] = set()
        self._last = 0
        self._used = 0
        self._is_closed = False
        self._recorded = self._counted = self._refused = self._dropped = NONE
        self.drops = Drops()

    def add(self, account_id: str, meter: str, second: int, quantity: int) -> None:
        """Adds one call, or drops it if there is no room."""
        place = (account_id, meter, second)
        with self._changed:
            if self._is_closed:
                return self.drop(refused.CLOSED, account_id, meter, second, quantity)
            known = self._open.get(place)
            if known is None or known.units + quantity > MAX_QUANTITY:
                if self._used >= self._capacity:
                    return self.drop(refused.FULL, account_id, meter, second, quantity)
                if known is not None:
                    self._full.append(known)
                known = self._open[place] = Sum(account_id, meter, second, 0, 0)
                self._used += 1
                if len(self._open) + len(self._full) >= self._enough:
                    self._changed.notify_all()
            known.units += quantity
            known.calls += 1
            self._recorded += Recorded(1, quantity)

    def drop(self, why: str, account_id: str, meter: str, second: int, units: int) -> None:
        """Counts one call as dropped."""
        with self._changed:
            self._recorded += Recorded(1, units)
            self._dropped += Recorded(1, units)
            self.drops.add(why, account_id, meter, second, units)

    def make_batches(self) -> int:
        """Turns all open sums into batches; returns the number of the last one."""
        with self._changed:
            sums = [*self._full, *self._open.values()]
            self._full, self._open = [], {}
            for first in range(0, len(sums), self._batch_size):
                self._last += 1
                self._unfinished.add(self._last)
                self._waiting.append(Batch(self._last, new_key(), sums[first : first + self._batch_size]))
            if sums:
                self._changed.notify_all()
            return self._last

    def next_batch(self, interval: float) -> Batch | None:
        """Waits for the next batch, at most for the interval; then, or when there is enough, it makes one."""
        ends = time.monotonic() + interval
        with self._changed:
            while True:
                now = time.monotonic()
                ready = next((batch for batch in self._waiting if batch.due <= now), None)
                if ready is not None:
                    self._waiting.remove(ready)
                    return ready
                is_enough = len(self._open) + len(self._full) >= self._enough
                if is_enough or self._is_closed or now >= ends:
                    self.make_batches()
                    if not any(batch.due <= now for batch in self._waiting):
                        if now >= ends or self._is_idle():
                            return None
                    else:
                        continue
                due = min((batch.due for batch in self._waiting), default=ends)
                self._changed.wait(max(0.0, min(due, ends) - now))

    def is_over(self) -> bool:
        """Whether it is closed, and nothing is left to send."""
        with self._changed:
            return self._is_closed and self._is_idle()

    def _is_idle(self) -> bool:
        return not (self._open or self._full or self._unfinished)

    def finish(self, batch: Batch, counted: Recorded, refused: Recorded, later: list[Sum], pause: float) -> None:
        """Takes the answer of a batch. What can be counted later waits, under another key and the same number."""
        with self._changed:
            self._counted += counted
            self._refused += refused
            self._used -= len(batch.sums) - len(later)
            if later:
                self._waiting.append(Batch(batch.number, new_key(), later, time.monotonic() + pause))
            else:
                self._unfinished.discard(batch.number)
            self._changed.notify_all()

    def wait_until_done(self, last: int, timeout: float) -> bool:
        """Waits until all batches up to this one are finished; false if the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: all(number > last for number in self._unfinished), timeout)

    def close(self) -> None:
        """Takes no more usage."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def figures(self) -> Figures:
        """What is known now."""
        with self._changed:
            return Figures(self._recorded, self._counted, self._refused, self._dropped)
