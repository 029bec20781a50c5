"""Which experts of the next layer follow those of the layer that is picked."""

from __future__ import annotations

import plotly.graph_objects as go

from fiddler_viz.figures import describe_routing_flow, routing_flow_figure
from fiddler_viz.figures.routing_flow import headline
from fiddler_viz.frames import Flow, flow
from fiddler_viz.views.background import Question
from fiddler_viz.views.charts.base import Chart, Drawn, Room, slim
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View

LOOK_FOR = "A wide striped band is a habit: it can be known one layer early."


class RoutingFlow(Chart):
    """From the layer picked to its next one; nothing picked: where one tells most of the other."""

    name = "flow"
    tip = "Which experts of the next layer the tokens of each expert go to. Pick a layer."

    def ask(self, view: View, picked: Picked) -> Question:
        """The flow from a layer; the last one has no next, so it is shown as the next."""
        trace, layer = view.trace, picked.layer
        if layer is not None:
            layer = max(min(layer, trace.model.layers - 2), 0)
        return Question((self.name, layer), lambda progress: flow(trace, layer, progress=progress))

    def draw(self, answer: Flow, view: View, picked: Picked, room: Room) -> Drawn:
        """Bands, most of them thin."""

        def figure() -> go.Figure:
            made = routing_flow_figure(answer, room.theme, height=room.height_px)
            made.update_yaxes(range=[1.01, -0.11])  # the layers' names stand above their experts
            return slim(made, room.height_px, l=8, r=8, t=4, b=22)

        aside = "the clearest of all layers" if answer.picked else ""
        return Drawn(headline(answer), aside, LOOK_FOR, describe_routing_flow(answer), figure)
