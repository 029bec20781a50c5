"""A plotly figure in a notebook that other threads may update and whose saved state is current."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import traitlets
from plotly import __version__ as plotly_version
from plotly.basedatatypes import Undefined
from plotly.serializers import custom_serializers

from fiddler_viz.views.changes import Changes, look_up, put, same, written
from fiddler_viz.views.plotly_code import Plotly

_CONFIG = {"responsive": True, "displaylogo": False, "displayModeBar": False, "showTips": False}
_SCRIPTS = tuple(map(Path(__file__).with_name, ("frames.js", "live_frame.js", "figure_view.js")))
Moved = Callable[[Mapping[str, Any]], None]


IN_WORDS = "the button 'in words' says what it shows"


class FigureView(go.FigureWidget):
    """A ``FigureWidget`` with repairs, for a page that stays open while a run is live.

    - :meth:`change` sends what differs in one message, quickly. The browser's own changes (a zoom
      arrives in another thread) wait meanwhile, and so does a reader of the state.
    - What is opened shows what is: :meth:`get_state` gives the current data and layout (the
      original gives those of the moment it was displayed), and a view asks for them first.
    - :meth:`replace` shows another figure, of other traces, in the same place.
    - plotly's JavaScript comes from ``plotly``, once for all figures of a page.
    """

    # As text: anywidget watches a file for changes, and the watch keeps every widget alive.
    _esm = "\n".join(path.read_text(encoding="utf-8") for path in _SCRIPTS)
    _plotly_id = traitlets.Unicode().tag(sync=True)
    _plotly_version = traitlets.Unicode(plotly_version).tag(sync=True)
    _live = traitlets.Dict().tag(sync=True)
    """How ``live_frame.js`` paints frames of a run under way over it; empty: it does not."""
    label = traitlets.Unicode().tag(sync=True)
    """What it is, for who cannot see it."""
    _opened = traitlets.Int(0).tag(sync=True)
    _replaced = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        figure: go.Figure,
        plotly: Plotly,
        *,
        on_move: Moved | None = None,
        live: Mapping[str, Any] | None = None,
        label: str = "",
    ) -> None:
        self._one_writer = threading.RLock()
        self._made = False
        self._on_move = on_move
        super().__init__(figure, _validate=False)  # it has been checked when it was made
        self._made = True
        self._config = dict(_CONFIG)
        self._plotly_id = plotly.model_id
        self._live = dict(live or {})
        self.label = label
        self.on_msg(self._heard)

    def __repr__(self) -> str:
        return f"FigureView({len(self._data)} traces)"

    def change(self, update: Callable[[Any], None]) -> bool:
        """Run one of the figures' ``update_*`` functions on this figure, in one message.

        What it sets to the value already there is left out; True if anything was sent. Values are
        sent as they are, without plotly's validation: the same functions build static figures.
        """
        with self._one_writer:
            changes = Changes(self._data, self._layout)
            update(changes)
            traces = {
                index: {
                    path: value
                    for path, value in values.items()
                    if not same(look_up(self._data[index], path), value)
                }
                for index, values in changes.traces.items()
            }
            traces = {index: values for index, values in traces.items() if values}
            relayout = {
                path: value
                for path, value in changes.relayout.items()
                if not same(look_up(self._layout, path), value)
            }
            if not traces and not relayout:
                return False
            for index, values in traces.items():
                for path, value in values.items():
                    put(self._data[index], path, value)
            for path, value in relayout.items():
                put(self._layout, path, value)
            numbers = sorted(traces)
            restyle = {
                written(path): [traces[index].get(path, Undefined) for index in numbers]
                for path in dict.fromkeys(path for values in traces.values() for path in values)
            }
            self._send_update_msg(
                restyle, {written(path): value for path, value in relayout.items()}, numbers
            )
            return True

    def replace(self, figure: go.Figure) -> None:
        """Show another figure from now on. Who listened to the old traces hears of them no more."""
        with self._one_writer:
            with self.hold_sync():  # not trace by trace: the browser draws it at once
                self.data = ()
                self.add_traces(figure.data)
                self.layout = figure.layout
            self.send_state(["_widget_data", "_widget_layout"])
            self._replaced += 1

    def plotly_relayout(self, relayout_data: Any, **kwargs: Any) -> None:
        """A change of the layout; those that a reader made in the browser also go to ``on_move``.

        plotly's own ``layout.on_change`` would also report what the browser filled in by itself.
        """
        super().plotly_relayout(relayout_data, **kwargs)
        if kwargs.get("source_view_id") is not None and self._on_move is not None:
            self._on_move(relayout_data)

    def _heard(self, _: object, content: Any, __: object) -> None:
        """A view opens in a browser: give it the present, then say so."""
        if isinstance(content, dict) and content.get("event") == "open":
            with self._one_writer:
                self.send_state(["_widget_data", "_widget_layout"])
                self._opened += 1

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The widget's state as ipywidgets sends it, data and layout as they are now."""
        with self._one_writer:
            state = super().get_state(key=key, drop_defaults=drop_defaults)
            if self._made:
                to_json = custom_serializers["to_json"]
                current = {"_widget_data": self._data, "_widget_layout": self._layout}
                state |= {name: to_json(current[name], None) for name in current if name in state}
            return state

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """What the browser sent: zooms and clicks, applied while nobody else writes."""
        with self._one_writer:
            super().set_state(sync_data)
