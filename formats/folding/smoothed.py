"""ModelOpt's `pre_quant_scale`: scales of the inputs of a layer, whatever its weight is stored as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.encodings import Dense
from requant.encodings.compressed import RowPairs
from requant.encodings.scaled import Scaled
from requant.encodings.smoothed import Smoothed
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor

_NAME: Final = "pre_quant_scale"
_SCALES: Final = ("F32", "F16", "BF16")


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Put scales of inputs to the weights that the other folds have put together."""
    for module in pool.modules(_NAME):
        scales, weight = pool.need(module, _NAME), pool.need(module, "weight")
        encoding, said = weight.encoding, f"{scales.encoding.label}{list(scales.shape)}"
        if not isinstance(encoding, Dense | Scaled | RowPairs) or (
            isinstance(encoding, Dense) and not encoding.dtype.is_float
        ):
            raise UnsupportedError(
                f"{pool.path}: {weight.name} is {encoding.label}, and its inputs have scales ({_NAME!r})",
                hint="export the model without them, or dequantize it with ModelOpt",
            )
        if scales.encoding.label not in _SCALES or scales.shape not in (weight.shape[-1:], (1, *weight.shape[-1:])):
            raise FormatError(pool.path, f"{scales.name!r} is {said}; {weight.name!r} has rows of {weight.shape[-1]}")
        sources = {**weight.sources, "inputs": scales.sources["data"]}
        smoothed = Smoothed(encoding, scales.encoding.label)
        pool.fold(Tensor(weight.name, weight.shape, smoothed, sources), [weight.name, scales.name])
