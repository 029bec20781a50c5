"""The training pass: a Mixtral model's own weights, run faster than its own forward on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import MixtralForCausalLM

from .balance import load_balance
from .experts import Kernels, SortedExperts


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal grouped-query attention, written out: at short lengths faster than the fused one."""
    batch, heads, length, width = q.shape
    kv_heads = k.shape[1]
    q = q.reshape(batch, kv_heads, -1, width) * width**-0.5  # (B, kv, group x T, D)
    scores = (q @ k.transpose(2, 3)).view(batch, heads, length, length)
    place = torch.arange(length)
    scores = scores.masked_fill(place[:, None] < place[None, :], float("-inf"))
    shares = torch.softmax(scores, dim=-1).view(batch, kv_heads, -1, length)
    return (shares @ v).view(batch, heads, length, width)


def attend_and_route(
    x: Tensor,
    rope: tuple[Tensor, Tensor],
    weights: tuple[Tensor, ...],
    sizes: tuple[int, int, float],
) -> tuple[Tensor, ...]:
    """Attention, norm and router of one layer.

    ``x`` is (B, T, H); ``rope`` two of (T, D); ``weights`` input norm, q, k, v, o, post norm,
    router; ``sizes`` head width D, K and the norms' epsilon. Returns the residual (B, T, H), the
    experts' input (BT, H), index and weights (BT, K), and the layer's balance loss.
    """
    input_norm, query, key, value, output, post_norm, router = weights
    width, top_k, eps = sizes
    batch, length, hidden = x.shape
    y = _norm(x, input_norm, eps)
    q, k, v = (
        functional.linear(y, w).view(batch, length, -1, width).transpose(1, 2)
        for w in (query, key, value)
    )  # (B, heads, T, D)
    q, k = _rotate(q, *rope), _rotate(k, *rope)
    mixed = _attention(q, k, v)  # (B, heads, T, D)
    x = x + functional.linear(mixed.transpose(1, 2).reshape(batch, length, -1), output)
    normed = _norm(x, post_norm, eps).view(-1, hidden)  # (BT, H)
    logits = functional.linear(normed, router)  # (BT, E)
    top, index = torch.softmax(logits, dim=-1).topk(top_k, dim=-1)  # (BT, K)
    return x, normed, index, top / top.sum(-1, keepdim=True), load_balance(logits, index)


def token_loss(x: Tensor, norm: Tensor, head: Tensor, targets: Tensor, eps: float) -> Tensor:
    """Mean next-token loss, nats: (B, T, H), targets (B, T) -> scalar."""
    logits = functional.linear(_norm(x, norm, eps).view(-1, x.shape[-1]), head)  # (BT, V)
    return functional.cross_entropy(logits, targets.reshape(-1))


@dataclass(frozen=True)
class Losses:
    """What one pass yields, two scalars: nats a token; the balance loss, averaged over layers."""

    token: Tensor
    balance: Tensor


class Network:
    """Callable over windows of tokens (B, T + 1); gradients land in the model's own parameters.

    With ``compiled``, one compiled function serves the attention and router of all layers.
    """

    def __init__(self, model: MixtralForCausalLM, compiled: bool = True) -> None:
        self.model = model
        self.kernels = Kernels(compiled)
        compile_ = torch.compile if compiled else (lambda function, **_: function)
        self._attend = compile_(attend_and_route, dynamic=False)
        self._loss = compile_(token_loss, dynamic=False)
        config = model.config
        width = config.head_dim or config.hidden_size // config.num_attention_heads
        self._sizes = (width, config.num_experts_per_tok, config.rms_norm_eps)

    def __call__(self, windows: Tensor) -> Losses:
        tokens, targets = windows[:, :-1], windows[:, 1:]
        inner = self.model.model
        x = inner.embed_tokens(tokens)  # (B, T, H)
        with torch.no_grad():
            cos, sin = inner.rotary_emb(x, torch.arange(tokens.shape[1])[None])
        rope = (cos[0], sin[0])
        balances: list[Tensor] = []
        for layer in inner.layers:
            attention, moe = layer.self_attn, layer.mlp
            weights = (
                layer.input_layernorm.weight,
                attention.q_proj.weight,
                attention.k_proj.weight,
                attention.v_proj.weight,
                attention.o_proj.weight,
                layer.post_attention_layernorm.weight,
                moe.gate.weight,
            )
            x, normed, index, shares, balance = self._attend(x, rope, weights, self._sizes)
            experts = moe.experts
            mixed = SortedExperts.apply(
                normed, index, shares, experts.gate_up_proj, experts.down_proj, self.kernels
            )
            x = x + mixed.view_as(x)
            balances.append(balance)
        head = self.model.lm_head.weight
        loss = self._loss(x, inner.norm.weight, head, targets, self._sizes[2])
        return Losses(loss, torch.stack(balances).mean())
