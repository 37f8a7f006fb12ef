"""Which recipes a runtime loads, what it keeps keys and values in, and on what it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from requant.errors import PlanError
from requant.recipes.notes import NOTES
from requant.recommending.devices import Device
from requant.system import physical_memory

_FULL: Final = (1, 2)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs models.

    format: of requant's, that it loads. recipes: as `--to` takes them. caches: numbers in a block, and bytes of one, of
    the types that keys and values can have, the first by itself. kinds: of devices that it runs on. share: of the
    device's memory that it takes at most.
    """

    name: str
    format: str
    recipes: tuple[str, ...]
    caches: Mapping[str, tuple[int, int]]
    kinds: frozenset[str]
    share: float = 1.0

    def room(
        self,
        device: Device,
        memory: int | None,
        bandwidth: float | None,
        context: int,
        sequences: int,
        cache: str | None,
    ) -> Room:
        """What there is on a device; memory (bytes) and bandwidth (bytes a second) as given, or the device's own.

        Raises `PlanError` for a device whose memory nobody knows, and for a cache that the runtime does not have.
        """
        own = device.memory if memory is None else memory
        if own is None and device.kind == "cpu":
            own = physical_memory()
        if own is None:
            raise PlanError(f"how much memory {device.name} has is not said", hint="--memory 24GB")
        kind = cache or next(iter(self.caches))
        if kind not in self.caches:
            kinds = ", ".join(self.caches)
            raise PlanError(f"{self.name} keeps no keys and values in {kind!r}", hint=f"--cache {kinds}")
        share = min(self.share, device.share)
        return Room(self, device, own, int(own * share), bandwidth or device.bandwidth, context, sequences, kind)


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to run in.

    installed, memory: bytes, and how many of them model, cache and buffers may take. bandwidth: bytes a second.
    context: tokens of a sequence. sequences: that are answered at the same time. cache: the type of keys and values,
    by the runtime's name.
    """

    runtime: Runtime
    device: Device
    installed: int
    memory: int
    bandwidth: float
    context: int
    sequences: int
    cache: str


#: By the name that `--for` takes. Facts: llama.cpp b11549 (types of its cache), vLLM 0.11 (`--kv-cache-dtype`, and
#: `--gpu-memory-utilization`, 0.9), mlx-lm 0.31 (`--kv-bits`, groups of 64 with a scale and a bias), exllamav2 0.3.2
#: (`cache.py`: groups of 32 with a scale).
RUNTIMES: Final[Mapping[str, Runtime]] = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            "llama.cpp",
            "gguf",
            tuple(name for name in NOTES if name != "F32"),
            {"f16": _FULL, "q8_0": (32, 34), "q4_0": (32, 18)},
            frozenset({"nvidia", "amd", "apple", "cpu"}),
        ),
        Runtime(
            "vllm",
            "safetensors",
            (
                *("BF16", "FP8", "FP8-BLOCK", "W8A8", "W8A16", "GPTQ-8-128", "W4A16", "W4A16-ASYM", "W4A16-32"),
                *("GPTQ-4-128", "AWQ-4-128", "NVFP4", "MXFP4", "NF4"),
            ),
            {"f16": _FULL, "fp8": (1, 1)},
            frozenset({"nvidia", "amd"}),
            0.9,
        ),
        Runtime(
            "mlx",
            "safetensors",
            (
                *("BF16", "MLX-8", "MLX-6", "MLX-5", "MLX-4", "MLX-4-32", "MLX-3", "MLX-2", "MLX-MIXED_4_6"),
                *("MLX-MIXED_3_6", "MLX-MIXED_2_6", "MLX-MXFP8", "MLX-MXFP4", "MLX-NVFP4"),
            ),
            {"f16": _FULL, "8 bits": (64, 68), "4 bits": (64, 36)},
            frozenset({"apple"}),
        ),
        Runtime(
            "exllama",
            "safetensors",
            (
                *(f"EXL2-{bits}" for bits in ("8.0", "6.0", "5.0", "4.5", "4.0", "3.5", "3.0", "2.5")),
                *("GPTQ-4-128", "GPTQ-4-32"),
            ),
            {"f16": _FULL, "q8": (32, 34), "q4": (32, 18)},
            frozenset({"nvidia"}),
        ),
    )
}


def runtime_for(name: str | None, device: Device) -> Runtime:
    """The one asked for, or llama.cpp, which runs on all; raises `PlanError` where it does not run on `device`."""
    runtime = RUNTIMES[name or "llama.cpp"]
    if device.kind not in runtime.kinds:
        others = ", ".join(other.name for other in RUNTIMES.values() if device.kind in other.kinds)
        raise PlanError(f"{runtime.name} does not run on {device.name}", hint=f"--for {others}")
    return runtime
