"""Sends what recorders hold when the process ends."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
from multiprocessing import parent_process, util
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from usage_client.errors import UsageError

if TYPE_CHECKING:
    from usage_client.recorder import Recorder

_log = logging.getLogger("usage_client")
_running: set[Recorder] = set()


def exit_on_sigterm() -> bool:
    """Lets SIGTERM end the process as `sys.exit(143)` does, so that what is pending is sent, and `finally` runs.

    Python's own way is to end at once, and a recorder's usage would be lost. A handler that the program or its server has
    set stays. False if this is not the main thread, which alone can set a handler, or if another one is set.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return signal.getsignal(signal.SIGTERM) is _exit
    signal.signal(signal.SIGTERM, _exit)
    return True


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def add(recorder: Recorder) -> None:
    """Remembers a recorder until it is closed."""
    _running.add(recorder)
    if parent_process() is not None:
        # A process of `multiprocessing` ends without what is registered with `atexit`.
        util.Finalize(None, close_all, exitpriority=0)


def remove(recorder: Recorder) -> None:
    """Forgets it."""
    _running.discard(recorder)


@atexit.register
def close_all() -> None:
    """Closes the recorders of this process."""
    for recorder in list(_running):
        if not recorder.is_of_this_process:
            continue
        try:
            figures = recorder.close(recorder.exit_timeout)
        except UsageError as error:
            _log.error("usage is pending at the end of the process, and lost: %s", error)
            continue
        if not figures.is_complete:
            _log.error("not all usage is counted at the end of the process: %r", figures)
