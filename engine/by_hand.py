"""What a reader pinned and unpinned by hand: it holds first, a planner fills the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import index
from typing import Any, Self, cast

from engine.errors import InputError
from engine.strict import check_ascending, check_keys, plain


@dataclass(frozen=True)
class ByHand:
    """Experts that no planner is asked about; flat indices ``layer * experts + expert``."""

    pinned: tuple[int, ...] = ()
    """Pinned whatever the planner thinks of them, ascending."""
    unpinned: tuple[int, ...] = ()
    """Never pinned, ascending; a policy may still cache them."""

    def __bool__(self) -> bool:
        return bool(self.pinned or self.unpinned)

    def __str__(self) -> str:
        """``2 pinned and 1 unpinned by hand``; empty where nothing is."""
        counts = {"pinned": len(self.pinned), "unpinned": len(self.unpinned)}
        said = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"{said} by hand" if said else ""

    def changed(self, grid: tuple[int, int], pin: Any, unpin: Any) -> Self:
        """With more pinned and unpinned; the latest word on an expert holds.

        ``pin``, ``unpin``: see :func:`named`. Raises InputError for an expert in both.
        """
        more, fewer = set(named("pin", pin, grid)), set(named("unpin", unpin, grid))
        if both := sorted(more & fewer):
            layer, expert = divmod(both[0], grid[1])
            raise InputError(
                f"expert {expert} of layer {layer} is both in pin= and in unpin=: name it in one"
            )
        return type(self)(
            tuple(sorted((set(self.pinned) | more) - fewer)),
            tuple(sorted((set(self.unpinned) | fewer) - more)),
        )

    def arguments(self, grid: tuple[int, int]) -> dict[str, list[tuple[int, int]]]:
        """As ``pin`` and ``unpin`` of a plan that has no edits yet."""
        listed = {"pin": self.pinned, "unpin": self.unpinned}
        return {name: [divmod(flat, grid[1]) for flat in flats] for name, flats in listed.items()}

    def to_dict(self) -> dict[str, list[int]]:
        """Plain values for JSON."""
        return {"pinned": list(self.pinned), "unpinned": list(self.unpinned)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], grid: tuple[int, int]) -> Self:
        """Read back :meth:`to_dict`; raises InputError where that is not what it is."""
        given = check_keys("by hand", values, ("pinned", "unpinned"))
        total = grid[0] * grid[1]
        made = cls(*(check_ascending(f"by hand, {name}", given[name], total) for name in given))
        if set(made.pinned) & set(made.unpinned):
            raise InputError("by hand: an expert is both pinned and unpinned")
        return made


def named(what: str, value: Any, grid: tuple[int, int]) -> list[int]:
    """Flat indices of the experts that ``value`` names; an argument called ``what``.

    A tuple ``(layer, expert)`` is one expert; a number, or ``(layer, None)``, all of a layer; any
    other iterable names several of these. None names nothing. Raises InputError.
    """
    value = plain(value)
    if value is None:
        return []
    if isinstance(value, tuple):
        pair = cast("tuple[Any, ...]", value)
        if pair and _whole(pair[0]) is not None:
            return _one(what, pair, grid)
    elif _whole(value) is not None:
        return _one(what, (value, None), grid)
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _wrong(what, cast(object, value))
    found: list[int] = []
    for item in cast("Iterable[Any]", value):
        one = cast("tuple[Any, ...]", item) if isinstance(item, tuple) else (item, None)
        found += _one(what, one, grid)
    return found


def _one(what: str, pair: tuple[Any, ...], grid: tuple[int, int]) -> list[int]:
    """The experts of one ``(layer, expert)``, or of a whole layer: ``(layer, None)``."""
    layers, experts = grid
    if len(pair) != 2 or _whole(pair[0]) is None:
        raise _wrong(what, pair[0] if pair[1:] == (None,) else pair)
    row, column = cast(int, _whole(pair[0])), _whole(pair[1])
    if not 0 <= row < layers:
        raise InputError(f"{what}: layer {row}: expected 0 to {layers - 1} in this model")
    if pair[1] is None:
        return list(range(row * experts, (row + 1) * experts))
    if column is None:
        raise _wrong(what, pair)
    if not 0 <= column < experts:
        raise InputError(
            f"{what}: expert {column} of layer {row}: expected 0 to {experts - 1} in this model"
        )
    return [row * experts + column]


def _whole(value: Any) -> int | None:
    """A whole number, also numpy's; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return index(value)
    except TypeError:
        return None


def _wrong(what: str, value: object) -> InputError:
    return InputError(
        f"{what}: expected an expert as (layer, expert), a layer as its number, or a list of "
        f"these, got {value!r}"
    )
