"""The row of numbers: what was predicted, what this run gave, and what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import ipywidgets as widgets

from engine.bounds import Bound
from engine.summary import Summary
from engine.units import format_bytes
from fiddler_viz.theme import percent, rate, safe


@dataclass(frozen=True)
class Tile:
    """One number with its name and a note; ``kind`` is ``predicted``, ``run`` or empty."""

    name: str
    value: str
    note: str = ""
    kind: str = ""
    tip: str = ""
    pending: bool = False
    """Whether its value is still to come."""
    of: str = ""
    """Of which part of the run, where not all of it is shown; stands after the name."""

    def html(self, *, changed: bool, old: bool) -> str:
        """The tile as HTML. All text is ours or escaped by :func:`make_tiles`."""
        classes = f"fv-tile {self.kind}{' changed' if changed else ''}{' old' if old else ''}"
        return (
            f'<div class="{classes}" title="{self.tip}">'
            f'<span class="k">{" ".join(filter(None, (self.name, self.of)))}</span>'
            f'<span class="v">{self.value}</span>'
            f'<span class="n">{self.note or "&nbsp;"}</span></div>'
        )


class Tiles(widgets.HTML):
    """Shows tiles; what a moved control changed fades in, a running number does not."""

    def __init__(self) -> None:
        super().__init__(layout=widgets.Layout(width="100%"))
        self._shown: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Tiles({', '.join(self._shown)})"

    def show(self, tiles: list[Tile], *, fade: bool = False, old: bool = False) -> bool:
        """Draw; True if anything changed. ``old`` dims what is about to be replaced."""
        tiles = [self._meanwhile(tile) for tile in tiles]
        parts = [
            tile.html(
                changed=fade and self._shown.get(tile.name) != tile.value, old=old or tile.pending
            )
            for tile in tiles
        ]
        before = self.value
        self.value = f'<div class="fv-tiles">{"".join(parts)}</div>'
        self._shown = {tile.name: tile.value for tile in tiles}
        return self.value != before

    def _meanwhile(self, tile: Tile) -> Tile:
        """Until a value comes the one before stays, dimmed."""
        if not tile.pending or tile.name not in self._shown:
            return tile
        return replace(tile, value=self._shown[tile.name])


def make_tiles(
    predicted: Summary | None,
    run: Summary | None,
    *,
    what_if: bool,
    light: Bound | None = None,
    pending: bool = False,
    upto: int | None = None,
    elsewhere: str = "",
) -> list[Tile]:
    """Tiles of a prediction (outlined) and of what ran (solid); either may be missing.

    All but these two are of the run, or where the views show a ``what_if``, of the prediction.
    ``light``: the bound of what is shown; None where there is none, or ``pending``: not yet.
    ``upto``: the step at whose end the run is shown, -1: before the first; None: all of it. What is
    predicted is then of all of it, too, unless the views show it. ``elsewhere``: the machine that
    is predicted, where the run was measured on one without a GPU.
    """
    shown = predicted if what_if else run or predicted
    kind = "predicted" if shown is predicted else ""
    first = _speed("predicted", predicted, "predicted") if predicted else _none("predicted")
    second = _speed("this run", run, "run") if run else _none("this run")
    if predicted and elsewhere:
        tip = f"decode speed that {safe(elsewhere)} would give; this run used no GPU"
        first = replace(first, of="with a GPU", tip=tip)
    if upto is not None:
        part = "before its first step" if upto < 0 else f"up to step {upto}"
        first = replace(first, of=part if what_if else "for the whole run")
        second = replace(second, of=part)
    if shown is None:
        return [first, second]
    return [
        first,
        second,
        Tile(
            "hit rate",
            percent(shown.hit_rate),
            "found on the GPU",
            kind,
            "share of expert calls whose weights were already in GPU memory",
        ),
        Tile(
            "over PCIe",
            _bytes(shown.bytes_per_token),
            "per token",
            kind,
            "weights and activations, both directions, per token processed",
        ),
        Tile(
            "on the CPU",
            percent(shown.cpu_share),
            f"{shown.calls['cpu']:,} of {sum(shown.calls.values()):,} calls",
            kind,
            "share of expert calls that ran on the CPU instead of copying weights",
        ),
        _light(shown, light, kind, pending=pending),
    ]


def _speed(name: str, summary: Summary, kind: str) -> Tile:
    low, high, value = summary.tokens_per_s_low, summary.tokens_per_s_high, summary.tokens_per_s
    if summary.clock == "measured" and kind == "run":
        note = "measured"
    elif math.isfinite(low) and high > low:
        note = f"{rate(low).split()[0]} to {rate(high).split()[0]}, modelled"
    else:
        note = "modelled"
    tip = "decode speed: generated tokens per second, without the prompt"
    return Tile(name, rate(value), note, kind, tip)


def _light(shown: Summary, light: Bound | None, kind: str, *, pending: bool) -> Tile:
    """The share of what nobody can exceed; before that is known, the busiest lane beneath."""
    busiest = max(shown.busy, key=lambda lane: shown.busy[lane], default="")
    if not math.isfinite(shown.busy.get(busiest, 0.0)):  # nothing has run so far
        busiest = ""
    busy = f"{safe(busiest.upper())} {percent(shown.busy[busiest])} busy" if busiest else ""
    tip = (
        "decode speed as a share of what no policy could exceed for this routing, budget and "
        "machine; below: the lane that is busy most of the time"
    )
    if light is None:
        return Tile(LIGHT, "…" if pending else "-", busy, kind, tip, pending)
    share = light.decode_achieved
    return Tile(LIGHT, percent(light.achieved if math.isnan(share) else share), busy, kind, tip)


LIGHT = "of the speed of light"


def _none(name: str) -> Tile:
    if name == "predicted":
        return Tile(name, "-", "needs a run", "predicted", "what a plan would give: the last run")
    return Tile(name, "-", "press Run", "run", "what the engine gave")


def _bytes(n_bytes: float) -> str:
    return format_bytes(round(n_bytes)) if math.isfinite(n_bytes) else "-"
