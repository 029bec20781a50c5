"""What is explored: a trace or an engine, the plan in force, and what it leads to.

No widget in here. One thread calls :meth:`Session.advance` (the pump's, or whoever flushes); any
thread may call :meth:`Session.change`, which only notes what is wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Literal

from engine.by_hand import named
from engine.comparison import Comparison, compare_plans
from engine.errors import BudgetError, InputError
from engine.placement import change_plan
from engine.plan import Plan
from engine.replay import can_replay, replay_plan
from engine.summary import Summary
from engine.trace import Trace
from fiddler_viz.figures.source import about, not_run_yet
from fiddler_viz.views.asked import Action, Asked
from fiddler_viz.views.earlier import Earlier
from fiddler_viz.views.live_state import LiveState
from fiddler_viz.views.view import Cuts, View


class Session:
    """The state behind an explorer. ``engine`` and ``trace``: at least one of them.

    ``trace`` is what is shown before the engine's own first run; ``example`` says that it is not
    a run of the reader's own.
    """

    def __init__(
        self, *, engine: Any = None, trace: Trace | None = None, example: bool = False
    ) -> None:
        self._asked = Asked()
        self._last_run: Any = None
        self._ran = not example
        self._fresh = True
        self._glanced = False
        """Whether the run has gone on since :attr:`view` was brought up to date."""
        self.earlier = Earlier()
        """Where the tokens of runs before the last one went."""
        self.base = trace
        self.example = example
        self.engine: Any = None
        self.drives = False
        """Whether a change of plan is the engine's, and not only asked of a finished run."""
        self.at_once = True
        """Whether an engine that is driven gets each change at once; else only replay is asked."""
        self.live: LiveState | None = None
        self.kept: View | None = None
        """Plan A; B is the present one."""
        self.dropped = ""
        """What the last run's end took away, and why, in words."""
        self._shows: Literal["A", "B"] = "B"
        self._cuts = Cuts()
        if engine is None:
            if trace is None:
                raise TypeError("a session needs an engine or a trace")
            plan = trace.plan
            run = trace.summary
            self.present = View(trace, plan, self._predict(plan), run)
        else:
            self.attach(engine)

    @property
    def view(self) -> View:
        """What is shown: A where that was kept and is wanted, else the present."""
        return self.kept if self.kept is not None and self._shows == "A" else self.present

    @property
    def shows(self) -> Literal["A", "B"]:
        """Which of two plans :attr:`view` is; always B while no A is kept."""
        return "A" if self.view is not self.present else "B"

    @shows.setter
    def shows(self, which: Literal["A", "B"]) -> None:
        self._shows = which

    @property
    def comparison(self) -> Comparison | None:
        """A and B side by side; None without an A, and where they are not of the same steps."""
        if self.kept is None or not self.compares:
            return None
        return compare_plans(self.kept.trace, self.present.trace)

    @property
    def compares(self) -> bool:
        """Whether there is a :attr:`comparison`."""
        if self.kept is None or self.present.live:
            return False
        return len(self.kept.trace.step_rows) == len(self.present.trace.step_rows)

    @property
    def in_force(self) -> Plan:
        """The engine's plan; of a finished run, or a device without memory to plan, its own."""
        if self.drives or self.base is None:
            return self.engine.plan
        return self.base.plan

    @property
    def asks(self) -> bool:
        """Whether the present plan is only asked: not the one in force."""
        plan = self.in_force
        return plan is not self.present.plan and plan != self.present.plan

    @property
    def unforeseen(self) -> bool:
        """Whether nothing is shown because the last run does not hold what the plan goes by."""
        return self.base is not None and self._is_new_to(self.base, self.view.plan)

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
        self._followed: Plan = engine.plan  # the newest that we know of
        if engine.last_run is not None:
            self.base, self.example = engine.last_run.trace, False
        elif self.base is not None and self.base.model != engine.model_spec:
            self.base = _recosted(self.base, engine) if self.drives else None
            self.example = self.base is not None
        self._show(engine.plan)

    def edit(self, pin: Iterable[int] = (), unpin: Iterable[int] = ()) -> None:
        """Ask for experts (flat indices) to be pinned or unpinned by hand, after what was asked."""
        self._asked.edit(pin, unpin)

    def toggle(self, experts: Collection[int]) -> None:
        """Ask for experts to be unpinned if all of them are pinned, or will be; else pinned."""
        self._asked.toggle(experts, self.view.plan.pinned)

    def change(self, name: str, value: Any) -> None:
        """Ask for a plan with another argument of :func:`engine.placement.change_plan`, by name.

        Or with more experts to ``pin`` or ``unpin`` by hand, or, with ``reset_pins``, with none.
        What was asked for before and not yet tried is replaced: the latest wins.
        """
        if name in ("pin", "unpin"):
            self.edit(**{name: named(name, value, self.view.plan.grid)})
        else:
            self._asked.change(name, value)

    def do(self, action: Action) -> None:
        """Ask for an action; it comes after the changes that were asked for before."""
        self._asked.do(action)

    @property
    def wanted(self) -> frozenset[str]:
        """What was asked for and not yet tried."""
        return self._asked.names

    def advance(self) -> bool:
        """Bring :attr:`view` up to date; True if it changed. Raises what a plan was refused for."""
        changed, self._fresh = self._fresh, False
        while (asked := self._asked.next()) is not None:
            changed, self.dropped = True, ""
            if isinstance(asked, str):
                self._act(asked)
            else:
                self._replan(asked)
        if self.engine is not None:
            changed |= self._follow()
        return changed

    def glance(self) -> LiveState | None:
        """Take in what a run under way did since, and leave :attr:`view` behind: cheap.

        None where it did nothing, or where there is more to bring up to date than its progress.
        """
        engine, live = self.engine, self.live
        if self._asked or engine is None or live is None or not self.present.live:
            return None
        if self.shows == "A" or engine.plan is not self._followed or not engine.running:
            return None
        if not live.follows:
            return None
        if not live.pull():
            return None
        self._glanced = True
        return live

    def until(self, step: int | None) -> Session:
        """To draw from: what is shown as it was at the end of a step; None: as it is.

        What ran, what is shown instead of it and both plans are cut alike; a prediction of all of
        it stays. Asked again, the same traces are given: what was worked out of them still holds.
        """
        if step is None or self.view.live:
            self._cuts.forget()
            return self
        session = copy(self)
        session.present = self._cuts.of(self.present, self.base, step)
        if self.kept is not None:
            same = self.kept is self.present
            session.kept = session.present if same else self._cuts.of(self.kept, self.base, step)
        return session

    @property
    def running(self) -> bool:
        """Whether the engine runs."""
        return self.engine is not None and bool(self.engine.running)

    @property
    def name(self) -> str:
        """The model that ran, by its own name."""
        if self.engine is not None:
            return str(self.engine.real_spec.name)
        ran = self.base or self.view.trace
        return str(ran.meta.get("loaded", ran.model.name))

    @property
    def explored(self) -> Trace:
        """The run itself, whatever plan is asked about: finished, or as far as it has come."""
        view = self.view
        return view.trace if view.live or self.base is None else self.base

    def _replan(self, wanted: Mapping[str, Any]) -> None:
        """A plan that differs from the one shown as is wanted becomes the present one."""
        wanted, experts = dict(wanted), self.view.plan.grid[1]
        for flat, pin in wanted.pop("by_hand", {}).items():
            wanted.setdefault("pin" if pin else "unpin", []).append(divmod(flat, experts))
        try:
            plan = self._plan_with(wanted)
        except BudgetError as error:
            if "as_model" not in wanted or "gpu_memory" in wanted:
                raise
            least = max(self.view.plan.card_bytes, error.minimum_bytes or 0)  # what holds it
            plan = self._plan_with({**wanted, "gpu_memory": least})
        self._take(plan)

    def _plan_with(self, wanted: Mapping[str, Any]) -> Plan:
        shown = self.view
        if self.drives and self.at_once:
            return self.engine.replan(*(() if shown is self.present else (shown.plan,)), **wanted)
        # a finished run, or a device without memory to plan, or not at once: asked, not done
        return change_plan(shown.plan, model=shown.model, **wanted)

    def _take(self, plan: Plan) -> None:
        """A plan becomes the present one."""
        if self.engine is not None:
            self._followed = self.engine.plan
        if self.present.live:
            self.present = replace(self.present, plan=plan, predicted=self._predict(plan))
        else:
            self._show(plan)
        self.shows = "B"

    def _act(self, action: Action) -> None:
        acts = {
            "apply": self._apply,
            "reset": self._reset,
            "keep": self._keep,
            "clear": self._clear,
            "live": self._live,
            "ask": self._ask,
        }
        acts[action]()

    def _apply(self) -> None:
        """Hand the plan shown to the engine."""
        if not self.drives or self.engine is None:
            raise InputError(NOTHING_TO_APPLY)
        self._take(self.engine.replan(self.view.plan))

    def _reset(self) -> None:
        self._take(self.in_force)

    def _live(self) -> None:
        """Drive the engine from now on: it gets what was only asked."""
        if self.drives and self.asks:
            self._apply()
        self.at_once = True  # not where that was refused: the next change would begin elsewhere

    def _ask(self) -> None:
        self.at_once = False

    def _keep(self) -> None:
        if self.view.live:
            raise InputError("a run that grows cannot be kept as A: wait for its end, or stop it")
        self.kept = self.view
        self.shows = "B"

    def _clear(self) -> None:
        self.kept = None
        self.shows = "B"

    def _show(self, plan: Plan) -> None:
        """Show what the plan would have made of the last run; or that run, if it is its plan.

        Under a plan in force that cannot replay it, nothing has run yet. Raises InputError for one
        that is only asked.
        """
        base = self.base
        if base is None or self._is_new_to(base, plan):
            self.present = View(not_run_yet(self.engine), plan)
        else:
            self.present = self._under(base, plan)

    def _is_new_to(self, base: Trace, plan: Plan) -> bool:
        """Whether the plan is in force, and goes by what the run does not hold."""
        in_force = self.drives and plan == self.engine.plan
        return in_force and plan != base.plan and not can_replay(base, plan)

    def _go_on(self, asked: Plan | None) -> None:
        """Show the last run under what is asked, or, where it cannot be, the plan in force."""
        if asked is not None and self.base is not None and not can_replay(self.base, asked):
            self._drop("The plan asked about", asked)
            asked = None
        self._show(asked or self.engine.plan)

    def _drop(self, what: str, plan: Plan) -> None:
        said = f"{what} is gone: this run cannot be replayed under policy {plan.policy}."
        self.dropped = f"{self.dropped} {said}".strip()

    def _under(self, base: Trace, plan: Plan) -> View:
        """A run under a plan: itself, or replayed."""
        run = None if self.example and self.engine is not None else base.summary
        if plan == base.plan and run is not None:
            return View(base, plan, self._predict(plan), run)
        what_if = replay_plan(base, plan).trace
        return View(what_if, plan, what_if.summary, run, what_if=True)

    def _predict(self, plan: Plan) -> Summary | None:
        """The last run under this plan; None where there is none, or it cannot be replayed."""
        if self.base is None or not can_replay(self.base, plan):
            return None
        return replay_plan(self.base, plan).summary

    def _follow(self) -> bool:
        """See what the engine did meanwhile: a run's progress, its end, another's replan."""
        engine, live = self.engine, self.live
        assert live is not None
        running = bool(engine.running)  # before pulling: the pull then sees all of a finished run
        news = live.pull() or self._glanced
        self._glanced = False
        last = engine.last_run
        asks = self.drives and not self.at_once and self.present.plan != self._followed
        asked = self.present.plan if asks else None
        if not running and last is not self._last_run and last is not None:
            self.earlier.keep(self.base)
            self._last_run, self.base, self.example = last, last.trace, False
            self._followed = engine.plan
            self.dropped = ""
            self._go_on(asked)
            kept, self.kept = self.kept, None
            if kept is not None and can_replay(last.trace, kept.plan):
                self.kept = self._under(last.trace, kept.plan)  # A is of the run that was last
            elif kept is not None:
                self._drop("Plan A", kept.plan)
            return True
        if running and (news or not self.present.live):
            trace = replace(live.trace(), meta=about(engine))
            if trace.plan_list:
                plan = asked or engine.plan
                same = plan is self.present.plan
                predicted = self.present.predicted if same else self._predict(plan)
                run = trace.summary if live.steps else None
                self._followed = engine.plan
                self.present = View(trace, plan, predicted, run, live=True)
                return True
        if not running and self.present.live:  # it ended before there was one: back to the last
            self._followed = engine.plan
            self._go_on(asked)
            return True
        plan = engine.plan
        if self.drives and plan is not self._followed and plan != self._followed:
            self._followed = plan
            if asked is not None:
                return False
            if running:
                self.present = replace(self.present, plan=plan, predicted=self._predict(plan))
            else:
                self._show(plan)
            return True
        return False


def _recosted(example: Trace, engine: Any) -> Trace | None:
    """The example as the engine costs it, where it is of its model; else it explains nothing."""
    same = example.meta.get("loaded") == engine.real_spec.name
    same = same and example.model.grid == engine.model_spec.grid
    if not same or not can_replay(example, engine.plan):
        return None
    return replay_plan(example.costed_as(engine.model_spec), engine.plan).trace


NOTHING_TO_APPLY = (
    "there is no engine whose plan could be changed: a finished run, or a device that runs all on "
    "the CPU, can only be asked what if"
)
