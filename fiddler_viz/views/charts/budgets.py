"""Speed, and bytes over the link, by budget; with where the plan stands."""

from __future__ import annotations

import plotly.graph_objects as go

from engine.budgets import BudgetCurve
from fiddler_viz.figures import budget_speeds_figure, describe_budget_speeds
from fiddler_viz.figures.budget_speeds import headline, now, replays_of
from fiddler_viz.views.background import Question
from fiddler_viz.views.charts.base import Chart, Drawn, Room, legend_beside, slim
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View

LOOK_FOR = (
    "Where a line is steep, memory buys speed. Below the dotted line there is room for a better "
    "policy."
)


class Budgets(Chart):
    """A few policies, and the plan's own, at budgets from the smallest that works to all."""

    name = "budgets"
    tip = "Decode speed and bytes over the link, by GPU memory and policy."

    def ask(self, view: View, picked: Picked) -> Question:
        """Replays of a run, by all of the plan but its budget."""
        trace, plan = view.trace, view.trace.plan
        key = (self.name, plan.policy, plan.own_policy, plan.planner, plan.profile)
        key += (plan.hardware, plan.costs, plan.minimum_bytes)
        return Question(key, lambda progress: replays_of(trace, progress=progress))

    def draw(self, answer: BudgetCurve, view: View, picked: Picked, room: Room) -> Drawn:
        """Both charts side by side, with a star where the plan stands."""
        run = now(view.trace)

        def figure() -> go.Figure:
            made = budget_speeds_figure(answer, room.theme, run=run)
            return legend_beside(beside(slim(made, room.height_px)), 132)

        words = describe_budget_speeds(answer, run)
        return Drawn(headline(answer), "", LOOK_FOR, words, figure)


def beside(figure: go.Figure) -> go.Figure:
    """Two charts one above the other, side by side: each with an axis of budgets."""
    for trace in figure.data:
        if trace.yaxis == "y2":
            trace.xaxis = "x2"
    across = figure.layout.xaxis.to_plotly_json()
    short = {"title": {"text": "GPU memory, GB", "standoff": 4, "font": {"size": 12}}}
    unit = figure.layout.yaxis2.title.text.removeprefix("over the link, ")
    figure.update_layout(
        xaxis=across | short | {"anchor": "y", "domain": [0, 0.45]},
        xaxis2=across | short | {"anchor": "y2", "domain": [0.57, 1], "matches": "x"},
        yaxis={"domain": [0, 1]},
        yaxis2={"domain": [0, 1], "anchor": "x2", "title": {"text": f"link, {unit}"}},
    )
    lines = [shape.to_plotly_json() for shape in figure.layout.shapes]
    return figure.update_layout(shapes=[*lines, *(line | {"xref": "x2"} for line in lines)])
