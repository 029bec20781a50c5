"""What an expert computes between its projections, as the CPU kernels know it.

A module's own code says it, so it is asked: numbers go through its gate, and the kernels'
activation that gives the same answers is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from torch import Tensor, nn

from engine.kernels import Act

_TOLERANCE = 1e-5
"""Of answers, relative beyond 1: GELU and its tanh form differ by more."""


@dataclass(frozen=True)
class Gate:
    """``act(min(g, limit)) * (clamp(u, -limit, limit) + offset)``; without a gate ``act(g)``."""

    act: Act
    alpha: float = 1.0
    """Of ``g * sigmoid(alpha * g)``."""
    offset: float = 0.0
    limit: float = 0.0
    """0: none."""
    interleaved: bool = False

    def __call__(self, gate: Tensor, up: Tensor | None) -> Tensor:
        """The readable reference of the kernels' activation."""
        limit = self.limit or math.inf
        if up is None:
            return _ACTS[self.act](gate, self.alpha)
        passed = _ACTS[self.act](gate.clamp(max=limit), self.alpha)
        return passed * (up.clamp(-limit, limit) + self.offset)


_ACTS: dict[Act, Callable[[Tensor, float], Tensor]] = {
    Act.SWISH: lambda g, alpha: g * torch.sigmoid(alpha * g),
    Act.GELU: lambda g, _: F.gelu(g),
    Act.GELU_TANH: lambda g, _: F.gelu(g, approximate="tanh"),
    Act.RELU: lambda g, _: F.relu(g),
    Act.RELU2: lambda g, _: F.relu(g).square(),
}


def find_gate(module: nn.Module) -> Gate | None:
    """The kernels' activation that answers as the module's does; None where none does."""
    ask = _asker(module)
    g, u = torch.meshgrid(
        torch.cat((torch.linspace(-24, 24, 97), torch.tensor([-200.0, 200.0]))),
        torch.tensor([-300.0, -9.5, -1.25, -0.3, 0.0, 0.7, 2.5, 11.0, 300.0]),
        indexing="ij",
    )
    g, u = g.flatten().double(), u.flatten().double()
    layouts = (False, True) if module.has_gate else (False,)
    for interleaved in layouts:
        answers = ask(g, u, interleaved)
        for guess in _guesses(ask, interleaved, module.has_gate):
            expected = guess(g, u if module.has_gate else None)
            close = (answers - expected).abs() <= _TOLERANCE * expected.abs().clamp(min=1)
            if bool(close.all()):
                return guess
    return None


def _asker(module: nn.Module) -> Callable[[Tensor, Tensor, bool], Tensor]:
    def ask(gate: Tensor, up: Tensor, interleaved: bool) -> Tensor:
        """What the module makes of gates and ups ``(n,)``, in float64."""
        with torch.no_grad():
            if not module.has_gate:
                return module.act_fn(gate[None])[0].double()
            pairs = torch.stack((gate, up), dim=1)  # (n, 2)
            together = pairs.flatten() if interleaved else pairs.T.flatten()  # (2n,)
            return module._apply_gate(together[None])[0].double()

    return ask


def _guesses(
    ask: Callable[[Tensor, Tensor, bool], Tensor], interleaved: bool, gated: bool
) -> Iterable[Gate]:
    """Every activation, with the constants that a few answers give away."""
    ups = torch.tensor([0.0, 0.25, -1e6, 1e6, 2e6], dtype=torch.float64)
    zero, quarter, low, high, higher = ask(torch.ones_like(ups), ups, interleaved).tolist()
    passed = (quarter - zero) / 0.25 if gated else zero  # act(1)
    offset = limit = 0.0
    if gated and passed:
        offset = round(zero / passed, 6)
        if math.isclose(high, higher):
            limit = round((high - low) / (2 * passed), 4)
    if 0 < passed < 1:
        alpha = round(math.log(passed / (1 - passed)), 4)
        yield Gate(Act.SWISH, alpha, offset, limit, interleaved)
    for act in (Act.GELU, Act.GELU_TANH, Act.RELU, Act.RELU2):
        yield Gate(act, 1.0, offset, limit, interleaved)
