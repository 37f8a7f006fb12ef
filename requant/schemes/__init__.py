"""Quantization schemes of Hugging Face folders: GPTQ, AWQ, EXL2, FP8, NF4, … as users ask for them after `--to`.

A scheme decides which tensors are quantized, how each is encoded, and what config.json says about it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from requant.schemes.scheme import Scheme


@dataclass(frozen=True, slots=True)
class Family:
    """Schemes of one name. home: the function that makes one, as `module.function`; forms: what users may write,
    explained."""

    home: str
    forms: Mapping[str, str]

    def parsed(self, parameters: Sequence[str]) -> Scheme:
        """A scheme from what follows the name; its module is imported now, of which help and most runs need none."""
        module, _, function = self.home.partition(".")
        scheme: Scheme = getattr(importlib.import_module(f"{__name__}.{module}"), function)(parameters)
        return scheme


#: Scheme name -> what may follow it: "GPTQ-4-128" is parsed from ["4", "128"].
SCHEMES: Final[Mapping[str, Family]] = {
    "GPTQ": Family(
        "gptq.gptq",
        {
            "GPTQ": "as the source is grouped, else 4 bits in groups of 128",
            "GPTQ-4-128": "2, 3, 4 or 8 bits; groups of 16 to 1024",
            "GPTQ-8--1": "a scale for each row",
            "GPTQ-4-32-ASYM": "with zero points",
            "GPTQ-4-32-V2": "zero points as they are, not less one",
        },
    ),
    "AWQ": Family("gptq.awq", {"AWQ": "as the source is grouped, else in groups of 128", "AWQ-4-64": "groups of 64"}),
    "EXL2": Family(
        "exl2.exl2",
        {"EXL2-4.0": "bits per weight, 2 to 8, spread by measuring", "EXL2-4.0-8": "with the output matrix in 8 bits"},
    ),
    "NF4": Family(
        "bitsandbytes.nf4",
        {"NF4": "bitsandbytes, blocks of 64", "NF4-DQ": "the scales quantized too", "NF4-128": "blocks of 128"},
    ),
    "FP4": Family("bitsandbytes.fp4", {"FP4": "bitsandbytes; FP4-DQ and FP4-128 as for NF4"}),
    "INT8": Family("bitsandbytes.int8", {"INT8": "bitsandbytes' LLM.int8"}),
    "W4A16": Family(
        "compressed.w4a16",
        {"W4A16": "compressed-tensors, groups of 128", "W4A16-ASYM": "with zero points", "W4A16-32": "groups of 32"},
    ),
    "W8A16": Family("compressed.w8a16", {"W8A16": "a scale for each row; W8A16-ASYM and W8A16-128 as for W4A16"}),
    "W8A8": Family("scaled.w8a8", {"W8A8": "integers, a scale for each row"}),
    "FP8": Family("scaled.fp8", {"FP8": "a scale for each row", "FP8-BLOCK": "one for each 128 by 128"}),
    "NVFP4": Family("scaled.nvfp4", {"NVFP4": "compressed-tensors, groups of 16 with F8 scales"}),
    "MXFP4": Family("scaled.mxfp4", {"MXFP4": "compressed-tensors, groups of 32"}),
    "BITMASK": Family(
        "sparse.bitmask",
        {
            "BITMASK": "compressed-tensors, what is not zero and a bit for each number",
            "BITMASK-24": "of 2:4 sparse layers",
        },
    ),
    "MARLIN24": Family(
        "sparse.marlin24",
        {
            "MARLIN24": "compressed-tensors' marlin-24 of 2:4 sparse layers, groups of 128",
            "MARLIN24-8--1": "8 bits, rows",
        },
    ),
    "MLX": Family(
        "mlx.mlx",
        {
            "MLX": "mlx-lm, 4 bits in groups of 64",
            "MLX-6-32": "2, 3, 4, 5, 6 or 8 bits; groups of 32, 64 or 128",
            "MLX-MIXED_3_6": "3 bits, and 6 where it matters; also 2_6, 3_4, 4_6",
            "MLX-MXFP4": "small floats; also MLX-NVFP4, MLX-MXFP8",
        },
    ),
}


def scheme_named(text: str) -> Scheme | None:
    """The scheme a user means: a name of `SCHEMES` and its parameters, separated by dashes, in any case."""
    name, *parameters = text.upper().split("-")
    return SCHEMES[name].parsed(parameters) if name in SCHEMES else None
