"""Verbs of the package: load a model, replay, compare and judge what it did, or make it up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.bounds import Bound
from engine.bounds import bound as bound_of
from engine.budgets import TENTHS, BudgetCurve, budget_curve
from engine.curves import HIT_POLICIES, Curves, hit_curves
from engine.errors import InputError
from engine.heldout import HeldOut
from engine.heldout import heldout as judge
from engine.interchange.perfetto import to_perfetto as write_perfetto
from engine.policies import Policy
from engine.profile import Profile
from engine.regrets import Regrets
from engine.regrets import regrets as regrets_of
from engine.replay import Replay
from engine.replay import replay as replay_trace
from engine.sweep import Hardware
from engine.sweep import sweep as sweep_traces
from engine.synthetic import Likeness, SyntheticRouting, synthetic_trace
from engine.synthetic import likeness as compare_figures
from engine.trace import Trace
from fiddler_viz import demo
from fiddler_viz.figures import as_trace

if TYPE_CHECKING:
    import pandas as pd

    from engine.hybrid import HybridEngine
    from engine.spec import HardwareSpec


def load(path: str | Path = demo.NAME, **options: Any) -> HybridEngine:
    """Open a Mixture-of-Experts checkpoint as a hybrid engine.

    ``path`` is ``"demo"`` (the bundled model), a folder or a hub id. Options are those of
    :meth:`engine.hybrid.HybridEngine.load`: ``gpu_memory="24GB"``, ``hardware="rtx-4090"``,
    ``policy="fiddler"``, ``cache_slots``, ``as_model``, ``planner``, ``dtype``, ``quantize``,
    ``device``, ``max_tokens``, ``max_sequences``, ``threads``, ``profile``, ``name``,
    ``reserve_bytes``, ``cuda_graphs``. ``help(fv.HybridEngine.load)`` says what each does, and what
    is raised.

    ``as_model="mixtral-8x7b"`` costs the demo's routing with Mixtral's bytes and flops, so that
    budgets are Mixtral's gigabytes.
    """
    from engine.hybrid import HybridEngine  # torch and transformers only now

    if str(path) != demo.NAME:
        return HybridEngine.load(path, **options)
    if options.get("profile") is None and not options.keys() & {"dtype", "quantize"}:
        options["profile"] = demo.profile()  # as it would be measured
    options = {"dtype": "float32", "name": demo.NAME} | options  # faster than bf16 at this size
    return HybridEngine.load(demo.model_folder(), **options)


def calibrate(path: str | Path | None = None, *, model: Any = None, **options: Any) -> HardwareSpec:
    """Measure this machine and return its profile, to be given as ``hardware=``.

    ``path``: JSON file to write. ``model``: an engine, ``"demo"``, a checkpoint's folder or hub
    id, or None for a generated one. Options are those of :func:`engine.calibrate.calibrate`:
    ``seconds``, ``thorough``, ``name``, ``beside``, ``threads``, ``progress``.
    """
    from engine.calibrate import calibrate as measure  # torch only now

    if isinstance(model, str) and model == demo.NAME:
        model = load(demo.NAME, device="host")
    return measure(path, model=model, **options)


def replay(source: Any, **changes: Any) -> Replay:
    """What a finished run would have been under another plan, without the model.

    ``source``: a Trace, a run, an engine's last run, or the path of a trace file. Changes are
    those of :func:`engine.replay.replay`: ``gpu_memory``, ``cache_slots``, ``policy``,
    ``planner``, ``hardware``, ``link_gbps``, ``cpu_cores``, ``as_model``, and ``pin``, ``unpin``
    and ``reset_pins``, which edit the placement by hand; without any, the run is repeated under its
    own plans.
    """
    return replay_trace(as_trace(source), **changes)


def compare(
    source: Any,
    *,
    policies: Sequence[str | type[Policy]] | str | type[Policy] | None = None,
    gpu_memory: Sequence[int | str] | int | str | None = None,
    hardware: Sequence[Hardware] | Hardware | None = None,
    cache_slots: Sequence[int] | int | None = None,
    link_gbps: Sequence[float] | float | None = None,
    cpu_cores: Sequence[int] | int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> pd.DataFrame:
    """Replay one run on several machines, budgets and policies; one row for each combination.

    Every row is on the modelled clock. Policies default to all there are, budgets and hardware to
    the run's; ``cache_slots`` holds for the policies that cache; ``link_gbps`` and ``cpu_cores``
    are what-ifs of each machine (:mod:`engine.what_if`). Of a large model all policies take
    seconds: ``progress`` is called with rows done and rows in all. Raises InputError for a list
    without entries, and what :func:`replay` raises. :func:`sweep` does it for many runs.
    """
    table = sweep_traces(
        as_trace(source),
        policies=policies,
        gpu_memory=gpu_memory,
        hardware=hardware,
        cache_slots=cache_slots,
        link_gbps=link_gbps,
        cpu_cores=cpu_cores,
        progress=progress,
    )
    return table.drop(columns="trace")


def curves(
    source: Any,
    *,
    policies: Iterable[str] | str = tuple(HIT_POLICIES),
    pinned: Iterable[int] = (),
    sizes: Iterable[int] | None = None,
    half_life: float = 32.0,
    progress: Callable[[int, int], object] | None = None,
) -> Curves:
    """Hit rates of a run's routing for every cache size at once; ``.to_pandas()`` for a frame.

    ``policies``, ``pinned``, ``sizes``, ``half_life``, ``progress``: see
    :func:`engine.curves.hit_curves`, which also says what is raised.
    """
    return hit_curves(
        as_trace(source),
        policies,
        pinned=pinned,
        sizes=sizes,
        half_life=half_life,
        progress=progress,
    )


def budgets(
    source: Any,
    *,
    policies: Iterable[str | type[Policy]] | str | type[Policy] | None = None,
    budgets: Iterable[int | str] | int | str = TENTHS,
    progress: Callable[[int, int], object] | None = None,
) -> BudgetCurve:
    """What a run would have cost at every budget; ``.to_pandas()`` for a frame.

    ``policies``, ``budgets``, ``progress``: see :func:`engine.budgets.budget_curve`, which also
    says what is raised.
    """
    return budget_curve(as_trace(source), policies, budgets, progress=progress)


def bound(source: Any) -> Bound:
    """The speed that no policy can exceed for a run's routing, hardware and budget.

    And what share of it the run achieved: see :mod:`engine.bounds`.
    """
    return bound_of(as_trace(source))


def regrets(source: Any) -> Regrets:
    """Every expert call beside its alternatives; ``.to_pandas()`` for a frame.

    The regret of a call is the predicted cost of what was chosen, less that of the cheapest way
    that was possible: see :mod:`engine.regrets`. ``fv.inspect`` draws one call.
    """
    return regrets_of(as_trace(source))


def sweep(traces: Any, **options: Any) -> pd.DataFrame:
    """Replay many runs under many plans, on any ``concurrent.futures.Executor``.

    ``traces``: what :func:`replay` takes, several of these, or a mapping of names to them. Paths
    stay paths: whoever does the work opens the file. The options are those of
    :func:`engine.sweep.sweep`: ``policies``, ``gpu_memory``, ``hardware``, ``cache_slots``,
    ``link_gbps``, ``cpu_cores``, ``executor``, ``errors="raise"`` or ``"coerce"``, ``chunk``,
    ``progress``. Columns are those of :func:`compare`, and ``trace``.
    """

    def opened(item: Any) -> Any:
        return item if isinstance(item, str | Path) else as_trace(item)

    if isinstance(traces, Mapping):
        return sweep_traces({name: opened(item) for name, item in traces.items()}, **options)
    if isinstance(traces, Iterable) and not isinstance(traces, str):
        return sweep_traces([opened(item) for item in traces], **options)
    return sweep_traces(opened(traces), **options)


def heldout(source: Any, profile: Any = None, **options: Any) -> HeldOut:
    """Judge a profile's placement on a run of another text, beside chance and the best possible.

    ``source``: what :func:`replay` takes; ``profile``: a Profile, or what leads to a run of
    another text to count it on, or None: the one that the run was planned with. The option is
    ``gpu_memory``, one budget or several. See :func:`engine.heldout.heldout`.
    """
    if profile is not None and not isinstance(profile, Profile):
        profile = as_trace(profile)
    return judge(as_trace(source), profile, **options)


def synthetic(model: Any = demo.COSTED_AS, *, like: Any = None, **options: Any) -> Trace:
    """A trace of made-up routing, for grids that nobody here can run.

    ``model``: a preset's name or a ModelSpec. ``like``: a SyntheticRouting, or a recorded run (what
    :func:`replay` takes) to fit one to. The options are those of
    :func:`engine.synthetic.synthetic_trace`: ``skew``, ``locality``, ``coupling``, ``domains`` and
    ``contrast`` where nothing is given to be like; ``requests``, ``prompt_tokens``,
    ``decode_tokens``, ``switch_tokens``, ``accuracy``, ``seed``, ``gpu_memory``, ``cache_slots``,
    ``policy``, ``hardware``, ``quantize``.

    Nothing in it was measured, and host memory is taken to hold all experts: the trace's
    ``model.routed_bytes`` says how much that is.
    """
    if like is not None:
        if options.get("routing") is not None:
            raise InputError(
                "synthetic: like= and routing= both say how tokens are routed: give one of them"
            )
        fitted = (
            like if isinstance(like, SyntheticRouting) else SyntheticRouting.fit(as_trace(like))
        )
        options["routing"] = fitted
    return synthetic_trace(model, **options)


def likeness(source: Any, made: Any) -> Likeness:
    """How like two runs are to a cache: popularity, reuse, predictability, LRU hit rates.

    Both: what :func:`replay` takes. See :class:`engine.synthetic.Likeness`.
    """
    return compare_figures(as_trace(source), as_trace(made))


def to_perfetto(source: Any, path: str | Path) -> Path:
    """Write a run as JSON that ui.perfetto.dev opens; returns the path.

    ``source``: a Trace, a run, an engine's last run, or the path of a trace file.
    """
    return write_perfetto(as_trace(source), path)
