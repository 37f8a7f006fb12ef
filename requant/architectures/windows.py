"""Layers that see only a window: config.json lists a type for each layer, GGUF a period or a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from requant.architectures.numbers import at_least_one, number
from requant.architectures.rules import Config, Irregular, Sizes, ToGgml, ToHf
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.losses import Loss, LossKind

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


@dataclass(frozen=True, slots=True)
class Windows:
    """How one family says which of its layers see only a window, and how wide it is.

    period: one layer in so many sees the whole context, where neither side lists the layers. width: transformers'
    default, None for no window. always: llama.cpp has windows in this architecture whatever the file says, and stops
    at a model without any. listed: GGUF files have the list even where it is the regular one.
    """

    period: int
    width: int | None
    always: bool = False
    listed: bool = False

    def pair(self) -> Irregular:
        """For the table of a family."""
        return Irregular(self.to_ggml, self.to_hf)

    def to_ggml(self, checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
        """The width, and the list of layers where it is needed."""
        settings = {"sliding_window": self.width, **config}
        layers = sizes["layers"]
        absent = settings["sliding_window"] is None
        windows = [False] * layers if absent else windowed(config, layers, self.period)
        if not any(windows):
            if self.always and layers:
                raise UnsupportedError(
                    "config.json: no layer has a sliding window; llama.cpp runs this architecture with windows only",
                    hint="a GGUF of it would stop llama.cpp when it is loaded (an assertion fails)",
                )
            return ToGgml()
        values = {WINDOW: Typed("u32", at_least_one(settings, "sliding_window"))}
        if self.listed or windows != regular(layers, self.period):
            values[PATTERN] = Typed("[bool]", windows)
        return ToGgml(values)

    def to_hf(self, values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
        """`sliding_window` and `layer_types`; the period, too, where it says the same."""
        known = {WINDOW: self.width, **values} if self.always else values
        windows = windowed_in_ggml(known, sizes["layers"], self.period)
        width = at_least_one(known, WINDOW) if any(windows) else None
        config: dict[str, Json] = {"sliding_window": width, "layer_types": layer_types(windows)}
        if windows == regular(sizes["layers"], self.period) and self.period:
            config["sliding_window_pattern"] = self.period
        return ToHf(config, keys=frozenset({WINDOW, PATTERN}))


def _unheeded(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    types, width = config.get("layer_types"), config.get("sliding_window", 4096)
    if not isinstance(types, list) or SLIDING not in types or width is None:
        return ToGgml()
    detail = f"{types.count(SLIDING)} layers have a window of {width}; llama.cpp lets all of this architecture see all"
    return ToGgml(losses=(Loss(LossKind.METADATA_DROPPED, "layer_types", detail),))


#: For families whose windows llama.cpp does not have.
UNHEEDED: Final = Irregular(_unheeded, lambda values, tensors, sizes: ToHf())
