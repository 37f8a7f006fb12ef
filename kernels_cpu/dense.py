"""Dense numbers."""

from __future__ import annotations

from dataclasses import dataclass

from requant.codecs import Parts, Values
from requant.dtypes import DType
from requant.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class DenseCodec:
    """A cast by numpy."""

    storage: str

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Widen."""
        out[...] = parts["data"].reshape(out.shape)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Narrow, rounding to nearest even."""
        out["data"].reshape(values.shape)[...] = values


def dense_codec(dtype: DType) -> DenseCodec:
    """The codec of a dense dtype."""
    if dtype.label in ("F16", "F32", "F64"):
        return DenseCodec(dtype.numpy)
    raise UnsupportedError(f"there are no kernels for {dtype.label}")
