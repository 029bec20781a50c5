"""A model's shapes and parameter counts, as a preset's file holds them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from engine.errors import InputError
from engine.strict import check_int, check_keys, check_number, check_text


@dataclass(frozen=True)
class ModelShapes:
    """A model's configuration and parameter counts; `figures` derives bytes and operations.

    Counts are of elements. Raises InputError where the counts contradict the shapes.
    """

    name: str
    layers: int
    """MoE layers."""
    all_layers: int
    """Transformer layers, the dense ones included: each keeps a KV cache."""
    experts: int
    top_k: int
    hidden: int
    expert_width: int
    expert_matrices: int
    """Matrices per expert: 3 where gated (gate, up, down), else 2."""
    expert_bias: bool
    """Whether each of these matrices has a bias."""
    kv_elements: int
    """Elements cached per token and layer: 2 x KV heads x head size; with multi-head latent
    attention, the compressed vector and the shared rotary key."""
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding matrix."""
    total_parameters: int
    routed_parameters: int
    bytes_per_weight: float
    """Of routed experts' matrices; their biases are stored as dense weights are."""
    dense_bytes_per_weight: int
    """Of dense weights, KV cache and activations."""
    source: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value, what = getattr(self, field.name), f"model shapes {self.name!r}, {field.name}"
            if field.name in ("name", "source"):
                check_text(what, value)
            elif field.name == "bytes_per_weight":
                check_number(what, value)
            elif field.name in ("expert_bias", "tied"):
                if not isinstance(value, bool):
                    raise InputError(f"{what}: expected true or false, got {value!r}.")
            else:
                check_int(what, value, least=1)
        counted = self.layers * self.experts * (self.expert_weights + self.expert_biases)
        if counted != self.routed_parameters or self.routed_parameters >= self.total_parameters:
            raise InputError(
                f"model shapes {self.name!r}: the shapes make {counted} routed parameters, but "
                f"the file says {self.routed_parameters} of {self.total_parameters}."
            )

    @property
    def expert_weights(self) -> int:
        """Elements of one expert's matrices."""
        return self.expert_matrices * self.hidden * self.expert_width

    @property
    def expert_biases(self) -> int:
        """Elements of one expert's biases: one of `hidden`, the others of `expert_width`."""
        inner = (self.expert_matrices - 1) * self.expert_width
        return inner + self.hidden if self.expert_bias else 0

    @classmethod
    def from_dict(cls, data: object) -> ModelShapes:
        """The content of a preset's file. Raises InputError on unknown or missing keys."""
        return cls(**check_keys("model shapes", data, [field.name for field in fields(cls)]))

    def figures(self) -> dict[str, Any]:
        """The figures of its :class:`~engine.model_spec.ModelSpec`, by arithmetic alone."""
        dense = self.total_parameters - self.routed_parameters
        table = self.vocabulary * self.hidden
        in_layers = dense - table * (1 if self.tied else 2)
        wide = self.dense_bytes_per_weight
        return {
            "name": self.name,
            "layers": self.layers,
            "experts": self.experts,
            "top_k": self.top_k,
            "hidden": self.hidden,
            "expert_width": self.expert_width,
            "expert_bytes": round(self.expert_weights * self.bytes_per_weight)
            + self.expert_biases * wide,
            "dense_bytes": dense * wide,
            "head_bytes": table * wide,
            "embedding_bytes": 0 if self.tied else table * wide,
            "expert_flops_per_token": 2 * self.expert_weights,
            "dense_flops_per_token": 2 * in_layers,
            "head_flops_per_token": 2 * table,
            "kv_bytes_per_token": self.all_layers * self.kv_elements * wide,
            "activation_bytes_per_token": self.hidden * wide,
            "vocabulary": self.vocabulary,
            "bytes_per_weight": self.bytes_per_weight,
            "source": self.source,
        }
