"""The plan of an engine: what is in force, and how it is changed while the engine runs."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from engine.basis import Basis
from engine.errors import InputError
from engine.events import Clock
from engine.placement import change_plan
from engine.plan import Plan
from engine.planners import check_planner
from engine.policies import LIVE, Policy, resolve_policy
from engine.residency import Residency
from engine.session import Session
from engine.spec import HardwareSpec, ModelSpec


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
        self._replanning = threading.RLock()
        """One at a time: what is not named stays as the one before left it."""

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
        plan: Plan | None = None,
        *,
        gpu_memory: int | str | None = None,
        cache_slots: int | None = None,
        policy: str | type[Policy] | None = None,
        planner: str | None = None,
        hardware: str | Path | HardwareSpec | None = None,
        link_gbps: float | None = None,
        cpu_cores: int | None = None,
        as_model: str | ModelSpec | None = None,
        pin: Any = None,
        unpin: Any = None,
        reset_pins: bool = False,
    ) -> Plan:
        """Change the plan, from any thread; what is not named stays as it is.

        ``plan``: a whole one to start from instead of the one in force, as a replay or
        :func:`engine.placement.change_plan` made it for this engine. The others as in
        :func:`engine.placement.change_plan`.

        Takes effect at the next step of a running generation (and is recorded there), at once
        when nothing runs; another model's costs only then, with empty cache slots. ``pin=[(17,
        3)]``, ``unpin=`` and ``reset_pins=True`` edit the placement by hand. Raises BudgetError or
        InputError and changes nothing when it cannot be: what-ifs of a machine or a model are none
        for a device that measures its own time; FiddlerError once the engine is closed.
        """
        self.session.check_open()
        if not self.device.offloads:
            raise InputError(
                f"the {self.device.name} device has no device memory to plan: load the model with "
                "device='virtual', or replay a trace under another plan"
            )
        self._check_policy(policy)
        check_planner(planner)
        with self._replanning:
            start = self.plan if plan is None else self._own(plan)
            model = self.model_spec if start.basis is None else start.basis.model
            made = change_plan(
                start,
                model=model,
                gpu_memory=gpu_memory,
                cache_slots=cache_slots,
                policy=policy,
                planner=planner,
                hardware=hardware,
                link_gbps=link_gbps,
                cpu_cores=cpu_cores,
                as_model=as_model,
                pin=pin,
                unpin=unpin,
                reset_pins=reset_pins,
            )
            self.device.check_budget(made.gpu_memory)
            basis = made.basis or Basis(model, self.hardware)
            other = basis.model != self.model_spec
            if self.device.clock == Clock.MEASURED and (other or basis.hardware.changed):
                raise InputError(
                    f"the {self.device.name} device measures what this machine does with this "
                    "model: other hardware (link_gbps, cpu_cores) and other models (as_model) can "
                    "only be predicted, by a replay of its run"
                )
            if not other:
                self.session.replan(made)
            else:
                self.session.restart(made)
                self._costs_as(basis.model)
            self.hardware = basis.hardware
            return made

    def _own(self, plan: Plan) -> Plan:
        """A whole plan that was given, if it is one for this engine; InputError if it is not."""
        if not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"replan: expected a Plan, got {plan!r}; what changes is given by name, such as "
                'gpu_memory="12GB"'
            )
        self._check_policy(plan.policy_class)
        basis = plan.basis_of(self.model_spec) if plan.basis is None else plan.basis
        mine, model = self.plan, self.model_spec
        alike = change_plan(mine, model=model, gpu_memory="100%", as_model=basis.model)
        for name in ("grid", "dense_bytes", "kv_bytes", "workspace_bytes", "expert_bytes"):
            if getattr(plan, name) != getattr(alike, name):
                raise InputError(
                    f"this plan is for another engine: its {name} is {getattr(plan, name)}, here "
                    f"it would be {getattr(alike, name)}; give gpu_memory=, policy=... instead"
                )
        return replace(plan, basis=basis)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an engine holds a model, threads and a device, which cannot be copied or pickled: "
            "keep its run's trace (run.trace.save), or load the model again"
        )

    def _costs_as(self, model: ModelSpec) -> None:
        """From now on this model is costed."""
        self.model_spec = model

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
