"""llama.cpp as a peer: writes a Mixtral of transformers as a bfloat16 GGUF file, and runs it.

    make peers    # llama-cpp-python, compiled for this machine, and gguf

Absent, :func:`llama` says so and returns None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Llama:
    """A GGUF file under llama.cpp: evaluates ids, without sampling."""

    def __init__(self, path: Path, *, threads: int, positions: int) -> None:
        from llama_cpp import Llama as Binding
        from llama_cpp import __version__

        self.version = __version__
        self._model: Any = Binding(
            str(path),
            n_ctx=positions,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=0,
            logits_all=False,
            verbose=False,
        )

    def start(self, prompt: list[int]) -> None:
        """Forget everything and process a prompt."""
        self._model.reset()
        self._model.eval(prompt)

    def step(self, token: int) -> None:
        """Process one more token."""
        self._model.eval([token])

    def best(self) -> int:
        """The likeliest next token."""
        return int(np.argmax(self._model._ctx.get_logits_ith(-1)[: self._model.n_vocab()]))


def llama(model: Any, path: Path, *, threads: int, positions: int) -> Llama | None:
    """Write a Mixtral to ``path`` and open it; None, said why, where llama.cpp is not installed."""
    try:
        import gguf  # noqa: F401
        import llama_cpp  # noqa: F401
    except ImportError as error:
        print(f"llama.cpp is left out: {error} (make peers installs it)")
        return None
    write_gguf(model, path)
    return Llama(path, threads=threads, positions=positions)


def write_gguf(model: Any, path: Path) -> None:
    """A Mixtral's weights in bfloat16 as llama.cpp names and orders them."""
    import gguf

    config = model.config
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_expert_count(config.num_local_experts)
    out.add_expert_used_count(config.num_experts_per_tok)
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("llama")
    out.add_token_list([f"<{number}>" for number in range(config.vocab_size)])
    out.add_token_scores([0.0] * config.vocab_size)
    out.add_token_types([int(gguf.TokenType.NORMAL)] * config.vocab_size)

    def add(name: str, tensor: Tensor) -> None:
        if tensor.ndim == 1 or "ffn_gate_inp" in name:
            out.add_tensor(f"{name}.weight", tensor.float().numpy())
            return
        halves = tensor.contiguous().view(torch.uint16).numpy()
        out.add_tensor(
            f"{name}.weight", halves.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16
        )

    def paired(weight: Tensor, heads: int) -> Tensor:
        """Rotary halves side by side instead of one after the other."""
        rows, columns = weight.shape
        return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape_as(weight)

    add("token_embd", model.model.embed_tokens.weight)
    add("output_norm", model.model.norm.weight)
    add("output", model.lm_head.weight)
    for number, layer in enumerate(model.model.layers):
        block, attention = f"blk.{number}", layer.self_attn
        add(f"{block}.attn_norm", layer.input_layernorm.weight)
        add(f"{block}.attn_q", paired(attention.q_proj.weight, config.num_attention_heads))
        add(f"{block}.attn_k", paired(attention.k_proj.weight, config.num_key_value_heads))
        add(f"{block}.attn_v", attention.v_proj.weight)
        add(f"{block}.attn_output", attention.o_proj.weight)
        add(f"{block}.ffn_norm", layer.post_attention_layernorm.weight)
        add(f"{block}.ffn_gate_inp", layer.mlp.gate.weight)
        gate, up = layer.mlp.experts.gate_up_proj.chunk(2, dim=1)  # (E, I, H) each
        add(f"{block}.ffn_gate_exps", gate)
        add(f"{block}.ffn_up_exps", up)
        add(f"{block}.ffn_down_exps", layer.mlp.experts.down_proj)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
