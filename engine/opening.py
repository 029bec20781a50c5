"""From a model in host memory to an open device: experts stored, dense part moved, memory known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.decode_graphs import DecodeGraphs
from engine.dense import onto_kernels
from engine.devices import CudaDevice, Device, is_cuda, open_device
from engine.devices.card import card_hardware
from engine.devices.dense_part import move_dense
from engine.devices.reserve import outside_bytes
from engine.errors import InputError
from engine.hook import attach, detach
from engine.loader import model_spec
from engine.pages import onto_own_pages
from engine.placement import make_plan, workspace_bytes
from engine.plan import Plan
from engine.policies import Policy
from engine.profile import Profile
from engine.quantization import Quantization, quantise_experts
from engine.schemes import Scheme, quantised_spec
from engine.session import Session
from engine.spec import HardwareSpec, ModelSpec, resolve_costed, resolve_hardware
from engine.step import Texts
from engine.store import ExpertStore, experts_modules
from engine.strict import whole
from engine.takeover import give_back
from engine.warm_up import measure_inside

DEFAULT_HARDWARE, DEFAULT_POLICY = "rtx-4090", "fiddler"


@dataclass(frozen=True)
class Sizes:
    """What memory is reserved for, as :func:`engine.placement.make_plan` takes it."""

    max_tokens: int
    max_sequences: int
    reserve_bytes: int | None = None
    """None: to be measured on a GPU."""

    @classmethod
    def of(cls, max_tokens: int, max_sequences: int, reserve_bytes: int | None) -> Sizes:
        """What a caller asked for; raises InputError for what is no size."""
        return cls(
            whole("max_tokens", max_tokens, least=1),
            whole("max_sequences", max_sequences, least=1),
            None if reserve_bytes is None else whole("reserve_bytes", reserve_bytes, least=0),
        )


@dataclass(frozen=True)
class Wish:
    """What a plan shall be, as :func:`engine.placement.make_plan` takes it."""

    gpu_memory: int | str | None
    """Budget; None: the hardware's memory."""
    cache_slots: int | None
    """Experts' worth of it; None: the policy's default."""
    policy: str | type[Policy] | None
    """None: :data:`DEFAULT_POLICY`."""
    planner: str | None
    """None: the policy's own."""


NOTHING = Wish("0%", None, "cpu", None)
"""No expert on the device."""


def check_effect(
    device: str,
    wish: Wish,
    sizes: Sizes,
    as_model: object = None,
    cuda_graphs: bool | None = None,
) -> None:
    """Raise InputError for what was asked for, not None, and can have no effect on a device.

    ``device`` is its name. ``auto`` takes all: what it leads to depends on the machine, what a call
    says does not.
    """
    if as_model is not None and (device == "host" or is_cuda(device)):
        raise InputError(
            f"as_model={as_model!r} costs modelled time, the {device} device measures what "
            "really runs: leave as_model out, or load with device='virtual'"
        )
    asked: dict[str, Any] = {}
    why, other = "is no GPU, and takes no more memory than its plan counts", "cuda"
    if device == "host":
        asked |= vars(wish)
        why, other = "keeps everything in host memory and runs it on the CPU", "virtual"
    if device in ("host", "virtual"):
        asked |= {"reserve_bytes": sizes.reserve_bytes, "cuda_graphs": cuda_graphs}
    named = [name for name, value in asked.items() if value is not None]
    if named:
        raise InputError(
            f"{', '.join(named)}: no effect here, for the {device} device {why}. Leave out what "
            f"has none, or load with device={other!r}"
        )


@dataclass(frozen=True)
class Opened:
    """A model ready for an engine."""

    model: Any
    store: ExpertStore
    device: Device
    machine: HardwareSpec
    real: ModelSpec
    """The loaded model."""
    spec: ModelSpec
    """The one that is costed."""
    sizes: Sizes
    quantization: Quantization | None
    graphs: DecodeGraphs | None = None
    """What takes decode steps over; None on a device that has none, or where none are wanted."""

    @classmethod
    def of(
        cls,
        model: Any,
        name: str,
        device: Device | str,
        machine: HardwareSpec | None,
        sizes: Sizes,
        *,
        scheme: Scheme | None = None,
        as_model: str | ModelSpec | None = None,
        cuda_graphs: bool | None = None,
    ) -> Opened:
        """``device``: a name, or one that is open; ``machine`` None: the card there is, not
        calibrated.

        Raises InputError where another model cannot be costed, DeviceError where there is no such
        device.
        """
        if isinstance(device, str) and is_cuda(device):
            onto_own_pages(part for each in experts_modules(model) for part in each.parameters())
        store = ExpertStore(model)
        quantization = None if scheme is None else quantise_experts(store, scheme)
        if isinstance(device, str):
            asked = () if sizes.reserve_bytes is None else (sizes.reserve_bytes,)
            device = open_device(device, store, *asked)
        real = model_spec(model, store, name)
        spec = _costed(real, as_model, scheme)
        graphs: DecodeGraphs | None = None
        if isinstance(device, CudaDevice):
            if machine is None:
                machine = card_hardware(device.runtime.name, device.usable_bytes, DEFAULT_HARDWARE)
            move_dense(model, store, device.runtime.device)
            if cuda_graphs is not False:
                graphs = DecodeGraphs(model, store, device.runtime)
                device.told.append(lambda: graphs.why_not)
            if sizes.reserve_bytes is None:
                _measure_reserve(model, store, device, real, sizes, graphs)
        return cls(
            model,
            store,
            device,
            resolve_hardware(DEFAULT_HARDWARE) if machine is None else machine,
            real,
            spec,
            replace(sizes, reserve_bytes=device.reserve_bytes),
            quantization,
            graphs,
        )

    @property
    def about(self) -> dict[str, Any]:
        """What goes into a trace's meta."""
        return {
            "device": self.device.name,
            "loaded": self.real.name,
            "quantization": None if self.quantization is None else self.quantization.to_dict(),
            **({"notes": self.device.notes} if isinstance(self.device, CudaDevice) else {}),
            "as_model": None if self.spec is self.real else self.spec.name,
        }

    def plan(self, profile: Profile, wish: Wish) -> Plan:
        """A wish made a plan; nothing to wish for where a device has no memory to plan."""
        wish = wish if self.device.offloads else NOTHING
        asked = vars(wish) | {"policy": wish.policy or DEFAULT_POLICY}
        return make_plan(self.spec, self.machine, profile, **asked, **vars(self.sizes))

    def session(self, threads: int, texts: Texts) -> Session:
        """What runs the model's experts and dense layers from now on; no expert is resident yet.

        ``texts`` gives the texts of token ids.
        """
        empty = self.plan(Profile.uniform(self.spec.grid), NOTHING)
        session = Session(self.store, self.device, empty, threads)
        lane = session.executor.lane
        measured = self.machine.costs_of(self.real)
        lane.switch(None if measured is None else measured.switch_tokens)
        if not self.device.on_streams:
            session.ties.callback(give_back, self.model)
            onto_kernels(self.model, lane.pool)
        if self.graphs is not None:
            self.graphs.connect(session.executor.shared, session.foresight)
            session.ties.callback(self.graphs.close)
        session.ties.callback(detach, session)
        for handle in attach(self.model, session, texts):
            session.ties.callback(handle.remove)
        return session


def _measure_reserve(
    model: Any,
    store: ExpertStore,
    device: CudaDevice,
    spec: ModelSpec,
    sizes: Sizes,
    graphs: DecodeGraphs | None,
) -> None:
    """Put what a step is measured to take in the place of what was assumed, where it fits."""
    tokens, sequences = sizes.max_tokens, sizes.max_sequences
    if tokens < 2:
        return  # a prefill needs one, and a decode step another
    kv = spec.kv_bytes_per_token * tokens * sequences
    planned = spec.dense_bytes + kv + workspace_bytes(spec, tokens, sequences)
    try:
        inside = measure_inside(model, store, device, tokens, sequences, planned, graphs)
    except torch.OutOfMemoryError:  # a budget for it would not fit either: it says so
        device.runtime.release()
        return
    device.reserve = device.reserve.measured(inside, outside_bytes(device.runtime.memory()))


def _costed(real: ModelSpec, as_model: str | ModelSpec | None, scheme: Scheme | None) -> ModelSpec:
    """The model whose bytes and flops are costed; InputError where it cannot be another one."""
    if as_model is None:
        return real
    spec = resolve_costed(as_model, real)
    return spec if scheme is None else quantised_spec(spec, scheme)
