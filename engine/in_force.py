"""The plan in force: ledger, policy and device by it, and how another takes its place."""

from __future__ import annotations

import threading

from engine.devices.base import Device, sync
from engine.errors import BudgetError, DeviceError, FiddlerError
from engine.orchestrator import Change, Orchestrator
from engine.plan import Plan
from engine.store import ExpertStore


class InForce:
    """What of a :class:`~engine.session.Session` has to do with its plan.

    :meth:`replan` and :meth:`restart` may come from any thread; a plan that waits is taken by the
    thread that runs the model, between two steps.
    """

    def __init__(self, store: ExpertStore, device: Device, plan: Plan) -> None:
        self.store = store
        self.device = device
        self.orchestrator = Orchestrator(plan)
        self._owner: object | None = None
        self._dirty = False
        """True while ledger, policy and device are being changed: an interrupt leaves it so."""
        self._lock = threading.Lock()
        self._pending: Plan | None = None
        self.closed = False

    @property
    def running(self) -> bool:
        """Whether a run has begun and not ended."""
        return self._owner is not None

    def check_open(self) -> None:
        """Raise FiddlerError once it is closed."""
        if self.closed:
            raise FiddlerError(
                "this engine is closed, its model and memory were given back: load it again with "
                "fiddler_viz.load(). engine.last_run still has the latest run"
            )

    def replan(self, plan: Plan) -> None:
        """Put a plan in force at the next step, or at once when nothing runs. The latest wins.

        Raises FiddlerError once it is closed.
        """
        with self._lock:
            self.check_open()
            self._pending = plan
            if not self.running:
                self._repair()
                self._take_plan()

    def restart(self, plan: Plan) -> None:
        """Put a plan of another model's bytes in force, from empty cache slots.

        Raises FiddlerError while a run is under way, for its trace is of one model, and once it is
        closed.
        """
        with self._lock:
            self.check_open()
            if self.running:
                raise FiddlerError(
                    "another model's costs cannot be put in force while a run is under way: wait "
                    "for it, or call engine.stop()"
                )
            self._pending = None
            self._dirty = True
            self.orchestrator = Orchestrator(plan)
            self._sync()
            self._dirty = False

    @property
    def plan(self) -> Plan:
        """The plan in force, or the one that waits for the next step."""
        return self._pending or self.orchestrator.plan

    def _take_plan(self) -> list[Change]:
        plan = self._pending
        if plan is None:
            return []
        before = self.orchestrator.plan
        self._dirty = True
        changes = self.orchestrator.change(plan)
        try:
            self._sync()
        except (DeviceError, BudgetError):  # a real device has no room for it: as it was
            self._pending = None
            self.orchestrator.change(before)
            self._sync()
            self._dirty = False
            raise
        self._pending = None
        self._dirty = False
        return changes

    def _repair(self) -> None:
        """After an interrupt in mid-change: a ledger and a policy by the plan, the device by them.

        Experts that were cached stay cached as far as there are slots.
        """
        if self._dirty:
            self.orchestrator = self.orchestrator.again()
            self._sync()
            self._dirty = False

    def _sync(self) -> None:
        """The device as the ledger has it."""
        sync(self.device, self.store, self.orchestrator.residency)
