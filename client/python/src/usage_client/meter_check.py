"""Asks the server, when a recorder starts, whether it counts the meters of the program. Recording does not wait for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from usage_client.errors import ErrorKind, UsageError

if TYPE_CHECKING:
    from usage_client.client import UsageClient

_log = logging.getLogger("usage_client")

_MIN_PAUSE = 0.2
_MAX_PAUSE = 30.0
# A proxy or a restored database can refuse a key for a time.
_MAY_BE_VALID_LATER = (ErrorKind.UNAUTHENTICATED, ErrorKind.PERMISSION_DENIED)


def check_until_answered(
    client: UsageClient,
    meters: list[str],
    on_wrong_meters: Callable[[UsageError], None] | None,
    stop: threading.Event,
) -> None:
    """Asks until there is an answer, or until the recorder is closed."""
    pause = _MIN_PAUSE
    while not stop.is_set():
        try:
            return client.check_meters(meters)
        except UsageError as error:
            if error.kind is ErrorKind.INVALID:
                _log.error("usage of this program will be rejected: %s", error)
                return _tell(on_wrong_meters, error)
            if not error.is_retryable and error.kind not in _MAY_BE_VALID_LATER:
                _log.error("the server does not say which meters it counts: %s", error)
                return
            if pause == _MIN_PAUSE:
                _log.warning("the meters of this program are not checked yet; the server is asked again: %s", error)
            stop.wait(max(pause, min(error.retry_after or 0.0, _MAX_PAUSE)))
            pause = min(pause * 2, _MAX_PAUSE)
        except Exception:
            # The client was closed before the recorder, or the process ends.
            if not stop.is_set():
                _log.exception("the meters of this program could not be checked")
            return


def _tell(on_wrong_meters: Callable[[UsageError], None] | None, error: UsageError) -> None:
    if on_wrong_meters is None:
        return
    try:
        on_wrong_meters(error)
    except Exception:
        _log.exception("the function that is called with wrong meters failed")
