"""The execution pipeline on a device that works by itself: everything is submitted, little waited.

One layer runs so, in the order of submission::

    compute   dense | shared experts | resident experts | streamed experts, as they arrive | sum
    to host         | input and choices |
    host                                | decides, submits, runs the CPU's experts |
    weights                               | streamed experts, through two buffers |
    to device                                                             | the CPU's results |

The host waits for the device once a layer: for the router's choices, with which the hidden state
comes along. Under a policy that stands for a system without overlap it waits for the device's
experts, too, before the CPU's begin, and a copy waits for the experts before it. All else waits
inside of the device, stream for stream. Not everything is as tight as the timeline has it: the sum
is submitted when the CPU's experts are through, and the next layer's dense part after it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.beside import Beside
from engine.cpu_lane import CpuLane
from engine.decision import Decision
from engine.device_rows import FEWEST_ROWS, DeviceRows, pairs_by_expert, rows_at_once
from engine.devices.base import Device
from engine.devices.crossing import Seen
from engine.devices.cuda import CudaDevice
from engine.devices.runtime import Event
from engine.devices.stream_pace import LayerMarks
from engine.events import Action
from engine.executor import Executor, Part, cpu_parts
from engine.expert import run_expert
from engine.grouped import MOST_GROUPS, groups, run_grouped, window
from engine.notes import Span
from engine.store import ExpertStore
from engine.timeline import STAGING_BUFFERS

_RESIDENT, _STREAM, _CPU = (int(action) for action in Action)


class StreamExecutor:
    """See :class:`engine.executor.Executor`; in place of times it returns events to come."""

    def __init__(self, store: ExpertStore, device: CudaDevice, threads: int | None = None) -> None:
        self.store = store
        self.device = device
        self.lane = CpuLane(store, threads)
        self.rows_at_once = rows_at_once(store)
        """Rows of one call of experts; fewer from when the device ran out of memory."""
        self._thread = ThreadPoolExecutor(1, "fiddler-viz-cpu")
        self.shared = [None if one is None else Beside(one) for one in store.probe.beside]
        self._modules = [there(module, device.runtime.device) for module in store.modules]
        self._grouped = device.runtime.groups(store.dtype) and groups(store.weights(0, 0))
        self._ready: Event = None
        self._seen: Seen | None = None

    def __repr__(self) -> str:
        return f"StreamExecutor({self.store!r} on {self.device.name})"

    def close(self) -> None:
        """End the threads, and give shared experts their forward pass back."""
        self._thread.shutdown()
        for shared in self.shared:
            if shared is not None:
                shared.close()
        self.lane.close()

    def look(
        self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor, foreseen: Tensor | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64] | None]:
        """Choices, weights and what is foreseen, ``(T, K)`` each, on the host: the layer's wait."""
        crossing = self.device.crossing
        self._ready = crossing.look(hidden, index, weights, foreseen)
        shared = self.shared[layer]
        if shared is not None:
            shared.begin(hidden)
        seen = self._seen = crossing.seen()
        return seen.chosen, seen.routed, seen.foreseen

    def run(
        self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor, decision: Decision
    ) -> tuple[Tensor, LayerMarks]:
        """Submit the layer that was just looked at; ``(T, H)`` on the device, and its marks.

        Raises torch.OutOfMemoryError where even a few rows at a time do not fit.
        """
        assert self._seen is not None
        seen, runtime = self._seen, self.device.runtime
        for flat in decision.evict:
            self.device.drop(flat)
        on_cpu = [at for at, action in enumerate(decision.actions) if action == _CPU]
        waiting: Future[tuple[Tensor, list[Span]]] | None = None
        if on_cpu and not self.device.in_turn:
            waiting = self._start(layer, seen, decision, on_cpu)
        marks = LayerMarks(self._ready, seen.span)
        out = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)  # (T, H)
        if len(on_cpu) < len(decision.experts):
            self._on_device(layer, hidden, weights, decision, seen.chosen, out, marks)
        self._copy(decision, marks)
        if on_cpu and waiting is None:  # one thing after the other, as the plan's policy has it
            runtime.host_wait(runtime.record(runtime.current()))
            waiting = self._start(layer, seen, decision, on_cpu)
        if waiting is not None:
            theirs, spans = waiting.result()
            marks.cpu = dict(zip(on_cpu, spans, strict=True))
            there, begin, end = self.device.crossing.back(theirs, hidden.dtype)
            runtime.wait(runtime.current(), end)
            out.add_(there)
            marks.back = begin, end
        made = out.to(hidden.dtype)
        marks.out = runtime.record(runtime.current())
        return made, marks

    def _start(
        self, layer: int, seen: Seen, decision: Decision, on_cpu: list[int]
    ) -> Future[tuple[Tensor, list[Span]]]:
        """The CPU's experts, in their own thread."""
        chosen, routed = torch.from_numpy(seen.chosen), torch.from_numpy(seen.routed)
        parts: list[Part] = cpu_parts(decision.experts, on_cpu, chosen, routed)
        return self._thread.submit(self.lane.run, layer, seen.hidden, parts)

    def _on_device(
        self, layer: int, hidden: Tensor, weights: Tensor, decision: Decision,
        chosen: NDArray[np.int64], out: Tensor, marks: LayerMarks,
    ) -> None:  # fmt: skip
        """Resident experts, then streamed ones; copies are begun before."""
        arena, runtime = self.device.arena, self.device.runtime
        compute, base = runtime.current(), layer * self.store.experts
        slot_of = {
            at: arena.slot_of(base + expert)
            for at, (expert, action) in enumerate(
                zip(decision.experts, decision.actions, strict=True)
            )
            if action == _RESIDENT
        }
        resident = sorted(slot_of, key=slot_of.__getitem__)
        streamed = [at for at, action in enumerate(decision.actions) if action == _STREAM]
        pairs, bounds = pairs_by_expert(
            chosen, [decision.experts[at] for at in (*resident, *streamed)]
        )
        slots = [slot_of[at] for at in resident]
        grouped = self._groups(slots)
        first, last = window(slots) if grouped else (0, 0)
        until = np.zeros(last - first, dtype=np.int64)  # by slot: where its rows end
        for slot, (begin, end) in zip(slots if grouped else [], bounds, strict=False):
            until[slot - first] = end - begin
        table = self.device.crossing.table(np.concatenate((pairs, until.cumsum())), compute)
        ahead = [] if self.device.in_turn else streamed[:STAGING_BUFFERS]
        # after the table, which would wait behind them: the device copies one thing after the other
        begun = {at: self._begin(layer, decision, at) for at in ahead}
        rows = DeviceRows(
            hidden, weights.reshape(-1).float(), table[: len(pairs)], chosen.shape[1], out
        )
        if slots:
            arena.arrive(slots, compute)
            start = runtime.record(compute)
            if grouped:
                self._call_grouped(
                    layer, rows, (first, last), table[len(pairs) :], bounds[len(slots) - 1][1]
                )
            else:
                for slot, (begin, end) in zip(slots, bounds, strict=False):
                    self._call(layer, rows, slot, begin, end)
            marks.resident = start, runtime.record(compute)
            arena.were_read(slots, marks.resident[1])
        for at, (begin, end) in zip(streamed, bounds[len(slots) :], strict=True):
            slot, copied = begun[at] if at in begun else self._begin(layer, decision, at)
            arena.arrive([slot], compute)
            start = runtime.record(compute)
            self._call(layer, rows, slot, begin, end)
            ran = start, runtime.record(compute)
            arena.were_read([slot], ran[1])
            marks.streamed[at] = copied, ran

    def _begin(self, layer: int, decision: Decision, at: int) -> tuple[int, tuple[Event, Event]]:
        """Begin the copy of a streamed expert; its slot, and the copy."""
        expert, runtime = decision.experts[at], self.device.runtime
        weights = self.store.weights(layer, expert)
        if self.device.in_turn:
            self.device.copy_after(runtime.record(runtime.current()))
        if decision.keep[at]:
            return self.device.admit(layer * self.store.experts + expert, weights)
        return self.device.pass_through(weights)

    def _groups(self, slots: list[int]) -> bool:
        """Whether these are called together."""
        if not self._grouped or len(slots) < 2:
            return False
        first, last = window(slots)
        return last - first <= MOST_GROUPS

    def _call_grouped(
        self, layer: int, rows: DeviceRows, slots: tuple[int, int], ends: Tensor, count: int
    ) -> None:
        """Resident experts in slots from one to another, ``ends`` ``(G,)``, of ``count`` pairs."""
        arena = self.device.arena
        assert arena.block is not None
        block = type(arena.block)(
            *(None if part is None else part[slots[0] : slots[1]] for part in arena.block)
        )
        biased = block.up_bias is not None

        def call(begin: int, end: int) -> None:
            tokens, x, by = rows.take(begin, end)
            here = (ends - begin).clamp(0, end - begin).to(torch.int32)  # (G,)
            places = torch.arange(end - begin, device=ends.device, dtype=torch.int32)
            of = torch.searchsorted(here, places, right=True) if biased else None
            rows.add(tokens, run_grouped(self._modules[layer], block, x, here, of), by)

        self._pieces(call, 0, count)

    def _call(self, layer: int, rows: DeviceRows, slot: int, begin: int, end: int) -> None:
        """One expert, of pairs ``begin`` to ``end``."""
        weights = self.device.arena.view(slot)

        def call(first: int, last: int) -> None:
            tokens, x, by = rows.take(first, last)
            rows.add(tokens, run_expert(self._modules[layer], weights, x), by)

        self._pieces(call, begin, end)

    def _pieces(self, call: Callable[[int, int], None], begin: int, end: int) -> None:
        """Few rows at a time. Where the device is out of memory: what is cached is let go, and from
        then on half as many."""
        while begin < end:
            stop = min(begin + self.rows_at_once, end)
            try:
                call(begin, stop)
            except torch.OutOfMemoryError:
                if stop - begin <= FEWEST_ROWS:
                    raise
                self.device.runtime.release()
                self.rows_at_once = max((stop - begin) // 2, FEWEST_ROWS)
            else:
                begin = stop

    def _copy(self, decision: Decision, marks: LayerMarks) -> None:
        """What a decision copies besides the experts that run now."""
        for flat in decision.unused:
            weights = self.store.weights(*divmod(flat, self.store.experts))
            marks.unused.append(self.device.pass_through(weights)[1])
        for flat in decision.fetch:
            self.device.fetch(flat, self.store.weights(*divmod(flat, self.store.experts)))


def executor_for(
    store: ExpertStore, device: Device, threads: int | None = None
) -> Executor | StreamExecutor:
    """The pipeline for a device."""
    if isinstance(device, CudaDevice):
        return StreamExecutor(store, device, threads)
    return Executor(store, device, threads)


def there(module: nn.Module, device: torch.device) -> nn.Module:
    """An experts module without its experts, for the device: its own parts, as a norm, copied."""
    made = copy.copy(module)
    made.__dict__ = dict(vars(module))
    made._modules = {
        name: None if part is None else copy.deepcopy(part).to(device)
        for name, part in module._modules.items()
    }
    return made
