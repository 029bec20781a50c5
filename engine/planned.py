"""The plan of an engine: what is in force, and how it is changed while the engine runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.placement import change_plan
from engine.plan import Plan
from engine.planners import check_planner
from engine.policies import LIVE, Policy, resolve_policy
from engine.residency import Residency
from engine.session import Session
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware


class Planned:
    """What of :class:`~engine.hybrid.HybridEngine` has to do with its plan."""

    def __init__(
        self,
        session: Session,
        model_spec: ModelSpec,
        real_spec: ModelSpec,
        hardware: HardwareSpec,
    ) -> None:
        self.session = session
        self.device = session.device
        self.model_spec = model_spec
        """The model whose bytes and flops are costed: ``as_model``, or the loaded one."""
        self.real_spec = real_spec
        """The loaded model."""
        self.hardware = hardware

    @property
    def plan(self) -> Plan:
        """The plan in force, or the one that waits for the next step."""
        return self.session.plan

    @property
    def residency(self) -> Residency:
        """The byte ledger of the device."""
        return self.session.orchestrator.residency

    @property
    def policy(self) -> str:
        """Name of the policy in force."""
        return self.plan.policy

    def replan(
        self,
        *,
        gpu_memory: int | str | None = None,
        cache_slots: int | None = None,
        policy: str | type[Policy] | None = None,
        planner: str | None = None,
        hardware: str | Path | HardwareSpec | None = None,
        pin: Any = None,
        unpin: Any = None,
        reset_pins: bool = False,
    ) -> Plan:
        """Change the plan, from any thread; what is not named stays as it is.

        Takes effect at the next step of a running generation (and is recorded there), at once
        when nothing runs. ``pin=[(17, 3)]``, ``unpin=`` and ``reset_pins=True`` edit the placement
        by hand: see :func:`engine.placement.change_plan`. Raises BudgetError or InputError and
        changes nothing when it cannot be.
        """
        if not self.device.offloads:
            raise InputError(
                f"the {self.device.name} device has no device memory to plan: load the model with "
                "device='virtual', or replay a trace under another plan"
            )
        spec = None if hardware is None else resolve_hardware(hardware)
        self._check_policy(policy)
        check_planner(planner)
        plan = change_plan(
            self.plan,
            model=self.model_spec,
            gpu_memory=gpu_memory,
            cache_slots=cache_slots,
            policy=policy,
            planner=planner,
            hardware=spec,
            pin=pin,
            unpin=unpin,
            reset_pins=reset_pins,
        )
        self.session.replan(plan)
        self.hardware = spec or self.hardware
        return plan

    def _check_policy(self, name: str | type[Policy] | None) -> None:
        """Raise InputError for a policy that cannot run here."""
        policy = None if name is None else resolve_policy(name)
        if policy is not None and not policy.live:
            raise InputError(
                f"policy {policy.name!r} needs to know the whole run: use it in a replay, for an "
                f"engine choose one of {', '.join(LIVE)}"
            )
        if policy is not None and policy.wants_predictions:
            self._check_foresight(f"policy {policy.name!r}")

    def _check_foresight(self, what: str) -> None:
        """Raise InputError where no layer can be foreseen; ``what`` would need it."""
        if not self.session.foresight:
            raise InputError(
                f"{what}: no layer of {self.real_spec.name} can be foreseen from the one before "
                f"it: {self.session.foresight.why_not}"
            )
