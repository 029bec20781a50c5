"""The parameters of made-up routing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.strict import check_int, check_keys, check_number, check_text, plain

if TYPE_CHECKING:
    from engine.trace import Trace

PerLayer = float | Sequence[float]
"""One value for all layers, or values along the depth of the model."""

MOST_SKEW = 8.0


@dataclass(frozen=True)
class SyntheticRouting:
    """How unequal, how sticky and how topical a router's choices are; of no particular grid.

    A tuple holds values along the depth of the model, first layer to last: a grid of another
    number of layers reads them at the same relative depth. Raises InputError out of range.
    """

    skew: tuple[float, ...] = (0.5,)
    """Standard deviation of the experts' log-odds to be chosen, within one domain, from 0 (all
    alike). Where few of many are chosen that is their log-popularity's."""
    locality: tuple[float, ...] = (0.3,)
    """Correlation of the router's noise from one token to the next, from 0 to below 1."""
    coupling: tuple[float, ...] = (0.0,)
    """Correlation of the noise with that of one expert of the layer before, from 0 to 1; the
    first layer's is not used."""
    domains: int = 1
    """Topics, each with experts that it prefers."""
    contrast: float = 0.0
    """Share of the log-odds' variance that is a domain's own: 0, all domains prefer the
    same experts; 1, they have nothing in common."""
    source: str = "set by hand"
    """Where the parameters come from, in words."""

    def __post_init__(self) -> None:
        for name, most in (("skew", MOST_SKEW), ("locality", 0.999), ("coupling", 1.0)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values:
                raise InputError(
                    f"synthetic routing, {name}: expected a tuple of numbers, got {values!r}; "
                    "SyntheticRouting.of takes one number for all layers, too."
                )
            for value in cast("tuple[Any, ...]", values):
                _check_share(name, value, most)
        check_int("synthetic routing, domains", self.domains, least=1)
        _check_share("contrast", self.contrast, 1.0)
        check_text("synthetic routing, source", self.source)

    @classmethod
    def of(
        cls,
        *,
        skew: PerLayer = 0.5,
        locality: PerLayer = 0.3,
        coupling: PerLayer = 0.0,
        domains: int = 1,
        contrast: float = 0.0,
        source: str = "set by hand",
    ) -> SyntheticRouting:
        """Parameters from single numbers or from values along the depth."""
        return cls(
            _along_depth("skew", skew),
            _along_depth("locality", locality),
            _along_depth("coupling", coupling),
            domains,
            contrast,
            source,
        )

    @classmethod
    def fit(cls, trace: Trace, *, seed: int = 0) -> SyntheticRouting:
        """The parameters whose made-up traces look like ``trace`` to a cache.

        See :func:`engine.synthetic.fit.fit` for how, and for what it raises.
        """
        from engine.synthetic.fit import fit

        return fit(trace, seed=seed)

    def at(self, layers: int) -> dict[str, NDArray[np.float64]]:
        """Skew, locality and coupling of each layer of a model with so many."""
        depth = np.linspace(0.0, 1.0, layers) if layers > 1 else np.zeros(1)
        return {
            name: np.interp(depth, np.linspace(0.0, 1.0, len(values)), values)
            for name, values in (
                ("skew", self.skew),
                ("locality", self.locality),
                ("coupling", self.coupling),
            )
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` is the inverse."""
        return {
            name: list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SyntheticRouting:
        """Read back :meth:`to_dict`; raises InputError where a field is missing or bad."""
        found = check_keys("synthetic routing", values, [field.name for field in fields(cls)])
        for name, value in found.items():
            if isinstance(value, list):
                found[name] = tuple(cast("list[Any]", value))
        return cls(**found)

    def __repr__(self) -> str:
        means = ", ".join(
            f"{name} {np.mean(getattr(self, name)):.2f}"
            for name in ("skew", "locality", "coupling")
        )
        topics = f"{self.domains} domains of contrast {self.contrast:.2f}"
        several = f", {topics}" if self.domains > 1 else ""
        return f"SyntheticRouting({means} on average{several}; {self.source})"


def _along_depth(name: str, value: PerLayer) -> tuple[float, ...]:
    if isinstance(value, str):
        raise InputError(f"synthetic routing, {name}: expected numbers, got {value!r}.")
    value = plain(value)
    return tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,)


def _check_share(name: str, value: Any, most: float) -> None:
    what = f"synthetic routing, {name}"
    check_number(what, value, zero=True)
    if value > most:
        raise InputError(f"{what}: expected a number from 0 to {most:g}, got {value!r}.")
