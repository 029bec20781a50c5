"""Devices by name."""

from __future__ import annotations

from engine.devices.base import Device
from engine.devices.host import HostDevice
from engine.devices.virtual import VirtualDevice
from engine.errors import DeviceError, unknown_name
from engine.store import ExpertStore

DEVICES = ("auto", "host", "virtual", "cuda")


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


__all__ = ["DEVICES", "Device", "HostDevice", "VirtualDevice", "open_device"]
