"""What is checked before a model is opened: sizes, and arguments that could have no effect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fiddler_viz as fv
from engine.errors import InputError
from engine.hybrid import HybridEngine
from engine.opening import Sizes, Wish, check_effect

NOWHERE = "/no/such/checkpoint"


@pytest.mark.parametrize(
    "options",
    [
        {"gpu_memory": "1GB"},
        {"cache_slots": 4},
        {"policy": "fiddler"},
        {"planner": "popularity"},
        {"reserve_bytes": 0},
    ],
)
def test_the_host_device_refuses_what_plans_a_memory(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=rf"{name}: no effect here.* host device .*'virtual'"):
        fv.load(NOWHERE, device="host", **options)  # before anything is read


def test_several_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"^gpu_memory, policy: no effect here"):
        fv.load(device="host", policy="lru", gpu_memory="50%", cache_slots=None)


def test_what_only_a_gpu_takes() -> None:
    with pytest.raises(InputError, match=r"reserve_bytes: no effect here.* virtual .*'cuda'"):
        fv.load(NOWHERE, device="virtual", reserve_bytes=7)
    for device in ("auto", "cuda", "cuda:1"):  # auto: the same call may lead to either
        check_effect(device, Wish("1GB", 2, "lru", None), Sizes(256, 1, 7))
    with pytest.raises(InputError, match="as_model='mixtral-8x7b' costs modelled time"):
        check_effect("cuda:1", Wish(None, None, None, None), Sizes(256, 1), "mixtral-8x7b")


def test_an_engine_of_a_model_in_memory_refuses_the_same() -> None:
    with pytest.raises(InputError, match="gpu_memory: no effect here"):
        HybridEngine.wrap(object(), device="host", gpu_memory="1GB")


@pytest.mark.parametrize("name", ["max_tokens", "max_sequences", "reserve_bytes", "threads"])
@pytest.mark.parametrize("value", [-1, 1.5, "4", True])
def test_sizes_are_checked_before_anything_is_read(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name}: expected a whole number"):
        fv.load(NOWHERE, **{name: value})


def test_numbers_of_numpy() -> None:
    sizes = Sizes.of(np.int64(256), np.int32(2), np.uint8(7))  # type: ignore[arg-type]
    assert sizes == Sizes(256, 2, 7) and type(sizes.max_tokens) is int
    four = np.int64(4)
    engine = fv.load(
        gpu_memory="50%", policy="lru", cache_slots=four, max_tokens=np.int64(128),
        max_sequences=np.int16(2), threads=np.int64(1),
    )  # fmt: skip
    plan = engine.plan
    assert plan.cache_slots == 4 and type(plan.cache_slots) is int
    assert (engine.max_tokens, engine.max_sequences, engine.threads) == (128, 2, 1)
    assert len(engine.generate("a", four).tokens[0]) == 4
