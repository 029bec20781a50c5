"""What the reader picked: every view reads it, and writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import traitlets

from engine.trace import Trace
from engine.units import format_ns


class Selection(traitlets.HasTraits):
    """A token, an expert and a time, as traits: ``observe`` them, or ``link`` two explorers'.

    Each is None where nothing is picked. What a trace does not have is not shown.
    """

    token = traitlets.Int(None, allow_none=True)
    """A row of the trace's tokens table; with it, the step that processed it."""
    layer = traitlets.Int(None, allow_none=True)
    expert = traitlets.Int(None, allow_none=True)
    """Of ``layer``; None with a layer: all of its experts."""
    sequence = traitlets.Int(None, allow_none=True, min=0)
    """Which of several texts is shown, from 0 in their order; None: all of them."""
    plan = traitlets.Enum(("A", "B"), "B")
    """Which of two plans is shown; always B while no A is kept."""
    playhead = traitlets.Int(None, allow_none=True)
    """The step at whose end the run is shown, -1: before the first; None: all of the run."""
    time = traitlets.Tuple(traitlets.Int(), traitlets.Int(), default_value=None, allow_none=True)
    """From when to when the timeline looks, ``(start_ns, end_ns)``; None: where its menu says."""

    @traitlets.validate("time")
    def _ascends(self, proposal: Any) -> tuple[int, int] | None:
        value = proposal["value"]
        if value is not None and not 0 <= value[0] < value[1]:
            raise traitlets.TraitError(f"time: expected 0 <= start_ns < end_ns, got {value}")
        return value

    def __repr__(self) -> str:
        names = {name: name for name in ("token", "layer", "expert", "sequence")}
        names["playhead"] = "up to step"
        picked = {words: getattr(self, name) for name, words in names.items()}
        words = [f"{name} {value}" for name, value in picked.items() if value is not None]
        if self.time is not None:
            words.append(f"{format_ns(self.time[0])} to {format_ns(self.time[1])}")
        return f"Selection({', '.join(words) or 'nothing'})"

    def pick(self, **picked: Any) -> None:
        """Set several traits; who observes them hears of it when all are set."""
        with self.hold_trait_notifications():
            for name, value in picked.items():
                setattr(self, name, value)

    def clear(self) -> None:
        """Pick nothing; the playhead stays."""
        self.pick(token=None, layer=None, expert=None, sequence=None, time=None)

    def within(self, trace: Trace) -> Picked:
        """What of it this trace has."""
        layers, experts = trace.model.grid
        token, layer, expert = self.token, self.layer, self.expert
        steps = trace.tokens["step"]
        if token is not None and not (0 <= token < len(steps) and steps[token] >= 0):
            token = None
        if layer is None or not 0 <= layer < layers:
            layer = expert = None
        elif expert is not None and not 0 <= expert < experts:
            expert = None
        step = None if token is None else int(steps[token])
        time = None if self.time is None else (int(self.time[0]), int(self.time[1]))
        if time is not None and time[0] >= trace.duration_ns:
            time = None
        return Picked(token, step, layer, expert, time)


@dataclass(frozen=True)
class Picked:
    """A selection as far as a trace has it."""

    token: int | None = None
    step: int | None = None
    """The one that processed the token."""
    layer: int | None = None
    expert: int | None = None
    time: tuple[int, int] | None = None
    """From when to when to look, in ns."""

    def span(self, trace: Trace) -> tuple[int, int] | None:
        """From when to when the step ran, in ns."""
        if self.step is None:
            return None
        return int(trace.steps["start_ns"][self.step]), int(trace.steps["end_ns"][self.step])

    def cells(self, shape: tuple[int, int]) -> np.ndarray:
        """The experts picked, as a mask of this shape ``(layers, experts)``."""
        mask = np.zeros(shape, dtype=np.bool_)
        if self.layer is not None:
            mask[self.layer, slice(None) if self.expert is None else self.expert] = True
        return mask
