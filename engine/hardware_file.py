"""What a hardware profile's file holds, as the fields of a HardwareSpec; older files completed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from engine.errors import InputError
from engine.strict import check_keys, check_number, check_text

_DERIVED = {
    "h2d_pageable_gbps": ("h2d_gbps", 0.5),
    "h2d_contended_gbps": ("h2d_gbps", 8.4 / 13),
    "cpu_contended_gbps": ("cpu_gbps", 22 / 30),
}
"""Figures that files of the first version lack: share of another one, assumed as in the presets."""


def completed(data: Any) -> Any:
    """What `save` wrote, with figures that its version did not have yet."""
    if not isinstance(data, Mapping):
        return data
    later: dict[str, Any] = {
        "accelerator": True,
        "calibration": None,
        "changed": {},
        "original": None,
    }
    values = later | dict(cast("Mapping[str, Any]", data))
    sources = values.get("sources")
    for name, (base, share) in _DERIVED.items():
        value = values.get(base)
        if name not in values and isinstance(value, int | float) and isinstance(sources, dict):
            values[name] = value * share
            text = f"Assumed: {share:.3f} of {base}; the file is older than this figure."
            values["sources"] = {**cast("dict[str, str]", values["sources"]), name: text}
    return values


def derived(
    data: Mapping[str, Any], figures: Sequence[str], whole: Collection[str]
) -> dict[str, Any]:
    """A spec's fields from a preset's file, in which each figure is a product of stated numbers.

    ``figures``: names of all there have to be, ``whole``: of those that are whole numbers. Raises
    InputError where one is missing, unknown or bad.
    """
    data = dict(data)
    for name, (base, share) in _DERIVED.items():
        figure = data.get(base)
        if name not in data and isinstance(figure, dict):
            known = cast("dict[str, Any]", figure)
            text = f"Assumed share; the file is older than this figure. {known.get('source')}"
            product = known.get("product")
            if isinstance(product, dict):
                product = {**cast("dict[str, Any]", product), f"share of {base}": share}
            data[name] = {"product": product, "source": text}
    content = check_keys("hardware profile", data, ["name", "title", *figures])
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in figures:
        what = f"hardware profile {content['name']!r}, {name}"
        figure = check_keys(what, content[name], ["product", "source"])
        check_text(f"{what}, source", figure["source"])
        product = figure["product"]
        if not isinstance(product, Mapping) or not product:
            raise InputError(f"{what}, product: expected numbers by label.")
        terms = cast("Mapping[str, Any]", product)
        for label, term in terms.items():
            check_number(f"{what}, {label}", term, zero=True)
        value = math.prod(terms.values())
        check_number(what, value, zero=True)
        values[name] = round(value) if name in whole else round(float(value), 6)
        shown = " x ".join(f"{term} {label}" for label, term in terms.items())
        sources[name] = f"{shown}. {figure['source']}"
    named = {"name": content["name"], "title": content["title"]}
    return {**named, **values, "calibrated": False, "sources": sources}
