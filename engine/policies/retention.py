"""Retention: which cached expert gives its slot up for another one. One rule per class.

A rule knows the cached experts by flat index. It is told of every use, and asked for room.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat

from engine.residency import Place

_HOST, _CACHED = int(Place.HOST), int(Place.CACHED)

State = dict[str, list[int] | list[float]]
"""A rule's or a policy's own memory, as JSON values."""


class Retention(ABC):
    """The experts in cache slots, and the order in which they would go."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self.grid = grid

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} cached)"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, flat: object) -> bool: ...

    @abstractmethod
    def __iter__(self) -> Iterator[int]:
        """Flat indices, the least wanted first."""
        ...

    @abstractmethod
    def add(self, flat: int, weight: float = 1.0) -> None:
        """An expert took a slot, for its use at hand or ahead of it."""
        ...

    @abstractmethod
    def touch(self, flat: int, weight: float = 1.0) -> None:
        """A cached expert was used; ``weight`` is the router's, where the policy asks for it."""
        ...

    def missed(self, flat: int, weight: float = 1.0) -> None:  # noqa: B027 (most rules need it not)
        """An expert was used that is not cached; told before it may take a slot."""

    def used(
        self, flats: Sequence[int], places: Sequence[int], weights: Sequence[float] | None
    ) -> None:
        """A layer's experts were used; override only where one by one takes too long."""
        for flat, where, weight in zip(flats, places, weights or repeat(1.0), strict=False):
            if where == _CACHED:
                self.touch(flat, weight)
            elif where == _HOST:
                self.missed(flat, weight)

    def step(self) -> None:  # noqa: B027
        """A step begins."""

    @abstractmethod
    def drop(self, flat: int) -> None:
        """An expert left its slot; nothing happens if it had none."""
        ...

    def make_room(self, flat: int, slots: int, keep: Collection[int]) -> list[int] | None:
        """Who goes so that ``flat`` can take one of ``slots``; None: it is not to be kept.

        Nobody in ``keep`` goes. Changes nothing; the caller drops the victims.
        """
        if len(self) < slots:
            return []
        return next(([other] for other in self if other not in keep), None) if slots else None

    def snapshot(self) -> State:
        """What :meth:`restore` needs."""
        return {"recent": list(self)}

    def restore(self, cached: Iterable[int], state: Mapping[str, list[int] | list[float]]) -> None:
        """Take a snapshot's state; cached experts that it does not name are the least wanted."""
        there = dict.fromkeys(cached)
        named = dict.fromkeys(int(flat) for flat in state.get("recent", ()) if flat in there)
        for flat in (*(flat for flat in there if flat not in named), *named):
            self.add(flat)


class Recency(Retention):
    """Least recently used first (LRU)."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__(grid)
        self._recent: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recent)

    def __contains__(self, flat: object) -> bool:
        return flat in self._recent

    def __iter__(self) -> Iterator[int]:
        return iter(self._recent)

    def add(self, flat: int, weight: float = 1.0) -> None:
        self._recent[flat] = None
        self._recent.move_to_end(flat)

    def touch(self, flat: int, weight: float = 1.0) -> None:
        self._recent.move_to_end(flat)

    def drop(self, flat: int) -> None:
        self._recent.pop(flat, None)

    def put(self, flats: Iterable[int]) -> None:
        """Replace everything: flat indices, the least recently used first."""
        self._recent = OrderedDict.fromkeys(flats)


class LayerRecency(Retention):
    """Least recently used first, each layer with its own share of the slots.

    The first layers have one slot more where the slots do not divide evenly.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__(grid)
        self._of: list[OrderedDict[int, int]] = [OrderedDict() for _ in range(grid[0])]
        self._mine = [mine for mine in self._of for _ in range(grid[1])]  # by flat index
        self._uses = 0  # numbers the uses, to order layers among each other
        self._many = 0

    def __len__(self) -> int:
        return self._many

    def __contains__(self, flat: object) -> bool:
        return isinstance(flat, int) and flat in self._mine[flat]

    def __iter__(self) -> Iterator[int]:
        used = sorted((use, flat) for mine in self._of for flat, use in mine.items())
        return (flat for _, flat in used)

    def add(self, flat: int, weight: float = 1.0) -> None:
        self._many += flat not in self._mine[flat]
        self.touch(flat)

    def touch(self, flat: int, weight: float = 1.0) -> None:
        mine = self._mine[flat]
        self._uses += 1
        mine[flat] = self._uses
        mine.move_to_end(flat)

    def drop(self, flat: int) -> None:
        if self._mine[flat].pop(flat, None) is not None:
            self._many -= 1

    def make_room(self, flat: int, slots: int, keep: Collection[int]) -> list[int] | None:
        mine, share = self._mine[flat], self._share(flat // self.grid[1], slots)
        over = len(mine) + 1 - share
        may_go = (other for other in mine if other not in keep)
        gone = list(islice(may_go, max(over, 0)))
        if not share or len(gone) < over:
            return None
        if self._many - len(gone) >= slots:  # a smaller plan left another layer with too many
            above = (
                other
                for layer, others in enumerate(self._of)
                for other in others
                if len(others) > self._share(layer, slots) and other not in keep
            )
            other = next(above, None)
            return None if other is None else [*gone, other]
        return gone

    def _share(self, layer: int, slots: int) -> int:
        return slots // self.grid[0] + (layer < slots % self.grid[0])
