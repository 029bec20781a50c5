"""Marks in cells of a grid as one line with gaps: one path to draw, exact at any size."""

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


def cell_dashes(chosen: NDArray[np.bool_], reach: float = 0.25) -> Line:
    """A dash in the middle of each chosen cell, for cells too small for an outline."""
    rows, columns = np.nonzero(chosen)
    x = columns[:, None] + np.array([-reach, reach, np.nan])
    y = rows[:, None] + np.array([0, 0, np.nan])
    return x.ravel().astype(np.float32), y.ravel().astype(np.float32)
