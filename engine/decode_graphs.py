"""Decode steps whose dense part is given to the device as a few graphs, not kernel by kernel.

transformers submits some 25 small kernels for each layer, which takes the host longer than the
device takes to run them. What a model does between the experts of one layer and those of the next
is the same at every decode step, so it is recorded as a graph, once, and given to the device as one
piece of work; between two graphs the experts run as ever, by decisions that no graph can hold. That
needs inputs, KV cache and experts' answers at places that stay (:mod:`engine.fixed_cache`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from engine.beside import Beside
from engine.configuration import short
from engine.devices.runtime import Runtime
from engine.fixed_cache import FixedCache, why_not_fixed
from engine.foresight import Foresight
from engine.recording import Recording, Silent, standing_in
from engine.store import ExpertStore

LEAST_NEW = 8
"""Texts with fewer new tokens grow their cache as ever."""
LEAST_POSITIONS = 256
"""Caches have so many positions, or a power of two times as many: texts share their graphs."""
KEPT = ("output_hidden_states", "output_attentions", "output_router_logits")
"""Options that keep more of a step than its token, which is then not the step before."""
MASKED = ("sdpa", "eager")
"""Ways of attention that take a mask as numbers, so that empty positions of a cache are left out;
others look at all of them."""
NMSE = 5e-4
"""So near a recorded step's logits have to be to those of the same step, kernel by kernel."""


def _told(why: str) -> str:
    return f"decode steps are given to the GPU kernel by kernel, not as graphs: {why}"


class DecodeGraphs:
    """Takes a model's decode steps over, where its cache is one of :meth:`options`.

    The first decode steps with a cache run kernel by kernel: one warms up, at one the step is
    recorded, at one what was recorded is held against it. Where a model's code does what no graph
    can hold, or leaves in a graph what changes from step to step, all steps stay as they were, and
    :attr:`why_not` says so.
    """

    def __init__(self, model: Any, store: ExpertStore, runtime: Runtime) -> None:
        why = why_not_fixed(model.config)
        self.why_not: str | None = None if why is None else _told(why)
        """Why no step is recorded; None: they are, as far as is known."""
        self.wanted = True
        """Whether runs that begin from now on may have their steps recorded."""
        self.replayed = 0
        """Steps that were given as graphs, in all."""
        self._model, self._store, self._runtime = model, store, runtime
        self._shared: Sequence[Beside | None] = [None] * len(store.modules)
        self._foresight: Foresight | None = None
        self._stream = runtime.stream()
        self._key: tuple[int, int] | None = None
        self._cache: FixedCache | None = None
        self._recording: Recording | None = None
        self._watched: dict[int, Tensor] = {}
        """What routers were given while it was recorded: at every step it is there again."""
        self._refused: set[tuple[int, int]] = set()
        """Caches whose steps memory had no room to record."""
        self._seen = 0
        """Decode steps with this cache, until it is known whether they can be recorded."""
        plain = self._plain = model.forward

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._forward(*args, **kwargs)

        model.forward = forward  # on this model only, hides its class's

    def __repr__(self) -> str:
        state = self.why_not or ("recorded" if self._checked else "not recorded yet")
        return f"DecodeGraphs({state})"

    def connect(self, shared: Sequence[Beside | None], foresight: Foresight) -> None:
        """Who works on the model besides: shared experts that are begun early, by layer, and who
        watches its routers. What was recorded before does not know them."""
        self._shared, self._foresight = shared, foresight
        self._forget()

    def close(self) -> None:
        """Give the model its forward pass back, and free graphs and cache. Nothing follows."""
        vars(self._model).pop("forward", None)
        self._forget()
        self._cache = self._key = self._foresight = None
        self._shared = []
        for name in ("_model", "_store", "_plain"):
            delattr(self, name)

    def _forget(self) -> None:
        self._recording, self._seen, self._watched = None, 0, {}

    @property
    def _checked(self) -> bool:
        return self._recording is not None and self._seen > 2

    # ------------------------------------------------------------------ for a run

    def options(self, rows: int, prompt_tokens: int, new_tokens: int, most: int) -> dict[str, Any]:
        """What transformers' ``generate`` has to be given for the steps of so many texts side by
        side to be recorded; nothing where they cannot be. ``most``: see :meth:`cache`."""
        if not self.wanted or new_tokens < LEAST_NEW:
            return {}
        cache = self.cache(rows, prompt_tokens + new_tokens, most)
        return {} if cache is None else {"past_key_values": cache, "disable_compile": True}

    def cache(self, rows: int, positions: int, most: int) -> FixedCache | None:
        """An empty cache for texts of so many positions, at most ``most``; None where steps cannot
        be recorded with it."""
        room = LEAST_POSITIONS
        while room < positions:
            room *= 2
        key = rows, max(min(room, most), positions)
        if self.why_not is not None or key in self._refused or not self._can_record():
            return None
        if self._key != key:
            self._drop()
            self._cache, self._key = FixedCache.of(self._model.config, key[1]), key
        assert self._cache is not None
        if self._cache.length:
            self._cache.empty()
        return self._cache

    def make_room(self, positions: int, most: int) -> None:
        """Before a run with another cache, of so many positions in all rows together: ours goes
        where both are more than the ``most`` that a plan counts."""
        if self._key is not None and positions + self._key[0] * self._key[1] > most:
            self._drop()

    def _drop(self) -> None:
        self._forget()
        self._cache = self._key = None
        self._runtime.release()

    def _can_record(self) -> bool:
        """Whether the model, as it is set now, does the same at each step, and takes a mask."""
        config = self._model.config
        text = config.get_text_config()
        kept = any(getattr(each, name, False) for each in (config, text) for name in KEPT)
        return not kept and text._attn_implementation in MASKED

    # ------------------------------------------------------------------ a step

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward pass."""
        cache, ids = self._cache, kwargs.get("input_ids")
        ours = cache is not None and kwargs.get("past_key_values") is cache and not args
        ours = ours and self._key not in self._refused
        if not ours or self.why_not or ids is None or ids.shape[1] != 1 or not cache.length:
            return self._plain(*args, **kwargs)
        if not self._checked:
            self._prepare(cache, kwargs)
        if not self._checked or not self._recording.fits(kwargs):
            return self._plain(**kwargs)
        if self._foresight is not None:
            self._foresight.seen.update(self._watched)
        out = self._recording.replay(kwargs)
        cache.advanced(1)
        self.replayed += 1
        return out

    def _prepare(self, cache: FixedCache, kwargs: dict[str, Any]) -> None:
        """What is to do at the first, second and third decode step; the cache is as before."""
        length = cache.length
        try:
            if self._seen == 1:
                self._record(cache, kwargs)
            elif self._seen == 2:
                self._check(cache, kwargs)
            self._seen += 1
        except torch.OutOfMemoryError:
            self._forget()
            assert self._key is not None
            self._refused.add(self._key)  # a shorter text's may have room
        except RuntimeError as error:
            self._forget()
            self.why_not = _told(short(error))
        except BaseException:
            self._forget()
            raise
        finally:
            cache.rewind(length)

    def _record(self, cache: FixedCache, kwargs: dict[str, Any]) -> None:
        length, runtime = cache.length, self._runtime
        with self._beside_current(), standing_in(self._store, Silent()):
            self._plain(**kwargs)  # libraries set up their memory for the stream outside of graphs
        cache.rewind(length)
        runtime.release()  # while it is recorded, torch gives nothing back
        recording = Recording(runtime, self._store, self._shared)
        cache.recording(True)
        try:
            recording.record(self._plain, kwargs, self._stream)
        finally:
            cache.recording(False)
        self._recording = recording
        if self._foresight is not None:
            self._watched = dict(self._foresight.seen)

    @contextmanager
    def _beside_current(self) -> Iterator[None]:
        """On the stream of recordings, after all that was submitted and before what will be."""
        runtime, stream = self._runtime, self._stream
        current = runtime.current()
        runtime.wait(stream, runtime.record(current))
        try:
            with runtime.use(stream):
                yield
        finally:
            runtime.wait(current, runtime.record(stream))

    def _check(self, cache: FixedCache, kwargs: dict[str, Any]) -> None:
        """Hold the recorded step against the same one kernel by kernel, without experts."""
        length = cache.length
        assert self._recording is not None
        if not self._recording.fits(kwargs):
            raise RuntimeError("a model's arguments change from step to step")
        with standing_in(self._store, Silent(self._shared)):
            exact = self._plain(**kwargs).logits.float()
            cache.rewind(length)
            ours = self._recording.replay(kwargs).logits.float()
        off = ((ours - exact).square().sum() / exact.square().sum()).item()
        if not off <= NMSE:
            raise RuntimeError(f"what was recorded is not the step after it (NMSE {off:.2g})")
