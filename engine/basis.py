"""What a plan's costs were derived from: a model on a machine. A what-if starts from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from engine.cost import CostModel
from engine.errors import InputError
from engine.spec import HardwareSpec, ModelSpec
from engine.strict import check_keys


@dataclass(frozen=True)
class Basis:
    """A model and a machine, whole: a plan's costs are times, from which rates cannot be read."""

    model: ModelSpec
    hardware: HardwareSpec

    @cached_property
    def costs(self) -> CostModel:
        """The costs that follow from them."""
        return CostModel.of(self.model, self.hardware)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"model": self.model.to_dict(), "hardware": self.hardware.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back :meth:`to_dict`; raises InputError where a field is missing, unknown or bad."""
        given = check_keys("basis of a plan", values, ("model", "hardware"))
        return cls(ModelSpec.from_dict(given["model"]), HardwareSpec.from_dict(given["hardware"]))


def find_basis(
    known: Basis | None, hardware: str, costs: CostModel, model: ModelSpec
) -> Basis | None:
    """What costs were derived from: what is known of it, or a preset; None where neither gives
    these costs.

    Files of the first versions name the machine only.
    """
    named = known is not None and (known.model, known.hardware.name) == (model, hardware)
    if known is not None and named and known.costs == costs:
        return known
    if hardware in HardwareSpec.presets():
        preset = Basis(model, HardwareSpec.preset(hardware))
        if preset.costs == costs:
            return preset
    return None


def need_basis(known: Basis | None, hardware: str, costs: CostModel, model: ModelSpec) -> Basis:
    """:func:`find_basis`, or InputError."""
    found = find_basis(known, hardware, costs, model)
    if found is None:
        raise InputError(
            f"the run's hardware {hardware!r} is no preset with these costs, and a trace holds "
            "its times, not the rates that a what-if changes: give hardware= its profile as well"
        )
    return found
