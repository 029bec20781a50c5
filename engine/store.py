"""Expert weights in host memory: the model's own fused tensors, seen expert by expert."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.errors import UnsupportedModelError
from engine.probe import probe


class ExpertWeights(NamedTuple):
    """One expert's parameters, as views. ``up`` holds gate and up where the expert is gated.

    ``up`` is ``(2I, H)`` or ``(I, H)``, ``down`` ``(H, I)``; transposed where the module says so.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    @property
    def parts(self) -> list[Tensor]:
        """The tensors there are."""
        return [part for part in self if part is not None]

    @property
    def n_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.numel() * part.element_size() for part in self.parts)

    def new(self) -> ExpertWeights:
        """Uninitialised memory of the same shapes."""
        return ExpertWeights(*(None if part is None else torch.empty_like(part) for part in self))

    def copy_(self, other: ExpertWeights) -> None:
        """Take another expert's values."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.copy_(theirs)


def experts_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that transformers dispatches through its experts interface, in layer order."""
    return [
        module
        for module in model.modules()
        if hasattr(module, "_is_expert_parallel") and hasattr(module, "down_proj")
    ]


def require_experts(model: nn.Module) -> list[nn.Module]:
    """:func:`experts_modules`; raises UnsupportedModelError where there are none."""
    modules = experts_modules(model)
    if not modules:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no experts that transformers routes through its experts "
            "interface: it is not a Mixture-of-Experts model, or one with routing code of its own. "
            "Use a model such as Mixtral, Qwen3-MoE, OLMoE, DeepSeek-V3 or gpt-oss"
        )
    return modules


class ExpertStore:
    """The experts of all MoE layers, where the loader put them: nothing is copied or repacked.

    Layers are those that a text runs, in order: experts for images are dense weights here. Raises
    UnsupportedModelError where a model has no such experts, or not the same in each layer.
    """

    def __init__(self, model: nn.Module) -> None:
        name = type(model).__name__
        self.probe = probe(model, require_experts(model))
        self.modules = list(self.probe.modules)
        self._layers = [self._of(module) for module in self.modules]
        first = self._layers[0]
        self.experts = first.up.shape[0]
        shapes = {tuple(tuple(part.shape) for part in layer.parts) for layer in self._layers}
        if len(shapes) != 1 or first.down.shape[0] != self.experts:
            raise UnsupportedModelError(
                f"{name}'s MoE layers differ in their experts' shapes ({sorted(shapes)}): a budget "
                "counted in experts needs them alike"
            )
        self.expert_bytes = self.weights(0, 0).n_bytes

    def __repr__(self) -> str:
        return f"ExpertStore({len(self)} layers x {self.experts} experts)"

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def n_bytes(self) -> int:
        """Bytes of all experts of all layers."""
        return len(self) * self.experts * self.expert_bytes

    @staticmethod
    def _of(module: nn.Module) -> ExpertWeights:
        up = "gate_up_proj" if module.has_gate else "up_proj"
        bias = module.has_bias
        found = [getattr(module, up), module.down_proj]
        found += [getattr(module, f"{up}_bias"), module.down_proj_bias] if bias else []
        if any(not torch.is_tensor(part) or not part.is_floating_point() for part in found):
            raise UnsupportedModelError(
                f"{type(module).__name__} holds quantised weights: load the checkpoint in float32, "
                "float16 or bfloat16"
            )
        return ExpertWeights(*(part.detach() for part in found))

    def weights(self, layer: int, expert: int) -> ExpertWeights:
        """Views of one expert's parameters."""
        fused = self._layers[layer]
        return ExpertWeights(*(None if part is None else part[expert] for part in fused))
