"""What is explored: a trace or an engine, the plan in force, and what it leads to.

No widget in here. One thread calls :meth:`Session.advance` (the pump's, or whoever flushes); any
thread may call :meth:`Session.change`, which only notes what is wanted.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.placement import change_plan
from engine.plan import Plan
from engine.replay import replay_plan
from engine.summary import Summary
from engine.trace import Trace
from fiddler_viz.figures import as_trace
from fiddler_viz.figures.source import about
from fiddler_viz.views.live_state import LiveState


@dataclass(frozen=True)
class View:
    """What there is to draw."""

    trace: Trace
    plan: Plan
    predicted: Summary | None = None
    """What the plan would give, modelled on the last run's routing."""
    run: Summary | None = None
    """What the run gave."""
    what_if: bool = False
    """Whether ``trace`` is a replay under another plan instead of what ran."""
    live: bool = False
    """Whether ``trace`` is still growing."""


class Session:
    """The state behind an explorer. ``engine`` and ``trace``: at least one of them.

    ``trace`` is what is shown before the engine's own first run; ``example`` says that it is not
    a run of the reader's own.
    """

    def __init__(
        self, *, engine: Any = None, trace: Trace | None = None, example: bool = False
    ) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, Any] = {}
        self._last_run: Any = None
        self._ran = not example
        self._fresh = True
        self.base = trace
        self.example = example
        self.engine: Any = None
        self.drives = False
        """Whether a change of plan is the engine's, and not only asked of a finished run."""
        self.live: LiveState | None = None
        if engine is None:
            if trace is None:
                raise TypeError("a session needs an engine or a trace")
            plan = trace.plan
            run = trace.summary
            self.view = View(trace, plan, self._predict(plan), run)
        else:
            self.attach(engine)

    def __repr__(self) -> str:
        return f"Session({self.view.trace!r})"

    def attach(self, engine: Any) -> None:
        """Explore this engine from now on; its last run, if any, takes the place of the trace."""
        self.engine = engine
        self.drives = getattr(getattr(engine, "device", None), "offloads", True)
        self.live = LiveState(engine)
        self.live.skip(running=engine.running)
        self._fresh = True
        self._last_run = engine.last_run
        if engine.last_run is not None:
            self.base, self.example = engine.last_run.trace, False
        elif self.base is not None and self.base.model != engine.model_spec:
            self.base = None  # an example of another model explains nothing
        self._show(engine.plan)

    def change(self, name: str, value: Any) -> None:
        """Ask for a plan with another ``gpu_memory``, ``cache_slots``, ``policy`` or ``hardware``.

        What was asked for before and not yet tried is replaced: the latest wins.
        """
        with self._lock:
            if name == "policy":
                self._wanted.pop("cache_slots", None)  # a policy brings its own default
            self._wanted[name] = value

    @property
    def wanted(self) -> frozenset[str]:
        """What was asked for and not yet tried."""
        with self._lock:
            return frozenset(self._wanted)

    def advance(self) -> bool:
        """Bring :attr:`view` up to date; True if it changed. Raises what a plan was refused for."""
        changed, self._fresh = self._fresh, False
        with self._lock:
            wanted, self._wanted = self._wanted, {}
        if wanted:
            changed = True
            self._replan(wanted)
        if self.engine is not None:
            changed |= self._follow()
        return changed

    @property
    def running(self) -> bool:
        """Whether the engine runs."""
        return self.engine is not None and bool(self.engine.running)

    @property
    def explored(self) -> Trace:
        """The run itself, whatever plan is asked about: finished, or as far as it has come."""
        view = self.view
        return view.trace if view.live or self.base is None else self.base

    def _replan(self, wanted: Mapping[str, Any]) -> None:
        if self.drives:
            plan = self.engine.replan(**wanted)
        else:  # a finished run, or a device without memory to plan: only asked, not done
            plan = change_plan(self.view.plan, model=self.view.trace.model, **wanted)
        if self.view.live:
            self.view = replace(self.view, plan=plan, predicted=self._predict(plan))
        else:
            self._show(plan)

    def _show(self, plan: Plan) -> None:
        """Show what the plan would have made of the last run; or that run, if it is its plan."""
        base = self.base
        if base is None:
            self.view = View(as_trace(self.engine), plan)
            return
        run = None if self.example and self.engine is not None else base.summary
        if plan == base.plan and run is not None:
            self.view = View(base, plan, self._predict(plan), run)
        else:
            what_if = replay_plan(base, plan).trace
            self.view = View(what_if, plan, what_if.summary, run, what_if=True)

    def _predict(self, plan: Plan) -> Summary | None:
        """The last run under this plan; None where there is none, or its policy is not at hand."""
        if self.base is None or not plan.has_policy:
            return None
        return replay_plan(self.base, plan).summary

    def _follow(self) -> bool:
        """See what the engine did meanwhile: a run's progress, its end, another's replan."""
        engine, live = self.engine, self.live
        assert live is not None
        running = bool(engine.running)  # before pulling: the pull then sees all of a finished run
        news = live.pull()
        last = engine.last_run
        if not running and last is not self._last_run and last is not None:
            self._last_run, self.base, self.example = last, last.trace, False
            self._show(engine.plan)
            return True
        if running and (news or not self.view.live):
            trace = replace(live.trace(), meta=about(engine))
            if trace.plan_list:
                plan = engine.plan
                predicted = self.view.predicted if plan is self.view.plan else self._predict(plan)
                run = trace.summary if live.steps else None
                self.view = View(trace, plan, predicted, run, live=True)
                return True
        if not running and self.view.live:  # it ended without leaving a run
            self.view = replace(self.view, live=False)
            return True
        plan = engine.plan
        if self.drives and plan is not self.view.plan and plan != self.view.plan:
            if running:
                self.view = replace(self.view, plan=plan, predicted=self._predict(plan))
            else:
                self._show(plan)
            return True
        return False
