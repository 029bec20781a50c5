"""What stands for a graph of a GPU: torch's operations, written down and done again.

As on a GPU, what is recorded is not done: operations that write do nothing, others leave numbers
that mean nothing. Each writes its results at every replay to where it left them when it was
recorded, and what would make the host wait raises.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class FakeGraph(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []
        self.open = False

    def begin(self) -> None:
        self.open = True
        self.__enter__()

    def end(self) -> None:
        self.open = False
        self.__exit__(None, None, None)

    def abandon(self) -> None:
        if self.open:
            self.end()

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITS:
            raise RuntimeError(f"{func}: not permitted while a stream is recorded")
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            written = next(
                kwargs[a.name] if a.name in kwargs else args[at]
                for at, a in enumerate(func._schema.arguments)
                if a.alias_info is not None and a.alias_info.is_write
            )
            self.done.append((func, args, kwargs, None))
            return written
        out = func(*args, **kwargs)
        self.done.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, left in self.done:
            now = func(*args, **kwargs)
            for old, new in zip(tree_leaves(left), tree_leaves(now), strict=False):
                if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
