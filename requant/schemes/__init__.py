"""Quantization schemes of Hugging Face folders: GPTQ, AWQ, EXL2, FP8, NF4, … as users ask for them after `--to`.

A scheme decides which tensors are quantized, how each is encoded, and what config.json says about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from requant.importance import Importance
from requant.ir import Json
from requant.plan import Move
from requant.schemes import bitsandbytes, compressed, exl2, gptq, scaled
from requant.schemes.linear import Applied


class Scheme(Protocol):
    """One scheme with its parameters."""

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Choose an encoding for every tensor; `config` is config.json of the model."""
        ...


@runtime_checkable
class Weighs(Scheme, Protocol):
    """A scheme whose choices depend on how much each input matters."""

    def weighing(self, importance: Importance) -> Scheme:
        """The same scheme with an importance matrix, whose entries have the names of the moves."""
        ...


#: Scheme name -> parser of what follows it: "GPTQ-4-128" -> ["4", "128"].
SCHEMES: Final[Mapping[str, Callable[[Sequence[str]], Scheme]]] = {
    "GPTQ": gptq.gptq,
    "AWQ": gptq.awq,
    "EXL2": exl2.exl2,
    "NF4": bitsandbytes.nf4,
    "FP4": bitsandbytes.fp4,
    "INT8": bitsandbytes.int8,
    "W4A16": compressed.w4a16,
    "W8A16": compressed.w8a16,
    "W8A8": scaled.w8a8,
    "FP8": scaled.fp8,
    "NVFP4": scaled.nvfp4,
    "MXFP4": scaled.mxfp4,
}


def scheme_named(text: str) -> Scheme | None:
    """The scheme a user means: a name of `SCHEMES` and its parameters, separated by dashes, in any case."""
    name, *parameters = text.upper().split("-")
    return SCHEMES[name](parameters) if name in SCHEMES else None
