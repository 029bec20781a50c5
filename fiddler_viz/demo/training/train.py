"""Train the demo model: ``python -m fiddler_viz.demo.training.train --texts TEXTS --out OUT``.

Each worker process runs one thread. They take a step's pieces (8 x 128 tokens) as each gets
free, and add up their gradients: on small matrices that beats one process with two threads by
far, also where other programs keep one of the cores busy.

The learning rates follow elapsed time, not steps, so a slow machine ends annealed all the same.
Every few minutes the model is written to ``OUT/model`` (an ordinary checkpoint in bfloat16) and
the whole state to ``OUT/state.pt``, from which ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast

from . import corpus
from .muon import Muon
from .network import Network
from .shape import demo_config, new_model
from .tokenizer import train_tokenizer
from .windows import Windows
from .workers import Claims, Workers

BALANCE_COEFFICIENT = 0.01
WARMUP_STEPS = 100
LONG_AFTER = 0.8
"""The share of the time after which windows are twice as long."""

PIECE_TOKENS = 1024
PIECES = 4
"""A step has this many pieces of that many tokens each."""


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of the two optimizers."""

    muon: float = 0.02
    adamw: float = 2e-3


def schedule(step: int, done: float) -> float:
    """The share of the peak rates: linear warm-up in steps, then a cosine in time down to 5%."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return warmup * (0.05 + 0.95 * cosine)


def new_optimizers(
    model: MixtralForCausalLM, rates: Rates, workers: Workers | None = None
) -> list[torch.optim.Optimizer]:
    """Muon for attention and experts; AdamW for embeddings, routers and (undecayed) norms."""
    hidden: list[torch.nn.Parameter] = []
    pieces: dict[torch.nn.Parameter, int] = {}
    for layer in model.model.layers:
        attention, experts = layer.self_attn, layer.mlp.experts
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        hidden += [projection.weight for projection in projections]
        hidden += [experts.gate_up_proj, experts.down_proj]
        pieces[experts.gate_up_proj] = 2
    taken = set(hidden)
    others = [p for p in model.parameters() if p not in taken]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(hidden, rates.muon, pieces, workers),
        torch.optim.AdamW(groups, lr=rates.adamw, betas=(0.9, 0.95), fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def add_gradients(network: Network, windows: torch.Tensor, pieces: int = 1) -> tuple[float, float]:
    """Add the gradients of one of a step's `pieces`; returns (nats a token, balance loss)."""
    losses = network(windows)
    ((losses.token + BALANCE_COEFFICIENT * losses.balance) / pieces).backward()
    return losses.token.item(), losses.balance.item()


def update(
    model: MixtralForCausalLM, optimizers: list[torch.optim.Optimizer], share: float
) -> None:
    """Use up the gradients, clipped to norm 1, at `share` of the peak rates; in place."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share
        optimizer.step()
        optimizer.zero_grad()


def write_checkpoint(
    model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write model and tokenizer in bfloat16 to `folder`, which is never seen half-written."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


class Clock:
    """The share of the time that is used up."""

    def __init__(self, minutes: float, used_s: float = 0.0) -> None:
        self.total_s = minutes * 60
        self._start = time.monotonic() - used_s

    @property
    def used_s(self) -> float:
        """Seconds trained so far, resumed ones included."""
        return time.monotonic() - self._start

    @property
    def done(self) -> float:
        """From 0 to 1 and beyond."""
        return self.used_s / self.total_s


def train(rank: int, args: argparse.Namespace, meeting: str, claimed: Claims) -> None:
    """What worker `rank` does; `meeting` is a file that the workers find each other through."""
    torch.set_num_threads(1)
    workers = Workers(rank, args.workers, meeting, claimed)
    domains = corpus.load(args.texts, args.seed)
    tokenizer = train_tokenizer(block for domain in domains for block in domain.train)
    model = new_model(demo_config(len(tokenizer)), args.seed)
    rates = Rates(args.muon_rate, args.adamw_rate)
    optimizers = new_optimizers(model, rates, workers)
    state: dict = {"steps": 0, "tokens": 0, "used_s": 0.0}
    if args.resume:
        state = torch.load(args.out / "state.pt", weights_only=True)
        model.load_state_dict(state.pop("model"))
        for optimizer, past in zip(optimizers, state.pop("optimizers"), strict=True):
            optimizer.load_state_dict(past)
    steps, tokens = state["steps"], state["tokens"]
    windows = Windows(domains, tokenizer, seed=[args.seed, rank, steps])
    network = Network(model, compiled=not args.no_compile)
    clock = Clock(args.minutes, state["used_s"])
    summary = {
        "seed": args.seed,
        "rates": asdict(rates),
        "minutes": args.minutes,
        "workers": args.workers,
        "corpus_tokens": windows.total_tokens,
        "note": args.note,
    }

    def save() -> None:
        now = {"steps": steps, "tokens": tokens, "used_s": clock.used_s}
        states = [optimizer.state_dict() for optimizer in optimizers]
        parts = {"model": model.state_dict(), "optimizers": states}
        torch.save(now | parts, args.out / "state.new")
        (args.out / "state.new").replace(args.out / "state.pt")
        write_checkpoint(model, tokenizer, args.out / "model")
        (args.out / "training.json").write_text(json.dumps(summary | now, indent=2) + "\n")

    saved_s, told_s, told_tokens = clock.used_s, clock.used_s, tokens
    mean_loss = mean_balance = 0.0
    pieces_claimable = 0
    while (done := workers.agree(clock.done)) < 1:
        length = 256 if done >= LONG_AFTER else 128
        pieces_claimable += PIECES
        while workers.claim(pieces_claimable):
            batch = windows.batch(PIECE_TOKENS // length, length)
            loss, balance = add_gradients(network, batch, PIECES)
            keep = 0.98 if mean_loss else 0.0
            mean_loss = keep * mean_loss + (1 - keep) * loss
            mean_balance = keep * mean_balance + (1 - keep) * balance
        workers.sum_gradients(model)
        share = schedule(steps, done)
        update(model, optimizers, share)
        steps += 1
        tokens += PIECES * PIECE_TOKENS
        if rank == 0 and steps % 25 == 0:
            speed = (tokens - told_tokens) / (clock.used_s - told_s)
            print(
                f"{clock.used_s / 60:6.2f} min  step {steps:6d}  tokens {tokens / 1e6:7.3f} M  "
                f"loss {mean_loss:.4f}  balance {mean_balance:.4f}  rate {share:.3f}  "
                f"{speed:.0f} tokens/s",
                flush=True,
            )
            told_s, told_tokens = clock.used_s, tokens
        if rank == 0 and clock.used_s - saved_s > args.save_minutes * 60:
            save()
            saved_s = clock.used_s
    if rank == 0:
        save()
    workers.leave()


def main(arguments: list[str] | None = None) -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True, help="folder of the public texts")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-rate", type=float, default=Rates.muon, help="peak")
    parser.add_argument("--adamw-rate", type=float, default=Rates.adamw, help="peak")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--note", default="", help="a sentence for the model card")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"{folder}/meeting"
        claimed = torch.multiprocessing.get_context("spawn").Value("q", 0)
        torch.multiprocessing.spawn(train, (args, meeting, claimed), nprocs=args.workers)


if __name__ == "__main__":
    main()
