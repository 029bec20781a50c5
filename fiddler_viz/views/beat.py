"""The browser's side of the pump: takes frames, and says when one has been painted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from fiddler_viz.figures.raster import SCRIPT
from fiddler_viz.views.live_frame import LiveFrame

_SCRIPTS = (SCRIPT, *map(Path(__file__).with_name, ("painters.js", "names.js", "beat.js")))
AHEAD = 20
"""So many frames of a run under way may be on their way: they are not answered one by one, but with
the drawing that comes once a second. A page that is slower paints the newest only."""


class Beat(anywidget.AnyWidget):
    """A widget without looks: Python counts ``sent`` up, the browser answers in ``shown``.

    :meth:`send_frame` sends what a run under way looks like by now, all panels in one message.
    """

    # As text: anywidget watches a file for changes, and the watch keeps every widget alive.
    _esm = "\n".join(path.read_text(encoding="utf-8") for path in _SCRIPTS)
    sent = traitlets.Int(0).tag(sync=True)
    shown = traitlets.Int(0)

    def __init__(self) -> None:
        super().__init__()
        self.on_msg(self._heard)

    def __repr__(self) -> str:
        return f"Beat({self.shown} of {self.sent} frames shown)"

    def send_frame(self, panels: Mapping[str, LiveFrame]) -> None:
        """Send a frame: by panel what its painter in ``painters.js`` takes."""
        content: dict[str, Any] = {}
        buffers: list[bytes] = []
        for name, panel in panels.items():
            at = list(range(len(buffers), len(buffers) + len(panel.buffers)))
            content[name] = {**panel.content, "buffers": at}
            buffers += panel.buffers
        self.send(content, buffers)

    def send_drawn(self) -> None:
        """Figures show again how things stand, whether or not plotly had anything to draw."""
        self.send({"drawn": True}, [])

    def _heard(self, _: object, content: Any, __: object) -> None:
        if isinstance(content, dict) and type(content.get("shown")) is int:
            self.shown = content["shown"]
