"""What a text makes of a model: which experts run, in which order, who routes to them, what runs
beside them, what the KV cache keeps.

Configurations name these things in many ways, and some do not say them at all. So the model is
run once on two tokens, with experts that answer zero and are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError, UnsupportedModelError


@dataclass(frozen=True)
class Route:
    """How a layer's experts got their tokens: a module beside them returned the very choices."""

    module: nn.Module
    """transformers' router; returns a tuple, first the logits ``(T, E)``."""
    position: int
    """Where in that tuple the choices ``(T, K)`` are."""
    dimensions: int
    """Of the hidden state it is given: 2 for ``(T, H)``, 3 for ``(1, T, H)``."""
    extras: tuple[tuple[str | int, Tensor | None], ...]
    """What else it is given, by name or place: parameters and buffers of the layer."""
    foreign: str
    """What it is given that the layer does not own (token ids, a state); empty where nothing."""
    same_input: bool
    """Whether router and experts are given the same hidden state."""


@dataclass(frozen=True)
class Probe:
    """One forward pass over a short text."""

    modules: tuple[nn.Module, ...]
    """The experts modules it called, in order."""
    routes: tuple[Route | None, ...]
    """Of each of them; None where no module beside the experts made the choices."""
    beside: tuple[nn.Module | None, ...]
    """Of each layer the module that is given the experts' hidden state after them, so that it need
    not wait for them: shared experts. None where there is none, or it comes first."""
    top_k: int
    """Experts per token and layer."""
    kv_bytes_per_token: int
    """Of all layers. Sliding windows count as if they kept every token; states that do not grow
    (linear attention, convolutions) do not count."""


class _Silent:
    """Stands in for a session: notes calls, answers zero."""

    def __init__(self, parents: list[nn.Module]) -> None:
        self.parents = parents
        self.order: list[int] = []
        self.top_k: set[int] = set()
        self.routes: list[Route | None] = []
        self.heard: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], tuple[Any, ...]]] = []
        """Calls of modules beside the experts that returned tuples, since the last experts."""
        self.beside: list[nn.Module | None] = []
        self._last: tuple[set[int], Tensor] = set(), torch.empty(0)
        """Modules beside the last experts, and what those were given."""

    def hear(self, module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        if isinstance(out, tuple):
            self.heard.append((module, args, kwargs, out))
        siblings, hidden = self._last
        alone = torch.is_tensor(out) and len(args) == 1 and not kwargs
        if alone and id(module) in siblings and _same(args[0], hidden):
            siblings.clear()
            if any(True for _ in module.children()):  # a mere gate is not worth it
                self.beside[-1] = module

    def layer(self, number: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        self.order.append(number)
        self.top_k.add(index.shape[1])
        found = [_route(self.parents[number], hidden, index, *call) for call in self.heard]
        self.routes.append(next((route for route in found if route is not None), None))
        self.heard.clear()
        self.beside.append(None)
        self._last = {id(child) for child in self.parents[number].children()}, hidden
        return torch.zeros_like(hidden)  # (T, H)


def probe(model: nn.Module, modules: list[nn.Module]) -> Probe:
    """Run two tokens through the dense part of ``model``, whose experts are ``modules``.

    The modules' sessions, where they have one, are put back afterwards. Raises
    UnsupportedModelError where layers disagree or the same experts run twice, CheckpointError
    where transformers cannot run the model as it is configured.
    """
    places = {id(module): name for name, module in model.named_modules()}
    parents = [model.get_submodule(places[id(each)].rpartition(".")[0]) for each in modules]
    silent = _Silent(parents)
    before = [
        (getattr(each, "fiddler_session", None), getattr(each, "fiddler_layer", None))
        for each in modules
    ]
    beside = {id(child): child for parent in parents for child in parent.children()}
    hooks = [
        child.register_forward_hook(silent.hear, with_kwargs=True) for child in beside.values()
    ]
    for number, module in enumerate(modules):
        module.fiddler_session, module.fiddler_layer = silent, number
    try:
        with torch.no_grad():
            out = model(input_ids=torch.tensor([[1, 2]]), use_cache=True)
    except (RuntimeError, LookupError) as error:
        if "allocate memory" in str(error):  # torch has no exception of its own for that
            raise
        raise CheckpointError(
            f"{type(model).__name__} cannot run a text of two tokens ({error}): what its "
            "config.json says does not go together, for example more experts per token than "
            "there are experts"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, (session, layer) in zip(modules, before, strict=True):
            module.fiddler_session, module.fiddler_layer = session, layer
    name = type(model).__name__
    if len(set(silent.order)) != len(silent.order):
        raise UnsupportedModelError(
            f"{name} runs the same experts more than once in a forward pass: a layer of the "
            "engine is one call"
        )
    if len(silent.top_k) != 1:
        raise UnsupportedModelError(
            f"{name} gives a token {sorted(silent.top_k) or 'no'} experts, depending on the "
            "layer: the engine needs the same number in all"
        )
    return Probe(
        tuple(modules[number] for number in silent.order),
        tuple(silent.routes),
        tuple(silent.beside),
        silent.top_k.pop(),
        sum(map(_bytes_per_token, getattr(out.past_key_values, "layers", ()))),
    )


def _route(
    parent: nn.Module,
    hidden: Tensor,
    index: Tensor,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    out: tuple[Any, ...],
) -> Route | None:
    """A call as a route, if it returned the very choices that the experts were given."""
    same = [at for at, part in enumerate(out) if torch.is_tensor(part) and _same(part, index)]
    if not same:
        return None
    given: dict[str | int, Any] = {**dict(enumerate(args)), **kwargs}
    first = next(iter(given))
    state = given.pop(first)
    owned = {id(part) for part in (*parent.parameters(), *parent.buffers())}
    foreign = [key for key, value in given.items() if value is not None and id(value) not in owned]
    return Route(
        module=module,
        position=same[0],
        dimensions=state.ndim,
        extras=tuple((key, value) for key, value in given.items() if key not in foreign),
        foreign=", ".join(map(str, foreign)),
        same_input=_same(state, hidden),
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same memory, whatever their shapes."""
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def _bytes_per_token(layer: Any) -> int:
    """Bytes that one layer's cache keeps of a token: keys and values, and those of an indexer."""
    kept = {
        part.data_ptr(): part  # some architectures' values are their keys
        for name, part in vars(layer).items()
        if name.endswith(("keys", "values")) and torch.is_tensor(part) and part.numel()
    }
    # (B, heads, tokens, size), or (B, tokens, size)
    tokens = {at: part.shape[-2 if part.ndim == 4 else 1] for at, part in kept.items()}
    return sum(part.numel() * part.element_size() // tokens[at] for at, part in kept.items())
