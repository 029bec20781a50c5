"""Outlines of cells of a grid as one line with gaps: exact at any size of the figure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Line = tuple[NDArray[np.float32], NDArray[np.float32]]
"""x and y (columns and rows, cell centres at whole numbers); NaN lifts the pen."""


def cell_outlines(chosen: NDArray[np.bool_], inset: float = 0.12) -> Line:
    """A rectangle just inside each chosen cell."""
    rows, columns = np.nonzero(chosen)
    reach = 0.5 - inset
    around_x = np.array([-1, 1, 1, -1, -1, np.nan]) * reach
    around_y = np.array([-1, -1, 1, 1, -1, np.nan]) * reach
    x = columns[:, None] + around_x
    y = rows[:, None] + around_y
    return x.ravel().astype(np.float32), y.ravel().astype(np.float32)


def region_outlines(chosen: NDArray[np.bool_]) -> Line:
    """The borders between chosen and other cells, straight runs as one stroke each."""
    padded = np.pad(chosen, 1)
    upright = padded[1:-1, 1:] != padded[1:-1, :-1]  # (rows, columns + 1): left of each column
    level = padded[1:, 1:-1] != padded[:-1, 1:-1]  # (rows + 1, columns): above each row
    column, top, bottom = _runs(upright.T)
    row, left, right = _runs(level)
    gap = np.full(len(column) + len(row), np.nan)
    x = np.stack([np.r_[column, left], np.r_[column, right], gap], axis=1) - 0.5
    y = np.stack([np.r_[top, row], np.r_[bottom, row], gap], axis=1) - 0.5
    return x.ravel().astype(np.float32), y.ravel().astype(np.float32)


def _runs(marked: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """(line, start, end) of each run of True along the second axis; end is exclusive."""
    edges = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    line, start = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)
    return line, start, end
