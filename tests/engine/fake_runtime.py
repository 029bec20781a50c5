"""The runtime of a GPU that is not there: see `engine.devices.runtime.Runtime`.

Device memory is host memory and torch computes at once, but copies are late: until someone waits
for one, its target holds nothing (NaN, or the lowest integer).
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import nullcontext
from types import SimpleNamespace

import torch

from engine.devices.runtime import DeviceMemory


class FakeRuntime:
    device, name, others = torch.device("cpu"), "fake GPU", ("cuda:1 (fake GPU)",)

    def __init__(self, total=1 << 40, pins=0):
        self.host_waits, self.total, self.pins, self.used, self.cap = 0, total, pins, 1 << 29, total
        self.main = self.stream()

    current = lambda self: self.main  # noqa: E731
    stream = lambda self: SimpleNamespace(todo=deque())  # noqa: E731
    use = lambda self, stream: nullcontext()  # noqa: E731
    pin = lambda self, address, n_bytes: self.pins  # noqa: E731
    unpin = release = reset_peak = lambda self, *_: None  # noqa: E731
    pinned = lambda self, shape, dtype: torch.empty(shape, dtype=dtype)  # noqa: E731
    groups = lambda self, dtype: dtype == torch.bfloat16  # noqa: E731
    done = lambda self, event: event.ns > 0  # noqa: E731
    elapsed_ns = lambda self, first, second: second.ns - first.ns  # noqa: E731

    def record(self, stream):
        event = SimpleNamespace(stream=stream, ns=0)
        stream.todo.append(lambda: setattr(event, "ns", time.perf_counter_ns()))
        return self.reach(event) if stream is self.main or len(stream.todo) == 1 else event

    def reach(self, event):
        while not event.ns:
            event.stream.todo.popleft()()
        return event

    def wait(self, stream, event):
        self.reach(event) if stream is self.main else stream.todo.append(lambda: self.reach(event))

    def host_wait(self, event):
        self.host_waits += 1
        self.reach(event)

    def copy(self, target, source, stream):
        lowest = torch.finfo if target.is_floating_point() else torch.iinfo
        target.fill_(torch.nan if target.is_floating_point() else lowest(target.dtype).min)
        stream.todo.append(lambda: target.copy_(source))
        while stream is self.main and stream.todo:
            stream.todo.popleft()()

    def empty(self, shape, dtype):
        return torch.empty(shape, dtype=dtype)

    def limit(self, n_bytes):
        self.cap = n_bytes

    def memory(self):
        return DeviceMemory(self.total, self.total - self.used, 0, 0)
