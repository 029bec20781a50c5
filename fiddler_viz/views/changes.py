"""A stand-in for a figure that only notes what an update function sets.

The figures' ``update_*`` functions assign properties one by one. On a plotly figure every
assignment looks validators up and coerces its value, some 20 ms for one of our figures; noted as
paths and values and compared with what the figure has, the same update takes two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Path = tuple[str | int, ...]


class Changes:
    """Has what an update function needs of a figure: ``data``, ``layout``, ``batch_update``.

    Reading gives what the figure has now, as plain dicts hold it, not what was just set.
    """

    def __init__(self, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
        self.traces: dict[int, dict[Path, Any]] = {}
        """By trace number: what is set, by path."""
        self.relayout: dict[Path, Any] = {}
        self._data, self._layout = data, layout

    @property
    def data(self) -> list[_Node]:
        """The traces, by number."""
        return [
            _Node(trace, self.traces.setdefault(index, {}), ())
            for index, trace in enumerate(self._data)
        ]

    @property
    def layout(self) -> _Node:
        """The layout."""
        return _Node(self._layout, self.relayout, ())

    @contextmanager
    def batch_update(self) -> Iterator[None]:
        """Everything noted is one message anyway."""
        yield


class _Node:
    """A property that may have properties: assigning to one of them notes it."""

    def __init__(self, root: dict[str, Any], notes: dict[Path, Any], path: Path) -> None:
        for name, value in (("_root", root), ("_notes", notes), ("_path", path)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __getitem__(self, key: str | int) -> Any:
        path = (*self._path, key)
        value = look_up(self._root, path)
        inner = value is None or isinstance(value, dict)
        inner |= isinstance(value, list) and any(isinstance(item, dict) for item in value)
        return _Node(self._root, self._notes, path) if inner else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._notes[(*self._path, name)] = own(value)

    def __len__(self) -> int:
        return len(look_up(self._root, self._path) or ())

    def update(self, **values: Any) -> None:
        """Set several properties; others of the same node stay."""
        for name, value in values.items():
            if isinstance(value, dict):
                _Node(self._root, self._notes, (*self._path, name)).update(**value)
            else:
                setattr(self, name, value)


def own(value: Any) -> Any:
    """A value that nobody else will change, in a form that can be sent."""
    return np.array(value, order="C") if isinstance(value, np.ndarray) else value


def look_up(node: Any, path: Path) -> Any:
    """The value at a path in nested dicts and lists; None where there is none."""
    for key in path:
        if isinstance(node, dict):
            node = node.get(key)
        elif isinstance(node, list) and isinstance(key, int) and key < len(node):
            node = node[key]
        else:
            return None
    return node


def put(node: Any, path: Path, value: Any) -> None:
    """Set the value at a path in nested dicts and lists; None removes it."""
    *inner, last = path
    for key in inner:
        node = node[key] if isinstance(node, list) else node.setdefault(key, {})
    if value is None and isinstance(node, dict):
        node.pop(last, None)
    else:
        node[last] = value


def same(old: Any, new: Any) -> bool:
    """Whether a new value would change nothing."""
    if isinstance(old, np.ndarray) or isinstance(new, np.ndarray):
        if old is None or new is None or np.shape(old) != np.shape(new):
            return False
        old, new = np.asarray(old), np.asarray(new)
        numbers = all(array.dtype.kind in "biuf" for array in (old, new))  # text has no nan
        return bool(np.array_equal(old, new, equal_nan=numbers))
    if isinstance(new, list | tuple):
        return isinstance(old, list | tuple) and list(old) == list(new)
    return bool(old == new)


def written(path: Path) -> str:
    """A path as plotly writes it: ``images[0].source``."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in path]
    return "".join(parts).removeprefix(".")
