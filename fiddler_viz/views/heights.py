"""How tall each panel of the screen is, of all there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

LEAST_PX = 640
_AROUND_PX = 209
"""What stands above and below the panels."""
_LINE_PX = 20
_ROW_PX = 34
_TABLE_PX = 39
"""Of the two plans' table, more than the tiles take."""
_LEFT_PX = 177
"""Of the left column all but the heatmap: its controls, heading and legend, the memory bar."""
_RIGHT_PX = 204
"""Of the right column all but text, charts and lanes: player, headings, controls, legend."""
_TEXT_PX = 60
"""Three lines; two beside two plans."""
_LANES_PX = 132
"""The least in which four lanes can be told apart."""


@dataclass(frozen=True)
class Heights:
    """CSS pixels of what can be more or less tall."""

    heatmap: int
    text: int
    detail: int
    """The detail panel's figure; :attr:`larger` while it takes the timeline's place."""
    timeline: int

    @classmethod
    def of(
        cls, total: int, *, asks: bool = False, kept: bool = False, compares: bool = False
    ) -> Self:
        """Of a screen of ``total`` pixels; what there is beyond the least goes to the charts.

        They make room for the row of what-ifs (``asks``), and for that of two plans, once one is
        ``kept``: a line, or where it ``compares`` a table, in the place of the tiles.
        """
        lines = _TEXT_PX - (_LINE_PX if compares else 0)
        rows = _ROW_PX * asks + (_TABLE_PX if compares else _ROW_PX) * kept
        room = total - _AROUND_PX - rows
        spare = max(room - _RIGHT_PX - lines - _LANES_PX, 0)
        lanes = max((spare - 216) // 3, 0)
        return cls(room - _LEFT_PX, lines, max(spare - lanes, 100), _LANES_PX + lanes)

    @property
    def larger(self) -> int:
        """Of the detail panel's figure in the timeline's place."""
        return self.detail + self.timeline + 60
