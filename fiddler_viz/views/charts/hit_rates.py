"""Hit rate by cache size, with where the plan stands."""

from __future__ import annotations

import plotly.graph_objects as go

from engine.curves import Curves
from fiddler_viz.figures import describe_hit_rates, hit_rates_figure
from fiddler_viz.figures.hit_rates import curves_of, headline, here
from fiddler_viz.views.background import Question
from fiddler_viz.views.charts.base import Chart, Drawn, Room, legend_beside, slim
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View

LOOK_FOR = (
    "Left of the dashed line an LRU drops every expert before its next use. "
    "Without prefetching nobody is above OPT."
)


class HitRates(Chart):
    """Of the routing alone: one answer for all plans, whose mark moves."""

    name = "hit rates"
    tip = "Which share of calls finds its expert on the GPU, by cache size and policy."

    def ask(self, view: View, picked: Picked) -> Question:
        """Curves of a run, by the profile that `static` goes by."""
        trace = view.trace
        return Question(
            (self.name, trace.plan.profile), lambda progress: curves_of(trace, progress=progress)
        )

    def draw(self, answer: Curves, view: View, picked: Picked, room: Room) -> Drawn:
        """With a star where the plan stands."""
        run = here(view.trace)

        def figure() -> go.Figure:
            made = hit_rates_figure(answer, room.theme, run=run)
            return legend_beside(slim(made, room.height_px), 170)

        words = describe_hit_rates(answer, run)
        return Drawn(headline(answer), "", LOOK_FOR, words, figure)
