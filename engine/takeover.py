"""A module's forward pass in a kernel's hands, for as long as the module is what the kernel found.

A kernel reads weights where they lay when it was set up, and knows settings as they were. Whoever
gives a module others later (``load_state_dict``, ``to``, an adapter, a parametrisation) gets what
transformers' own code makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

_Kept = tuple[dict[str, Tensor], str, Tensor, int, torch.dtype]
"""Who holds a parameter or buffer, its name, itself, its address and dtype."""
_SETTINGS = (bool, int, float, str, type(None))


def is_taken(module: nn.Module) -> bool:
    """Whether a module has a forward pass of its own already, not its class's."""
    return "forward" in vars(module)


def take_over(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Let ``forward`` answer in this module's place.

    Not for its copies: they, and what is unpickled, run their class's code.
    """

    def own(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self is not module:
            return type(self).forward(self, *args, **kwargs)
        return forward(*args, **kwargs)

    own.__name__ = "forward"  # by which methods are pickled
    module.forward = MethodType(own, module)  # on this module only, hides its class's


def give_back(model: nn.Module) -> None:
    """Let every module of a model that was taken over run its class's code again."""
    for module in model.modules():
        answer = vars(module).get("forward")
        if isinstance(answer, MethodType) and answer.__func__.__module__ == __name__:
            del module.forward


def usual(module: nn.Module) -> Callable[..., Any]:
    """The module's own code, whoever has taken it over."""
    return MethodType(type(module).forward, module)


class Found:
    """Settings, children, parameters and buffers of a module as they are now; its children's too.

    Children that are made of more than parameters and buffers are not looked into.
    """

    def __init__(self, module: nn.Module) -> None:
        self._own = own = vars(module)
        self._settings = {
            name: value
            for name, value in own.items()
            if isinstance(value, _SETTINGS) and not name.startswith("_")
        }
        parts: dict[str, nn.Module] = {
            name: part for name, part in own["_modules"].items() if part is not None
        }
        self._children = [
            (name, part, vars(part), vars(part).get("forward")) for name, part in parts.items()
        ]
        self._kept: list[_Kept] = [
            (holder, name, part, part.data_ptr(), part.dtype)
            for each in (own, *map(vars, parts.values()))
            for holder in (each["_parameters"], each["_buffers"])
            for name, part in holder.items()
            if part is not None
        ]

    def still(self) -> bool:
        """Whether they are the same, in the same memory, and not to be used in another way.

        That is, for gradients or in another dtype (autocast). Of children also that nobody watches
        or replaces their forward pass.
        """
        children = self._own["_modules"]
        for name, part, own, forward in self._children:
            if (
                children.get(name) is not part
                or own["_forward_hooks"]
                or own["_forward_pre_hooks"]
                or own.get("forward") is not forward
            ):
                return False
        for holder, name, part, address, dtype in self._kept:
            if holder.get(name) is not part or part.data_ptr() != address or part.dtype != dtype:
                return False
        if torch.is_autocast_enabled("cpu"):
            return False
        return self._settings.items() <= self._own.items() and not self.learns()

    def learns(self) -> bool:
        """Whether gradients are asked of the parameters."""
        return torch.is_grad_enabled() and any(part.requires_grad for _, _, part, *_ in self._kept)
