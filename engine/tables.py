"""Tables of a trace as pandas frames, codes replaced by names. pandas is imported when used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.events import Action, Clock, Columns, Lane, StepKind, Why, Work
from engine.trace import Trace

if TYPE_CHECKING:
    import pandas as pd


def _names(codes: NDArray[np.int64], kind: type[IntEnum]) -> pd.Categorical:
    import pandas as pd

    names = [member.name.lower() for member in kind]
    # code -1 ("none") becomes a missing value
    return pd.Categorical.from_codes(codes, names)  # pyright: ignore[reportUnknownMemberType]


def _frame(columns: Columns, **codes: type[IntEnum]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            name: _names(values, codes[name]) if name in codes else values
            for name, values in columns.items()
        }
    )


def _steps(trace: Trace) -> pd.DataFrame:
    return _frame(trace.steps, kind=StepKind, clock=Clock)


def _tokens(trace: Trace) -> pd.DataFrame:
    columns: Columns = dict(trace.tokens)
    return _frame(
        columns | {"text": np.array(trace.texts, dtype=object)} if trace.texts else columns
    )


def _routing(trace: Trace) -> pd.DataFrame:
    routing = trace.routing
    rows, top_k = len(routing), trace.model.top_k
    return _frame(
        {
            "step": np.repeat(routing.step, top_k),
            "layer": np.repeat(routing.layer, top_k),
            "token": np.repeat(routing.token, top_k),
            "rank": np.tile(np.arange(top_k), rows),
            "expert": routing.experts.ravel(),
            "weight": routing.weights.ravel(),
        }
    )


def _work(trace: Trace) -> pd.DataFrame:
    return _frame(trace.work, kind=Work, action=Action, lane=Lane, clock=Clock)


def _moves(trace: Trace) -> pd.DataFrame:
    return _frame(trace.moves, why=Why, lane=Lane, clock=Clock)


def _plans(trace: Trace) -> pd.DataFrame:
    return _frame(trace.plans)


TABLE_FRAMES: Mapping[str, Callable[[Trace], pd.DataFrame]] = MappingProxyType(
    {
        "steps": _steps,
        "tokens": _tokens,
        "routing": _routing,
        "work": _work,
        "moves": _moves,
        "plans": _plans,
    }
)
"""Name of a table -> the function that makes its frame."""
