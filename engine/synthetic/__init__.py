"""Made-up routing: set by hand or fitted to a recorded trace, for grids that nobody here can run.

A token's experts are the ``top_k`` best of ``logit(popularity) + noise``. Every token's noise has
the same distribution, so popularity is what was asked for whatever the noise does; locality is how
alike the noise of two tokens after each other is, coupling that of two layers.
"""

from engine.synthetic.draw import Drawing, Router
from engine.synthetic.likeness import CacheFigures, Likeness, likeness
from engine.synthetic.routing import SyntheticRouting
from engine.synthetic.trace import synthetic_trace

__all__ = [
    "CacheFigures",
    "Drawing",
    "Likeness",
    "Router",
    "SyntheticRouting",
    "likeness",
    "synthetic_trace",
]
