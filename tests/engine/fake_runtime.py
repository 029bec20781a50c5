"""The runtime of a GPU that is not there: see `engine.devices.runtime.Runtime`.

Device memory is host memory and torch computes at once. Copies on other streams are late: until
someone waits for one, its target holds nothing (NaN, or the lowest integer).
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from engine.devices.runtime import DeviceMemory
from tests.engine.fake_graph import FakeGraph


class FakeRuntime:
    device, name, others = torch.device("cpu"), "fake GPU", ("cuda:1 (fake GPU)",)

    def __init__(self, total: int = 1 << 40, refuses: int = 0) -> None:
        self.host_waits, self.total, self.refuses, self.cap = 0, total, refuses, total
        self.main = self.stream()
        self.current, self.use = lambda: self.main, nullcontext
        self.computing = nullcontext
        self.pin = lambda address, n_bytes: self.refuses
        self.unpin = self.release = self.reset_peak = lambda *_: None
        self.empty = self.pinned = lambda shape, dtype: torch.empty(shape, dtype=dtype)
        self.groups = lambda dtype: dtype == torch.bfloat16
        self.graph = lambda stream, first: FakeGraph()
        self.done = lambda event: event.ns > 0
        self.elapsed_ns = lambda first, second: second.ns - first.ns
        self.memory = lambda: DeviceMemory(self.total, self.total - (1 << 29), 0, 0)

    def stream(self) -> Any:
        return SimpleNamespace(todo=deque())

    def record(self, stream: Any) -> Any:
        event = SimpleNamespace(stream=stream, ns=0)
        stream.todo.append(lambda: setattr(event, "ns", time.perf_counter_ns()))
        return self._reach(event) if stream is self.main or len(stream.todo) == 1 else event

    def _reach(self, event: Any) -> Any:
        while not event.ns:
            event.stream.todo[0]()
            event.stream.todo.popleft()
        return event

    def wait(self, stream: Any, event: Any) -> None:
        self._reach(event) if stream is self.main else stream.todo.append(
            partial(self._reach, event)
        )

    def host_wait(self, event: Any) -> None:
        self.host_waits += 1
        self._reach(event)

    def copy(self, target: Any, source: Any, stream: Any) -> None:
        if stream is self.main:
            target.copy_(source)
            return
        number = target.is_floating_point()
        target.fill_(torch.nan if number else torch.iinfo(target.dtype).min)
        stream.todo.append(lambda: target.copy_(source))

    def limit(self, n_bytes: int) -> None:
        self.cap = n_bytes
