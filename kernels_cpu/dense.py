"""Dense numbers: widening to float32 and narrowing from it, and which values are lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Halves, Parts, Values
from requant.dtypes import DType
from requant.errors import UnsupportedError
from requant.kernels_cpu.kept import Kept

_WIDEN: Final = {
    "F16": Kept("casts", "widen_f16"),
    "BF16": Kept("casts", "widen_bf16"),
    "F64": Kept("casts", "narrow_f64"),
}
_NARROW: Final = {
    "F16": Kept("casts", "narrow_f16"),
    "BF16": Kept("casts", "narrow_bf16"),
    "F64": Kept("casts", "widen_f64"),
}
_look_up, _narrow_f8 = Kept("casts", "look_up"), Kept("casts", "narrow_f8")
#: What kernels see: bits, where numba knows no such number.
_VIEWS: Final[Mapping[str, str]] = {"F16": "u2", "BF16": "u2", "F64": "f8"}

#: Values that are held as halves before they are widened, and rows that stay together.
_HELD: Final = 1 << 19
_TOGETHER: Final = 128


@dataclass(frozen=True, slots=True)
class _SmallFloat:
    """An 8-bit float with a sign; the codes from `nan` (without its sign) up are not numbers, infinities included."""

    mantissa: int
    bias: int
    largest: float
    nan: int
    infinity: int = -1


#: Sources: OCP 8-bit floating point specification for FN and E5M2; the FNUZ types have one NaN, 0x80, and no -0.
_SMALL: Final[Mapping[str, _SmallFloat]] = {
    "F8_E4M3": _SmallFloat(3, 7, 448.0, 0x7F),
    "F8_E5M2": _SmallFloat(2, 15, 57344.0, 0x7D, infinity=0x7C),
    "F8_E4M3FNUZ": _SmallFloat(3, 8, 240.0, 0x80),
    "F8_E5M2FNUZ": _SmallFloat(2, 16, 57344.0, 0x80),
}
#: The values of F4 by code; bit 3 is the sign.
E2M1: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@cache
def small_float_table(label: str) -> NDArray[np.float32]:
    """The value of each of the 256 codes of an 8-bit float type.

    >>> small_float_table("F8_E4M3")[0x7E].item()
    448.0
    """
    codes = np.arange(256)
    if label == "F8_E8M0":
        values = np.ldexp(1.0, codes - 127)
        values[255] = np.nan
        return values.astype(np.float32)
    kind = _SMALL[label]
    size = codes & 127
    exponent, fraction = size >> kind.mantissa, size & ((1 << kind.mantissa) - 1)
    hidden = np.where(exponent > 0, 1 << kind.mantissa, 0)
    values = np.ldexp((hidden + fraction).astype(np.float64), np.maximum(exponent, 1) - kind.bias - kind.mantissa)
    if kind.nan == 0x80:
        values = np.where(codes == 0x80, np.nan, values)
    else:
        values = np.where(size >= kind.nan, np.nan, np.where(size == kind.infinity, np.inf, values))
    return np.copysign(values, np.where(codes > 127, -1.0, 1.0)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class DenseCodec:
    """A cast. Integers have none: they are copied, never computed with.

    `saturate`: values beyond the largest one of an 8-bit float become it; otherwise they are an error.
    """

    dtype: DType
    saturate: bool = False

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """To float32: exact but for F64, which is rounded to nearest, ties to even."""
        label = self.dtype.label
        if label == "F4":
            _decode_f4(parts["data"], out, start)
            return
        data, values = _flat(parts["data"], out), out.reshape(-1)
        if label == "F32":
            values[:] = data
        elif label in _WIDEN:
            _run(_WIDEN[label], data.view(_VIEWS[label]), values)
        else:
            _look_up(data, small_float_table(label), values)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """From float32, to nearest, ties to even; raises UnsupportedError for what an 8-bit float cannot hold.

        F16 turns what is beyond its range into infinity: `checks.beyond` finds it first.
        """
        label = self.dtype.label
        if label == "F4":
            raise UnsupportedError("F4 is only written beside scales (MXFP4, NVFP4)", hint="choose one of those")
        data, numbers = _flat(out["data"], values), np.ascontiguousarray(values).reshape(-1)
        if label == "F32":
            data[:] = numbers
        elif label in _NARROW:
            _run(_NARROW[label], numbers, data.view(_VIEWS[label]))
        elif label == "F8_E8M0":
            data[:] = _powers_of_two(numbers)
        else:
            self._encode_small(numbers, data)

    def _encode_small(self, values: NDArray[np.float32], data: NDArray[Any]) -> None:
        kind = _SMALL[self.dtype.label]
        normal = 2.0 ** (1 - kind.bias)
        limits = np.array([kind.largest, normal, normal * 2.0 ** (23 - kind.mantissa)], np.float32)
        if not self.saturate and values.size:
            size = max(float(values.max()), -float(values.min()))
            if size > kind.largest:
                raise UnsupportedError(
                    f"{size:g} is beyond {kind.largest:g}, the largest number of {self.dtype.label}",
                    hint="choose a type with scales, or a wider one",
                )
        for at in range(0, values.size, 1 << 20):
            run, target = values[at : at + (1 << 20)], data[at : at + (1 << 20)]
            _run(lambda x, y: _narrow_f8(x, limits, kind.mantissa, kind.bias, kind.nan, y), run, target)


def dense_codec(dtype: DType) -> DenseCodec:
    """The codec of a dense dtype; raises UnsupportedError where there is no arithmetic for it."""
    if dtype.label in ("F32", "F8_E8M0", "F4") or dtype.label in _WIDEN or dtype.label in _SMALL:
        return DenseCodec(dtype)
    raise UnsupportedError(
        f"there is no arithmetic for {dtype.label}", hint="such tensors are copied as they are, or not converted"
    )


def widened(fill: Callable[[Halves, int], None], dtype: str, out: Values) -> None:
    """Float32 rows of a codec that writes halves: `fill` is given room for some rows, and the first of them."""
    rows = max(_TOGETHER, _HELD // max(1, out.shape[1]) // _TOGETHER * _TOGETHER)
    for at in range(0, len(out), rows):
        run = out[at : at + rows]
        halves = np.empty(run.shape, np.uint16)
        fill(halves, at)
        _run(_WIDEN[dtype], halves.reshape(-1), run.reshape(-1))


def narrowed(fill: Callable[[Values], None], dtype: str, out: Halves) -> None:
    """F16 or BF16 rows of a codec that writes float32: `fill` is given room for them."""
    values = np.empty(out.shape, np.float32)
    fill(values)
    _run(_NARROW[dtype], values.reshape(-1), out.reshape(-1))


def _run(kernel: Any, source: NDArray[Any], target: NDArray[Any]) -> None:
    """Call a kernel that takes at least sixteen values."""
    if target.size >= 16:
        kernel(source, target)
    elif target.size:
        padded, result = np.zeros(16, source.dtype), np.zeros(16, target.dtype)
        padded[: source.size] = source
        kernel(padded, result)
        target[:] = result[: target.size]


def _flat(data: NDArray[Any], values: Values) -> NDArray[Any]:
    """The stored numbers in one dimension; kernels check no bounds."""
    if data.size != values.size or not data.flags.c_contiguous:
        raise ValueError(f"{data.size} stored numbers, contiguous or not, are not {values.size} values")
    return data.reshape(-1)


def _decode_f4(data: NDArray[Any], out: Values, start: int) -> None:
    """Two codes to a byte, the first in the low bits; `data` is the whole tensor."""
    first = start * out.shape[-1]
    packed = data.reshape(-1)[first // 2 : (first + out.size + 1) // 2].astype(np.uint8)
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(-1)
    out.reshape(-1)[:] = E2M1[codes[first % 2 :][: out.size]]


def _powers_of_two(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Exponents of positive numbers, rounded to nearest; NaN is 255."""
    if (values <= 0).any() or np.isinf(values).any():
        raise UnsupportedError("F8_E8M0 holds powers of two: no zero, no negative number, no infinity")
    bits = values.view(np.uint32)
    exponent, fraction = bits >> 23, bits & 0x7FFFFF
    up = (fraction > 0x400000) | ((fraction == 0x400000) & (exponent > 0))
    return np.where(np.isnan(values), 255, np.minimum(exponent + up, 254)).astype(np.uint8)
