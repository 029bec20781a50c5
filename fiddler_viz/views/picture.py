"""From a session to what its panels draw: the grid and the memory, of a run, live or finished."""

from __future__ import annotations

import numpy as np

from engine.by_hand import ByHand
from engine.events import WORK, Work, rows_of
from engine.residency import Memory
from engine.usage import shares_of
from fiddler_viz.frames import Grid, Shares, amounts, grid, live_grid, memory_of, routed
from fiddler_viz.views.earlier import PROFILE
from fiddler_viz.views.live_state import LiveState
from fiddler_viz.views.session import Session


def grid_of(session: Session, show: str, token: int | None, against: str = PROFILE) -> Grid:
    """The heatmap's grid: of the growing run while one is live, else of the trace shown.

    ``against``: what of :class:`Earlier` a difference is to.
    """
    trace = session.view.trace
    other = session.earlier.against(against, trace) if show == "difference" else None
    if session.view.live and session.live is not None:
        places, by_hand = session.engine.residency.places(), session.view.plan.by_hand
        return _live_grid(session.live, places, show, other, by_hand)
    return grid(trace, show=show, token=token if show == "token" else None, against=other)


def memory_now(session: Session) -> Memory:
    """The memory bar: the engine's ledger while it runs, else the end of the trace shown."""
    if session.view.live:
        return session.engine.residency.memory()
    return memory_of(session.view.trace)


def tokens_processed(session: Session) -> int:
    """Tokens that can be looked at one by one."""
    return int((session.view.trace.tokens["step"] >= 0).sum())


def _live_grid(
    live: LiveState, places: np.ndarray, show: str, against: Shares | None, by_hand: ByHand
) -> Grid:
    done = live.steps
    caption = f"live, after step {done - 1}" if done else "live, first step"
    if show == "token":
        tokens, amount = routed(live.last, live.model.grid)
        if len(live.last):
            caption = f"live, step {int(live.last.step[-1])}"
        return live_grid(
            places,
            show=show,
            tokens=tokens,
            amount=amount,
            ran=_ran(live, places.shape),
            caption=caption,
            by_hand=by_hand,
        )
    coloured, ran = None, None
    if show == "popularity":
        ran = _ran(live, places.shape)
    elif show == "residency":
        coloured = amounts.residency(shares_of(live.usage.held_ns))
    elif show == "hits":
        coloured = amounts.hits(live.actions)
    elif show == "time":
        coloured = amounts.time(live.usage.spent_ns)
    elif against is not None:
        coloured = amounts.difference(live.routed, live.model.top_k, against)
        caption += f", less {against.name}"
    return live_grid(
        places,
        show=show,
        tokens=live.routed,
        ran=ran,
        actions=live.actions,
        caption=caption,
        coloured=coloured,
        by_hand=by_hand,
    )


def _ran(live: LiveState, shape: tuple[int, ...]) -> np.ndarray:
    """What each expert ran with in the newest finished step, -1 where it did not."""
    field = {name: i for i, name in enumerate(WORK.names or ())}
    now = rows_of(live.tables["work"].rows, live.steps - 1, live.steps)
    now = now[now[:, field["kind"]] == Work.EXPERT]
    ran = np.full(shape, -1, dtype=np.int8)
    ran[now[:, field["layer"]], now[:, field["expert"]]] = now[:, field["action"]]
    return ran
