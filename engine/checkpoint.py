"""A checkpoint's weight files: where they are, and how transformers may read them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import modeling_utils
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    logging,
)

from engine.errors import CheckpointError

LONG_BYTES = 500_000_000
"""A checkpoint from this size on takes long enough to show a progress bar."""
_IN_ORDER = "HF_DEACTIVATE_ASYNC_LOAD"
"""transformers' switch: no threads that read ahead."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def fused_names(model: nn.Module, experts: list[nn.Module]) -> set[str]:
    """The names that experts' fused parameters have in a model."""
    fused = {id(part) for module in experts for part in module.parameters(recurse=False)}
    return {name for name, part in model.named_parameters() if id(part) in fused}


@dataclass(frozen=True)
class Weights:
    """The safetensors files of a checkpoint, as far as they are on this machine."""

    files: tuple[Path, ...]

    @classmethod
    def find(cls, path: str | Path) -> Weights:
        """Of a folder or hub id, whose index or single file is fetched where it is not here.

        Raises CheckpointError where there are none, naming pickle files if there are any: opening
        one could run code.
        """
        folder = Path(path) if Path(path).is_dir() else _snapshot(str(path))
        files = tuple(sorted(folder.glob("*.safetensors")))
        if files or (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
            return cls(files)
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
        why = f"only pickle files ({', '.join(pickled[:3])}), which can run code when opened"
        raise CheckpointError(
            f"{path} holds no .safetensors weights ({why if pickled else 'none'}): where you "
            "trust their origin, open them with transformers in a process of their own and save "
            "the model with save_pretrained(), which writes .safetensors; or take a checkpoint "
            "that has them"
        )

    def found(self) -> str:
        """The files, for an error message."""
        return f"Found: {', '.join(file.name for file in self.files[:8])}." if self.files else ""

    @property
    def n_bytes(self) -> int:
        """Of all files; 0 where none is here yet."""
        return sum(file.stat().st_size for file in self.files)

    @contextmanager
    def bar_if_long(self) -> Iterator[None]:
        """transformers' progress bar, but not for files that load in an instant."""
        if not 0 < self.n_bytes < LONG_BYTES or not logging.is_progress_bar_enabled():
            yield
            return
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.enable_progress_bar()

    @contextmanager
    def read_once(self, needed: set[str], dtype: str) -> Iterator[None]:
        """Keep peak memory near the model's own while transformers loads it.

        Files that hold the fused experts as the model needs them stay mapped: nothing is copied.
        Else transformers makes new tensors, and mapped files would stay in memory beside them,
        its threads read ahead of what is converted: so files are read piece by piece, in order.
        Acts on the whole process while it lasts; another load meanwhile is only slower.
        """
        if self._hold(needed, dtype) or "backend" not in inspect.signature(safe_open).parameters:
            yield
            return

        def by_pieces(*args: Any, **options: Any) -> Any:
            return safe_open(*args, **options | {"backend": "pread"})

        before = os.environ.get(_IN_ORDER)
        os.environ[_IN_ORDER] = "1"
        modeling_utils.safe_open = by_pieces
        try:
            yield
        finally:
            modeling_utils.safe_open = safe_open
            if before is None:
                del os.environ[_IN_ORDER]
            else:
                os.environ[_IN_ORDER] = before

    def _hold(self, needed: set[str], dtype: str) -> bool:
        """Whether every expert tensor is in the files under the model's name, and in the dtype."""
        held: set[str] = set()
        try:
            for file in self.files:
                with safe_open(file, framework="numpy") as opened:
                    for name in needed & set(opened.keys()):
                        kind = opened.get_slice(name).get_dtype()
                        if dtype in ("auto", _DTYPES.get(kind)):
                            held.add(name)
        except (SafetensorError, OSError):
            return True  # damaged: transformers' loading will say so
        return held == needed


_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' names -> torch's."""


def _snapshot(name: str) -> Path:
    """The folder of a hub id in the cache. Raises CheckpointError where it cannot be had."""
    for wanted in (SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, CONFIG_NAME):
        try:
            found = cached_file(name, wanted)
        except OSError:
            continue
        if found is not None:
            return Path(found).parent
    raise CheckpointError(f"no files of {name} can be had: check the hub id and the connection")
