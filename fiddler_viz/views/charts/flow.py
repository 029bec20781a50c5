"""Which experts of the next layer follow those of the layer that is picked."""

from __future__ import annotations

import plotly.graph_objects as go

from fiddler_viz.figures import describe_routing_flow, routing_flow_figure
from fiddler_viz.figures.routing_flow import follows, headline, tells_nothing
from fiddler_viz.frames import Flow, flow
from fiddler_viz.views.background import Question
from fiddler_viz.views.charts.base import Chart, Drawn, Room, slim
from fiddler_viz.views.selection import Picked
from fiddler_viz.views.view import View

_TOP_PX, _BELOW_PX = 4, 22
LOOK_FOR = "A wide striped band is a habit: it can be known one layer early."
NOTHING = "Knowing the layer before tells nothing more here: a wide band is two popular experts."


class RoutingFlow(Chart):
    """From the layer picked to its next one; nothing picked: where one tells most of the other."""

    name = "flow"
    tip = "Which experts of the next layer the tokens of each expert go to. Pick a layer."

    def ask(self, view: View, picked: Picked) -> Question:
        """The flow from a layer; the last one has no next, so it is shown as the next."""
        trace, layer = view.trace, picked.layer
        if layer is not None:
            layer = max(min(layer, trace.model.layers - 2), 0)
        return Question(
            (self.name, layer),
            lambda progress: flow(trace, layer, progress=progress),
            mark=(picked.layer, picked.expert),
        )

    def draw(self, answer: Flow, view: View, picked: Picked, room: Room) -> Drawn:
        """Bands, most of them thin."""

        marked = None
        if picked.layer is not None and picked.expert is not None and answer.tokens:
            marked = (picked.layer - answer.layer, picked.expert)

        def figure() -> go.Figure:
            made = routing_flow_figure(
                answer,
                room.theme,
                marked=marked,
                height=room.height_px,
                plot_px=room.height_px - _TOP_PX - _BELOW_PX,
            )
            return slim(made, room.height_px, l=8, r=8, t=_TOP_PX, b=_BELOW_PX)

        habits = not answer.tokens or not tells_nothing(answer)
        aside = ""
        if answer.picked:
            aside = "the clearest of all layers" if habits else "nor any other, noticeably"
        if marked is not None:
            aside = follows(answer, marked)
        words = describe_routing_flow(answer, marked=marked)
        return Drawn(headline(answer), aside, LOOK_FOR if habits else NOTHING, words, figure)
