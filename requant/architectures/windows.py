"""Layers that see only a window: config.json lists a type for each layer, GGUF a period or a list."""

from __future__ import annotations

from typing import Final

from requant.architectures.numbers import number
from requant.architectures.rules import Config
from requant.errors import PlanError
from requant.ir import Json

SLIDING: Final = "sliding_attention"
FULL: Final = "full_attention"
#: The keys that say it in GGUF.
WINDOW: Final = "attention.sliding_window"
PATTERN: Final = "attention.sliding_window_pattern"


def regular(layers: int, period: int) -> list[bool]:
    """Windows in all but every `period`-th layer; in all, if that is 0."""
    return [period == 0 or n % period < period - 1 for n in range(layers)]


def windowed(config: Config, layers: int, period: int) -> list[bool]:
    """For each layer of config.json, whether it sees only a window; `period` where it does not say."""
    types = config.get("layer_types")
    if types is None:
        return regular(layers, int(number(config, "sliding_window_pattern", period)))
    if not isinstance(types, list) or len(types) != layers or not set(map(str, types)) <= {SLIDING, FULL}:
        raise PlanError(f"config.json: layer_types does not name {SLIDING} or {FULL} for {layers} layers")
    return [item == SLIDING for item in types]


def windowed_in_ggml(values: Config, layers: int, period: int) -> list[bool]:
    """The same from GGUF keys without prefix."""
    pattern = values.get(PATTERN, period)
    if not values.get(WINDOW):
        return [False] * layers
    if isinstance(pattern, list) and len(pattern) >= layers:
        return [bool(item) for item in pattern[:layers]]
    if isinstance(pattern, int) and not isinstance(pattern, bool):
        return regular(layers, pattern)
    raise PlanError(f"metadata: {PATTERN!r} does not fit the layers")


def layer_types(windows: list[bool]) -> list[Json]:
    """As config.json says it."""
    return [SLIDING if item else FULL for item in windows]
