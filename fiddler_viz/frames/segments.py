"""Stretches of the lanes: what the timeline draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.events import Work
from fiddler_viz.theme import Segment

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Stretches of lanes, one element each; times in ns since the recording began."""

    lane: Ints
    kind: Ints
    """:class:`fiddler_viz.theme.Segment`."""
    start_ns: Ints
    end_ns: Ints
    step: Ints
    layer: Ints
    expert: Ints
    tokens: Ints
    critical: NDArray[np.bool_]
    """Whether it is on the critical path (:mod:`engine.critical_path`); False if nobody asked."""

    def __len__(self) -> int:
        return len(self.lane)

    def within(self, start_ns: float, end_ns: float) -> Segments:
        """Those that can be seen between two times."""
        return self.where((self.end_ns > start_ns) & (self.start_ns < end_ns))

    def where(self, wanted: NDArray[np.bool_]) -> Segments:
        """Those for which ``wanted`` is true."""
        return Segments(**{name: values[wanted] for name, values in vars(self).items()})


def segments(work: Mapping[str, Ints], critical: NDArray[np.bool_] | None = None) -> Segments:
    """The stretches in (columns of) work rows, of which ``critical`` are on the critical path."""
    if critical is None:
        critical = np.zeros(len(work["step"]), dtype=np.bool_)
    kind_of = np.array([Segment.DENSE, -1, Segment.WEIGHTS, Segment.ACTIVATIONS], np.int64)
    expert = work["kind"] == Work.EXPERT
    kind = np.where(expert, Segment.RESIDENT + work["action"], kind_of[work["kind"]])
    names = ("lane", "start_ns", "end_ns", "step", "layer", "expert", "tokens")
    return Segments(kind=kind, critical=critical, **{name: work[name] for name in names})
