"""What of a budget is not a plan's to give, and whether a plan was kept."""

from __future__ import annotations

import pytest

import fiddler_viz as fv
from engine import devices
from engine.devices.card import card_hardware
from engine.devices.reserve import CONTEXT_BYTES, SPARE_BYTES, Peak, Reserve
from engine.devices.runtime import DeviceMemory
from engine.errors import InputError
from engine.placement import change_plan, make_plan
from engine.plan import Plan
from engine.profile import Profile
from engine.spec import ModelSpec
from tests.engine.fake_runtime import FakeRuntime

GB = 10**9


def card(used: int, reserved: int = 0, peak: int = 0) -> FakeRuntime:
    runtime = FakeRuntime()
    runtime.memory = lambda: DeviceMemory(24 * GB, 24 * GB - used, reserved, peak)
    return runtime


def test_the_context_is_what_our_allocator_does_not_hold() -> None:
    found = Reserve.of(card(used=3 * GB, reserved=2_400_000_000))
    assert found.outside_bytes == 600_000_000 and "context measured" in str(found)
    assert found.measured(5, 0).n_bytes == 600_000_005
    assert "rest measured" in found.measured(5, 0).how
    assert found.measured(5, 700_000_000).n_bytes == 700_000_005  # code came with the first step
    assert found.measured(5, 9 * GB).n_bytes == 600_000_005  # others came
    assert Reserve.of(card(used=9 * GB)).outside_bytes == CONTEXT_BYTES  # others are there too
    assert Reserve.of(card(used=GB), asked_bytes=7).n_bytes == GB + 7
    with pytest.raises(InputError, match="reserve_bytes"):
        Reserve.of(card(used=GB), asked_bytes=-1)


def test_peak_against_plan() -> None:
    reserve = Reserve(500_000_000, 0, "asked for")
    near = Peak.of(card(0, peak=9_450_000_000), reserve, 10 * GB)
    assert near.kept and near.near and near.off_percent == pytest.approx(-0.5)
    assert "kept" in str(near) and "within" in str(near)
    above = Peak.of(card(0, peak=9_600_000_000), reserve, 10 * GB)
    assert not above.kept and not above.near and "EXCEEDED" in str(above)
    assert not Peak.of(card(0, peak=8 * GB), reserve, 10 * GB).near
    assert Peak.of(card(0, peak=11 * GB), reserve, 10 * GB, 2 * GB).measured_bytes == 9_500_000_000


def test_a_plan_takes_the_reserve_off_the_budget_and_keeps_it_in_files() -> None:
    model = ModelSpec.preset("mixtral-8x7b")
    profile = Profile.uniform(model.grid)
    plain = make_plan(model, "rtx-4090", profile)
    less = make_plan(model, "rtx-4090", profile, reserve_bytes=GB)
    assert less.minimum_bytes == plain.minimum_bytes + GB
    assert less.room == (24 * GB - less.minimum_bytes) // model.expert_bytes < plain.room
    assert less.residency().reserved_bytes == less.minimum_bytes
    assert Plan.from_dict(less.to_dict()) == less and less.reserve_bytes == GB
    assert "reserve_bytes" not in plain.to_dict()
    assert Plan.from_dict(plain.to_dict()) == plain
    grown = change_plan(less, model=model, gpu_memory="40GB")
    assert grown.reserve_bytes == GB and grown.minimum_bytes == less.minimum_bytes
    with pytest.raises(InputError, match="reserve_bytes"):
        Plan.from_dict(less.to_dict() | {"reserve_bytes": -1})


def test_a_card_is_planned_for_by_its_name() -> None:
    found = card_hardware("NVIDIA GeForce RTX 4090", 5 * GB, "l4")
    assert found.name == "rtx-4090" and found.gpu_memory_bytes == 5 * GB
    assert "not calibrated" in found.title and "RTX 4090" in found.title
    assert card_hardware("NVIDIA H200", GB, "rtx-4090").name == "h200"
    assert card_hardware("NVIDIA L4", GB, "rtx-4090").name == "l4"
    assert card_hardware("NVIDIA A1", GB, "rtx-4090").name == "rtx-4090"


def test_reserve_is_measured_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeRuntime(total=1 << 40)
    usual = runtime.memory
    monkeypatch.setattr(devices, "open_cuda", lambda _: runtime)
    peak = 3 * GB
    runtime.memory = lambda: DeviceMemory(usual().total, usual().free, 0, peak)
    engine = fv.load("demo", device="cuda", gpu_memory="50%", max_tokens=256)
    plan = engine.plan
    planned = plan.minimum_bytes - plan.reserve_bytes
    inside = peak - planned + SPARE_BYTES
    assert plan.reserve_bytes == inside + (1 << 29)
    engine = fv.load("demo", device="cuda", gpu_memory="50%", reserve_bytes=7)
    assert engine.plan.reserve_bytes == 7 + (1 << 29)
    assert engine.generate([1, 2, 3], 2).ended == "length"
