"""Expert weights in host memory: the model's own fused tensors, seen expert by expert."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.errors import UnsupportedModelError
from engine.levels import bits_of, dequantise
from engine.probe import probe


class ExpertWeights(NamedTuple):
    """One expert's parameters, as views. ``up`` holds gate and up where the expert is gated.

    ``up`` is ``(2I, H)`` or ``(I, H)``, ``down`` ``(H, I)``; transposed where the module says so.
    With scales both hold levels (:mod:`engine.levels`) and are never transposed.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    up_scales: Tensor | None = None
    down_scales: Tensor | None = None

    @property
    def bits(self) -> int:
        """8 or 4 of quantised weights, else 0."""
        return bits_of(self.up)

    @property
    def n_weights(self) -> int:
        """Weights of both matrices."""
        return (self.up.numel() + self.down.numel()) * (8 // (self.bits or 8))

    @property
    def bytes_per_weight(self) -> float:
        """Of both matrices, with scales."""
        matrices = (self.up, self.down, self.up_scales, self.down_scales)
        return sum(map(_n_bytes, matrices)) / self.n_weights

    def sizes(self, transposed: bool) -> tuple[int, int]:
        """(H, I); ``transposed`` is what the module says."""
        if self.bits:
            return self.down.shape[0], self.down.shape[1] * 8 // self.bits
        hidden, inner = self.down.shape[::-1] if transposed else self.down.shape
        return hidden, inner

    def numbers(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Of quantised weights: ``up`` and ``down`` as numbers, rows are outputs."""
        assert self.up_scales is not None and self.down_scales is not None
        up = dequantise(self.up, self.up_scales, dtype)
        return up, dequantise(self.down, self.down_scales, dtype)

    @property
    def parts(self) -> list[Tensor]:
        """The tensors there are."""
        return [part for part in self if part is not None]

    @property
    def n_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(map(_n_bytes, self))

    def new(self) -> ExpertWeights:
        """Uninitialised memory of the same shapes."""
        return ExpertWeights(*(None if part is None else torch.empty_like(part) for part in self))

    def copy_(self, other: ExpertWeights) -> None:
        """Take another expert's values."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.copy_(theirs)


def _n_bytes(part: Tensor | None) -> int:
    return 0 if part is None else part.numel() * part.element_size()


def experts_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that transformers dispatches through its experts interface, in layer order."""
    found = [
        module
        for module in model.modules()
        if all(hasattr(module, flag) for flag in _FLAGS) and hasattr(module, "down_proj")
    ]
    for module in found:
        if not hasattr(module, "has_post_expert_norm"):  # of versions before there were any
            module.has_post_expert_norm = False
    return found


_FLAGS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")
"""What the registry's decorator puts on a module, in all versions."""


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
    """The experts of all MoE layers, where the loader put them: nothing is copied or repacked
    (but see :func:`engine.quantization.quantise_experts`).

    Layers are those that a text runs, in order: experts for images are dense weights here. Raises
    UnsupportedModelError where a model has no such experts, or not the same in each layer.
    """

    def __init__(self, model: nn.Module) -> None:
        name = type(model).__name__
        self.probe = probe(model, require_experts(model))
        self.modules = list(self.probe.modules)
        self._layers = [self._of(module) for module in self.modules]
        self._views: dict[tuple[int, int], ExpertWeights] = {}
        """Of experts that were asked for: making them again takes longer than looking them up."""
        first = self._layers[0]
        self.experts = first.up.shape[0]
        shapes = {tuple(tuple(part.shape) for part in layer.parts) for layer in self._layers}
        if len(shapes) != 1 or first.down.shape[0] != self.experts:
            raise UnsupportedModelError(
                f"{name}'s MoE layers differ in their experts' shapes ({sorted(shapes)}): a budget "
                "counted in experts needs them alike"
            )
        self.dtype = first.up.dtype
        """Of the checkpoint's experts, and of what goes in."""

    def __repr__(self) -> str:
        return f"ExpertStore({len(self)} layers x {self.experts} experts)"

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert."""
        return self.weights(0, 0).n_bytes

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

    def fused(self, layer: int) -> ExpertWeights:
        """All experts of a layer: of each part ``(E, ...)``."""
        return self._layers[layer]

    def biases(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """A layer's biases, of all its experts."""
        return self._layers[layer].up_bias, self._layers[layer].down_bias

    def replace(self, layer: int, fused: ExpertWeights) -> None:
        """Put quantised weights of all a layer's experts in place of the model's own."""
        module = self.modules[layer]
        up = "gate_up_proj" if module.has_gate else "up_proj"
        for name, levels, scales in (
            (up, fused.up, fused.up_scales),
            ("down_proj", fused.down, fused.down_scales),
        ):
            setattr(module, name, nn.Parameter(levels, requires_grad=False))
            setattr(module, f"{name}_scales", nn.Parameter(scales, requires_grad=False))
        self._layers[layer] = fused
        self._views.clear()

    def weights(self, layer: int, expert: int) -> ExpertWeights:
        """Views of one expert's parameters."""
        found = self._views.get((layer, expert))
        if found is None:
            fused = self._layers[layer]
            found = ExpertWeights(*(None if part is None else part[expert] for part in fused))
            self._views[layer, expert] = found
        return found
