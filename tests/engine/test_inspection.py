"""One call beside its alternatives, and how it is chosen."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.errors import InputError
from engine.events import Action, Clock
from engine.inspection import inspect_call, inspection, latest_step
from engine.regrets import regrets
from engine.replay import replay
from tests.engine.builders import Driver, recorded, toy_plan
from tests.engine.test_regrets import BACK, COPY, CPU, GPU, THERE, by_hand


def test_one_call_by_hand() -> None:
    made = inspect_call(by_hand(), layer=0, expert=1)
    assert (made.action, made.policy, made.clock) == (Action.CPU, "lru", Clock.MODELLED)
    assert [option.parts for option in made.options] == [
        (("run", GPU),),
        (("copy", COPY), ("run", GPU)),
        (("there", THERE), ("run", CPU), ("back", BACK)),
    ]
    assert made.took == made.chosen.parts
    assert [option.possible for option in made.options] == [False, True, True]
    assert (made.regret_ns, made.cheapest.action) == (0, Action.CPU)
    assert (made.chosen.low_ns, made.chosen.high_ns) == (45 * 0.75, 45 * 1.25)  # within 25%
    assert made.token is None and not made.kept and not made.on_host


def test_by_default_the_call_with_the_most_regret() -> None:
    assert inspect_call(by_hand()).expert == 2
    without = replay(by_hand(), policy="fiddler").trace
    assert not regrets(without).regret_ns.any()
    dearest = int(regrets(without).chosen_ns.argmax())
    assert inspect_call(without) == inspection(regrets(without), dearest)


def test_a_token_s_own_calls() -> None:
    trace = recorded(1, toy_plan(4))
    routing = trace.routing
    for token in (0, 3, 8):
        made = inspect_call(trace, token=token, layer=2)
        (chosen,) = routing.experts[(routing.token == token) & (routing.layer == 2)]
        assert made.expert in chosen and made.token == token
        assert made.step == trace.tokens["step"][token]


def test_what_cannot_be_chosen_is_refused_with_what_can() -> None:
    trace = recorded(1, toy_plan(4))
    routing = trace.routing
    (used,) = routing.experts[(routing.token == 8) & (routing.layer == 2)]
    unused = next(expert for expert in range(4) if expert not in used)
    listed = ", ".join(str(expert) for expert in sorted(used.tolist()))
    with pytest.raises(
        InputError,
        match=f"token 8 did not use expert {unused} in layer 2: choose one of {listed}",
    ):
        inspect_call(trace, token=8, layer=2, expert=unused)
    with pytest.raises(InputError, match=r"no token of step 4 used expert .* in layer 2: choose"):
        inspect_call(trace, step=4, layer=2, expert=unused)
    with pytest.raises(InputError, match="layer 3: expected 0 to 2"):
        inspect_call(trace, layer=3)
    with pytest.raises(InputError, match="expert -1: expected 0 to 3"):
        inspect_call(trace, expert=-1)
    for wrong in ("x", [], True, 1.5, np.array([1, 2]), float("nan")):
        for name in ("layer", "expert"):
            with pytest.raises(InputError, match=rf"{name} .*: expected 0 to"):
                inspect_call(trace, **{name: wrong})  # type: ignore[arg-type]
    assert inspect_call(trace, layer=np.int64(1)).layer == 1  # type: ignore[arg-type]
    with pytest.raises(InputError, match="token 8 was processed in step 4, not in step 2"):
        inspect_call(trace, token=8, step=2)


def test_a_stopped_step_and_an_empty_trace() -> None:
    driver, rng = Driver(toy_plan(4)), random.Random(1)
    with pytest.raises(InputError, match="no expert has run in this trace"):
        inspect_call(driver.trace())
    driver.step(rng)
    driver.step(rng, layers=1)
    with pytest.raises(InputError, match="step 1 was stopped before it ran this"):
        inspect_call(driver.trace(), step=1, layer=2)
    with pytest.raises(InputError, match="the step of token 1 was stopped"):
        inspect_call(driver.trace(), token=1, layer=2)


def test_the_newest_step_of_an_expert() -> None:
    trace = recorded(1, toy_plan(4))
    called = trace.happened.calls
    for layer in range(trace.model.layers):
        for expert in range(trace.model.experts):
            mine = called.step[(called.layer == layer) & (called.expert == expert)]
            assert latest_step(trace, layer, expert) == (int(mine[-1]) if len(mine) else None)
        assert latest_step(trace, layer) == called.step[called.layer == layer].max()
    assert latest_step(trace) == len(trace.step_rows) - 1
