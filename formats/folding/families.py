"""The table of families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from requant.formats.folding import (
    bitsandbytes,
    comfy,
    compressed,
    exl2,
    hqq,
    mlx,
    refused,
    remains,
    scaled,
    smoothed,
    sparse,
    torchao,
    turned,
)
from requant.formats.folding.awq import fold_awq
from requant.formats.folding.gptq import fold_gptq
from requant.formats.folding.keys import claim_keys
from requant.formats.folding.pool import Pool
from requant.ir import Json

#: (arrays, quantization config, {} when there is none) -> None; raises FormatError or UnsupportedError.
Fold = Callable[[Pool, Mapping[str, Json]], None]

#: Every family by name, the ones with the most telling array names first; the rest refuse what these cannot read.
FOLDS: Final[Mapping[str, Fold]] = {
    "by arrays": refused.refuse_by_arrays,
    "keys": claim_keys,
    "bitsandbytes": bitsandbytes.fold,
    "exl2": exl2.fold,
    "hqq": hqq.fold,
    "mlx": mlx.fold,
    "gptq": fold_gptq,
    "awq": fold_awq,
    "sparse": sparse.fold,
    "compressed": compressed.fold,
    "comfy": comfy.fold,
    "torchao": torchao.fold,
    "scaled": scaled.fold,
    "smoothed": smoothed.fold,
    "turned": turned.fold,
    "by method": refused.refuse_by_method,
    "remains": remains.refuse_remains,
}
