"""Peak host memory and time of loading a generated, sharded checkpoint of several GB.

A random Mixtral-like checkpoint is written shard by shard into a temporary folder (one tensor for
each expert's matrix, as the hub has them, or fused ones), loaded by a fresh interpreter, and
removed. Peak memory is the highest resident set of that interpreter (VmHWM), Python and torch
included. Last line of the output: JSON.

    python benchmarks/load.py [--gb 3.5] [--shards 7] [--layout per-expert|fused] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import MixtralConfig

ROOT = Path(__file__).resolve().parent.parent
HIDDEN, WIDTH, EXPERTS, VOCABULARY = 1024, 3584, 8, 32000

CHILD = """
import re, sys, time
from pathlib import Path
import fiddler_viz, engine.loader
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
empty = peak()
start = time.perf_counter()
model = engine.loader.load_model(sys.argv[1])
seconds = time.perf_counter() - start
loaded = sum(p.numel() * p.element_size() for p in model.parameters())
for part in model.parameters():
    part.sum()  # mapped files come into memory when they are read

print(empty, peak(), seconds, loaded)
"""


def tensors(layers: int, layout: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the checkpoint, made when it is asked for."""

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float32).mul_(0.02).to(dtype)

    yield "model.embed_tokens.weight", make(VOCABULARY, HIDDEN)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name, rows in (("q", HIDDEN), ("k", 256), ("v", 256), ("o", HIDDEN)):
            yield f"{at}.self_attn.{name}_proj.weight", make(rows, HIDDEN)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", make(HIDDEN)
        if layout == "fused":
            yield f"{at}.mlp.gate.weight", make(EXPERTS, HIDDEN)
            yield f"{at}.mlp.experts.gate_up_proj", make(EXPERTS, 2 * WIDTH, HIDDEN)
            yield f"{at}.mlp.experts.down_proj", make(EXPERTS, HIDDEN, WIDTH)
            continue
        moe = f"{at}.block_sparse_moe"
        yield f"{moe}.gate.weight", make(EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name, shape in (("w1", (WIDTH, HIDDEN)), ("w2", (HIDDEN, WIDTH))):
                yield f"{moe}.experts.{expert}.{name}.weight", make(*shape)
            yield f"{moe}.experts.{expert}.w3.weight", make(WIDTH, HIDDEN)
    yield "model.norm.weight", make(HIDDEN)
    yield "lm_head.weight", make(VOCABULARY, HIDDEN)


def write(folder: Path, n_bytes: int, shards: int, layout: str, dtype: torch.dtype) -> int:
    """Write a checkpoint of about ``n_bytes``; returns its size. Holds one shard at a time."""
    of_layer = (3 * EXPERTS * WIDTH + EXPERTS + 2 * HIDDEN + 512 + 2) * HIDDEN * dtype.itemsize
    layers = max(1, round((n_bytes - 2 * VOCABULARY * HIDDEN * dtype.itemsize) / of_layer))
    MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        num_local_experts=EXPERTS,
        dtype=str(dtype).removeprefix("torch."),
        architectures=["MixtralForCausalLM"],
    ).save_pretrained(folder)
    index: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    total = held = 0

    def flush() -> None:
        name = f"model-{len(set(index.values())) + 1:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, tensor in tensors(layers, layout, dtype):
        shard[name] = tensor
        held += tensor.nbytes
        total += tensor.nbytes
        if held >= n_bytes / shards:
            flush()
            held = 0
    if shard:
        flush()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
    return total


def load(folder: Path) -> dict[str, float]:
    """Load in a fresh interpreter. Raises CalledProcessError with the child's output."""
    command = [sys.executable, "-c", CHILD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    empty, peak, seconds, loaded = map(float, done.stdout.split())
    return {"empty": empty, "peak": peak, "seconds": seconds, "loaded": loaded}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gb", type=float, default=3.5, help="size of the checkpoint, 1e9 bytes")
    parser.add_argument("--shards", type=int, default=7)
    parser.add_argument("--layout", choices=("per-expert", "fused"), default="per-expert")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--folder", type=Path, help="where the temporary checkpoint goes")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        size = write(
            folder, round(args.gb * 1e9), args.shards, args.layout, getattr(torch, args.dtype)
        )
        shards = len(list(folder.glob("*.safetensors")))
        measured = load(folder)
    assert measured["loaded"] == size, "the loaded model is not the checkpoint"
    bound = 1.1 * size + 1e9
    print(f"checkpoint: {size / 1e9:.2f} GB, {shards} shards, {args.layout}, {args.dtype}")
    print(f"before loading: {measured['empty'] / 1e9:.2f} GB (Python, torch, transformers)")
    print(f"peak: {measured['peak'] / 1e9:.2f} GB of {bound / 1e9:.2f} GB allowed")
    result: dict[str, Any] = {
        "peak_over_checkpoint": round(measured["peak"] / size, 3),
        "checkpoint_gb": round(size / 1e9, 3),
        "seconds": round(measured["seconds"], 1),
        "peak_gb": round(measured["peak"] / 1e9, 3),
        "within_bound": measured["peak"] <= bound,
        "layout": args.layout,
        "shards": shards,
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
