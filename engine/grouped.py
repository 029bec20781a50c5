"""Many experts in one call: rows sorted by expert against one tensor of all their matrices.

The readable form is :func:`engine.expert.run_expert`, one expert at a time; tests hold them equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from torch import Tensor, nn

from engine.store import ExpertWeights

MOST_GROUPS = 1023
"""More matrices than this, used or not, torch's call does not take."""
_ALIGNED_BYTES = 16


def groups(weights: ExpertWeights) -> bool:
    """Whether experts of this kind can be called together: none that are quantised, and rows of a
    length that the call takes."""
    rows = (weights.up.shape[-1], weights.up.shape[-2], weights.down.shape[-1])
    size = weights.up.element_size()
    return not weights.bits and all(row * size % _ALIGNED_BYTES == 0 for row in rows)


def run_grouped(
    module: nn.Module, block: ExpertWeights, x: Tensor, ends: Tensor, of: Tensor | None
) -> Tensor:
    """Rows ``(rows, H) -> (rows, H)``, each through the expert of its group.

    ``block`` holds ``G`` experts, of each part ``(G, ...)``; ``ends`` ``(G,)`` int32 is where each
    one's rows end; ``of`` ``(rows,)`` is each row's group, needed only where there are biases.
    """
    h = _linear(x, block.up, block.up_bias, ends, of, module.is_transposed)  # (rows, 2I) or I
    h = module._apply_gate(h) if module.has_gate else module.act_fn(h)  # (rows, I)
    y = _linear(h, block.down, block.down_bias, ends, of, module.is_transposed)  # (rows, H)
    return module.post_expert_norm(y) if module.has_post_expert_norm else y


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor, of: Tensor | None, turned: bool
) -> Tensor:
    """``(rows, in) -> (rows, out)``; ``weight`` is ``(G, out, in)``, turned ``(G, in, out)``."""
    y = F.grouped_mm(x, weight if turned else weight.transpose(-2, -1), offs=ends)
    if bias is not None:
        assert of is not None
        y = y + bias[of]
    return y


def window(slots: Sequence[int]) -> tuple[int, int]:
    """The first and one past the last of some slots: what one call has to be given of a block."""
    return min(slots), max(slots) + 1
