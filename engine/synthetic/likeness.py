"""How like two traces are to a cache: popularity, reuse, LRU hit rates, predictability."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.synthetic.choices import Choices
from engine.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

SIZES = (0.1, 0.25, 0.5, 0.75)
"""Sizes of the LRU cache, as shares of all experts."""

_POPULARITY = ("mean", "sd", "lower quartile", "median", "upper quartile")


@dataclass(frozen=True)
class CacheFigures:
    """What of a trace's routing matters to a cache; its tokens taken one by one, prompts too."""

    popularity: tuple[float, ...]
    """Mean, deviation and quartiles of the experts' popularity, the hottest one's being 1."""
    reuse: NDArray[np.float64]
    """Per layer: share of a token's experts that the token before had, too."""
    foresight: NDArray[np.float64]
    """Per layer: share of its experts that the layer before gives away (first layer: NaN); see
    :attr:`engine.synthetic.choices.Choices.foresight`."""
    lru: tuple[float, ...]
    """Hit rate of one LRU cache for all layers, for each of :data:`SIZES`."""

    @classmethod
    def of(cls, trace: Trace) -> CacheFigures:
        """Figures of a trace. Raises InputError where no request has two tokens."""
        choices = Choices.of(trace)
        hottest = choices.popularity / choices.popularity.max()
        quartiles: list[float] = np.quantile(hottest, (0.25, 0.5, 0.75)).tolist()
        total = trace.model.experts_total
        calls = np.flatnonzero(choices.hot.reshape(-1)) % total
        return cls(
            popularity=(float(hottest.mean()), float(hottest.std()), *quartiles),
            reuse=choices.reuse,
            foresight=choices.foresight,
            lru=tuple(lru_hit_rate(calls, round(size * total)) for size in SIZES),
        )


@dataclass(frozen=True, repr=False)
class Likeness:
    """Figures of a trace beside those of one made up after it."""

    source: CacheFigures
    made: CacheFigures

    def to_pandas(self) -> pd.DataFrame:
        """One row per figure: its name, ``source``, ``made`` and their ``difference``."""
        import pandas as pd

        rows = [(name, *values) for name, values in self._figures().items()]
        frame = pd.DataFrame(rows, columns=["figure", "source", "made"])
        frame["difference"] = frame["made"] - frame["source"]
        return frame

    def _figures(self) -> dict[str, tuple[float, float]]:
        def both(read: str, at: int) -> tuple[float, float]:
            source, made = getattr(self.source, read), getattr(self.made, read)
            return float(source[at]), float(made[at])

        figures = {f"popularity, {n}": both("popularity", i) for i, n in enumerate(_POPULARITY)}
        for name, read in (("reuse of the token before", "reuse"), ("foresight", "foresight")):
            values = [getattr(side, read) for side in (self.source, self.made)]
            for word, part in (("first half", 0), ("last half", 1)):
                halves = [np.array_split(v, 2)[part] for v in values]
                figures[f"{name}, {word} of the layers"] = _mean(halves[0]), _mean(halves[1])
        for at, size in enumerate(SIZES):
            figures[f"LRU of {size:.0%} of the experts, hit rate"] = both("lru", at)
        return figures

    def __repr__(self) -> str:
        figures = self._figures()
        width = max(map(len, figures))
        lines = [f"{'':{width}}  source    made"]
        lines += [f"{n:{width}}  {a:6.3f}  {b:6.3f}" for n, (a, b) in figures.items()]
        return "\n".join(lines)


def likeness(source: Trace, made: Trace) -> Likeness:
    """Both traces' figures. Their grids may differ; raises InputError where one is too short."""
    return Likeness(CacheFigures.of(source), CacheFigures.of(made))


def lru_hit_rate(calls: NDArray[np.int64], slots: int) -> float:
    """Share of ``calls`` that an LRU cache of so many ``slots``, empty at first, has."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for expert in calls.tolist():
        if expert in held:
            held.move_to_end(expert)
            hits += 1
        else:
            held[expert] = None
            if len(held) > slots:
                held.popitem(last=False)
    return hits / len(calls)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
