"""What a run can be compared with: the text of the profile, and runs before it."""

from __future__ import annotations

from engine.trace import Trace
from fiddler_viz.frames import Shares, shares
from fiddler_viz.theme import show_token

MOST = 6
"""Earlier runs kept: of each where its tokens went, no more."""
PROFILE = "the profile"


class Earlier:
    """Earlier runs of one explorer, the latest last."""

    def __init__(self) -> None:
        self._runs: dict[str, Shares] = {}
        self._count = 0

    def __repr__(self) -> str:
        return f"Earlier({len(self._runs)} runs)"

    def keep(self, trace: Trace | None) -> None:
        """A run that another one takes the place of; None: there was none."""
        if trace is None or not len(trace.routing):
            return
        self._count += 1
        prompt = trace.meta.get("prompt")
        began = f": {show_token(prompt, 24)}" if isinstance(prompt, str) and prompt else ""
        name = f"run {self._count}{began}"
        self._runs[name] = shares(trace, name=name)
        while len(self._runs) > MOST:
            del self._runs[next(iter(self._runs))]

    def names(self) -> list[str]:
        """What there is to compare with: raw texts."""
        return [PROFILE, *reversed(self._runs)]

    def against(self, name: str, trace: Trace) -> Shares:
        """By name, for a trace; what is no longer kept is the profile's text."""
        found = self._runs.get(name)
        if found is not None and found.share.shape == trace.model.grid:
            return found
        return shares(trace.plan.profile, trace.model.top_k, PROFILE)
