"""Calibration: measure this machine, fit its costs, and write them down as a HardwareSpec.

Experts, dense part and head are timed inside a model's own forward passes (:mod:`engine.timing`),
copies and, where there is one, the GPU by themselves (:mod:`engine.bandwidth`). Without a GPU the
spec is that of a machine without an accelerator: what would be the GPU's figures are the CPU's own,
and the link's are those of copies within host memory, for there is no link to measure.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from engine.calibrator import Calibrator
from engine.dense import FEW_TOKENS
from engine.destination import prepare
from engine.device_calibrate import calibrate_device
from engine.errors import FiddlerError, InputError
from engine.generated import generated_model
from engine.hybrid import HybridEngine
from engine.loader import load_model, model_spec
from engine.spec import HardwareSpec, ModelSpec, resolve_hardware
from engine.store import ExpertStore
from engine.strict import check_number, check_text
from engine.threads import check_threads

QUICK_LENGTHS = (1, 2, 4, 8, 16, FEW_TOKENS, FEW_TOKENS + 1, 64, 128, 256, 512)
THOROUGH_LENGTHS = (1, 2, 3, 5, 8, 12, 20, FEW_TOKENS, FEW_TOKENS + 1, 48, 72, 112, 176, 264, 400,
                    608, 912, 1360, 2048)  # fmt: skip
"""Prompt lengths; where the dense layers change from the kernels to torch, both sides of it."""


def calibrate(
    path: str | Path | None = None,
    *,
    model: Any = None,
    seconds: float | None = None,
    thorough: bool = False,
    name: str = "this-machine",
    beside: str | Path | HardwareSpec | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> HardwareSpec:
    """Measure this machine and return (and save) its :class:`HardwareSpec`.

    Args:
        path: JSON file to write, to be given as ``hardware=``; None: nothing is written.
        model: an engine (one on a GPU is timed with its lanes), the folder or hub id of a
            checkpoint, or None: a generated model of 1.8 GB. Times of this very model are kept as
            curves; other models are costed with the rates that come of them, with more uncertainty.
        seconds: about how long to measure, at least one round; 12, or 90 where ``thorough``.
        thorough: more prompt lengths, up to 2048 tokens, and more rounds.
        name: what to call the machine.
        beside: a profile whose GPU and link to combine with this CPU, on a machine without one.
            Such a spec is not called calibrated, for only its CPU was measured.
        threads: CPU threads; None: what an engine would use.
        progress: a line on standard error that tells how far it is.

    The model may not be generating meanwhile; it is left as it was. The spec's
    ``calibration`` holds the table of what was measured, with residuals.

    Raises InputError, CheckpointError or FiddlerError about what cannot be measured or written.
    """
    if seconds is None:
        seconds = 90.0 if thorough else 12.0
    check_number("calibrate, seconds", seconds)
    check_text("calibrate, name", name)  # now: a measurement takes a minute
    threads = check_threads(threads)
    other = None if beside is None else resolve_hardware(beside)
    if path is not None:
        prepare(path)
    say = _Line(progress)
    if isinstance(model, HybridEngine) and model.device.on_streams:
        _refuse_running(model)
        try:
            found = calibrate_device(model, name, seconds, thorough=thorough, say=say)
        finally:
            say.end()
        if path is not None:
            found.save(path)
        return found
    say("a model to measure with")
    calibrator = Calibrator(*_opened(model), threads=threads)
    try:
        began = time.perf_counter()
        until = began + seconds
        lengths = THOROUGH_LENGTHS if thorough else QUICK_LENGTHS
        while True:
            passed = time.perf_counter() - began
            say(f"round {calibrator.rounds + 1}, {passed:.0f} of about {seconds:.0f} s")
            calibrator.measure(lengths, until=until)
            spent = time.perf_counter() - began
            if spent + 0.7 * spent / calibrator.rounds > seconds:
                break
        say("memory copies, alone and beside experts")
        found = calibrator.spec(name)
    finally:
        say.end()
    if other is not None:
        found = _beside(found, other)
    if path is not None:
        found.save(path)
    return found


def _refuse_running(engine: HybridEngine) -> None:
    if engine.running:
        raise FiddlerError("the engine is generating: wait for it, or call engine.stop()")


class _Line:
    """One line of progress on standard error, rewritten."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def __call__(self, text: str) -> None:
        if self._shown:
            print(f"\rcalibrate: {text:<60}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._shown:
            print(f"\r{'':<72}\r", end="", file=sys.stderr, flush=True)


def _opened(model: Any) -> tuple[PreTrainedModel, ModelSpec]:
    """A model and what it is, from all that :func:`calibrate` takes."""
    if isinstance(model, HybridEngine):
        _refuse_running(model)
        return model.model, model.real_spec
    if model is None:
        made, name = generated_model(), "generated"
    elif isinstance(model, str | Path):
        made, name = load_model(model), Path(model).name
    else:
        raise InputError(
            "calibrate, model: expected an engine, a checkpoint's folder or hub id, or nothing, "
            f"got {type(model).__name__}"
        )
    return made, model_spec(made, ExpertStore(made), name)


def _beside(found: HardwareSpec, other: HardwareSpec) -> HardwareSpec:
    """This CPU with another profile's GPU and link."""
    mine = [name for name in found.sources if name.startswith("cpu")]
    return replace(
        other,
        name=f"{found.name}+{other.name}",
        title=f"{other.title.split(' + ')[0]} (modelled) + {found.title.split(' + ')[-1]}",
        calibrated=False,
        sources=other.sources | {name: found.sources[name] for name in mine},
        calibration=found.calibration,
        **{name: getattr(found, name) for name in mine},
    )
