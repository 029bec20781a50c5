"""What is explored, without a widget: plans asked, applied, taken back, and kept side by side."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import InputError
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.views.session import Session
from tests.fiddler_viz.fake_engine import FakeEngine


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=8, prompt_tokens=3)


def ask(session: Session, **changes: Any) -> None:
    for name, value in changes.items():
        session.change(name, value)
    session.advance()


def do(session: Session, *actions: Any) -> None:
    for action in actions:
        session.do(action)
    session.advance()


def driven(**options: Any) -> tuple[Session, FakeEngine]:
    engine = FakeEngine(gpu_memory="24GB", **options)
    engine.device = SimpleNamespace(offloads=True)
    engine.generate("go", 6)
    session = Session(engine=engine)
    session.advance()
    return session, engine


# ------------------------------------------------------------------------------ a finished run


def test_other_hardware_is_asked_of_replay(trace: Trace) -> None:
    session = Session(trace=trace)
    assert not session.asks
    ask(session, link_gbps=50.0, cpu_cores=32)
    assert session.asks and session.view.what_if
    assert session.view.plan.hardware == "rtx-4090 (link 50 GB/s, 32 CPU cores)"
    assert session.view.run == trace.summary
    do(session, "reset")
    assert session.view.trace is trace and not session.asks
    with pytest.raises(InputError, match="no engine whose plan"):
        do(session, "apply")
    assert session.view.trace is trace


def test_another_machine_forgets_what_was_asked_of_the_last(trace: Trace) -> None:
    session = Session(trace=trace)
    ask(session, link_gbps=50.0)
    ask(session, hardware="h200")
    assert session.view.plan.hardware == "h200"


def test_a_model_that_does_not_fit_gets_a_budget_that_holds_it(trace: Trace) -> None:
    session = Session(trace=trace)
    wide = replace(trace.model, name="wide", dense_bytes=30 * 10**9)
    ask(session, as_model=wide)
    plan = session.view.plan
    assert plan.model == "wide" and plan.gpu_memory == plan.minimum_bytes
    assert session.view.trace.model == wide
    ask(session, gpu_memory="50GB")
    assert session.view.trace.model == wide
    do(session, "reset")
    assert session.view.trace is trace


# ----------------------------------------------------------------------------------- an engine


def test_at_once_the_engine_gets_each_change() -> None:
    session, engine = driven()
    ask(session, gpu_memory="48GB", link_gbps=50.0)
    assert engine.plan is session.view.plan and engine.plan.gpu_memory == 48 * 10**9
    assert "link 50" in engine.plan.hardware and not session.asks


def test_asked_then_applied() -> None:
    session, engine = driven()
    before = engine.plan
    do(session, "ask")
    ask(session, gpu_memory="48GB")
    ask(session, policy="lru")
    assert engine.plan is before and session.in_force is before
    assert session.asks and session.view.what_if
    asked = session.view.plan
    do(session, "apply")
    assert engine.plan == asked and not session.asks


def test_asked_then_taken_back() -> None:
    session, engine = driven()
    do(session, "ask")
    ask(session, gpu_memory="48GB")
    do(session, "reset")
    assert session.view.plan == engine.plan and session.view.trace is engine.last_run.trace


def test_live_again_applies_what_was_asked() -> None:
    session, engine = driven()
    do(session, "ask")
    ask(session, cache_slots=4, policy="lru")
    do(session, "live")
    assert engine.plan.policy == "lru" and not session.asks


def test_a_run_and_a_replan_elsewhere_leave_what_is_asked() -> None:
    session, engine = driven()
    do(session, "ask")
    ask(session, gpu_memory="48GB")
    asked = session.view.plan
    engine.replan(gpu_memory="30GB")
    session.advance()
    assert session.view.plan == asked and session.in_force.gpu_memory == 30 * 10**9
    run = engine.generate("again", 9)
    session.advance()
    assert session.view.plan == asked and session.view.what_if
    assert len(session.view.trace.step_rows) == len(run.trace.step_rows)
    do(session, "reset")
    engine.replan(gpu_memory="28GB")
    session.advance()
    assert session.view.plan.gpu_memory == 28 * 10**9  # with nothing asked it is followed


# ------------------------------------------------------------------------------------- A and B


def test_two_plans(trace: Trace) -> None:
    session = Session(trace=trace)
    session.shows = "A"
    assert session.shows == "B" and session.comparison is None  # there is no A
    do(session, "keep")
    ask(session, gpu_memory="48GB")
    found = session.comparison
    assert found is not None and (found.a, found.b) == (trace, session.view.trace)
    session.shows = "A"
    assert session.view.trace is trace and session.shows == "A"
    session.shows = "B"
    assert session.view.plan.gpu_memory == 48 * 10**9
    do(session, "clear")
    assert session.kept is None and session.view.plan.gpu_memory == 48 * 10**9


def test_changes_and_actions_come_in_the_order_asked(trace: Trace) -> None:
    session = Session(trace=trace)
    session.change("gpu_memory", "30GB")
    session.do("keep")
    session.change("gpu_memory", "48GB")
    session.change("policy", "lru")
    assert session.wanted == {"gpu_memory", "policy"}
    session.advance()
    assert session.kept is not None and session.kept.plan.gpu_memory == 30 * 10**9
    assert (session.view.plan.gpu_memory, session.view.plan.policy) == (48 * 10**9, "lru")
    session.do("apply")
    session.do("reset")
    with pytest.raises(InputError):
        session.advance()
    session.advance()
    assert session.view.trace is trace


def test_what_is_shown_is_what_is_changed(trace: Trace) -> None:
    session = Session(trace=trace)
    do(session, "keep")
    ask(session, gpu_memory="48GB")
    session.shows = "A"
    ask(session, policy="lru")
    assert session.shows == "B"
    assert (session.view.plan.policy, session.view.plan.gpu_memory) == ("lru", 24 * 10**9)
    assert session.kept is not None and session.kept.plan == trace.plan


def test_a_may_be_applied_and_outlives_a_run() -> None:
    session, engine = driven()
    do(session, "keep")
    ask(session, gpu_memory="48GB")
    session.shows = "A"
    ask(session, cache_slots=2)
    assert (engine.plan.gpu_memory, engine.plan.cache_slots) == (24 * 10**9, 2)
    session.shows = "A"
    do(session, "apply")
    assert (engine.plan.gpu_memory, engine.plan.cache_slots) == (24 * 10**9, 0)
    run = engine.generate("again", 9)
    session.advance()
    assert session.kept is not None
    assert len(session.kept.trace.step_rows) == len(run.trace.step_rows)
    assert session.comparison is not None


# --------------------------------------------- policies that go by what a run may not hold


def test_a_plan_in_force_that_cannot_replay_the_last_run() -> None:
    session, engine = driven()
    ask(session, policy="prefetch")
    assert engine.plan.policy == session.view.plan.policy == "prefetch" and session.unforeseen
    assert not len(session.view.trace.step_rows) and session.view.predicted is None
    assert session.explored is engine.last_run.trace
    assert Session(engine=engine).unforeseen
    engine.running, engine.last_run = True, engine.last_run  # as at the begin of a run
    session.advance()
    engine.running = False
    ask(session, policy="lru")
    assert not session.unforeseen and session.view.what_if
    engine.replan(policy="prefetch")  # in a cell
    session.advance()
    assert session.view.plan.policy == "prefetch" and session.unforeseen


def test_a_plan_asked_about_that_cannot_replay_the_run_is_refused_or_dropped() -> None:
    session, engine = driven()
    do(session, "ask")
    with pytest.raises(InputError, match="policy 'prefetch' goes by"):
        ask(session, policy="prefetch")
    assert session.view.trace is engine.last_run.trace and not session.asks
    foreseen = replace(
        engine.last_run.trace,
        routing=replace(
            engine.last_run.trace.routing, predicted=engine.last_run.trace.routing.experts
        ),
    )
    engine.last_run = SimpleNamespace(trace=foreseen, ended="length")
    session.advance()
    ask(session, policy="prefetch")
    assert session.asks and session.view.what_if
    do(session, "keep")
    engine.generate("go", 4)
    session.advance()
    assert session.view.trace is engine.last_run.trace and session.kept is None
    assert "The plan asked about is gone: this run cannot be replayed under policy prefetch" in (
        session.dropped
    )
    assert "Plan A is gone: " in session.dropped
    ask(session, gpu_memory="20GB")
    assert not session.dropped
