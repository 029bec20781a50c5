"""Attention of one token of each sequence on the kernels: one call from hidden state to output.

Prompts, padded batches, sliding windows and whatever else a layer can do stay with its own code.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from engine.expert_kernel import DTYPES, wants_gradients
from engine.growing import GrowingLayer
from engine.kernels import MOST_HEAD, Attention, Pool
from engine.norm_kernel import read_norm
from engine.takeover import Found, is_taken, take_over, usual

FEW_SEQUENCES = 32
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_NORMS = ("q_norm", "k_norm")
_OTHERWISE = ("clip_qkv", "attn_logit_softcapping", "attention_chunk_size")
"""Settings that change what attention computes, too little for a few random tokens to show."""
_ASKED = 4
"""Positions of the question put to a layer."""
_SPREAD = 3.0
"""Of the products of its queries and keys, at least: of smaller ones all attention is alike."""
_GIVEN = ("position_embeddings", "attention_mask", "past_key_values")
IMPLEMENTATION = "sdpa"
"""transformers' attention that the kernel stands in for."""

Answer = tuple[Tensor, Tensor | None]


def attention_on_kernels(model: nn.Module, pool: Pool) -> list[nn.Module]:
    """Let a kernel compute attention in decode steps, in the layers that are of its kind.

    A layer's own code says what it computes, so it is asked: it is of that kind if it is made of
    the same parts, and answers a few tokens as the kernel does. Returns those that changed.
    """
    decoder = getattr(model, "get_decoder", lambda: None)()
    turns = getattr(decoder, "rotary_emb", None)
    if turns is None:
        return []
    changed: list[nn.Module] = []
    for module in decoder.modules():
        if getattr(module, "q_proj", None) is None or is_taken(module):
            continue
        kernel = _Kernel.of(module, pool, turns)
        if kernel is not None and kernel.answers_alike():
            take_over(module, _forward(kernel))
            changed.append(module)
    return changed


@dataclass(frozen=True, eq=False)
class _Kernel:
    module: nn.Module
    pool: Pool
    layer: Attention
    dtype: torch.dtype
    usual: Callable[..., Answer]
    """The module's own forward pass."""
    turns: nn.Module
    found: Found
    """The module with its parts, as ``layer`` has it."""

    @classmethod
    def of(cls, module: nn.Module, pool: Pool, turns: nn.Module) -> _Kernel | None:
        """None where the module has other parts than attention's usual ones."""
        children = dict(module.named_children())
        norms = [name for name in _NORMS if name in children]
        if set(children) != {*_PROJECTIONS, *norms} or len(norms) == 1:
            return None
        if list(module.parameters(recurse=False)) or list(module.buffers(recurse=False)):
            return None
        config = getattr(module, "config", None)
        if any(getattr(config, name, None) is not None for name in _OTHERWISE):
            return None
        if getattr(config, "_attn_implementation", None) != IMPLEMENTATION:
            return None
        linears = [children[name] for name in _PROJECTIONS]
        head, scale = getattr(module, "head_dim", 0), getattr(module, "scaling", None)
        if any(type(each) is not nn.Linear for each in linears) or not isinstance(scale, float):
            return None
        weights = [each.weight for each in linears]
        dtype = weights[0].dtype
        if any(w.dtype != dtype or w.device.type != "cpu" or w.stride(1) != 1 for w in weights):
            return None
        if dtype not in DTYPES or not 0 < head <= MOST_HEAD or not hasattr(module, "layer_idx"):
            return None
        sizes = [len(w) for w in weights[:3]]
        if any(size % head for size in sizes) or sizes[1] != sizes[2] or sizes[0] % sizes[1]:
            return None
        layer = Attention(
            hidden=weights[0].shape[1],
            heads=sizes[0] // head,
            kv_heads=sizes[1] // head,
            head=head,
            dtype=DTYPES[dtype],
            scale=scale,
        )
        for at, linear in enumerate(linears):
            layer.weight[at], layer.stride[at] = linear.weight.data_ptr(), linear.weight.stride(0)
            layer.bias[at] = 0 if linear.bias is None else linear.bias.data_ptr()
        for at, name in enumerate(norms):
            found, weight = read_norm(children[name]), children[name].weight
            if found is None or found[0] or len(weight) not in (head, sizes[at]):
                return None
            layer.eps, layer.norm[at] = found[1], weight.data_ptr()
            layer.norm_size[at] = len(weight)
        return cls(module, pool, layer, dtype, usual(module), turns, Found(module))

    def takes(
        self, hidden: Tensor, turn: Any, mask: Tensor | None, cache: Any
    ) -> GrowingLayer | None:
        """The cache's layer, where this call is the kernel's."""
        if (
            mask is not None
            or not isinstance(hidden, Tensor)
            or hidden.ndim != 3
            or hidden.shape[1] != 1
            or wants_gradients(hidden)
        ):
            return None
        if type(cache) is not DynamicCache or cache.offloading or self.module.training:
            return None
        if not 0 < len(hidden) <= FEW_SEQUENCES or hidden.shape[2] != self.layer.hidden:
            return None
        if hidden.dtype != self.dtype or not hidden.is_cpu:
            return None
        if not isinstance(turn, tuple) or len(turn) != 2:
            return None
        cos, sin = turn
        if cos.dtype != self.dtype or sin.dtype != self.dtype:
            return None
        if cos.ndim != 3 or cos.shape != sin.shape or cos.shape[-1] > self.layer.head:
            return None
        if cos.shape[:2] not in ((1, 1), (len(hidden), 1)):
            return None
        # Read past the config's own look-ups, which take longer than all of this.
        if vars(self.module.config).get("_attn_implementation_internal") != IMPLEMENTATION:
            return None
        if not self.found.still():
            return None
        if len(cache.layers) <= (at := self.module.layer_idx):
            return None
        layer = cache.layers[at]
        if type(layer) is DynamicLayer and layer.is_initialized and layer.keys.numel():
            layer = GrowingLayer.of(layer)
        if type(layer) is not GrowingLayer or not layer.holds:
            return None
        keys, values = layer.keys, layer.values
        if keys.dtype != self.dtype or values.dtype != self.dtype:
            return None
        if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
            return None
        rows, heads, count, size = keys.shape
        if (rows, heads, size) != (len(hidden), self.layer.kv_heads, self.layer.head):
            return None
        return layer if values.shape == (rows, heads, count, size) else None

    def run(self, hidden: Tensor, cos: Tensor, sin: Tensor, kept: GrowingLayer) -> Tensor:
        """``(sequences, 1, H) -> (sequences, 1, H)``; the cache grows by a position."""
        hidden, cos, sin = hidden.contiguous(), cos.contiguous(), sin.contiguous()
        past = kept.keys.shape[2]
        keys, values = kept.reserve(1)
        out = torch.empty_like(hidden)
        sequences, width, turn = len(hidden), hidden.shape[2], cos.shape[2]
        self.layer.rotary = turn
        self.pool.attend(
            *(self.layer, hidden.data_ptr(), width, sequences),
            *(cos.data_ptr(), sin.data_ptr(), turn if len(cos) > 1 else 0),
            *(keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1), past),
            *(out.data_ptr(), width),
        )
        kept.grown(1)
        return out

    def answers_alike(self) -> bool:
        """Whether the module answers a few random tokens as the kernel does."""
        drawn = torch.Generator().manual_seed(0)
        width, first = self.layer.hidden, _ASKED - 1
        x = torch.randn(2, _ASKED, width, generator=drawn).to(self.dtype)
        x = x * self._lively(x)
        cache = DynamicCache()
        with torch.no_grad():
            try:
                cos, sin = self.turns(x, torch.arange(_ASKED)[None])  # (1, positions, turn) each
                self._ask(x[:, :first], (cos[:, :first], sin[:, :first]), cache)
                kept = cache.layers[self.module.layer_idx]
                mine = GrowingLayer.of(copy(kept))
                turn = cos[:, first:], sin[:, first:]
                wanted = self._ask(x[:, first:], turn, cache)
            except (RuntimeError, TypeError, ValueError, AttributeError, LookupError):
                return False  # it wants something else
            if type(kept) is not DynamicLayer or cos.dtype != self.dtype:
                return False
            got = self.run(x[:, first:], *turn, mine)
        good = (64 if self.dtype == torch.float32 else 8) * torch.finfo(self.dtype).eps
        pairs = ((got, wanted), (mine.keys, kept.keys), (mine.values, kept.values))
        return all(
            float((a - b).float().norm()) <= good * float(b.float().norm()) for a, b in pairs
        )

    def _lively(self, x: Tensor) -> float:
        """By what to multiply hidden states so that what queries give keys is far from even."""
        with torch.no_grad():
            queries, keys = (
                self.module.get_submodule(name)(x).float().unflatten(-1, (-1, self.layer.head))
                for name in _PROJECTIONS[:2]
            )  # (2, positions, heads, head) each
        each = queries.square().sum(-1).mean() * keys.square().sum(-1).mean() / self.layer.head
        spread = float(each.sqrt()) * self.layer.scale
        return (_SPREAD / spread) ** 0.5 if 0 < spread < _SPREAD else 1.0

    def _ask(self, x: Tensor, turn: tuple[Tensor, Tensor], cache: Cache) -> Tensor:
        out, _ = self.usual(
            hidden_states=x,
            position_embeddings=turn,
            attention_mask=None,
            past_key_values=cache,
        )
        return out


def _forward(kernel: _Kernel) -> Callable[..., Answer]:
    def forward(*args: Any, **given: Any) -> Answer:
        if len(args) < 2:  # which is second differs from model to model
            hidden, turn, mask, cache = (
                args[0] if args else given.get("hidden_states"),
                *(given.get(name) for name in _GIVEN),
            )
            kept = kernel.takes(hidden, turn, mask, cache)
            if kept is not None:
                return kernel.run(hidden, *turn, kept), None
        return kernel.usual(*args, **given)

    return forward
