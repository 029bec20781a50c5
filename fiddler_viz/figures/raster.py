"""How busy each lane is, pixel by pixel: exact shares of time, whatever the number of segments."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.events import Lane
from fiddler_viz.frames import Segments
from fiddler_viz.theme import IDLE, PATH, SEGMENTS, Segment

Shares = NDArray[np.float64]
SCRIPT = Path(__file__).with_name("raster.js")
"""The same in JavaScript, for pages."""
PATH_LEVELS = 4
"""Shades of the critical path: a pixel's share of it in quarters."""
_TILE = 24
"""Every texture repeats after so many columns."""


def occupancy(segments: Segments, start_ns: float, end_ns: float, pixels: int = 1200) -> Shares:
    """Share of each pixel's time that each lane spent on each kind of work.

    Shape ``(lanes, kinds, pixels)``. A segment counts fully in the pixels that it spans and in
    part in its first and last: four histograms and a running sum, no loop over segments.
    """
    lanes, kinds, width = len(Lane), len(Segment), pixels + 1
    if not len(segments) or end_ns <= start_ns:
        return np.zeros((lanes, kinds, pixels))
    scale = pixels / (end_ns - start_ns)
    start = ((segments.start_ns - start_ns) * scale).clip(0, pixels)
    end = ((segments.end_ns - start_ns) * scale).clip(0, pixels)
    row = (segments.lane * kinds + segments.kind) * width
    first, last = start.astype(np.int64), end.astype(np.int64)
    size = lanes * kinds * width
    at = np.concatenate([row + first, row + last])
    sign = np.repeat([1.0, -1.0], len(row))
    part = np.concatenate([first - start, end - last])
    spans = np.bincount(at, sign, size).reshape(-1, width).cumsum(axis=1)
    shares = spans + np.bincount(at, part, size).reshape(-1, width)
    return shares.reshape(lanes, kinds, width)[:, :, :pixels].clip(0, 1)


def paint(
    shares: Shares, path: Shares | None = None, *, lane_pixels: int = 40, gap_pixels: int = 10
) -> NDArray[np.uint8]:
    """Palette indices of a picture: each lane a stack of its kinds, as high as they are busy.

    Shape ``(lanes * (lane_pixels + gap_pixels), pixels)``; 0 is empty, kind ``k`` is ``1 + k``,
    or ``1 + kinds + k`` where its texture darkens it. Kinds stack from the lane's bottom, half a
    gap above and below each lane; what ran at all is at least two pixels high.

    What is left of a lane's room, its idle share, is hatched: ``1 + 2 * kinds``. ``path``, shape
    ``(lanes, pixels)``, is drawn below each lane, in one of ``PATH_LEVELS`` colours that follow.
    """
    lanes, kinds, pixels = shares.shape
    high = np.rint(shares * lane_pixels)
    np.maximum(high, 2, out=high, where=shares > 1e-9)
    tops = high.cumsum(axis=1).astype(np.int32)  # (lanes, kinds, pixels)
    level = np.arange(lane_pixels, dtype=np.int32)[::-1, None]  # bottom row last
    tile = np.arange(pixels) * 1200 // pixels % _TILE  # textures repeat, and keep their width
    picture = np.zeros((lanes, lane_pixels + gap_pixels, pixels), np.uint8)
    stack = picture[:, gap_pixels // 2 : gap_pixels // 2 + lane_pixels]
    for kind in reversed(range(kinds)):  # a later kind's pixels below an earlier kind's top go
        used = shares[:, kind].any(axis=1)
        if not used.any():
            continue
        strokes = texture(SEGMENTS[Segment(kind)].pattern, np.arange(_TILE), level)
        index = (1 + kind + kinds * strokes)[:, tile]
        stack[used] = np.where(level < tops[used, kind, None], index, stack[used])
    hatch = texture("idle", np.arange(_TILE), level)[:, tile].astype(np.bool_)
    stack[(stack == 0) & hatch & (shares.sum(axis=1) < 1 - 1e-9)[:, None]] = 1 + 2 * kinds
    if path is not None:
        strength = np.ceil(path.clip(0, 1) * PATH_LEVELS - 1e-9).astype(np.uint8)  # 0: none
        colours = np.where(strength > 0, 1 + 2 * kinds + strength, 0)
        below = gap_pixels // 2 + lane_pixels
        picture[:, below : below + gap_pixels // 2 - 1] = colours[:, None]
    return picture.reshape(-1, pixels)


def texture(pattern: str, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.uint8]:
    """1 where a bar pattern of plotly's name has a stroke; ``x`` and ``y`` broadcast."""
    rising, falling = (x + y) % 12 < 2, (x - y) % 12 < 2
    strokes = {
        "": np.zeros_like(rising),
        "/": falling,
        "\\": rising,
        "x": rising | falling,
        ".": (x % 8 < 2) & (y % 8 < 2),
        "idle": (x + y) % 8 < 1,
    }
    return strokes[pattern].astype(np.uint8)


def palette() -> list[tuple[int, ...]]:
    """The colours of :func:`paint`'s indices."""
    plain = [_rgb(SEGMENTS[segment].color) for segment in Segment]
    lighter = [tuple(value + (255 - value) * 35 // 100 for value in colour) for colour in plain]
    path = [(*_rgb(PATH.color), 255 * n // PATH_LEVELS) for n in range(1, PATH_LEVELS + 1)]
    return [(0, 0, 0), *plain, *lighter, (*_rgb(IDLE.color), 115), *path]


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def png(picture: NDArray[np.uint8], palette: list[tuple[int, ...]]) -> bytes:
    """A PNG file of palette indices: red, green, blue and, if given, how opaque it is.

    Index 0 is transparent.
    """
    height, width = picture.shape
    rows = np.full((height, width + 1), 2, np.uint8)  # each begins with its filter, 2 = less above
    rows[:, 1:] = np.diff(picture, axis=0, prepend=np.uint8(0))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    colours = bytes(value for colour in palette for value in colour[:3])
    opaque = bytes([0, *(colour[3] if len(colour) > 3 else 255 for colour in palette[1:])])
    chunks = [
        (b"IHDR", head),
        (b"PLTE", colours),
        (b"tRNS", opaque),
        (b"IDAT", zlib.compress(rows.tobytes(), 1)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def data_uri(image: bytes) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
