"""Copy the next layer's experts before they are needed, as its router predicts them."""

from __future__ import annotations

from engine.decision import Request
from engine.policies.lru import Lru


class Prefetch(Lru):
    """The next layer's router, applied to this layer's hidden state, says what to fetch.

    Speculative loading of Mixtral-offloading (arXiv 2312.17238, 3.2) over one LRU cache: what is
    predicted takes slots at once, its copies run while the link has nothing more urgent to do.
    """

    name = "prefetch"
    title = "Prefetch"
    summary = "Fetches the experts predicted for the next layer early; an LRU cache for the rest."
    wants_predictions = True

    def ahead(self, request: Request) -> list[int]:
        layers, columns = self.residency.grid
        base = (request.layer + 1) * columns
        if request.layer + 1 >= layers:
            return []
        return [base + expert for expert in request.predicted or ()]
