"""Devices by name."""

from __future__ import annotations

from engine.devices.base import Device
from engine.devices.host import HostDevice
from engine.devices.virtual import VirtualDevice
from engine.errors import DeviceError, unknown_name
from engine.spec import HardwareSpec
from engine.store import ExpertStore

DEVICES = ("auto", "host", "virtual", "cuda")


def usual_device(name: str, hardware: HardwareSpec, *, planned: bool) -> str:
    """The device to open: ``auto`` is the host where the hardware has no GPU, unless ``planned``.

    ``planned``: a budget, or something else that only a device's memory has, was asked for.
    """
    no_gpu = not (hardware.accelerator or planned)
    return "host" if name == "auto" and no_gpu else name


def open_device(name: str, store: ExpertStore) -> Device:
    """The device of that name; ``auto`` is the virtual one until there is a CUDA device.

    Raises UnknownNameError, or DeviceError for a device that this version cannot drive.
    """
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    if name == "cuda":
        raise DeviceError(
            "device='cuda' is not supported by this version yet: use device='virtual' (modelled "
            "clock) or device='host' (measured, all on the CPU)"
        )
    return HostDevice() if name == "host" else VirtualDevice(store)


__all__ = ["DEVICES", "Device", "HostDevice", "VirtualDevice", "open_device", "usual_device"]
