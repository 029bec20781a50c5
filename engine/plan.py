"""A plan: a memory budget resolved into what is pinned, what is cached and who decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.basis import Basis, find_basis, need_basis
from engine.by_hand import ByHand
from engine.cost import CostModel
from engine.errors import InputError
from engine.policies import POLICIES, Policy, resolve_policy
from engine.profile import Profile
from engine.residency import Residency
from engine.spec import UNCALIBRATED, HardwareSpec, ModelSpec
from engine.strict import check_ascending, check_int, check_keys, check_text
from engine.units import format_bytes


@dataclass(frozen=True)
class Plan:
    """What the device's memory is for, from one step on: :func:`engine.placement.make_plan`."""

    grid: tuple[int, int]
    """MoE layers, experts per layer."""
    gpu_memory: int
    """Budget in bytes."""
    dense_bytes: int
    kv_bytes: int
    """KV cache reserved up front for ``max_tokens`` positions of ``max_sequences`` sequences."""
    workspace_bytes: int
    """Staging buffers for streamed weights, and activations."""
    expert_bytes: int
    pinned: tuple[int, ...]
    """Flat indices ``layer * experts + expert`` of the experts pinned, ascending."""
    cache_slots: int
    policy: str
    planner: str
    hardware: str
    """Name of the hardware profile that the costs come from."""
    hardware_title: str
    """The same for people: the GPU, the cores and the CPU."""
    card_bytes: int
    """Memory of that hardware's card. A budget may be above it: a what-if."""
    model: str
    """Name of the model whose bytes and flops are costed."""
    profile: Profile
    """The popularity that planners rank experts by, and where it was measured."""
    costs: CostModel
    by_hand: ByHand = field(default_factory=ByHand)
    """What of the placement is the reader's own, and stays so whatever else of the plan changes."""
    reserve_bytes: int = 0
    """Of the workspace: what a real device takes besides (:mod:`engine.devices.reserve`)."""
    own_policy: type[Policy] | None = None
    """A policy of the caller's own, not one of ours; files keep its name only."""
    basis: Basis | None = field(default=None, compare=False, repr=False)
    """What the costs were derived from; None in older files. :meth:`basis_of` knows more."""

    def __repr__(self) -> str:
        beyond = self.beyond_card
        foreign = f" ({UNCALIBRATED})" if self.uncalibrated else ""
        by_hand = f" ({self.by_hand})" if self.by_hand else ""
        return (
            f"Plan({format_bytes(self.gpu_memory)}{f', {beyond},' if beyond else ''} on "
            f"{self.hardware}{foreign}: {len(self.pinned)} of {self.grid[0] * self.grid[1]} "
            f"experts pinned{by_hand}, {self.cache_slots} cache slots, policy {self.policy!r})"
        )

    @cached_property
    def lane_costs(self) -> CostModel:
        """The costs as the policy's own system has them: what work is laid on the lanes by."""
        return self.costs if self.policy_class.overlap else self.costs.in_turn()

    @property
    def policy_class(self) -> type[Policy]:
        """The policy itself. Raises InputError where a file names one of somebody's own."""
        if not self.has_policy:
            raise InputError(
                f"policy {self.policy!r} is not at hand, only its name is in the file: give "
                f"policy= its class, or the name of another one ({', '.join(POLICIES)})"
            )
        return self.own_policy or resolve_policy(self.policy)

    @property
    def has_policy(self) -> bool:
        """Whether the policy is at hand: not where a file names one of somebody's own."""
        return self.own_policy is not None or self.policy in POLICIES

    @property
    def pinned_grid(self) -> NDArray[np.bool_]:
        """Shape ``(layers, experts)``: True where pinned."""
        grid = np.zeros(self.grid[0] * self.grid[1], dtype=np.bool_)
        grid[list(self.pinned)] = True
        return grid.reshape(self.grid)

    @property
    def uncalibrated(self) -> bool:
        """Whether the costs were measured, but on another machine than the plan was made on."""
        return UNCALIBRATED in self.hardware_title

    @property
    def beyond_card(self) -> str:
        """``more than the card's 24.0 GB`` where the budget is, else empty."""
        if self.gpu_memory <= self.card_bytes:
            return ""
        if not self.card_bytes:
            return "though there is no GPU"
        return f"more than the card's {format_bytes(self.card_bytes)}"

    @property
    def minimum_bytes(self) -> int:
        """The smallest budget that works: dense, KV cache and workspace, no expert resident."""
        return self.dense_bytes + self.kv_bytes + self.workspace_bytes

    @property
    def full_bytes(self) -> int:
        """The budget at which every expert is resident."""
        return self.minimum_bytes + self.grid[0] * self.grid[1] * self.expert_bytes

    @property
    def room(self) -> int:
        """Experts that fit beside what is reserved: pinned and cached together."""
        free = (self.gpu_memory - self.minimum_bytes) // self.expert_bytes
        return min(free, self.grid[0] * self.grid[1])

    @property
    def most_slots(self) -> int:
        """Cache slots that there is room for beside what is pinned by hand; below 0: not all of
        that fits."""
        return self.room - len(self.by_hand.pinned)

    def basis_of(self, model: ModelSpec) -> Basis:
        """The model and the machine that the costs were derived from; ``model``: the costed one.

        Raises InputError where an older file names a machine that is no preset.
        """
        return need_basis(self.basis, self.hardware, self.costs, model)

    def machine(self, model: ModelSpec) -> HardwareSpec | None:
        """The machine that the costs are of, with its rates; None where they are not known."""
        found = find_basis(self.basis, self.hardware, self.costs, model)
        return None if found is None else found.hardware

    @property
    def own_machine(self) -> tuple[str, str]:
        """Name and title of the machine without what is asked of it (:mod:`engine.what_if`)."""
        original = None if self.basis is None else self.basis.hardware.original
        if original is None:
            return self.hardware, self.hardware_title
        return original.name, original.title

    def residency(self) -> Residency:
        """An empty ledger with this plan's limits."""
        return Residency(
            self.grid,
            self.expert_bytes,
            budget_bytes=self.gpu_memory,
            dense_bytes=self.dense_bytes,
            kv_bytes=self.kv_bytes,
            workspace_bytes=self.workspace_bytes,
            cache_slots=self.cache_slots,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: getattr(self, name) for name in _saved() if name not in _LATER}
        if self.by_hand:  # earlier versions' files have none, and read those without
            values["by_hand"] = self.by_hand.to_dict()
        if self.reserve_bytes:
            values["reserve_bytes"] = self.reserve_bytes
        return values | {
            "grid": list(self.grid),
            "pinned": list(self.pinned),
            "profile": self.profile.to_dict(),
            "costs": self.costs.to_dict(),
            "basis": None if self.basis is None else self.basis.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back :meth:`to_dict`; raises InputError where a field is missing, unknown or bad."""
        later = _LATER & values.keys() if isinstance(values, Mapping) else set[str]()  # pyright: ignore[reportUnnecessaryIsInstance]
        known = "by_hand" in later
        names = (name for name in _saved() if name not in _LATER or name in later)
        given: dict[str, Any] = {"reserve_bytes": 0} | check_keys("plan", values, [*names, "basis"])
        profile = Profile.from_dict(given["profile"])
        if given["grid"] != list(profile.grid):
            raise InputError(
                f"not a plan: a grid of {given['grid']!r}, its profile's is {list(profile.grid)}"
            )
        least_0 = ("gpu_memory", "dense_bytes", "kv_bytes", "workspace_bytes", "cache_slots")
        for name in (*least_0, "card_bytes", "reserve_bytes"):  # no card where there is no GPU
            check_int(f"plan, {name}", given[name], least=0)
        check_int("plan, expert_bytes", given["expert_bytes"], least=1)
        for name in ("policy", "planner", "hardware", "hardware_title", "model"):
            check_text(f"plan, {name}", given[name])
        total = profile.grid[0] * profile.grid[1]
        given |= {
            "grid": profile.grid,
            "profile": profile,
            "costs": CostModel.from_dict(given["costs"]),
            "pinned": check_ascending("not a plan: pinned", given["pinned"], total),
            "by_hand": ByHand.from_dict(given["by_hand"], profile.grid) if known else ByHand(),
        }
        if given["basis"] is not None:
            given["basis"] = Basis.from_dict(given["basis"])
            if given["basis"].model.grid != profile.grid:
                raise InputError("not a plan: its costs' basis is a model of another grid")
        made = cls(**given)
        if max(made.full_bytes, made.gpu_memory) >= 2**63:
            raise InputError("not a plan: its bytes do not fit in 64 bits")
        if len(made.pinned) + made.cache_slots > made.room:  # also below the smallest budget
            raise InputError(
                f"not a plan: {len(made.pinned)} experts pinned and {made.cache_slots} cache slots "
                f"do not fit in {format_bytes(made.gpu_memory)}"
            )
        hand, pinned = made.by_hand, set(made.pinned)
        if not pinned.issuperset(hand.pinned) or not pinned.isdisjoint(hand.unpinned):
            raise InputError("not a plan: what is pinned is not what was pinned by hand")
        return made


_LATER = {"by_hand", "reserve_bytes"}
"""Fields that files of earlier versions do not hold; written only where there is something."""


def _saved() -> list[str]:
    """Names of the fields that a file holds."""
    return [each.name for each in fields(Plan) if each.name not in ("own_policy", "basis")]
