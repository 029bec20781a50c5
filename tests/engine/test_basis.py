"""What a plan's costs were derived from: kept, found again in older files, or missed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from engine.basis import Basis, find_basis, need_basis
from engine.cost import CostModel
from engine.errors import InputError
from engine.machine import Machine
from engine.placement import change_plan, make_plan
from engine.plan import Plan
from engine.profile import Profile
from engine.spec import HardwareSpec, ModelSpec
from tests.engine.test_measured import MODEL, calibrated

MIXTRAL, RTX = ModelSpec.preset("mixtral-8x7b"), HardwareSpec.preset("rtx-4090")
BASIS = Basis(MIXTRAL, RTX.what_if(link_gbps=50))


def test_round_trip() -> None:
    assert BASIS.costs == CostModel.of(MIXTRAL, BASIS.hardware)
    assert Basis.from_dict(json.loads(json.dumps(BASIS.to_dict()))) == BASIS


def test_what_is_known_counts_only_where_it_gives_the_costs() -> None:
    name = BASIS.hardware.name
    assert find_basis(BASIS, name, BASIS.costs, MIXTRAL) is BASIS
    assert find_basis(BASIS, "another", BASIS.costs, MIXTRAL) is None
    assert find_basis(BASIS, name, replace(BASIS.costs, copy_ns=1), MIXTRAL) is None
    assert find_basis(BASIS, name, BASIS.costs, replace(MIXTRAL, name="other")) is None


def test_older_files_name_a_preset() -> None:
    costs = CostModel.of(MIXTRAL, RTX)
    assert need_basis(None, "rtx-4090", costs, MIXTRAL) == Basis(MIXTRAL, RTX)
    with pytest.raises(InputError, match="give hardware= its profile"):
        need_basis(None, "h200", costs, MIXTRAL)
    with pytest.raises(InputError, match="give hardware= its profile"):
        need_basis(None, "my-laptop", costs, MIXTRAL)


def test_a_machine_that_was_calibrated_elsewhere_says_so_once_asked() -> None:
    elsewhere = Machine(cpu="abacus", cores=1, gpu="none", torch="0.1")
    spec = calibrated(elsewhere, accelerator=True, gpu_memory_bytes=10**9)
    profile = Profile.uniform(MODEL.grid)
    plan = make_plan(MODEL, spec, profile, gpu_memory="50%", max_tokens=10)
    read = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert read == plan and read.basis_of(MODEL).hardware == spec
    asked = change_plan(read, model=MODEL, link_gbps=50)
    assert not asked.costs.calibrated and asked.costs.relative_error >= 0.3
    assert asked.uncalibrated and asked.hardware_title.endswith("what if: link 50 GB/s")


@pytest.mark.parametrize("change", [{"model": {}}, {"hardware": None}, {"more": 1}])
def test_bad_values(change: dict[str, object]) -> None:
    with pytest.raises((InputError, TypeError)):
        Basis.from_dict(BASIS.to_dict() | change)
