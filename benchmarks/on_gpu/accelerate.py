"""transformers with Accelerate's own offloading, of the same model under the same budget."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from benchmarks.on_gpu.bench import GPU_MEMORY, Bench, say
from benchmarks.on_gpu.shape import build

HEADROOM_BYTES = 3 * 10**9
"""Of the budget, for the CUDA context, the KV cache and a layer's experts while they are used."""
STEPS = 6


def accelerate(bench: Bench) -> dict[str, Any]:
    """Decode tokens/s: as many layers as fit are on the GPU, the others are copied when used."""
    why = None
    if bench.dry:
        why = "dry run: nothing is measured"
    elif find_spec("accelerate") is None:
        why = "not measured: accelerate is not installed"
    if why is not None:
        say(why)
        return {"why_not": why}
    from accelerate import dispatch_model, infer_auto_device_map  # pyright: ignore

    model = build(bench.shape, bench.layers, None)
    say(f"{bench.layers} layers are in host memory, {bench.passed}")
    room = int((GPU_MEMORY - HEADROOM_BYTES) * bench.scale)  # a layer to copy into is taken off it
    places = infer_auto_device_map(
        model,
        max_memory={0: room, "cpu": 1 << 50},
        no_split_module_classes=list(model._no_split_modules),
        dtype=bench.shape.dtype,
    )
    model = dispatch_model(model, device_map=places, main_device=0)
    say(f"dispatched, {bench.passed}")
    ids = torch.tensor([bench.prompt(32)], device="cuda:0")
    cache: Any = None
    took: list[float] = []
    with torch.no_grad():
        for number in range(STEPS + 2):
            begin = time.perf_counter()
            out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            torch.cuda.synchronize()
            if number > 1:  # the prompt, and a first token, warm up
                took.append(time.perf_counter() - begin)
            say(f"step {number}, {bench.passed}")
            if bench.left() < 2 * max(took, default=0.0) + 10 and took:
                break
    on_gpu = sum(place == 0 for place in places.values())
    return {
        "tokens_per_s": float(1 / np.median(took)) * bench.scale,
        "steps": len(took),
        "modules_on_gpu": on_gpu,
        "modules": len(places),
        "gpu_bytes": torch.cuda.max_memory_reserved(),
    }
