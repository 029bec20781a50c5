"""Measure the popularity of a model's experts, by running it on a text."""

from __future__ import annotations

from functools import partial
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.profile import Profile
from engine.recorder import Recorder
from engine.session import Session
from engine.spec import ModelSpec

WINDOW_TOKENS = 256
"""Tokens per forward pass: short enough for any model's positions."""
WINDOWS = 8


def measure_profile(
    model: nn.Module, tokenizer: Any | None, session: Session, spec: ModelSpec, vocabulary: int
) -> Profile:
    """Count the router's choices on the bundled calibration text.

    Without a tokenizer random token ids stand in for the text, and the profile says so. Runs at
    most ``WINDOWS * WINDOW_TOKENS`` tokens through the model.
    """
    most = WINDOWS * WINDOW_TOKENS
    if tokenizer is not None:
        text = resources.files("engine").joinpath("data/calibration.txt").read_text("utf-8")
        flat = tokenizer(text, verbose=False)["input_ids"][:most]
        source = "the bundled calibration text"
    else:
        flat = np.random.default_rng(0).integers(vocabulary, size=most).tolist()
        source = "random token ids (this checkpoint has no tokenizer)"
    windows = len(flat) // WINDOW_TOKENS
    ids = torch.tensor(flat[: windows * WINDOW_TOKENS]).reshape(windows, WINDOW_TOKENS)
    owner = object()
    try:
        recorder = session.begin_run(owner, partial(Recorder, spec, clock=session.device.clock))
        with torch.no_grad():
            for row in ids:
                model(row[None].to(_device(model)), use_cache=False, logits_to_keep=1)
    finally:
        session.end_run(owner)
    return Profile.from_trace(recorder.trace({}), source)


def _device(model: nn.Module) -> torch.device:
    """Where a model takes its input."""
    return next(model.parameters()).device
