"""Expert slots: what is where, what waits for what, and what an error or interrupt leaves."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.devices import pinned
from engine.devices.pinned import PinnedWeights
from engine.devices.slots import SlotArena
from engine.errors import DeviceError
from engine.loader import load_model
from engine.store import ExpertStore
from engine.timeline import STAGING_BUFFERS
from tests.engine.fake_runtime import FakeRuntime
from tests.engine.tiny_models import save_tiny


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ExpertStore:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder, "mixtral")
    return ExpertStore(load_model(folder, "float32"))


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def arena(store: ExpertStore, runtime: FakeRuntime) -> SlotArena:
    made = SlotArena(runtime, store.weights(0, 0), PinnedWeights(runtime, store))
    made.resize(3)
    return made


def same(arena: SlotArena, slot: int, store: ExpertStore, expert: int) -> bool:
    theirs = store.weights(0, expert).parts
    return all(a.equal(b) for a, b in zip(arena.view(slot).parts, theirs, strict=True))


def test_what_is_put_arrives_when_it_is_waited_for(
    arena: SlotArena, store: ExpertStore, runtime: FakeRuntime
) -> None:
    stream = runtime.stream()
    arena.put(5, store.weights(0, 5), stream)
    slot = arena.slot_of(5)
    assert slot >= STAGING_BUFFERS and not same(arena, slot, store, 5)
    arena.arrive([slot], runtime.current())
    assert same(arena, slot, store, 5)
    assert arena.held() == {5}
    assert arena.used_bytes == arena.capacity_bytes == 5 * store.expert_bytes
    arena.drop(5)
    with pytest.raises(DeviceError, match="5 is not resident"):
        arena.slot_of(5)


def test_no_more_than_there_is_room_for(
    arena: SlotArena, store: ExpertStore, runtime: FakeRuntime
) -> None:
    stream = runtime.stream()
    for expert in range(3):
        arena.put(expert, store.weights(0, expert), stream)
    with pytest.raises(DeviceError, match="all 3 slots"):
        arena.put(3, store.weights(0, 3), stream)
    with pytest.raises(DeviceError, match="is on the device already"):
        arena.put(1, store.weights(0, 1), stream)
    arena.drop(1)
    arena.put(3, store.weights(0, 3), stream)
    assert arena.held() == {0, 2, 3}
    assert repr(arena) == "SlotArena(3 of 3 slots)"


def test_staging_takes_turns(arena: SlotArena, store: ExpertStore, runtime: FakeRuntime) -> None:
    stream = runtime.stream()
    slots = [arena.stage(store.weights(0, expert), stream)[0] for expert in range(3)]
    assert slots == [0, 1, 0]
    arena.arrive(slots, runtime.current())
    assert same(arena, 0, store, 2) and same(arena, 1, store, 1)


def test_another_size_is_empty_and_an_error_leaves_the_one_before(
    arena: SlotArena, store: ExpertStore, runtime: FakeRuntime
) -> None:
    arena.put(1, store.weights(0, 1), runtime.stream())
    arena.resize(3)
    assert arena.held() == {1}
    arena.resize(4)
    assert arena.held() == set() and arena.slots == 4
    usual = runtime.empty

    def full(shape: Any, dtype: Any) -> torch.Tensor:
        if shape[0] > 4 + STAGING_BUFFERS:
            raise torch.OutOfMemoryError("no")
        return usual(shape, dtype)

    runtime.empty = full
    with pytest.raises(torch.OutOfMemoryError):
        arena.resize(7)
    assert arena.slots == 4 and arena.held() == set()

    def interrupted(shape: Any, dtype: Any) -> torch.Tensor:
        raise KeyboardInterrupt

    runtime.empty = interrupted
    with pytest.raises(KeyboardInterrupt):
        arena.resize(2)
    runtime.empty = usual
    arena.resize(4)  # the same number as before, but there is no block
    assert arena.block is not None and arena.slots == 4


def test_chunks_are_whole_experts_and_bounded(
    store: ExpertStore, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, int]] = []
    given: list[int] = []
    monkeypatch.setattr(pinned, "PAGESIZE", 1)
    up = store.weights(0, 0).up.nbytes
    monkeypatch.setattr(pinned, "CHUNK_BYTES", 3 * up + 1)
    runtime.pin = lambda address, n_bytes: taken.append((address, n_bytes)) or 0
    runtime.unpin = given.append
    made = PinnedWeights(runtime, store)
    assert made.pinned_bytes == made.total_bytes == sum(size for _, size in taken)
    assert max(size for _, size in taken) <= 3 * up
    for size in {size for _, size in taken}:
        assert size % up == 0 or size % store.weights(0, 0).down.nbytes == 0
    assert made.note == ""
    made.close()
    assert sorted(given) == sorted(address for address, _ in taken)
    made.close()
    assert len(given) == len(taken)
    other = PinnedWeights(runtime, store)
    del other
    gc.collect()
    assert len(given) == len(taken) == 2 * len(set(taken))


def test_a_limit_leaves_the_rest_to_buffers(store: ExpertStore, runtime: FakeRuntime) -> None:
    made = PinnedWeights(runtime, store, most_bytes=store.n_bytes // 2)
    assert 0 < made.pinned_bytes <= store.n_bytes // 2
    assert "the limit asked for" in made.note
    arena, stream = SlotArena(runtime, store.weights(0, 0), made), runtime.stream()
    last = len(store) - 1
    arena.resize(4)
    before = runtime.host_waits
    for expert in range(4):
        arena.put(expert, store.weights(last, expert), stream)
    assert runtime.host_waits == before + 2  # two buffers: the third copy waits for the first
    arena.arrive([arena.slot_of(3)], runtime.current())
    theirs = store.weights(last, 3).parts
    ours = arena.view(arena.slot_of(3)).parts
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


def test_one_refusal_is_not_the_end(store: ExpertStore) -> None:
    runtime = FakeRuntime()
    asked: list[int] = []
    runtime.pin = lambda address, n_bytes: asked.append(address) or (2 if len(asked) == 2 else 0)
    made = PinnedWeights(runtime, store)
    assert len(asked) == 8 and 0 < made.pinned_bytes < made.total_bytes
    assert "driver's error 2" in made.note


def test_what_is_fetched_early_is_copied_in_pieces(store: ExpertStore) -> None:
    runtime = FakeRuntime()
    made, stream = PinnedWeights(runtime, store), runtime.stream()
    source = store.weights(1, 2)
    target, sizes = source.new(), list[int]()
    copy = runtime.copy
    runtime.copy = lambda to, of, on: (sizes.append(of.nbytes), copy(to, of, on))[1]
    made.copy(target, source, stream, piece_bytes=1000)
    runtime.host_wait(runtime.record(stream))
    assert max(sizes) <= 1000 and sum(sizes) == source.n_bytes and len(sizes) > 2
    assert all(torch.equal(a, b) for a, b in zip(target.parts, source.parts, strict=True))


def test_the_driver_says_no_for_good(store: ExpertStore) -> None:
    runtime = FakeRuntime(refuses=2)
    asked: list[int] = []
    runtime.pin = lambda address, n_bytes: asked.append(address) or 2
    made = PinnedWeights(runtime, store)
    assert len(asked) == 3 and made.error == 2 and made.pinned_bytes == 0
    assert "0 B of" in made.note and "driver's error 2" in made.note


def test_what_is_pinned_outlives_its_model(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mixtral")
    model = load_model(tmp_path, "float32")
    made = PinnedWeights(FakeRuntime(), ExpertStore(model))
    part = weakref.ref(next(iter(model.parameters())))
    del model
    gc.collect()
    assert part() is None and made.pinned_bytes > 0
    kept = made._closer.peek()
    assert kept is not None and len(kept[2][2]) > 0
