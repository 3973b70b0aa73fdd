"""The counters of a recorder."""

from __future__ import annotations

import dataclasses
import logging

_log = logging.getLogger("usage_client")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Calls of `Recorder.record`, and the units in them."""

    calls: int = 0
    units: int = 0

    def __add__(self, other: Recorded) -> Recorded:
        return Recorded(self.calls + other.calls, self.units + other.units)

    def __sub__(self, other: Recorded) -> Recorded:
        return Recorded(self.calls - other.calls, self.units - other.units)


NONE = Recorded()


class Figures:
    """What a recorder has done so far: `recorded = counted + pending + refused + dropped`.

    Refused and dropped usage is in no invoice, so figures must be looked at. Those that are not complete and are thrown
    away unread are logged as an error.
    """

    __slots__ = ("_counted", "_dropped", "_is_read", "_recorded", "_refused")

    def __init__(self, recorded: Recorded, counted: Recorded, refused: Recorded, dropped: Recorded) -> None:
        self._recorded, self._counted, self._refused, self._dropped = recorded, counted, refused, dropped
        self._is_read = False

    @property
    def recorded(self) -> Recorded:
        """All recorded usage."""
        return self._recorded

    @property
    def counted(self) -> Recorded:
        """Usage that the server has counted durably."""
        return self._counted

    @property
    def pending(self) -> Recorded:
        """Usage that the server has not answered yet."""
        self._is_read = True
        return self._recorded - self._counted - self._refused - self._dropped

    @property
    def refused(self) -> Recorded:
        """Usage that the server rejected permanently, such as usage of an unknown meter."""
        self._is_read = True
        return self._refused

    @property
    def dropped(self) -> Recorded:
        """Usage that did not fit into memory, or was outside the limits of the server."""
        self._is_read = True
        return self._dropped

    @property
    def is_complete(self) -> bool:
        """Whether all recorded usage is counted: nothing is pending, refused or dropped."""
        self._is_read = True
        return self._recorded == self._counted

    def __repr__(self) -> str:
        parts = ("recorded", "counted", "pending", "refused", "dropped")
        values = ((name, getattr(self, name)) for name in parts)
        return f"Figures({', '.join(f'{name}={one.units} units in {one.calls} calls' for name, one in values)})"

    def __del__(self) -> None:
        if not self._is_read and not self.is_complete:
            _log.error("figures of a recorder were not looked at, and not all usage is counted: %r", self)
