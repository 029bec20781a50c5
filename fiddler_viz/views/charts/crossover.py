"""The crossover of this machine, with sliders for its link and its CPU: decisions flip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from engine.crossover import Crossover
from fiddler_viz.figures import crossing, crossover_figure, describe_crossover
from fiddler_viz.figures.crossover import headline
from fiddler_viz.figures.crossover_calls import Calls, calls_of, shares
from fiddler_viz.theme import percent
from fiddler_viz.views.background import Question, Same
from fiddler_viz.views.charts.base import Chart, Drawn, Room, slim
from fiddler_viz.views.machine_sliders import MachineSliders
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View


class CrossoverChart(Chart):
    """One expert on each way by token count; what the sliders say is asked, not done."""

    name = "crossover"
    tip = "From how many tokens on copying an expert beats the CPU. Drag the link or the CPU."
    quick = True

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.sliders = self.side = MachineSliders(on_change)

    def ask(self, view: View, picked: Picked) -> Question:
        """Costs of the plan's machine, or of one with other rates."""
        trace = view.trace
        self.sliders.follow(trace.plan, trace.model)
        changes = self.sliders.changes
        key = (self.name, Same(trace.routing), trace.plan.hardware, trace.plan.costs)

        def work(_: Any) -> tuple[Crossover, Calls]:
            return crossing(trace, **changes), calls_of(trace)

        return Question((*key, tuple(changes.items())), work)

    def draw(
        self, answer: tuple[Crossover, Calls], view: View, picked: Picked, room: Room
    ) -> Drawn:
        """The lines where they matter: up to some times the crossing."""
        found, calls = answer

        def figure() -> go.Figure:
            made = crossover_figure(found, room.theme, calls=calls, height=room.height_px)
            made.update_xaxes(title_standoff=2)
            return slim(made, room.height_px, l=74, b=36).update_layout(showlegend=False)

        drag = " Drag the link or the CPU: decisions flip." if self.sliders.movable else ""
        look_for = f"Where the lines cross, another way is sooner.{drag}"
        if len(calls[0]) and found.accelerator:
            on_cpu, copied = (percent(share) for share in shares(found, calls))
            look_for = (
                f"Of this run's calls {on_cpu} are sooner on the CPU, {copied} by a copy (stems)."
                f"{drag}"
            )
        return Drawn(headline(found), "", look_for, describe_crossover(found, calls), figure)
