"""One call of an expert under the magnifier: its alternatives, what was chosen, what it took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.events import Action, Clock
from engine.regrets import Regrets, regrets
from engine.strict import numbered
from engine.trace import Trace


@dataclass(frozen=True)
class Option:
    """One action for one call, and what the cost model expects of it."""

    action: Action
    parts: tuple[tuple[str, int], ...]
    """What it is made of, in order: ``copy``, ``there``, ``run``, ``back``, each with its ns."""
    possible: bool
    """False for a resident run of an expert that was not on the device."""
    relative_error: float
    """Stated uncertainty: 0.3 means within 30% either way."""

    @property
    def ns(self) -> int:
        """All parts together."""
        return sum(ns for _, ns in self.parts)

    @property
    def low_ns(self) -> float:
        """Lower end of the stated interval."""
        return self.ns * max(1 - self.relative_error, 0.0)

    @property
    def high_ns(self) -> float:
        """Upper end of the stated interval."""
        return self.ns * (1 + self.relative_error)


@dataclass(frozen=True)
class Inspection:
    """One call of one expert: what was possible, what was chosen, what it took."""

    step: int
    layer: int
    expert: int
    tokens: int
    """Tokens of the step that went to the expert."""
    token: int | None
    """Row of the tokens table that was asked for, if one was."""
    policy: str
    action: Action
    """What was chosen."""
    options: tuple[Option, ...]
    """One per :class:`Action`, in its order."""
    took: tuple[tuple[str, int], ...]
    """What the call occupied lanes for, in order, with the names of :attr:`Option.parts`. The
    activations of a layer cross together: all of its experts on the CPU share ``there``, ``back``.
    """
    waited_ns: int
    """From the end of the layer's dense part to the call's own end, less what it took."""
    kept: bool
    """Whether the copy stayed, in a cache slot."""
    clock: Clock
    """Of ``took`` and ``waited_ns``."""
    on_host: bool
    """Whether all ran on the CPU, measured: then there was nothing to choose."""
    own_costs: bool
    """Whether the costs are of the machine that ran: not of a GPU's where none was used."""

    @property
    def comparable(self) -> tuple[Option, ...]:
        """Options whose cost says something of this run, possible or not."""
        if not self.on_host:
            return self.options
        return (self.chosen,) if self.own_costs else ()

    @property
    def chosen(self) -> Option:
        """The option that was taken."""
        return self.options[self.action]

    @property
    def cheapest(self) -> Option:
        """The least cost of what was possible; of equals the chosen one."""
        possible = [option for option in self.options if option.possible]
        return min(possible, key=lambda option: (option.ns, option.action != self.action))

    @property
    def regret_ns(self) -> int:
        """Predicted cost of what was chosen, less that of the cheapest possible."""
        return self.chosen.ns - self.cheapest.ns

    @property
    def took_ns(self) -> int:
        """All that the call occupied lanes for."""
        return sum(ns for _, ns in self.took)


def inspection(table: Regrets, row: int, token: int | None = None) -> Inspection:
    """One row of a table of calls; ``token``: row of the tokens table that was asked for."""
    trace, step = table.trace, int(table.step[row])
    _, plan = trace.plan_list[int(trace.steps["plan"][step])]
    return Inspection(
        step=step,
        layer=int(table.layer[row]),
        expert=int(table.expert[row]),
        tokens=int(table.tokens[row]),
        token=token,
        policy=plan.policy,
        action=Action(int(table.action[row])),
        options=tuple(
            Option(
                action,
                table.predicted[action].of(row),
                bool(table.possible[action, row]),
                float(table.relative_error[row]),
            )
            for action in Action
        ),
        took=table.took.of(row),
        waited_ns=int(table.waited_ns[row]),
        kept=bool(table.kept[row]),
        clock=Clock(int(table.clock[row])),
        on_host=trace.on_host,
        own_costs=not (trace.on_host and plan.costs.overlap),
    )


def inspect_call(
    trace: Trace,
    *,
    token: int | None = None,
    step: int | None = None,
    layer: int | None = None,
    expert: int | None = None,
) -> Inspection:
    """One call of an expert; what is left open is filled by the call with the most regret.

    Of calls with equal regret it is the one that was expected to take longest. ``token`` is a row
    of the tokens table.

    Raises:
        InputError: there is no such call; says which there are.
    """
    only = step if token is None else int(trace.tokens["step"][token])
    table = regrets(trace, only)
    if only is None and not len(table):
        raise InputError("no expert has run in this trace: generate first, then inspect.")
    return inspection(table, _choose(table, token, step, layer, expert), token)


def latest_step(trace: Trace, layer: int | None = None, expert: int | None = None) -> int | None:
    """The newest step that went to an expert of ``layer``; None where there is none.

    Without a layer the newest step that was not cut short.
    """
    routing = trace.routing
    if layer is None:
        whole = np.flatnonzero(trace.steps["complete"] == 1)
        return int(whole[-1]) if len(whole) else None
    rows = np.flatnonzero(routing.layer == layer)
    if expert is not None:
        rows = rows[(routing.experts[rows] == expert).any(axis=1)]
    return int(routing.step[rows].max()) if len(rows) else None


def _choose(
    table: Regrets, token: int | None, step: int | None, layer: int | None, expert: int | None
) -> int:
    """The row with the most regret among those that fit; raises InputError where none does."""
    layers, experts = table.trace.model.grid
    layer = None if layer is None else numbered("layer", layer, layers)
    expert = None if expert is None else numbered("expert", expert, experts)
    fits, who = np.ones(len(table), dtype=np.bool_), "no token of this run"
    if token is not None:
        fits, who = _of_token(table, token, step), f"token {token}"
    elif step is not None:
        fits, who = table.step == step, f"no token of step {step}"
    if layer is not None:
        fits = fits & (table.layer == layer)
    if not fits.any():
        what = f"step {step}" if token is None else f"the step of token {token}"
        raise InputError(f"{what} was stopped before it ran this: choose another one.")
    here = fits if expert is None else fits & (table.expert == expert)
    if not here.any():
        used = ", ".join(str(number) for number in np.unique(table.expert[fits]).tolist())
        where = "any layer" if layer is None else f"layer {layer}"
        verb = "did not use" if token is not None else "used"
        raise InputError(f"{who} {verb} expert {expert} in {where}: choose one of {used}.")
    rows = np.flatnonzero(here)
    return int(rows[np.lexsort((table.chosen_ns[rows], table.regret_ns[rows]))[-1]])


def _of_token(table: Regrets, token: int, step: int | None) -> NDArray[np.bool_]:
    """Which calls a token took part in."""
    trace, (layers, experts) = table.trace, table.trace.model.grid
    within = int(trace.tokens["step"][token])
    if step not in (None, within):
        raise InputError(
            f"token {token} was processed in step {within}, not in step {step}: give one of both."
        )
    mine = trace.routing.where(trace.routing.token == token)
    wanted = within * layers * experts + mine.flat(experts)
    return np.isin((table.step * layers + table.layer) * experts + table.expert, wanted)
