"""Stored arrays that make one logical tensor together: GPTQ, AWQ, EXL2, compressed-tensors, FP8, bitsandbytes, …

A quantized linear layer lies in a safetensors file as several arrays (`qweight`, `qzeros`, `scales`, …). Each family
is a *fold*: it takes the arrays it knows out of the pool, module by module, and puts one logical tensor of shape
(out_features, in_features) in. Names, dtypes and shapes decide; the configuration only settles what they leave open.
What no fold takes stays a dense tensor. The way back needs nothing here: an encoding knows its `stored_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from requant.formats.folding import bitsandbytes, compressed, exl2, hqq, mlx, refused, scaled
from requant.formats.folding.awq import fold_awq
from requant.formats.folding.gptq import fold_gptq
from requant.formats.folding.pool import Pool
from requant.ir import Checkpoint, Json, Tensor

#: (arrays, quantization config, {} when there is none) -> None; raises FormatError or UnsupportedError.
Fold = Callable[[Pool, Mapping[str, Json]], None]

#: Every family by name, the ones with the most telling array names first.
FOLDS: Final[Mapping[str, Fold]] = {
    "refused": refused.fold,
    "bitsandbytes": bitsandbytes.fold,
    "exl2": exl2.fold,
    "hqq": hqq.fold,
    "mlx": mlx.fold,
    "gptq": fold_gptq,
    "awq": fold_awq,
    "compressed": compressed.fold,
    "scaled": scaled.fold,
}


def folded(checkpoint: Checkpoint[Tensor]) -> Checkpoint[Tensor]:
    """`checkpoint` with its stored arrays put together into logical tensors."""
    pool = Pool(checkpoint)
    for fold in FOLDS.values():
        fold(pool, pool.quantization)
    return pool.checkpoint()
