"""One clock for host and device: events of streams as times of ``time.perf_counter_ns``.

An event's time is known only by how long after another event it came. So now and then, with the
device idle, an event is recorded and waited for between two readings of the host's clock: it is the
anchor for the events around it. Taken anew at every step, the two clocks cannot drift apart, and
the stretch that the runtime's 32-bit floats measure stays short.
"""

from __future__ import annotations

import time

from engine.devices.runtime import Event, Runtime

_TRIES = 3


class LaneClock:
    """Times of events, in ns of the host's clock."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._anchor: Event = None
        self._anchor_ns = 0
        self.error_ns = 0
        """So much the anchor may be off, either way."""

    def __repr__(self) -> str:
        return f"LaneClock(anchored within {self.error_ns} ns)"

    def anchor(self, tries: int = 1) -> None:
        """Tie the two clocks. Waits for the current stream; of ``tries`` the tightest counts."""
        found: tuple[int, int, Event] | None = None
        for _ in range(max(tries, 1)):
            before = time.perf_counter_ns()
            event = self.runtime.record(self.runtime.current())
            self.runtime.host_wait(event)
            after = time.perf_counter_ns()
            if found is None or after - before < found[0]:
                found = after - before, (before + after) // 2, event
        assert found is not None
        width, self._anchor_ns, self._anchor = found
        self.error_ns = width // 2

    def start(self) -> None:
        """A first anchor, of an idle device."""
        self.runtime.host_wait(self.runtime.record(self.runtime.current()))
        self.anchor(_TRIES)

    def ns(self, event: Event) -> int:
        """When an event was reached; it must have been."""
        return self._anchor_ns + self.runtime.elapsed_ns(self._anchor, event)
