"""`quantization_config` of compressed-tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from requant.ir import Json


@dataclass(frozen=True, slots=True)
class Weights:
    """One group of a configuration.

    format, type and strategy are compressed-tensors' words. dynamic_activations: inputs are quantized to 8-bit floats,
    a scale for each token.
    """

    format: str
    bits: int
    type: str
    strategy: str
    group: int | None = None
    symmetric: bool = True
    dynamic_activations: bool = False
    scale_dtype: str | None = None

    def to_json(self) -> Json:
        """As compressed-tensors writes a scheme."""
        activations: Json = None
        if self.dynamic_activations:
            activations = _arguments(8, "float", "token", dynamic=True)
        weights = _arguments(self.bits, self.type, self.strategy, self.group, self.symmetric)
        if self.scale_dtype is not None:
            weights["scale_dtype"] = self.scale_dtype
            weights["zp_dtype"] = self.scale_dtype
        return {
            "targets": ["Linear"],
            "format": self.format,
            "weights": weights,
            "input_activations": activations,
            "output_activations": None,
        }


def compressed_config(groups: Sequence[Weights], ignored: Sequence[str]) -> dict[str, Json]:
    """A configuration whose groups hold for every linear layer but the ignored ones and the head."""
    formats = {group.format for group in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list[Json](dict.fromkeys((*ignored, "lm_head"))),
        "config_groups": {f"group_{n}": group.to_json() for n, group in enumerate(groups)},
    }


def _arguments(
    bits: int, kind: str, strategy: str, group: int | None = None, symmetric: bool = True, dynamic: bool = False
) -> dict[str, Json]:
    return {
        "num_bits": bits,
        "type": kind,
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group,
        "block_structure": None,
        "dynamic": dynamic,
        "actorder": None,
        "observer": None if dynamic else "minmax",
        "observer_kwargs": {},
    }
