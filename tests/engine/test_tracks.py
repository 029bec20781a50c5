"""Time covered between any two times, against adding it up."""

from __future__ import annotations

import numpy as np
import pytest

from engine.tracks import Tracks


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_adding_up_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = [np.sort(rng.integers(0, 300, 2 * n)).reshape(-1, 2) for n in (0, 1, 9, 40)]
    group = np.repeat(np.arange(4), [len(one) for one in edges])
    start, end = np.concatenate(edges).T
    shuffled = rng.permutation(len(group))
    tracks = Tracks.of(group[shuffled], start[shuffled], end[shuffled], 4)
    times = np.concatenate([rng.uniform(-10, 310, 50), start, end])
    covered = tracks.until(times)
    assert covered.shape == (4, len(times))
    seen = (end > 100) & (start < 200) & (group < 3)
    assert tracks.crossing(100, 200, 3) == seen.sum()
    for number in range(4):
        mine = group == number
        for at, time in enumerate(times.tolist()):
            expected = (np.minimum(end[mine], time) - start[mine]).clip(min=0).sum()
            assert covered[number, at] == pytest.approx(expected)
