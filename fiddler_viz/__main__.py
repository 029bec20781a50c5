"""Command line: ``python -m fiddler_viz demo | page | record | trace | calibrate``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from engine.destination import prepare
from engine.errors import FiddlerError, InputError
from engine.policies import LIVE
from engine.spec import HardwareSpec, resolve_hardware, resolve_model
from engine.strict import check_int, check_number
from engine.trace import Trace
from engine.units import parse_bytes, parse_percent
from fiddler_viz import demo
from fiddler_viz.terminal import describe

if TYPE_CHECKING:
    from engine.run import Run


_SUFFIX = ".safetensors"


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    made = argparse.ArgumentParser(
        prog="fiddler-viz",
        description="See, and decide, where the experts of a Mixture-of-Experts model run.",
    )
    made.add_argument("--version", action="version", version=f"%(prog)s {version('fiddler-viz')}")
    commands = made.add_subparsers(dest="command", required=True, metavar="command")

    run = commands.add_parser("demo", help="generate in the terminal, then show where time went")
    _engine_options(run)
    run.set_defaults(do=_demo)

    page = commands.add_parser("page", help="write one self-contained HTML page of a run")
    page.add_argument("out", type=Path, metavar="OUT.html", help="file to write")
    page.add_argument("--trace", type=Path, help="a saved trace (default: the bundled run)")
    page.set_defaults(do=_page)

    record = commands.add_parser("record", help="generate, and save the run's trace")
    record.add_argument("path", type=Path, metavar="OUT.safetensors", help="file to write")
    record.set_defaults(do=_record)

    measure = commands.add_parser(
        "calibrate", help="measure this machine and write a profile for --hardware"
    )
    measure.add_argument("path", type=Path, metavar="OUT.json", help="file to write")
    measure.add_argument("--model", default=None, help="measure with this checkpoint")
    measure.add_argument("--seconds", type=float, default=None, help="about how long (default 12)")
    measure.add_argument("--thorough", action="store_true", help="more lengths and rounds, 90 s")
    measure.add_argument("--beside", default=None, help="combine this CPU with that profile's GPU")
    measure.set_defaults(do=_calibrate)

    trace = commands.add_parser(
        "trace",
        help="describe a saved trace",
        description="Describe a trace. Where there is no such file and its name ends in "
        f"{_SUFFIX}: record a new run there, as the command record does, and describe that.",
    )
    trace.add_argument("path", type=Path, metavar="FILE", help="what record or Trace.save() wrote")
    trace.set_defaults(do=_trace)
    for command in (record, trace):
        command.add_argument("--perfetto", type=Path, metavar="OUT.json", help="also for Perfetto")
        _engine_options(command)
    return made


def _engine_options(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--prompt",
        default="To be, or not to be, that is the question:",
        help="text to go on from (default: a line of Hamlet's)",
    )
    made.add_argument("--tokens", type=int, default=64, help="tokens to generate (default 64)")
    made.add_argument("--model", default=demo.NAME, help="checkpoint folder or hub id")
    made.add_argument("--gpu-memory", default=None, help="budget: 24GB, 40%%, ...")
    made.add_argument("--cache-slots", type=int, default=None, help="experts cached")
    made.add_argument(
        "--policy",
        default=None,
        choices=list(LIVE),
        metavar="NAME",
        help=f"what a missing expert does (default fiddler): {', '.join(LIVE)}",
    )
    made.add_argument("--hardware", default="rtx-4090", help=", ".join(HardwareSpec.presets()))
    made.add_argument(
        "--as-model",
        default=None,
        help="cost another model of the same grid (demo: mixtral-8x7b; 'none': itself)",
    )
    made.add_argument(
        "--quantize", default=None, choices=["int8", "int4"], help="quantise experts on loading"
    )
    made.add_argument(
        "--device",
        default="auto",
        choices=["auto", "virtual", "host", "cuda"],
        help="virtual: modelled time; host: all on this CPU, measured; cuda: a GPU, measured",
    )
    made.add_argument("--greedy", action="store_true", help="no sampling")
    made.add_argument("--seed", type=int, default=0, help="of the sampling (default 0)")


def _generate(options: argparse.Namespace, *, show: bool) -> Run:
    check_int("--tokens", options.tokens, least=1)
    if not 0 <= options.seed < 2**63:
        raise InputError(f"--seed: expected a whole number from 0 to 2^63 - 1, got {options.seed}")
    _check(options)
    if show:
        print(f"loading {options.model}", file=sys.stderr, flush=True)
    from fiddler_viz.api import load

    as_model: str | None = options.as_model
    if as_model is None and options.model == demo.NAME and _has_device(options):
        as_model = demo.COSTED_AS
    engine = load(
        options.model,
        gpu_memory=options.gpu_memory,
        cache_slots=options.cache_slots,
        policy=options.policy,
        hardware=options.hardware,
        as_model=None if as_model == "none" else as_model,
        quantize=options.quantize,
        device=options.device,
    )
    sampling = {"do_sample": False} if options.greedy else {"do_sample": True, "temperature": 0.7}
    unsaid = [options.prompt] if show else []  # until the engine has taken it

    def say(text: str) -> None:
        print(*unsaid, text, sep="", end="", flush=True)
        unsaid.clear()

    run = engine.generate(
        options.prompt,
        options.tokens,
        on_text=say if show else None,
        seed=options.seed,
        **sampling,
    )
    print(*unsaid, sep="", end="")  # no text came
    return run


def _check(options: argparse.Namespace) -> None:
    """Refuse at once what would be refused after seconds of loading."""
    if not options.prompt.strip():
        raise InputError("--prompt: it is empty: give at least one word")
    if options.gpu_memory is not None and parse_percent(options.gpu_memory) is None:
        parse_bytes(options.gpu_memory)
    if options.as_model not in (None, "none"):
        resolve_model(options.as_model)
    resolve_hardware(options.hardware)


def _has_device(options: argparse.Namespace) -> bool:
    """Whether a device is to be modelled: none that measures, nor a profile without a GPU."""
    if options.device != "auto" or options.gpu_memory is not None:
        return options.device not in ("host", "cuda")
    return resolve_hardware(options.hardware).accelerator


def _demo(options: argparse.Namespace) -> None:
    run = _generate(options, show=True)
    print("\n\n" + describe(run.trace))


def _page(options: argparse.Namespace) -> None:
    from fiddler_viz.page import to_html

    out = to_html(demo.trace() if options.trace is None else options.trace, options.out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, opens in any browser without a network")


def _record(options: argparse.Namespace) -> None:
    for path in (options.path, options.perfetto):
        if path is not None:
            prepare(path)  # refused before the run, not after it
    print(f"recording a new run of {options.model} to {options.path}", flush=True)
    trace = _generate(options, show=False).trace
    print(f"saved {trace.save(options.path)}")
    _show(trace, options)


def _calibrate(options: argparse.Namespace) -> None:
    prepare(options.path)
    if options.seconds is not None:
        check_number("--seconds", options.seconds)
    if options.beside is not None:
        resolve_hardware(options.beside)
    print("loading", file=sys.stderr, flush=True)
    from fiddler_viz.api import calibrate

    found = calibrate(
        options.path,
        model=options.model,
        seconds=options.seconds,
        thorough=options.thorough,
        beside=options.beside,
    )
    print(f"{found.calibration!r}\nsaved {options.path}: {found!r}")


def _trace(options: argparse.Namespace) -> None:
    if os.path.exists(options.path):  # pathlib's own raises for a name that the system refuses
        _show(Trace.load(options.path), options)
    elif options.path.suffix == _SUFFIX:
        print(f"there is no {options.path} yet")
        _record(options)
    else:
        raise InputError(
            f"no trace file at {options.path}: check the path, or record a new run with "
            f"`record {options.path}{_SUFFIX}`"
        )


def _show(trace: Trace, options: argparse.Namespace) -> None:
    print(describe(trace))
    if options.perfetto is not None:
        from engine.interchange.perfetto import to_perfetto

        print(f"saved {to_perfetto(trace, options.perfetto)}: open it at ui.perfetto.dev")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status. Errors are one line on standard error."""
    options = parser().parse_args(arguments)
    try:
        options.do(options)
    except (FiddlerError, OSError) as error:
        print(f"fiddler-viz: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfiddler-viz: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
