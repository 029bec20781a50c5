"""The smaller views: controls, tiles, text, status, style, runner."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.plan import Plan
from engine.policies import LIVE, POLICIES
from engine.replay import replay
from engine.spec import ModelSpec
from engine.synthetic import synthetic_trace
from engine.trace import Trace
from fiddler_viz.frames import LIMIT_TOKENS, priced
from fiddler_viz.theme import theme
from fiddler_viz.views.plan_controls import PlanControls, memory_scale
from fiddler_viz.views.runner import Runner
from fiddler_viz.views.status import Header, Status
from fiddler_viz.views.style import style_sheet
from fiddler_viz.views.text_view import LIVE_TOKENS, TextView
from fiddler_viz.views.tiles import Tiles, make_tiles

NASTY = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def trace() -> Trace:
    return synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=12, prompt_tokens=4)


@pytest.fixture(scope="module")
def plan(trace: Trace) -> Plan:
    return trace.plan


@pytest.mark.parametrize("model", ModelSpec.presets())
def test_memory_slider_has_round_steps(model: str) -> None:
    plan = synthetic_trace(model, gpu_memory="50%", decode_tokens=1, prompt_tokens=1).plan
    unit, step, least, most = memory_scale(plan)
    assert step * unit >= min(plan.expert_bytes, (plan.full_bytes - plan.minimum_bytes) / 200)
    assert f"{step:.15g}".strip("0.")[:1] in "125"
    assert least * unit >= plan.minimum_bytes > (least - step) * unit
    assert most * unit >= plan.full_bytes
    assert round(least / step) * step == pytest.approx(least)
    assert 20 < (most - least) / step <= 500


def test_following_a_plan_calls_nobody_back(plan: Plan) -> None:
    calls: list[Any] = []
    controls = PlanControls(plan, lambda name, value: calls.append((name, value)))
    controls.follow(replace(plan, gpu_memory=60 * 10**9, policy="lru", cache_slots=7))
    assert (controls.memory.value, controls.cache.value) == (60.0, 7)
    assert calls == []
    controls.memory.value = 30.0
    controls.hardware.value = "h200"
    assert calls == [("gpu_memory", 30 * 10**9), ("hardware", "h200")]


def test_a_moving_slider_is_not_pulled_back(plan: Plan) -> None:
    controls = PlanControls(plan, lambda *_: None)
    controls.memory.value = 30.5
    controls.follow(replace(plan, gpu_memory=30 * 10**9), moving=lambda: {"gpu_memory"})
    assert controls.memory.value == 30.5
    assert controls.memory_label.value == "30.5 GB"


def test_a_slider_that_says_the_same_in_other_digits_is_left_alone(plan: Plan) -> None:
    """A browser's slider counts in floats: 29.500000000000004 asks for the plan of 29.5 GB."""
    controls = PlanControls(plan, lambda *_: None)
    controls.memory.value = 29.500000000000004
    sent: list[Any] = []
    controls.memory.observe(sent.append, ["value", "min", "max", "step"])
    controls.follow(replace(plan, gpu_memory=29_500_000_000))
    assert sent == []


def test_a_wish_during_following_is_heard(plan: Plan) -> None:
    """The reader moves a slider in one thread while the pump sets controls in another."""
    heard: list[Any] = []
    controls = PlanControls(plan, lambda name, value: heard.append((name, value)))

    def move(_: Any) -> None:
        mover = threading.Thread(target=lambda: setattr(controls.cache, "value", 3))
        mover.start()
        mover.join()

    controls.memory.observe(move, "value")
    controls.follow(replace(plan, gpu_memory=60 * 10**9))
    assert ("cache_slots", 3) in heard


def offered(controls: PlanControls) -> list[Any]:
    """Values of the policy menu, in its order."""
    return [value for _, value in controls.policy.options]


def test_an_engine_is_offered_what_it_can_run_under(plan: Plan) -> None:
    heard: list[Any] = []
    controls = PlanControls(plan, lambda name, value: heard.append((name, value)))
    assert offered(controls) == list(POLICIES)
    assert set(POLICIES) - set(LIVE) == {"belady"}
    before = replace(plan, policy="matching")
    controls.follow(before)
    controls.follow(before, live=True)  # an engine takes the trace's place
    assert offered(controls) == list(LIVE)
    assert controls.policy.value == "matching"
    assert heard == []
    for index, name in enumerate(LIVE):  # a browser sends the place in the menu that it shows
        assert controls.policy._options_labels[index] == LIVE[name].title
        controls.policy.set_state({"index": index})
        assert controls.policy.value == name
    assert [value for _, value in heard] == list(LIVE)
    controls.follow(before)
    assert offered(controls) == list(POLICIES)


def test_a_policy_just_chosen_survives_another_menu(plan: Plan) -> None:
    controls = PlanControls(plan, lambda *_: None)
    controls.policy.value = "stream"
    controls.follow(plan, live=True, moving=lambda: {"policy"})
    assert controls.policy.value == "stream"
    controls.follow(plan, live=True)
    assert controls.policy.value == plan.policy


def test_a_policy_of_ones_own_stays_in_the_menu(plan: Plan) -> None:
    class Mine(LIVE["lru"]):
        name, title, summary = "mine", "Mine", "As lru, mine."

    controls = PlanControls(replace(plan, policy="mine", own_policy=Mine), lambda *_: None)
    assert controls.policy.value is Mine
    for live in (True, False):
        controls.follow(plan, live=live)
        assert offered(controls) == [*(LIVE if live else POLICIES), Mine]
        assert controls.policy.value == plan.policy


def test_an_unknown_machine_is_listed(plan: Plan) -> None:
    controls = PlanControls(plan, lambda *_: None)
    controls.follow(replace(plan, hardware="my-calibrated-laptop"))
    assert controls.hardware.value == "my-calibrated-laptop"


def test_predicted_and_measured_never_look_alike(trace: Trace) -> None:
    run = replace(trace.summary, clock="measured", tokens_per_s_low=3.0, tokens_per_s_high=3.0)
    other = replay(trace, gpu_memory="48GB").summary
    first, second, *rest = make_tiles(other, run, what_if=False)
    assert (first.kind, second.kind) == ("predicted", "run")
    assert " to " in first.note
    assert second.note == "measured"
    assert {tile.kind for tile in rest} == {""}
    assert {tile.kind for tile in make_tiles(other, run, what_if=True)[2:]} == {"predicted"}
    assert make_tiles(other, run, what_if=True)[2].value != rest[0].value


def test_tiles_fade_only_what_changed(trace: Trace) -> None:
    tiles = Tiles()
    assert tiles.show(make_tiles(trace.summary, None, what_if=False))
    assert not tiles.show(make_tiles(trace.summary, None, what_if=False), fade=True)
    other = replay(trace, gpu_memory="48GB").summary
    tiles.show(make_tiles(other, None, what_if=False), fade=True)
    assert 0 < tiles.value.count(" changed") < 6
    assert make_tiles(None, None, what_if=False)[1].note == "press Run"


def test_tokens_are_escaped_and_the_prompt_is_told_apart(trace: Trace) -> None:
    texts = tuple(NASTY if row % 2 else "line\n" for row in range(len(trace.token_rows)))
    view = TextView(100)
    assert view.show(replace(trace, texts=texts), 5)
    assert "<script>" not in view.value
    assert view.value.count('class="p"') == 4
    assert view.value.count(' s"') == 1
    assert view.value.count("background:") == 12 + 1  # and the scale's
    assert not view.show(replace(trace, texts=texts), 5)


def test_a_step_cut_short_has_no_price(trace: Trace) -> None:
    rows = trace.step_rows.copy()
    rows[-1, 7] = 0
    assert np.isnan(priced(replace(trace, step_rows=rows)).ns[-1])
    assert not np.isnan(priced(trace).ns).any()


def test_several_texts_are_shown_one_after_the_other() -> None:
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", prompt_tokens=4, decode_tokens=2)
    rows = trace.token_rows.copy()
    rows[:, [1, 5]] = [(at % 2, at - 2 if at > 1 else -1) for at in range(6)]
    trace = replace(trace, token_rows=rows, texts=("a", "b", "c", "d", "e", "f")).check()
    view = TextView(100)
    view.show(trace, 3)
    shown = re.sub("<[^>]*>", "", view.value.split("aria-label")[1])
    assert shown.split(">", 1)[1] == "text 1: ace\ntext 2: bdf"


def test_a_long_text_shows_its_end_or_where_the_reader_went() -> None:
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=2 * LIMIT_TOKENS)
    total, view = len(trace.token_rows), TextView(100)

    def shown() -> tuple[int, int]:
        """The rows of the first and the last cell; those beside them, a click leads to."""
        cells = re.findall('<i class="[ps ]*".*? title="token ([0-9]+)', view.value)
        more = re.findall('<i class="more" data-t="([0-9]+)"', view.value)
        rows = [int(row) for row in cells]
        assert rows == list(range(rows[0], rows[-1] + 1)) and len(rows) == LIMIT_TOKENS
        before = [rows[0] - 1] if rows[0] else []
        after = [rows[-1] + 1] if rows[-1] < total - 1 else []
        assert [int(row) for row in more] == before + after
        assert (f"{rows[0]} earlier tokens" in view.value) is bool(before)
        assert (f"{total - rows[-1] - 1} later tokens" in view.value) is bool(after)
        return rows[0], rows[-1]

    view.show(trace, None)
    last = shown()
    assert last == (total - LIMIT_TOKENS, total - 1)
    view.show(trace, last[0] - 1)  # as a click on "earlier" picks
    first, end = shown()
    assert first < last[0] - 1 < end
    for row in (first, end, None):  # in view: nothing moves
        view.show(trace, row)
        assert shown() == (first, end)
    view.show(trace, 0)
    assert shown() == (0, LIMIT_TOKENS - 1)
    view.show(trace, total - 2)
    assert shown() == last
    for between in ({"growing": True}, {"live": True}):  # another run; or this one is played
        view.show(trace, 0)
        part = trace if "growing" in between else trace.until(1000)
        view.show(part, None, **between)
        view.show(trace, None)
        assert shown() == last


def test_of_a_growing_text_multiples_are_left_out() -> None:
    trace = synthetic_trace("mixtral-8x7b", gpu_memory="24GB", decode_tokens=600)
    total, view = len(trace.token_rows), TextView(100)
    for part in (trace.until(len(trace.step_rows) - 2), trace):  # nothing moves to another line
        view.show(part, None, live=True, growing=True)
        assert "400 earlier tokens" in view.value
        shown = int((part.tokens["step"] >= 0).sum()) - 400
        assert LIVE_TOKENS < shown <= view.value.count('title="token ') < 2 * LIVE_TOKENS
    view.show(trace, None, live=True)  # played
    assert view.value.count('title="token ') == LIMIT_TOKENS < total
    rows = trace.token_rows.copy()
    rows[:, 1] = np.arange(total) % 4  # the text of each
    view.show(replace(trace, token_rows=rows), None, live=True, growing=True)
    assert view.value.count('title="token ') == LIMIT_TOKENS, "one text as ever"


def test_status_and_header_escape(trace: Trace) -> None:
    status = Status()
    status.error(ValueError(NASTY))
    assert "<script>" not in status.value
    assert status.is_error
    status.error(RuntimeError("device gone"))
    assert "RuntimeError: device gone" in status.value
    status.say("fine")
    assert not status.is_error
    header = Header()
    header.show(NASTY, trace, "ready", what_if=False)
    assert "<script>" not in header.value
    assert "costed as mixtral-8x7b" in header.value


@pytest.mark.parametrize("name", ["light", "dark", "auto"])
def test_style_reaches_only_the_explorer(name: str) -> None:
    sheet = style_sheet(theme(name))
    rules = sheet.split("}")[1:-1]
    for rule in rules:
        head = rule.split("{")[0].split("*/")[-1].strip()
        if head and not head.startswith(("@", "from", "to")):
            assert all(part.strip().startswith(".fv-") for part in head.split(",")), head


def test_runner_stops_before_it_has_loaded() -> None:
    loading, ended = threading.Event(), threading.Event()
    ran: list[str] = []

    def load() -> Any:
        loading.wait(5)
        return SimpleNamespace(generate=lambda prompt, **_: ran.append(prompt), stop=lambda: None)

    runner = Runner(load, lambda _: ended.set())
    assert runner.start("go", 3)
    assert not runner.start("again", 3)
    runner.stop()
    loading.set()
    assert ended.wait(5)
    assert runner.join(5)
    assert ran == []
    assert runner.start("third", 3)
    assert runner.join(5)
    assert ran == ["third"]


def test_runner_hands_errors_over() -> None:
    seen: list[Exception | None] = []

    def load() -> Any:
        raise OSError("no such folder")

    runner = Runner(load, seen.append)
    runner.start("go", 1)
    runner.join(5)
    assert isinstance(seen[0], OSError)
    assert not runner.busy


def test_a_text_says_of_which_picks_a_drawing_knows() -> None:
    heard: list[int | None] = []
    view = TextView(100, heard.append)
    before = view.picks
    view._handle_custom_msg({"event": "pick", "token": 4, "page": "a", "number": 7}, [])
    view.show(None, None, picks=before)  # what was read before the pick
    assert heard == [4]
    assert view.knows == {}
    view.show(None, None, picks=view.picks)
    assert view.knows == {"a": 7}
    for page in range(20):
        view._handle_custom_msg({"event": "pick", "page": f"p{page}", "number": 1}, [])
    assert list(view.picks) == [f"p{page}" for page in range(12, 20)]
