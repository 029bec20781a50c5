"""What weights of 8 or 4 bits weigh: schemes, groups that share a scale, a model's new bytes.

How they are made is in :mod:`engine.levels`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import InputError, UnsupportedModelError
from engine.model_spec import ModelSpec
from engine.strict import check_name

_SCALE_BYTES = 2
"""A group's scale is bfloat16."""
GROUPS = (128, 64, 32)
"""Weights that share a scale, best first: the most that divide a row."""


@dataclass(frozen=True)
class Scheme:
    """How weights are quantised."""

    name: str
    bits: int

    def bytes_per_weight(self, group: int) -> float:
        """Bytes of a weight, its share of the group's scale included."""
        return self.bits / 8 + _SCALE_BYTES / group


SCHEMES = {scheme.name: scheme for scheme in (Scheme("int8", 8), Scheme("int4", 4))}


def scheme_named(name: str | None) -> Scheme | None:
    """The scheme of that name, None for None. Raises UnknownNameError, InputError."""
    if name is None:
        return None
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"quantize: expected 'int8', 'int4' or None, got {type(name).__name__}")
    check_name("quantize", name, SCHEMES)
    return SCHEMES[name]


def group_for(*rows: int) -> int:
    """The largest group that rows of all these lengths can be cut into.

    Raises UnsupportedModelError where there is none.
    """
    for group in GROUPS:
        if all(row % group == 0 for row in rows):
            return group
    raise UnsupportedModelError(
        f"quantize: experts with rows of {' and '.join(map(str, sorted(set(rows))))} weights "
        f"cannot be cut into groups of {', '.join(map(str, GROUPS))}: load them without quantize"
    )


def quantised_spec(spec: ModelSpec, scheme: Scheme) -> ModelSpec:
    """A model as it would weigh with its experts quantised.

    Raises InputError where they are quantised already, UnsupportedModelError where groups do not
    fit.
    """
    if spec.bytes_per_weight < 2:
        raise InputError(
            f"quantize={scheme.name!r}: {spec.name} has {spec.bytes_per_weight:g} bytes per weight "
            "already: leave quantize out, or cost another model"
        )
    each = scheme.bytes_per_weight(group_for(spec.hidden, spec.expert_width))
    weights = spec.expert_flops_per_token // 2
    saved = round(weights * spec.bytes_per_weight) - round(weights * each)
    return replace(
        spec,
        name=f"{spec.name}-{scheme.name}",
        expert_bytes=spec.expert_bytes - saved,
        bytes_per_weight=each,
    )
