"""From a session to what its panels draw: the grid and the memory, of a run, live or finished."""

from __future__ import annotations

import numpy as np

from engine.events import WORK, Work
from engine.residency import Memory
from fiddler_viz.frames import Grid, grid, live_grid, memory_of, routed
from fiddler_viz.views.live_state import LiveState
from fiddler_viz.views.session import Session


def grid_of(session: Session, show: str, token: int | None) -> Grid:
    """The heatmap's grid: of the growing run while one is live, else of the trace shown."""
    if session.view.live and session.live is not None:
        return _live_grid(session.live, session.engine.residency.places(), show)
    return grid(session.view.trace, show=show, token=token if show == "token" else None)


def memory_now(session: Session) -> Memory:
    """The memory bar: the engine's ledger while it runs, else the end of the trace shown."""
    if session.view.live:
        return session.engine.residency.memory()
    return memory_of(session.view.trace)


def tokens_processed(session: Session) -> int:
    """Tokens that can be looked at one by one."""
    return int((session.view.trace.tokens["step"] >= 0).sum())


def _live_grid(live: LiveState, places: np.ndarray, show: str) -> Grid:
    field = {name: i for i, name in enumerate(WORK.names or ())}
    done = live.steps
    ran = np.full(places.shape, -1, dtype=np.int8)
    work = live.tables["work"].rows
    now = work[np.searchsorted(work[:, 0], done - 1) : np.searchsorted(work[:, 0], done)]
    now = now[now[:, field["kind"]] == Work.EXPERT]
    ran[now[:, field["layer"]], now[:, field["expert"]]] = now[:, field["action"]]
    if show == "popularity":
        return live_grid(
            places,
            tokens=live.routed,
            ran=ran,
            actions=live.actions,
            caption=f"live, after step {done - 1}" if done else "live, first step",
        )
    tokens, amount = routed(live.last, live.model.grid)
    caption = f"live, step {int(live.last.step[-1])}" if len(live.last) else "live, first step"
    return live_grid(places, show="token", tokens=tokens, amount=amount, ran=ran, caption=caption)
