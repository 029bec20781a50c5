"""Devices by name."""

from __future__ import annotations

from engine.devices.base import Device
from engine.devices.cuda import CudaDevice
from engine.devices.cuda_runtime import open_cuda, why_no_gpu
from engine.devices.host import HostDevice
from engine.devices.virtual import VirtualDevice
from engine.errors import unknown_name
from engine.spec import HardwareSpec
from engine.store import ExpertStore
from engine.strict import check_name

DEVICES = ("auto", "host", "virtual", "cuda")


def usual_device(
    name: str, hardware: HardwareSpec | None, *, planned: bool, costed: bool = False
) -> str:
    """The device to open where ``auto`` leaves it to us.

    A GPU that is there, unless another model is ``costed`` or ``hardware`` is given (None: it is
    not) and is not this machine, calibrated: what-ifs are for the virtual device. Else the host
    where the hardware has no GPU, unless ``planned``: a budget, or something else that only a
    device's memory has, was asked for. Raises UnknownNameError for what is no name.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise unknown_name("device", name, DEVICES)
    if name != "auto":
        return name
    mine = hardware is None or (hardware.accelerator and hardware.calibrated)
    if mine and not costed and why_no_gpu() is None:
        return "cuda"
    return "host" if hardware is not None and not (hardware.accelerator or planned) else name


def is_cuda(name: str) -> bool:
    """Whether a device's name is a GPU's: ``cuda``, or ``cuda:1`` for the second of several."""
    return isinstance(name, str) and name.partition(":")[0] == "cuda"


def check_device(name: str) -> None:
    """Raise UnknownNameError, InputError or DeviceError for a device that cannot be had here."""
    if is_cuda(name):
        open_cuda(name)
    else:
        check_name("device", name, DEVICES)


def open_device(name: str, store: ExpertStore, reserve_bytes: int | None = None) -> Device:
    """The device of that name; ``auto`` is the virtual one.

    Raises UnknownNameError, or DeviceError for a GPU that is not there.
    """
    if is_cuda(name):
        return CudaDevice(store, open_cuda(name), reserve_bytes)
    check_name("device", name, DEVICES)
    return HostDevice() if name == "host" else VirtualDevice(store)


__all__ = [
    "DEVICES",
    "CudaDevice",
    "Device",
    "HostDevice",
    "VirtualDevice",
    "check_device",
    "is_cuda",
    "open_cuda",
    "open_device",
    "usual_device",
    "why_no_gpu",
]
