"""HQQ: `W_q`, `scale`, `zero`, and a dozen small arrays that say how a module was quantized."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Dense
from requant.encodings.hqq import Hqq
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec
from requant.sources import read

#: What `HQQLinear.state_dict` stores beside weights, zeros, scales and the bias.
_DESCRIBED: Final = (
    *("nbits", "group_size", "axis", "shape", "packing", "unpack_view_dtype", "compute_dtype", "view_as_float"),
    *("channel_wise", "optimize", "round_zero", "quant_scale", "quant_zero", "offload_meta"),
    *("stores_quant_config", "encoded_state_dict"),
)
#: Names of packings -> bits of a field.
_PACKINGS: Final = {"8bit_u8": 8, "4bit_u8": 4, "3bit_32": 3, "2bit_u8": 2, "1bit_u8": 1}
_STORAGE: Final = ("U8", "I32", "F16", "BF16", "F32")
_SCALES: Final = ("F32", "F16", "BF16")
#: None of the small arrays is longer.
_LONGEST: Final = 256


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Put HQQ's modules together; the configuration is not needed."""
    for module in pool.modules("W_q"):
        arrays = {name: pool.get(f"{module}.{name}") for name in _DESCRIBED}
        found = {name: array for name, array in arrays.items() if array is not None}
        for name in ("quant_scale", "quant_zero", "zero_scale", "scale_q", "zero_q"):
            array = pool.get(f"{module}.{name}")
            if array is not None and (name not in found or _numbers(pool, array).any()):
                raise UnsupportedError(
                    f"{pool.path}: the scales or zeros of {module!r} are quantized themselves ({name})",
                    hint="dequantize the model with hqq and save it",
                )
        _fold(pool, module, found)


def _fold(pool: Pool, module: str, described: Mapping[str, Tensor]) -> None:
    codes, scale = pool.need(module, "W_q"), pool.need(module, "scale")
    shape = tuple(int(n) for n in _numbers(pool, pool.need(module, "shape")))
    if len(shape) != 2 or min(shape) < 1:
        raise FormatError(pool.path, f"'{module}.shape' is {list(shape)}, not two sizes")
    if codes.encoding.label not in _STORAGE or scale.encoding.label not in _SCALES:
        raise FormatError(pool.path, f"{module}: W_q is {codes.encoding.label}, scale {scale.encoding.label}")
    groups = prod(scale.shape)
    group, rest = divmod(prod(shape), groups) if groups else (0, 1)
    if rest or scale.shape not in ((groups, 1), (1, groups)):
        raise FormatError(pool.path, f"'{module}.scale' is {list(scale.shape)}, for a tensor of {list(shape)}")
    if groups == 1 and min(shape) > 1 and not _flag(pool, described.get("channel_wise"), True):
        raise UnsupportedError(
            f"{pool.path}: {module!r} has one scale for everything", hint="dequantize the model with hqq and save it"
        )
    axis = _flag(pool, described.get("axis"), False) if groups == 1 else scale.shape[1] == 1
    encoding = Hqq(
        _width(pool, module, described),
        group,
        int(axis),
        scale.encoding.label,
        codes.encoding.label,
        tuple((name, array.encoding.label, array.shape) for name, array in described.items()),
    )
    try:
        encoding.parts(shape)
    except PlanError as error:
        raise FormatError(pool.path, f"module {module!r}: {error}") from None
    pool.assemble(TensorSpec(f"{module}.weight", shape, encoding))


def _width(pool: Pool, module: str, described: Mapping[str, Tensor]) -> int:
    """Bits of a field: by the packing's name, or else by the number of bits."""
    packing, bits = described.get("packing"), described.get("nbits")
    if packing is not None:
        text = bytes(_numbers(pool, packing).astype(np.uint8)).decode("ascii", "replace")
        if text not in _PACKINGS:
            raise FormatError(pool.path, f"'{module}.packing' is {text!r}, none of {', '.join(_PACKINGS)}")
        return _PACKINGS[text]
    if bits is None:
        raise FormatError(pool.path, f"module {module!r} has neither 'packing' nor 'nbits'", hint=pool.missing)
    numbers = _numbers(pool, bits)
    number = float(numbers[0]) if numbers.size == 1 else 0.0
    widths = {8: 8, 6: 8, 5: 8, 4: 4, 3: 3, 2: 2, 1: 1}
    if number != 1 and 1 < number < 2:  # "1.58 bits" are three levels
        return 2
    if number not in widths:
        raise FormatError(pool.path, f"'{module}.nbits' is {number:g}")
    return widths[int(number)]


def _flag(pool: Pool, array: Tensor | None, default: bool) -> bool:
    return default if array is None else bool(_numbers(pool, array).any())


def _numbers(pool: Pool, array: Tensor) -> NDArray[Any]:
    """The numbers of a small array."""
    if array.nbytes > _LONGEST or not isinstance(array.encoding, Dense) or array.encoding.dtype.bits % 8:
        raise FormatError(pool.path, f"{array.name!r}: {array.nbytes} bytes of {array.encoding.label} describe nothing")
    return np.frombuffer(bytes(read(array.sources["data"])), array.encoding.dtype.numpy)
