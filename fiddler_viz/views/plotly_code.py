"""plotly's JavaScript, sent to a page once however many figures use it."""

from __future__ import annotations

import anywidget
import traitlets
from plotly.basewidget import BaseFigureWidget


class Plotly(anywidget.AnyWidget):
    """A widget without looks whose model holds the 5 MB that every ``FigureWidget`` would send."""

    _esm = "export default {};"
    code = traitlets.Unicode().tag(sync=True)

    def __init__(self) -> None:
        super().__init__(code=str(BaseFigureWidget._esm))

    def __repr__(self) -> str:
        return f"Plotly({len(self.code):,} characters)"
