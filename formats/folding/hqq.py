"""HQQ: `W_q`, `scale`, `zero`, and a small array for every setting of the layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from requant.dtypes import DTYPES
from requant.encodings.hqq import SLABS, Hqq
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec
from requant.sources import read

#: What a layer stores besides codes, scales and zeros.
_BESIDE: Final = (
    *("nbits", "group_size", "shape", "axis", "packing", "unpack_view_dtype", "compute_dtype", "view_as_float"),
    *("channel_wise", "optimize", "round_zero", "offload_meta", "stores_quant_config", "encoded_state_dict"),
    *("quant_scale", "quant_zero"),
)
#: A setting is a number, a few of them, or a word.
_LONGEST: Final = 4096


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Fold every module with `W_q`."""
    for module in pool.modules("W_q"):
        _fold(pool, module)


def _fold(pool: Pool, module: str) -> None:
    codes, scales, zeros = (pool.need(module, name) for name in ("W_q", "scale", "zero"))
    beside = {name: array for name in _BESIDE if (array := pool.get(f"{module}.{name}")) is not None}
    bits, axis = (_number(pool, module, beside, name) for name in ("nbits", "axis"))
    shape = tuple(_numbers(pool, module, beside, "shape"))
    group = _number(pool, module, beside, "group_size") if "group_size" in beside else 0
    if pool.get(f"{module}.quant_scale") is not None and _numbers(pool, module, beside, "quant_scale")[0]:
        raise UnsupportedError(f"{pool.path}: module {module!r} has quantized scales (quant_scale of HQQ)")
    if codes.encoding.label not in ("U8", "I32"):
        raise UnsupportedError(
            f"{pool.path}: {codes.name!r} is stored as {codes.encoding.label} (view_as_float of HQQ)",
            hint="save the model with view_as_float=False",
        )
    if bits not in SLABS or axis not in (0, 1) or len(shape) != 2 or min(shape) <= 0 or group < 0:
        told = f"nbits {bits}, axis {axis}, shape {list(shape)}, group_size {group}"
        raise FormatError(pool.path, f"module {module!r}: {told} cannot be")
    if zeros.encoding.label != scales.encoding.label or scales.encoding.label not in ("F16", "BF16", "F32"):
        raise FormatError(pool.path, f"module {module!r}: scales {scales.encoding.label}, zeros {zeros.encoding.label}")
    count = max(1, scales.nbytes * 8 // DTYPES[scales.encoding.label].bits)
    kept = tuple((name, array.encoding.label, array.shape) for name, array in beside.items())
    encoding = Hqq(bits, group or shape[0] * shape[1] // count, axis, scales.encoding.label, kept)
    try:
        encoding.parts(shape)
    except (PlanError, ZeroDivisionError) as error:
        raise FormatError(pool.path, f"module {module!r}: {error}") from None
    pool.assemble(TensorSpec(f"{module}.weight", shape, encoding))


def _number(pool: Pool, module: str, beside: Mapping[str, Tensor], name: str) -> int:
    return _numbers(pool, module, beside, name)[0]


def _numbers(pool: Pool, module: str, beside: Mapping[str, Tensor], name: str) -> list[int]:
    """The integers of a setting."""
    array = beside.get(name)
    if array is None:
        raise FormatError(pool.path, f"module {module!r} has no {name!r}", hint="is a shard missing?")
    dtype = DTYPES[array.encoding.label]
    if dtype.is_float or not 0 < array.nbytes <= _LONGEST:
        raise FormatError(pool.path, f"{array.name!r} is {array.encoding.label}{list(array.shape)}, no setting")
    return [int(n) for n in np.asarray(read(array.sources["data"]).view(dtype.numpy)).reshape(-1)]
