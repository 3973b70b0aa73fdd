"""Counting without waiting: usage is summed in memory, and sent in the background by `sender.py`."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from usage_client import at_exit, refused
from usage_client.errors import ErrorKind, UsageError
from usage_client.figures import Figures
from usage_client.increments import MAX_BATCH
from usage_client.meter_check import check_until_answered
from usage_client.refused import RefusedUsage
from usage_client.sender import Sender
from usage_client.sums import MAX_QUANTITY, Sums

if TYPE_CHECKING:
    from types import TracebackType

    from usage_client.client import UsageClient

_log = logging.getLogger("usage_client")

_MAX_ACCOUNT_BYTES = 128
_MAX_METER_BYTES = 100
_MIN_INTERVAL = 0.01


class Recorder:
    """Counts usage without making its caller wait; see `UsageClient.recorder`.

    `record` adds to a sum in memory, per account, meter and second, and returns. The sums are sent in the background, in
    batches. Each batch keeps one idempotency key until the server has answered, so a batch that is sent twice is counted
    once. Usage keeps the second in which it happened while the server is unavailable, for up to 34 days.

    Usage in memory is lost if the process is killed. When the process ends in any other way, it is sent, for at most the
    `exit_timeout`. After a fork, the parent's recorder is the parent's: make another in the child.
    """

    def __init__(
        self,
        client: UsageClient,
        meters: Iterable[str],
        *,
        interval: float,
        batch_size: int,
        capacity: int,
        exit_timeout: float,
        on_sigterm: bool,
        on_refused: Callable[[RefusedUsage], None] | None,
        on_wrong_meters: Callable[[UsageError], None] | None,
    ) -> None:
        """Starts it; `UsageClient.recorder` describes the arguments."""
        self.exit_timeout = exit_timeout
        self._process = os.getpid()
        self._stop = threading.Event()
        self._sums = Sums(max(1, capacity), max(1, min(batch_size, MAX_BATCH)))
        self._sender = Sender(client, self._sums, max(_MIN_INTERVAL, interval), on_refused, self._stop)
        meters = list(meters)
        if meters:
            check = (client, meters, on_wrong_meters, self._stop)
            threading.Thread(target=check_until_answered, args=check, name="usage-meters", daemon=True).start()
        threading.Thread(target=self._sender.run, name="usage-recorder", daemon=True).start()
        at_exit.add(self)
        if on_sigterm:
            at_exit.exit_on_sigterm()

    @property
    def is_of_this_process(self) -> bool:
        """False after a fork, in the child."""
        return os.getpid() == self._process

    def record(self, account_id: str, meter: str = "", quantity: int = 1) -> None:
        """Counts usage of an account now, by this machine's clock. An empty meter means the server's default meter.

        It never waits for the server. Usage that cannot be stored is dropped, told to `on_refused`, and counted in the
        figures. The quantity must be 1 to 1,000,000,000,000, and the account id 1 to 128 bytes.

        Raises `RuntimeError` in a child process that was forked off after the recorder was started.
        """
        if not self.is_of_this_process:
            raise RuntimeError("this recorder belongs to the parent process: start another one after the fork")
        second = int(time.time())
        if not _is_within_limits(account_id, meter, quantity):
            units = quantity if isinstance(quantity, int) else 0
            self._sums.drop(refused.LIMITS, account_id, meter, second, max(0, units))
        else:
            self._sums.add(account_id, meter, second, quantity)

    def figures(self) -> Figures:
        """What the recorder has done so far."""
        return self._sums.figures()

    def flush(self, timeout: float) -> Figures:
        """Waits until all usage recorded before this call is counted, refused or dropped.

        If the time is over, it raises an error of the kind `DEADLINE` that has the figures. Pending usage is still sent.
        """
        is_done = self._sums.wait_until_done(self._sums.make_batches(), timeout)
        if not is_done:
            figures = self.figures()
            left = figures.pending
            message = f"{left.units} units of {left.calls} calls are still pending after {timeout} s"
            raise UsageError(ErrorKind.DEADLINE, message, True, figures=figures)
        # Also what was dropped before anything was sent.
        self._sender.tell_dropped()
        return self.figures()

    def close(self, timeout: float) -> Figures:
        """Sends recorded usage and waits for it, as `flush` does, and stops. What is recorded later is dropped.

        If the time is over, it raises an error as `flush` does; pending usage is still sent while the process lives.
        """
        self._sums.close()
        self._stop.set()
        at_exit.remove(self)
        return self.flush(timeout)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it, within the `exit_timeout`. Raises if not all is counted, unless the block has failed."""
        try:
            figures = self.close(self.exit_timeout)
            if not figures.is_complete:
                raise UsageError(ErrorKind.INCOMPLETE, repr(figures), False, figures=figures)
        except UsageError as incomplete:
            if error is None:
                raise
            _log.error("%s", incomplete)


def _is_within_limits(account_id: object, meter: object, quantity: object) -> bool:
    if not (isinstance(account_id, str) and isinstance(meter, str) and isinstance(quantity, int)):
        return False
    try:
        account_bytes, meter_bytes = len(account_id.encode()), len(meter.encode())
    except UnicodeEncodeError:
        return False
    is_named = 1 <= account_bytes <= _MAX_ACCOUNT_BYTES and meter_bytes <= _MAX_METER_BYTES
    return is_named and 1 <= quantity <= MAX_QUANTITY
