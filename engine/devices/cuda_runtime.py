"""The runtime of an NVIDIA GPU, by torch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own idiom)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.devices.cuda_graph import CudaGraph
from engine.devices.runtime import DeviceMemory, Event, Graph, Stream
from engine.errors import DeviceError, InputError

_PORTABLE = 1
"""cudaHostRegisterPortable."""
_GROUPING = (9, 10)
"""Major compute capabilities for which torch has a kernel of grouped products."""
_ATTENTION = (
    SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
)  # fmt: skip
"""Not cuDNN's: it is set up anew for every length of keys, at every step of a growing text."""


def cuda_index(name: str) -> int:
    """Which GPU ``cuda`` or ``cuda:1`` names; raises InputError for what is none."""
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise InputError(
            f"device: expected 'cuda' or a GPU by its number, as 'cuda:1', got {name!r}"
        )
    return int(number or 0)


def why_no_gpu() -> str | None:
    """What is missing to use a GPU, and what to do about it; None where one can be used."""
    if torch.version.cuda is None:
        return (
            f"this torch ({torch.__version__}) is built without CUDA. On a machine with an NVIDIA "
            "GPU install torch's CUDA build (pip install torch, without +cpu)"
        )
    if not torch.cuda.is_available():
        return (
            f"torch ({torch.__version__}) is built for CUDA {torch.version.cuda} but sees no GPU. "
            "Check that nvidia-smi lists one, that its driver is new enough, and that "
            "CUDA_VISIBLE_DEVICES does not hide it"
        )
    return None


def open_cuda(name: str = "cuda") -> CudaRuntime:
    """The runtime of one GPU.

    Raises DeviceError that says what is missing where there is none, or not that one.
    """
    index, why = cuda_index(name), why_no_gpu()
    if why is not None:
        raise DeviceError(
            f"device={name!r} needs an NVIDIA GPU: {why}; without one use device='virtual' "
            "(modelled clock) or device='host' (measured, all on the CPU)"
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceError(
            f"device={name!r}: this machine has {count} GPU(s), numbered from 0 to {count - 1}"
        )
    return CudaRuntime(index)


class CudaRuntime:
    """See :class:`engine.devices.runtime.Runtime`."""

    def __init__(self, index: int) -> None:
        self.device = torch.device("cuda", index)
        torch.cuda.set_device(self.device)  # this thread's default: transformers makes tensors
        torch.cuda.init()
        self.name = torch.cuda.get_device_name(self.device)
        self.others = tuple(
            f"cuda:{other} ({torch.cuda.get_device_name(other)})"
            for other in range(torch.cuda.device_count())
            if other != index
        )
        self.host_waits = 0
        self._major = torch.cuda.get_device_capability(self.device)[0]
        self._total = torch.cuda.get_device_properties(self.device).total_memory

    def __repr__(self) -> str:
        return f"CudaRuntime({self.device}, {self.name})"

    def current(self) -> Stream:
        """torch's current stream of this thread."""
        return torch.cuda.current_stream(self.device)

    def stream(self) -> Stream:
        """A stream that does not block on the default one."""
        return torch.cuda.Stream(self.device)

    def record(self, stream: Stream) -> Event:
        """An event with a time."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def wait(self, stream: Stream, event: Event) -> None:
        """cudaStreamWaitEvent."""
        event.wait(stream)

    def host_wait(self, event: Event) -> None:
        """cudaEventSynchronize; Python's lock is free meanwhile."""
        self.host_waits += 1
        event.synchronize()

    def done(self, event: Event) -> bool:
        """cudaEventQuery."""
        return event.query()

    def elapsed_ns(self, first: Event, second: Event) -> int:
        """cudaEventElapsedTime, which counts in steps of about half a microsecond."""
        return round(first.elapsed_time(second) * 1e6)

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        """cudaMemcpyAsync."""
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def computing(self) -> AbstractContextManager[Any]:
        """See :data:`_ATTENTION`."""
        return sdpa_kernel(list(_ATTENTION))

    def use(self, stream: Stream) -> AbstractContextManager[Any]:
        """torch's own block."""
        return torch.cuda.stream(stream)

    def graph(self, stream: Stream, first: Graph | None) -> Graph:
        """See :class:`~engine.devices.cuda_graph.CudaGraph`."""
        return CudaGraph(stream, getattr(first, "pool", None))

    def pin(self, address: int, n_bytes: int) -> int:
        """cudaHostRegister."""
        with torch.cuda.device(self.device):
            code = int(torch.cuda.cudart().cudaHostRegister(address, n_bytes, _PORTABLE))
            self._read_away(code)
        return code

    def _read_away(self, code: int) -> None:
        """An error that a call has returned: else the next call would raise it."""
        if not code:
            return
        try:
            torch.zeros(1, device=self.device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if f"{code}" not in str(error) and "register" not in str(error).lower():
                torch.zeros(1, device=self.device)  # raises again what is not over

    def unpin(self, address: int) -> None:
        """cudaHostUnregister."""
        with torch.cuda.device(self.device):
            self._read_away(int(torch.cuda.cudart().cudaHostUnregister(address)))

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """cudaHostAlloc, by torch's pool."""
        with torch.cuda.device(self.device):  # of another thread's current one it would be
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """By torch's allocator."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def release(self) -> None:
        """torch.cuda.empty_cache."""
        self.host_waits += 1
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()

    def limit(self, n_bytes: int) -> None:
        """torch.cuda.set_per_process_memory_fraction."""
        share = min(max(n_bytes / self._total, 0.0), 1.0)
        torch.cuda.set_per_process_memory_fraction(share, self.device)

    def memory(self) -> DeviceMemory:
        """cudaMemGetInfo and the allocator's counts."""
        free, total = torch.cuda.mem_get_info(self.device)
        return DeviceMemory(
            total,
            free,
            torch.cuda.memory_reserved(self.device),
            torch.cuda.max_memory_reserved(self.device),
        )

    def reset_peak(self) -> None:
        """torch.cuda.reset_peak_memory_stats."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def groups(self, dtype: torch.dtype) -> bool:
        """bfloat16 on compute capabilities 9 and 10: for others torch's call is a loop, for which
        the host waits."""
        return dtype == torch.bfloat16 and self._major in _GROUPING and hasattr(F, "grouped_mm")
