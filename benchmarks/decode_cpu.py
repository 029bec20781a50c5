"""A whole model on the CPU: the engine beside what else one would run, taking turns in one run.

    python benchmarks/decode_cpu.py [--rounds 5] [--layers 8]

A generated Mixtral (8 layers x 8 experts, top-2, hidden 2048, intermediate 7168, bfloat16: 1.7 GB
are read for each token) decodes and processes a prompt of 512 tokens under the engine on the host
device, under transformers with its default experts (grouped_mm) and with eager ones, on the same
weights, and under llama.cpp where it is installed (``make peers``). Figures are medians over
rounds, ratios are medians of the rounds' own ratios. Tokens need not be the same: those that random
weights make likeliest are close, and each system rounds in its own order.

The limit is what must be read for a token at the rate at which this machine reads memory, measured
in the same rounds. Last line: JSON with ``vs_transformers_default``, ``vs_transformers_eager``,
``vs_llamacpp``, ``prefill_vs_eager``, ``fraction_of_limit``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from one_expert import ceiling_gbps
from peers import Llama, llama
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel
from transformers.initialization import no_init_weights

import fiddler_viz as fv
from engine.generated import generated_model
from engine.machine import this_machine
from engine.profile import Profile

System = Callable[[list[int], int], tuple[list[float], list[int]]]

PROMPT, DECODED, LONG = 32, 12, 512
POSITIONS = 1024


def ids(count: int) -> list[int]:
    return torch.randint(32000, (count,), generator=torch.Generator().manual_seed(count)).tolist()


class Steps:
    """Notes when each forward pass of a transformers model begins."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._stamps: list[int] = []
        model.register_forward_pre_hook(lambda *_: self._stamps.append(time.perf_counter_ns()))

    def taken(self) -> list[float]:
        """Seconds of each pass but the last, the prompt's first; forgets them."""
        seconds = (np.diff(self._stamps) / 1e9).tolist()
        self._stamps.clear()
        return seconds


def engine_steps(engine: fv.HybridEngine) -> System:
    steps = Steps(engine.model)

    def run(prompt: list[int], new: int) -> tuple[list[float], list[int]]:
        made = engine.generate(prompt, new, do_sample=False, eos_token_id=None)
        return steps.taken(), list(made.tokens[0])

    return run


def transformers_steps(model: PreTrainedModel) -> System:
    steps = Steps(model)

    def run(prompt: list[int], new: int) -> tuple[list[float], list[int]]:
        given = torch.tensor([prompt])
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        with torch.no_grad():
            made = model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=new, **options
            )
        return steps.taken(), made[0, len(prompt) :].tolist()

    return run


def plain(model: PreTrainedModel, experts: str | None) -> PreTrainedModel:
    """transformers' own model on the same weights, with experts of its choice (None) or these.

    Nothing of the engine is in it: neither hooks nor layers on the kernels.
    """
    config = MixtralConfig.from_dict(
        {k: v for k, v in model.config.to_dict().items() if "experts_implementation" not in k}
    )
    with no_init_weights():
        made = AutoModelForCausalLM.from_config(
            config, dtype=model.dtype, experts_implementation=experts
        )
    made.load_state_dict(model.state_dict(), assign=True)
    return made.eval().requires_grad_(False)


def llama_steps(model: Llama, prompt: list[int], new: int) -> tuple[list[float], list[int]]:
    """Seconds of each forward pass, the prompt's first, and the tokens: what all systems give."""
    stamps, tokens = [time.perf_counter()], list[int]()
    model.start(prompt)
    stamps.append(time.perf_counter())
    for _ in range(new - 2):
        tokens.append(model.best())
        model.step(tokens[-1])
        stamps.append(time.perf_counter())
    return np.diff(stamps).tolist(), [*tokens, model.best()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="decode-cpu-") as folder:
        model = generated_model(layers=chosen.layers, expert_width=7168, positions=POSITIONS)
        model.save_pretrained(folder)
        threads = torch.get_num_threads()
        peer = llama(model, Path(folder) / "model.gguf", threads=threads, positions=POSITIONS)
        del model
        engine = fv.load(
            folder,
            device="host",
            profile=Profile.uniform((chosen.layers, 8)),
            name="generated",
            max_tokens=POSITIONS,
        )
        compare(engine, peer, chosen.rounds)


def compare(engine: fv.HybridEngine, peer: Llama | None, rounds: int) -> None:
    spec = engine.real_spec
    layers, experts = spec.grid
    read = spec.dense_bytes - spec.embedding_bytes + layers * spec.top_k * spec.expert_bytes
    print(f"{layers} x {experts} experts, top-{spec.top_k}, {read / 1e9:.2f} GB read for a token")
    print(f"{this_machine()}, {engine.threads} threads, load {os.getloadavg()[0]:.1f}")
    usual, eager = plain(engine.model, None), plain(engine.model, "eager")
    print(f"transformers' default experts: {usual.config._experts_implementation}")
    systems: dict[str, System] = {
        "engine": engine_steps(engine),
        "transformers default": transformers_steps(usual),
        "transformers eager": transformers_steps(eager),
    }
    if peer is not None:
        systems["llama.cpp"] = lambda prompt, new: llama_steps(peer, prompt, new)
    decode: dict[str, list[float]] = {name: [] for name in systems}
    prefill: dict[str, list[float]] = {name: [] for name in systems}
    ceilings: list[float] = []
    said: dict[str, list[int]] = {}
    for number in range(rounds + 1):  # the first one warms up
        for name, run in systems.items():
            steps, said[name] = run(ids(PROMPT), DECODED)
            long, _ = run(ids(LONG), 2)
            if number:
                decode[name].append(1 / float(np.median(steps[1:])))
                prefill[name].append(LONG / long[0])
        if number:
            ceilings.append(ceiling_gbps(threads=engine.threads))
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    for name, tokens in said.items():
        same = sum(a == b for a, b in zip(tokens, said["engine"], strict=False))
        print(
            f"{name:21} decode {np.median(decode[name]):6.2f} tokens/s "
            f"({min(decode[name]):.2f} to {max(decode[name]):.2f}), "
            f"prefill {np.median(prefill[name]):6.0f}; "
            f"{same} of {len(tokens)} tokens as the engine's"
        )
    limit = np.array(ceilings) * 1e9 / read
    rate = f"at {np.median(ceilings):.1f} GB/s"
    print(f"{'the limit':21} decode {np.median(limit):6.2f} tokens/s, {rate}")

    def ratio(figures: dict[str, list[float]], name: str) -> float | None:
        if name not in figures:
            return None
        ratios = np.array(figures["engine"]) / np.array(figures[name])
        return round(float(np.median(ratios)), 3)

    print(
        json.dumps(
            {
                "vs_transformers_default": ratio(decode, "transformers default"),
                "vs_transformers_eager": ratio(decode, "transformers eager"),
                "vs_llamacpp": ratio(decode, "llama.cpp"),
                "prefill_vs_eager": ratio(prefill, "transformers eager"),
                "prefill_vs_llamacpp": ratio(prefill, "llama.cpp"),
                "fraction_of_limit": round(float(np.median(np.array(decode["engine"]) / limit)), 3),
                "decode_tokens_per_s": round(float(np.median(decode["engine"])), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
