"""What a Mixture-of-Experts model costs: its grid of experts, bytes and floating-point operations.

A preset is a JSON file in `data/models/` that holds shapes and exact parameter counts, each with
its source; `ModelShapes` turns those into bytes and operations, so every figure is auditable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.model_shapes import ModelShapes
from engine.strict import check_int, check_keys, check_name, check_number, check_text, read_json
from engine.units import format_bytes

_FOLDER = Path(__file__).parent / "data" / "models"
_MAY_BE_ZERO = (
    "head_bytes",
    "embedding_bytes",
    "dense_flops_per_token",
    "head_flops_per_token",
    "kv_bytes_per_token",
)


@dataclass(frozen=True, repr=False)
class ModelSpec:
    """A model as the cost model and the planners see it. Immutable; derive with `replace`.

    Raises InputError where a figure is not of its type, not positive, or contradicts another.
    """

    name: str
    layers: int
    """MoE layers only; a layer without routed experts counts as dense."""
    experts: int
    """Routed experts per MoE layer."""
    top_k: int
    """Routed experts that one token uses per MoE layer."""
    hidden: int
    """Width of the residual stream, in elements."""
    expert_width: int
    """Width of one expert's inner layer, in elements."""
    expert_bytes: int
    """Bytes of one routed expert, biases included."""
    dense_bytes: int
    """Bytes of every weight that is no routed expert: attention, norms, routers, shared experts,
    embeddings, head."""
    head_bytes: int
    """Bytes of the output head, read in every step; part of `dense_bytes`."""
    embedding_bytes: int
    """Bytes of the input embeddings, looked up but not read in full; part of `dense_bytes`. 0 where
    they are tied to the head."""
    expert_flops_per_token: int
    """Operations of one routed expert for one token: 2 x 3 x hidden x width where gated."""
    dense_flops_per_token: int
    """Operations of all dense weights of all layers for one token, without embeddings and head;
    attention over the context is not in it."""
    head_flops_per_token: int
    """Operations of the output head for one token."""
    kv_bytes_per_token: int
    """Bytes of the KV cache for one token of one sequence, over all layers."""
    activation_bytes_per_token: int
    """Bytes that move one way when one token's activation goes to the CPU or comes back."""
    vocabulary: int
    """Tokens in the vocabulary, as the embeddings are shaped."""
    bytes_per_weight: float
    """Bytes per weight of the routed experts, the scales of quantised blocks included."""
    source: str
    """Where the shapes come from, and what they leave out."""

    def __post_init__(self) -> None:
        what = f"model spec {self.name!r}"
        check_text(f"{what}, name", self.name)
        check_text(f"{what}, source", self.source)
        check_number(f"{what}, bytes_per_weight", self.bytes_per_weight)
        for field in fields(self):
            if field.name not in ("name", "source", "bytes_per_weight"):
                least = 0 if field.name in _MAY_BE_ZERO else 1
                check_int(f"{what}, {field.name}", getattr(self, field.name), least=least)
        if self.top_k > self.experts:
            raise InputError(f"{what}: top_k {self.top_k} is above its {self.experts} experts.")
        if self.head_bytes + self.embedding_bytes > self.dense_bytes:
            raise InputError(f"{what}: dense_bytes must contain head_bytes and embedding_bytes.")

    @property
    def grid(self) -> tuple[int, int]:
        """(MoE layers, experts per layer)."""
        return self.layers, self.experts

    @property
    def experts_total(self) -> int:
        """Routed experts in the whole model."""
        return self.layers * self.experts

    @property
    def routed_bytes(self) -> int:
        """Bytes of all routed experts."""
        return self.experts_total * self.expert_bytes

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights."""
        return self.dense_bytes + self.routed_bytes

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The spec of `to_dict`. Raises InputError on unknown, missing or bad entries."""
        return cls(**check_keys("model spec", data, [field.name for field in fields(cls)]))

    @classmethod
    def preset(cls, name: str) -> ModelSpec:
        """A model that comes with the library. Raises UnknownNameError, which lists them."""
        check_name("model", name, cls.presets())
        shapes = ModelShapes.from_dict(read_json("model preset", _FOLDER / f"{name}.json"))
        return cls(**shapes.figures())

    @classmethod
    def presets(cls) -> list[str]:
        """Names of the models that come with the library, sorted."""
        return sorted(path.stem for path in _FOLDER.glob("*.json"))

    def __repr__(self) -> str:
        return (
            f"ModelSpec({self.name!r}: {self.layers} x {self.experts} experts, top-{self.top_k}, "
            f"{format_bytes(self.expert_bytes)} each, {format_bytes(self.total_bytes)} in all)"
        )


def resolve_model(value: str | ModelSpec) -> ModelSpec:
    """A spec from a preset's name, or the spec itself. Raises UnknownNameError, InputError."""
    if isinstance(value, ModelSpec):
        return value
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"model: expected a name or a ModelSpec, got {type(value).__name__}.")
    return ModelSpec.preset(value)


def resolve_costed(value: str | ModelSpec, routed: ModelSpec) -> ModelSpec:
    """The model that ``routed``'s routing is to be costed as: a preset's name, or a spec.

    Raises InputError unless it has the same grid and top-k: who runs beside whom, and how often,
    is the routing's, and there is none of other experts. UnknownNameError for no preset.
    """
    spec = resolve_model(value)
    if not same_routing(spec, routed):
        raise InputError(
            f"as_model={spec.name!r} has {spec.layers} layers x {spec.experts} experts, top-"
            f"{spec.top_k}; {routed.name} has {routed.layers} x {routed.experts}, top-"
            f"{routed.top_k}: only a model with the same grid can be costed on its routing"
        )
    return spec


def same_routing(a: ModelSpec, b: ModelSpec) -> bool:
    """Whether one model's routing can be costed as the other's."""
    return (a.grid, a.top_k) == (b.grid, b.top_k)
