"""All policies on the run shown, under the plan's budget; a click takes one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from engine.budgets import BudgetCurve
from engine.replay import playable
from fiddler_viz.figures.budget_speeds import now, replays_of
from fiddler_viz.figures.policy_lab import ROWS, policy_lab_figure
from fiddler_viz.figures.policy_lab_words import describe_policy_lab, headline
from fiddler_viz.views.background import Question
from fiddler_viz.views.charts.base import Chart, Drawn, Room, legend_beside, slim
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View

LOOK_FOR = (
    "All predicted, with one interval: the order is surer than the heights. Click a bar to take "
    "that policy."
)
_ROOM_FOR_ALL_PX = 340


class PolicyLab(Chart):
    """``on_policy`` is called with the name of a policy that the reader clicked."""

    name = "policies"
    tip = "Every policy on this run, side by side. Also in the menu of policies above."

    def __init__(self, on_policy: Callable[[str], None]) -> None:
        self._on_policy = on_policy

    def ask(self, view: View, picked: Picked) -> Question:
        """One replay for each policy, by all of the plan but its own one."""
        trace, plan = view.trace, view.trace.plan
        key = (self.name, plan.gpu_memory, plan.planner, plan.profile)
        key += (plan.hardware, plan.costs, plan.minimum_bytes)

        def work(progress: Any) -> BudgetCurve:
            return replays_of(trace, playable(trace), plan.gpu_memory, progress=progress)

        return Question(key, work)

    def draw(self, answer: BudgetCurve, view: View, picked: Picked, room: Room) -> Drawn:
        """Speeds; where there is room also lane times, hits and bytes."""
        run = now(view.trace)
        rows = ROWS if room.height_px >= _ROOM_FOR_ALL_PX else ROWS[:1]

        def figure() -> go.Figure:
            made = policy_lab_figure(answer, room.theme, run=run, rows=rows)
            if len(rows) == 1:  # its heading says that all is predicted
                made.update_yaxes(title_text="tok/s")
            return legend_beside(slim(made, room.height_px, b=76), 168)

        words = describe_policy_lab(answer, run)
        return Drawn(headline(answer), "", LOOK_FOR, words, figure, clicked=self._on_policy)
