"""Every call of an expert beside its alternatives: what each would cost, what the chosen one took.

Costs are the cost model's, as the policy's own system has them (:attr:`Plan.lane_costs`): what the
timeline lays a call on the lanes by. They are of one call alone. A policy that looks at a whole
layer, or keeps a copy for later, may be right to choose what is dearer for the call at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.cost import CostModel
from engine.decision import Ints
from engine.events import MOVES, WORK, Action, Clock, Columns, Lane, Why, Work, columns
from engine.plan import Plan
from engine.trace import Trace
from engine.units import format_ns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Spans:
    """Lengths of the parts of calls, in ns; columns of equal length, 0 where there is none."""

    copy: Ints
    """Weights, host to device."""
    there: Ints
    """Activations, device to host."""
    run: Ints
    back: Ints
    """Activations, host to device."""

    @property
    def total(self) -> Ints:
        """All parts together."""
        return self.copy + self.there + self.run + self.back

    def of(self, row: int) -> tuple[tuple[str, int], ...]:
        """The parts of one call that are not 0, by name, in order; its run in any case."""
        parts = [(part.name, int(getattr(self, part.name)[row])) for part in fields(self)]
        return tuple((name, ns) for name, ns in parts if ns or name == "run")


@dataclass(frozen=True)
class Regrets:
    """All expert calls of a trace, as columns of equal length."""

    trace: Trace
    step: Ints
    layer: Ints
    expert: Ints
    tokens: Ints
    """Tokens of the step that went to the expert."""
    action: Ints
    """The :class:`Action` chosen."""
    kept: NDArray[np.bool_]
    """Whether the copy stayed, in a cache slot."""
    on_device: NDArray[np.bool_]
    """Whether it was on the device. Resident experts run where they are (:mod:`engine.policies`),
    so these are the calls that ran resident."""
    predicted: tuple[Spans, ...]
    """One per :class:`Action`, in its order. A resident expert whose copy was not through yet has
    the rest of it as ``copy``."""
    relative_error: NDArray[np.float64]
    took: Spans
    """What the trace says; the activations of a layer cross together."""
    waited_ns: Ints
    """From the end of the layer's dense part to the call's own end, less what it took."""
    clock: Ints
    """The :class:`Clock` of ``took`` and ``waited_ns``."""

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        total = int(self.regret_ns.sum())
        text = f"Regrets({len(self)} calls, {format_ns(total)} in all"
        if total:
            by_layer = np.bincount(self.layer, self.regret_ns)
            text += f", most in layer {int(by_layer.argmax())}: {format_ns(int(by_layer.max()))}"
        return text + ")"

    @cached_property
    def predicted_ns(self) -> Ints:
        """Shape ``(3, calls)``: what each action would cost."""
        return np.stack([spans.total for spans in self.predicted])

    @cached_property
    def possible(self) -> NDArray[np.bool_]:
        """Shape ``(3, calls)``: only what is on the device can run resident.

        Where all ran on the CPU, without a device (:attr:`Trace.on_host`), nothing else was.
        """
        anywhere = np.ones_like(self.on_device)
        return np.stack([self.on_device, anywhere & (not self.trace.on_host), anywhere])

    @cached_property
    def chosen_ns(self) -> Ints:
        """Predicted cost of what was chosen."""
        return self.predicted_ns[self.action, np.arange(len(self))]

    @cached_property
    def regret_ns(self) -> Ints:
        """``chosen_ns`` less the least predicted cost of what was possible; never below 0."""
        most = np.iinfo(np.int64).max
        return self.chosen_ns - np.where(self.possible, self.predicted_ns, most).min(axis=0)

    def to_pandas(self) -> pd.DataFrame:
        """One row per call, in the order run; ``resident_ns`` is missing where it could not be."""
        import pandas as pd

        names = [action.name.lower() for action in Action]
        made: Columns = {
            name: getattr(self, name) for name in ("step", "layer", "expert", "tokens")
        }
        made["action"] = np.array(names, dtype=object)[self.action]
        made["kept"] = self.kept
        costs = np.where(self.possible, self.predicted_ns, np.nan)
        made |= {f"{name}_ns": costs[action] for action, name in enumerate(names)}
        made |= {"regret_ns": self.regret_ns, "relative_error": self.relative_error}
        made |= {"took_ns": self.took.total, "waited_ns": self.waited_ns}
        made["clock"] = np.array([clock.name.lower() for clock in Clock], dtype=object)[self.clock]
        return pd.DataFrame(made)


def regrets(trace: Trace, step: int | None = None) -> Regrets:
    """Every expert call of a trace, or of one ``step``, beside its alternatives.

    Of one step it costs little, however long the trace: rows of a replay's others are not made.
    """
    if step is None:
        work, moves = trace.work, trace.moves
    else:
        of_step = trace.happened.window(step, step + 1)
        work, moves = columns(of_step[0], WORK), columns(of_step[1], MOVES)
    layers, experts = trace.model.grid
    segment = work["step"] * layers + work["layer"]
    call = segment * experts + work["expert"]
    length = work["end_ns"] - work["start_ns"]

    def rows(kind: Work, lane: Lane | None = None) -> Ints:
        wanted = (work["kind"] == kind) & (work["layer"] >= 0)
        return np.flatnonzero(wanted if lane is None else wanted & (work["lane"] == lane))

    ran, weights = rows(Work.EXPERT), rows(Work.WEIGHTS)
    weights = weights[work["action"][weights] >= 0]  # not those made ahead, when the link is idle
    action = work["action"][ran]
    on_device, on_cpu = action == Action.RESIDENT, action == Action.CPU
    copy, copied = _find(weights, call, ran)
    there, left = _find(rows(Work.ACTIVATIONS, Lane.D2H), segment, ran)
    back, returned = _find(rows(Work.ACTIVATIONS, Lane.H2D), segment, ran)
    dense, known = _find(rows(Work.DENSE), segment, ran)
    left, returned = left & on_cpu, returned & on_cpu
    took = Spans(
        copy=np.where(copied, length[copy], 0),
        there=np.where(left, length[there], 0),
        run=length[ran],
        back=np.where(returned, length[back], 0),
    )
    end = work["end_ns"][np.where(returned, back, ran)]
    start = np.where(known, work["end_ns"][dense], work["start_ns"][ran])
    admitted = moves["why"] == Why.ADMIT
    stays = (moves["step"] * layers + moves["layer"]) * experts + moves["expert"]

    tokens, plan = work["tokens"][ran], trace.steps["plan"][work["step"][ran]]
    nothing = np.zeros_like(ran)
    costs = {name: nothing.copy() for name in ("gpu", "copy", "there", "cpu", "back")}
    error = np.zeros(len(ran))
    for number in range(len(trace.plan_list)):
        mine, model = plan == number, _costs(trace.plan_list[number][1])
        error[mine] = model.relative_error
        costs["gpu"][mine] = model.gpu.array(tokens[mine])
        costs["copy"][mine] = model.copy_ns
        costs["there"][mine] = model.to_host.array(tokens[mine])
        costs["cpu"][mine] = model.cpu.array(tokens[mine])
        costs["back"][mine] = model.to_device.array(tokens[mine])
    alone = Spans(nothing, nothing, costs["gpu"], nothing)
    return Regrets(
        trace,
        *(work[name][ran] for name in ("step", "layer", "expert", "tokens", "action")),
        kept=np.isin(call[ran], stays[admitted]),
        on_device=on_device,
        predicted=(
            replace(alone, copy=np.where(on_device, took.copy, 0)),
            replace(alone, copy=costs["copy"]),
            Spans(nothing, costs["there"], costs["cpu"], costs["back"]),
        ),
        relative_error=error,
        took=took,
        waited_ns=np.maximum(end - start - took.total, 0),
        clock=work["clock"][ran],
    )


def _costs(plan: Plan) -> CostModel:
    """What work is laid on the lanes by; a policy that is not at hand is taken to overlap."""
    return plan.lane_costs if plan.has_policy else plan.costs


def _find(rows: Ints, key: Ints, ran: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """For each row of ``ran`` the one of ``rows`` with its key (or row 0), and whether there is."""
    if not len(rows):
        return np.zeros_like(ran), np.zeros(len(ran), dtype=np.bool_)
    order = rows[np.argsort(key[rows], kind="stable")]
    at = order[np.searchsorted(key[order], key[ran]).clip(max=len(order) - 1)]
    return at, key[at] == key[ran]
