"""What the four lanes did in one layer, as rows, on a measured clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.events import Clock, Lane, Why, Work

_MEASURED = int(Clock.MEASURED)


@dataclass
class LaneRows:
    """Rows of :data:`engine.events.WORK` and ``MOVES`` in the making, without their step.

    A device that works by itself tells its times later than the layer is submitted: until then
    ``settled`` is False.
    """

    layer: int
    settled: bool = False
    start_ns: int = 0
    end_ns: int = 0
    work: list[int] = field(default_factory=list[int])
    """Flat: layer, expert, kind, action, tokens, lane, start, end, clock by turns."""
    moves: list[int] = field(default_factory=list[int])
    """Flat: layer, expert, why, lane, bytes, start, end, clock by turns."""

    def worked(
        self, expert: int, kind: Work, action: int, tokens: int, lane: Lane, start: int, end: int
    ) -> None:
        """A lane was busy."""
        values = (self.layer, expert, kind, action, tokens, lane, start, max(start, end), _MEASURED)
        self.work.extend(map(int, values))

    def moved(
        self, layer: int, expert: int, why: Why, lane: int, n_bytes: int, start: int, end: int
    ) -> None:
        """Something moved, or left the device (``lane`` -1)."""
        values = (layer, expert, why, lane, n_bytes, start, max(start, end), _MEASURED)
        self.moves.extend(map(int, values))

    def copied(
        self, where: tuple[int, int], why: Why, action: int, tokens: int, n_bytes: int,
        start: int, end: int,
    ) -> None:  # fmt: skip
        """An expert's weights crossed the link."""
        self.moved(*where, why, Lane.H2D, n_bytes, start, end)
        layer, expert = where
        values = (layer, expert, Work.WEIGHTS, action, tokens, Lane.H2D, start, end, _MEASURED)
        self.work.extend(map(int, values))

    def crossed(self, tokens: int, lane: Lane, n_bytes: int, start: int, end: int) -> None:
        """Activations crossed the link."""
        self.moved(self.layer, -1, Why.ACTIVATIONS, lane, n_bytes, start, end)
        self.worked(-1, Work.ACTIVATIONS, -1, tokens, lane, start, end)
