"""Finds races on a fake GPU: accesses of the same memory, one a write, neither before the other.

Every stream and the host carry a vector clock. What is submitted comes after what the host knows;
an event carries its stream's clock to who waits for it. Watched is all memory that the runtime
gave out: expert slots, and the buffers of activations.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.devices.slots import SlotArena
from tests.engine.fake_runtime import FakeRuntime

Time = dict[int, int]


class WatchedRuntime(FakeRuntime):
    def __init__(self, **options: Any) -> None:
        self.time: dict[int, Time] = defaultdict(dict)
        """By stream (0: the host): what it comes after."""
        self.memory_of: list[tuple[int, int, bool]] = []
        """Begin, end, and whether the host's."""
        self.accesses: dict[int, list[tuple[int, int, int, int, bool]]] = defaultdict(list)
        """By memory: begin, end, stream, tick, write."""
        self.found: list[str] = []
        self.checked = 0
        super().__init__(**options)
        self.empty = lambda shape, dtype: self._new(shape, dtype, False)
        self.pinned = lambda shape, dtype: self._new(shape, dtype, True)
        self.release = self._synchronise
        self.done = self._done

    def _new(self, shape: Any, dtype: Any, host: bool) -> Tensor:
        made = torch.empty(shape, dtype=dtype)
        begin, end = made.data_ptr(), made.data_ptr() + made.nbytes
        for number, (first, last, _) in enumerate(self.memory_of):
            if first < end and begin < last:  # freed, and given out again
                self.memory_of[number] = (0, 0, False)
        self.memory_of.append((begin, end, host))
        return made

    def _synchronise(self) -> None:
        for time in list(self.time.values()):
            self._after(0, time)

    def _after(self, who: int, time: Time) -> None:
        mine = self.time[who]
        for stream, tick in time.items():
            mine[stream] = max(mine.get(stream, 0), tick)

    def record(self, stream: Any) -> Any:
        self._after(id(stream), self.time[0])
        event = super().record(stream)
        event.time = dict(self.time[id(stream)])
        return event

    def _reach(self, event: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            return super()._reach(event)

    def wait(self, stream: Any, event: Any) -> None:
        super().wait(stream, event)
        self._after(id(stream), event.time)

    def host_wait(self, event: Any) -> None:
        super().host_wait(event)
        self._after(0, event.time)

    def _done(self, event: Any) -> bool:
        if event.ns > 0:
            self._after(0, event.time)
        return event.ns > 0

    def copy(self, target: Tensor, source: Tensor, stream: Any) -> None:
        with torch.utils._python_dispatch._disable_current_modes():
            self.access(source, id(stream), write=False)
            self.access(target, id(stream), write=True)
            super().copy(target, source, stream)

    def access(self, tensor: Tensor, who: int, *, write: bool) -> None:
        """``who`` reads or writes: after all that it is known to come after, or it is a race."""
        begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        for number, (first, last, host) in enumerate(self.memory_of):
            if begin >= last or end <= first:
                continue
            who = 0 if host and who == id(self.main) else who
            if who:
                self._after(who, self.time[0])
            time = self.time[who]
            kept = []
            for a, b, other, tick, wrote in self.accesses[number]:
                both = a < end and begin < b
                known = time.get(other, 0) >= tick
                if both and (write or wrote) and other != who:
                    self.checked += 1
                    if not known:
                        kind = f"{'write' if wrote else 'read'} and {'write' if write else 'read'}"
                        self.found.append(f"{kind} of memory {number} (host's: {host})")
                if not (known and write and begin <= a and b <= end):  # nothing asks for it again
                    kept.append((a, b, other, tick, wrote))
            time[who] = time.get(who, 0) + 1
            self.accesses[number] = [*kept, (begin, end, who, time[who], write)]


class Watch(TorchDispatchMode):
    """Within it torch's work counts as the main stream's, or the host's on the host's memory."""

    def __init__(self, runtime: WatchedRuntime) -> None:
        super().__init__()
        self.runtime = runtime

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        views = any(
            part.alias_info is not None and not part.alias_info.is_write
            for part in func._schema.returns
        )
        if not views and "grouped_mm" not in str(func):
            named = {part.name: part for part in func._schema.arguments}
            given = [*zip(func._schema.arguments, args, strict=False)]
            given += [(named[name], value) for name, value in kwargs.items()]
            for part, value in given:
                if isinstance(value, Tensor):
                    write = part.alias_info is not None and part.alias_info.is_write
                    self.runtime.access(value, id(self.runtime.main), write=write)
        return func(*args, **kwargs)


def watch_slots(arena: SlotArena, runtime: WatchedRuntime) -> None:
    """A grouped call is given more slots than it reads: those that it reads count."""
    usual = arena.were_read

    def were_read(slots: Any, event: Any) -> None:
        for slot in slots:
            for part in arena.view(slot).parts:
                runtime.access(part, id(runtime.main), write=False)
        event.time = dict(runtime.time[id(runtime.main)])
        usual(slots, event)

    arena.were_read = were_read  # type: ignore[method-assign]
