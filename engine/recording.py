"""One decode step of a model, recorded as graphs between the experts of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from engine.beside import Beside
from engine.devices.runtime import Graph, Runtime, Stream
from engine.garbage import uncollected
from engine.store import ExpertStore


class Experts(Protocol):
    """What an experts module hands its call to: a session, or what stands in for one."""

    def layer(self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """``(T, H), (T, K), (T, K) -> (T, H)``."""
        ...


class Silent:
    """Experts that answer zero; ``shared`` ones, by layer, are begun early all the same."""

    def __init__(self, shared: Sequence[Beside | None] = ()) -> None:
        self._shared = shared

    def layer(self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """``(T, H)``."""
        beside = self._shared[layer] if self._shared else None
        if beside is not None:
            beside.begin(hidden)
        return torch.zeros_like(hidden)


@contextmanager
def standing_in(store: ExpertStore, experts: Experts) -> Iterator[None]:
    """Within it the experts modules hand their calls to ``experts``."""
    before = [vars(module).get("fiddler_session") for module in store.modules]
    numbers = [vars(module).get("fiddler_layer") for module in store.modules]
    try:
        for number, module in enumerate(store.modules):
            module.fiddler_session, module.fiddler_layer = experts, number
        yield
    finally:
        for module, session, number in zip(store.modules, before, numbers, strict=True):
            module.fiddler_session, module.fiddler_layer = session, number


@dataclass(frozen=True)
class _Call:
    """One call of experts: what the device does before it, and where everything is."""

    before: Graph
    module: nn.Module
    layer: int
    hidden: Tensor
    """``(T, H)``: here the graph leaves it."""
    index: Tensor
    """``(T, K)``."""
    weights: Tensor
    """``(T, K)``."""
    out: Tensor
    """``(T, H)``: from here the next graph takes the experts' answer."""


class Recording:
    """One decode step, recorded. The device runs nothing of it until :meth:`replay`."""

    def __init__(self, runtime: Runtime, store: ExpertStore, shared: Sequence[Beside | None]):
        self._runtime, self._store, self._shared = runtime, store, shared
        self._given: list[Any] = []
        self._calls: list[_Call] = []
        self._open: Graph | None = None
        self._stream: Stream = None

    def record(self, forward: Any, arguments: Mapping[str, Any], stream: Stream) -> None:
        """Run the host's code of a step. Raises RuntimeError where a graph cannot hold it."""
        flat, self._shape = tree_flatten(dict(arguments))
        self._given = [each.clone() if torch.is_tensor(each) else each for each in flat]
        self._stream = stream
        first = self._open = self._runtime.graph(stream, None)
        self._first = first
        try:
            with uncollected(), standing_in(self._store, self):  # a finalizer could end it
                first.begin()
                self._output = forward(**tree_unflatten(self._given, self._shape))
                self._open.end()
        except BaseException:
            self._open.abandon()
            raise
        self._last, self._open = self._open, None

    def layer(self, layer: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """While it is recorded: one graph ends at the experts, another begins behind them."""
        before = self._open
        assert before is not None
        before.end()
        out = torch.zeros_like(hidden)
        module, beside = self._store.modules[layer], self._shared[layer]
        if beside is not None:
            beside.hold(hidden)
        self._calls.append(_Call(before, module, layer, hidden, index, weights, out))
        self._open = self._runtime.graph(self._stream, self._first)
        self._open.begin()
        return out

    def fits(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a step with these arguments is the recorded one, but for what tensors hold."""
        flat, shape = tree_flatten(dict(arguments))
        return shape == self._shape and all(map(_alike, flat, self._given))

    def replay(self, arguments: Mapping[str, Any]) -> Any:
        """A step. What it returns is written over by the next."""
        for given, now in zip(self._given, tree_flatten(dict(arguments))[0], strict=True):
            if torch.is_tensor(given):
                given.copy_(now)
        for call in self._calls:
            call.before.replay()
            experts: Experts = call.module.fiddler_session  # type: ignore[assignment]
            call.out.copy_(experts.layer(call.layer, call.hidden, call.index, call.weights))
        self._last.replay()
        return self._output


def _alike(one: Any, other: Any) -> bool:
    if torch.is_tensor(one) and torch.is_tensor(other):
        return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return one is other or (not isinstance(one, Tensor | nn.Module) and one == other)
