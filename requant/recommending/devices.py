"""What processors have of memory, and how fast they read it, as their makers' data sheets say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from requant.errors import PlanError
from requant.nearest import did_you_mean
from requant.system import USUAL_BANDWIDTH

_GIB: Final = 1 << 30
#: macOS gives the graphics processor about so much of the memory, where nobody sets iogpu.wired_limit_mb.
_MACOS_SHARE: Final = 0.75


@dataclass(frozen=True, slots=True)
class Device:
    """A processor that runs models.

    memory: bytes; None where it is sold with several sizes. bandwidth: bytes a second. share: of the memory that a
    model may take. kind: "nvidia", "amd", "apple" or "cpu", which decides what runs on it. source: of the figures.
    """

    name: str
    memory: int | None
    bandwidth: float
    kind: str
    source: str
    share: float = 1.0


def _nvidia(name: str, gib: int, gigabytes: float, source: str) -> Device:
    return Device(name, gib * _GIB, gigabytes * 1e9, "nvidia", f"NVIDIA, {source}")


def _apple(name: str, gigabytes: float, source: str) -> Device:
    return Device(name, None, gigabytes * 1e9, "apple", f"Apple, {source}", _MACOS_SHARE)


#: By the name that `--device` takes.
DEVICES: Final[Mapping[str, Device]] = {
    device.name: device
    for device in (
        _nvidia("b200", 180, 8000, "data sheet of DGX B200, one of eight"),
        _nvidia("h200", 141, 4800, "data sheet of H200"),
        _nvidia("h100", 80, 3350, "data sheet of H100 SXM"),
        _nvidia("a100", 80, 2039, "data sheet of A100 80GB SXM"),
        _nvidia("a100-40", 40, 1555, "data sheet of A100 40GB"),
        _nvidia("l40s", 48, 864, "data sheet of L40S"),
        _nvidia("l4", 24, 300, "data sheet of L4"),
        _nvidia("rtx5090", 32, 1792, "GeForce RTX 5090"),
        _nvidia("rtx4090", 24, 1008, "GeForce RTX 4090"),
        _nvidia("rtx3090", 24, 936, "GeForce RTX 3090"),
        _nvidia("rtx3060", 12, 360, "GeForce RTX 3060"),
        Device("mi300x", 192 * _GIB, 5300e9, "amd", "AMD, data sheet of Instinct MI300X"),
        _apple("m-series", 120, "technical specifications of M4, the slowest of its generation"),
        _apple("m4-pro", 273, "technical specifications of M4 Pro"),
        _apple("m4-max", 546, "technical specifications of M4 Max with 40 cores"),
        _apple("m3-ultra", 819, "technical specifications of M3 Ultra"),
        Device("cpu", None, USUAL_BANDWIDTH, "cpu", "two channels of DDR5-4800, less a third"),
        _nvidia("edge", 8, 102, "Jetson Orin Nano Super"),
        _nvidia("orin-agx", 64, 204.8, "Jetson AGX Orin 64GB"),
    )
}


def device_named(name: str) -> Device:
    """Raises `PlanError` for a name that is not in the table."""
    found = DEVICES.get(name.lower())
    if found is None:
        offers = did_you_mean(name.lower(), DEVICES, f"known are {', '.join(DEVICES)}")
        raise PlanError(f"no device is called {name!r}", hint=f"{offers}; or give --memory and --bandwidth")
    return found
