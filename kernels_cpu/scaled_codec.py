"""Tensors of scaled elements: which scales belong to which rows, and how scales are chosen when encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Correction, Parts, Values
from requant.dtypes import DTYPES
from requant.encodings import DENSE
from requant.encodings.scaled import ELEMENT_BITS, LARGEST_PRODUCT, Scaled
from requant.errors import UnsupportedError
from requant.kernels_cpu import mlx_floats, scaled
from requant.kernels_cpu._jit import Floats
from requant.kernels_cpu.corrected import corrected_codes, corrected_groups, groups_of
from requant.kernels_cpu.dense import DenseCodec, dense_codec, small_float_table
from requant.kernels_cpu.feedback import FloatCodes, Grid
from requant.kernels_cpu.groups import ROUNDING, regrouped, round_to_groups

#: The largest element of each type that is written.
LARGEST: Final = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0, "I8": 127.0, "F4": 6.0}
#: What their codes are.
_FLOATS: Final = {
    "F8_E4M3": FloatCodes(3, -6, 128),
    "F8_E5M2": FloatCodes(2, -14, 128),
    "F4": FloatCodes(1, 0, 8),
}
#: The largest scale of 8 bits.
_LARGEST_SCALE: Final = 448.0
#: What is smaller counts as nothing where the scale of a whole tensor is chosen: its inverse must be finite.
_LEAST: Final = 1e-30
#: Bytes of scales that are tried under and over the one that reaches the largest value: a clip of up to a third and
#: some headroom under an 8-bit float; under a power of two, a clip of up to a half.
_TRIED: Final = {"F8_E4M3": (4, 5), "F8_E8M0": (1, 0)}


@dataclass(frozen=True, slots=True)
class ScaledCodec:
    """One encoding of the family."""

    encoding: Scaled

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """(element - zero) * scale in float32, then rounded where the library rounds."""
        how, columns = self.encoding, out.shape[1]
        if not out.size:
            return
        codes = self._rows(parts["data"], out, start)
        scales = self._scales(parts, len(out), start, columns)
        group = how.columns or columns
        if how.form in ("one", "scalar"):
            group = columns
        zeros = np.zeros_like(scales) if not how.zero else self._of_rows(parts, "zeros", len(out), start, columns)
        target = out.reshape(-1)
        rounded = how.values.label if how.values.label in ("F16", "BF16") and how.scale == how.values.label else ""
        late = bool(rounded) and how.zero.startswith("F8")  # there a difference needs more bits than codes have
        flat, zero = (np.ones_like(scales) if late else scales).reshape(-1), zeros.reshape(-1)
        match how.element:
            case "F4":
                scaled.decode_e2m1(codes, flat, group, target)
            case "Q4":
                scaled.decode_quarters(codes, flat, group, target)
            case "F6_E2M3":
                scaled.decode_e2m3(codes, flat, group, target)
            case "F8_E4M3":
                scaled.decode_e4m3(codes, flat, zero, columns, group, target)
            case "F8_E5M2":
                scaled.decode_e5m2(codes, flat, zero, columns, group, target)
            case "I8":
                scaled.decode_int8(codes, flat, zero, columns, group, target)
            case other:
                scaled.decode_table(codes, small_float_table(other), flat, zero, columns, group, target)
        if late:
            round_to(out, rounded)
            out *= np.repeat(scales, group, axis=1)[:, :columns]
        if rounded:
            round_to(out, rounded)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """The largest value of what shares a scale becomes the largest element; 4-bit floats search for better."""
        how = self.encoding
        if how.zero or how.element not in LARGEST or how.whole == "largest" or how.whole_form in ("matrices", "halves"):
            raise UnsupportedError(f"{how.label} is read, not written", hint="choose FP8, FP8-BLOCK, NVFP4 or MXFP4")
        if not values.size:
            return
        if how.kind == "mlx" and not how.whole and (importance is None or how.element != "F4"):
            self._encode_as_mlx(values, out, start)
            return
        if how.element == "F4":
            self._encode_e2m1(values, out, start, importance)
            return
        if how.element == "I8" and how.integers is not None:
            group, scale = how.columns or -1, how.scale
            self._pack_int8(round_to_groups(values, importance, group, 8, True, scale), out, start)
            return
        columns = values.shape[1]
        scales = self._chosen_scales(values, out, start)
        scaled_values = np.empty_like(values)
        group = columns if how.form in ("one", "scalar") else how.columns or columns
        scaled.divide_groups(values.reshape(-1), scales.reshape(-1), columns, group, scaled_values.reshape(-1))
        codes = out["data"].reshape(-1, columns)[start : start + len(values)]
        if how.element == "I8":
            codes[...] = np.clip(np.rint(scaled_values), -127, 127).astype(np.int8)
        else:
            DenseCodec(DTYPES[how.element], saturate=True).encode(scaled_values, {"data": codes})

    def encode_corrected(self, values: Values, out: Parts, start: int, correction: Correction) -> None:
        """GPTQ's way: columns after one make up for its error."""
        how, (rows, columns) = self.encoding, values.shape
        if how.element == "I8":
            integers = corrected_groups(values, correction, how.columns or -1, 8, True, how.scale)
            self._pack_int8(integers, out, start)
            return
        size, found = how.columns or columns, list[NDArray[Any]]()

        def grid_of(block: Values, importance: Values) -> Grid:
            stored, scales = self._scales_alone(block, importance, out, search=not correction.minmax)
            found.append(stored)
            top, floats = int(LARGEST[how.element]), _FLOATS[how.element]
            return Grid(scales, np.zeros_like(scales), groups_of(block, size), top, floats=floats)

        codes = corrected_codes(values, correction, size, grid_of)
        scales = out["scales"].reshape(-1, -(-columns // size))
        at = start if how.rows == 1 else int(self._grid_rows(out["data"].shape[-2], 1, start)[0])
        scales[at : at + len(found[0])] = np.concatenate(found, 1)
        stored = out["data"].reshape(-1).view(np.uint8).reshape(-1, columns * ELEMENT_BITS[how.element] // 8)
        stored[start : start + rows] = codes if how.element != "F4" else codes[:, 0::2] | codes[:, 1::2] << 4

    def _scales_alone(self, block: Values, importance: Values, out: Parts, search: bool) -> tuple[NDArray[Any], Values]:
        """The scales of some columns of rows of one matrix: as they are stored, and for each row."""
        how, (rows, columns) = self.encoding, block.shape
        data = np.empty((rows, columns * ELEMENT_BITS[how.element] // 8), np.uint8)
        alone = {**out, "data": data, "scales": np.empty(how.grid(block.shape), out["scales"].dtype)}
        if how.element != "F4":
            return alone["scales"], self._chosen_scales(block, alone, 0)
        self._encode_e2m1(block, alone, 0, importance, search)
        return alone["scales"], self._scales(alone, rows, 0, columns)

    def begin(self, largest: float, out: Parts) -> None:
        """Before the first rows are encoded: the scale of the whole tensor, whose largest size this is."""
        how = self.encoding
        top = LARGEST[how.element]
        if how.whole:
            ratio = np.float32(top * _LARGEST_SCALE)
            share = np.float32(max(largest, _LEAST))
            out["whole"][...] = ratio / share if how.whole == "divides" else share / ratio
        elif how.form in ("one", "scalar"):
            store_scales(np.full(1, (largest or top) / top, np.float32), how.scale, out["scales"].reshape(-1))

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """E2M1 codes, one in a byte, and their scales, that of the tensor apart; int8 with half its range added."""
        if self.encoding.element == "I8":
            return self._unpack_int8(parts, rows, start)
        columns = 2 * parts["data"].nbytes // max(1, self._stored_rows(parts))
        packed = parts["data"].reshape(-1).view(np.uint8).reshape(-1, columns // 2)[start : start + rows]
        codes = np.empty((rows, columns), np.uint8)
        codes[:, 0::2], codes[:, 1::2] = packed & 15, packed >> 4
        scales, none = self._of_rows(parts, "scales", rows, start, columns), np.empty((rows, 0), np.float32)
        if not self.encoding.whole:
            return Codes(codes, scales, none)
        whole = float(parts["whole"].reshape(-1)[0])
        whole = whole if np.isfinite(whole) else np.nan
        with np.errstate(all="ignore"):  # a damaged file's
            multiplier = whole if self.encoding.whole != "divides" else float(1 / np.float64(whole))
        if self.encoding.whole == "largest":
            multiplier = float(np.float32(whole) / np.float32(LARGEST_PRODUCT))
        return Codes(codes, scales, none, whole=multiplier)

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """The inverse of `unpack`."""
        rows, columns = codes.codes.shape
        if self.encoding.element == "I8":
            self._pack_int8(codes, out, start)
            return
        packed = out["data"].reshape(-1).view(np.uint8).reshape(-1, columns // 2)
        packed[start : start + rows] = codes.codes[:, 0::2] | codes.codes[:, 1::2] << 4
        groups = codes.scales.shape[1]
        stored = out["scales"].reshape(-1, groups)[start : start + rows]
        store_scales(codes.scales, self._scale_dtype, stored)
        if self.encoding.whole:
            with np.errstate(all="ignore"):
                inverse = 1 / np.float64(codes.whole)
            out["whole"][...] = np.float32(codes.whole if self.encoding.whole == "multiplies" else inverse)

    def _unpack_int8(self, parts: Parts, rows: int, start: int) -> Codes:
        columns = parts["data"].size // max(1, self._stored_rows(parts))
        stored: NDArray[np.uint8] = parts["data"].reshape(-1, columns)[start : start + rows].view(np.uint8)
        numbers = stored ^ np.uint8(128)
        scales = self._scales(parts, rows, start, columns)
        zeros = np.full(scales.shape, 128, np.float32)
        if self.encoding.zero:
            zeros += self._of_rows(parts, "zeros", rows, start, columns)
        return Codes(numbers, scales, zeros)

    def _pack_int8(self, codes: Codes, out: Parts, start: int) -> None:
        how, (rows, columns) = self.encoding, codes.codes.shape
        groups = columns // how.columns if how.columns else 1
        numbers, scales, zeros, _ = regrouped(codes, 8, not how.zero, how.columns or -1, groups)
        out["data"].reshape(-1, columns)[start : start + rows] = (numbers ^ 128).view(np.int8)
        store_scales(scales, how.scale, out["scales"].reshape(-1, groups)[start : start + rows])
        if how.zero:
            out["zeros"].reshape(-1, groups)[start : start + rows] = zeros - 128

    @property
    def _scale_dtype(self) -> str:
        """What scales mean, whatever they are stored as."""
        how = self.encoding
        return "F8_E8M0" if how.powers_of_two else "F8_E4M3" if how.e4m3_bytes else how.scale

    def _stored_rows(self, parts: Parts) -> int:
        """Rows of the arrays given: each has its own scales."""
        return int(parts["scales"].shape[0]) if parts["scales"].ndim == 2 else int(np.prod(parts["scales"].shape[:-1]))

    def _rows(self, data: NDArray[Any], out: Values, start: int) -> NDArray[np.uint8]:
        """The stored bytes of some rows."""
        flat = data.reshape(-1).view(np.uint8)
        width = out.shape[1] * ELEMENT_BITS[self.encoding.element] // 8
        return np.ascontiguousarray(flat[start * width : (start + len(out)) * width])

    def _scales(self, parts: Parts, rows: int, start: int, columns: int) -> Floats:
        """The scales of some rows: float32 [rows, groups], that of the whole tensor included."""
        scales = self._of_rows(parts, "scales", rows, start, columns)
        if self.encoding.whole:
            whole = self._wholes(parts, rows, start)
            with np.errstate(all="ignore"):  # what overflows in a damaged file is found among the values
                scales = scales / whole if self.encoding.whole == "divides" else scales * whole
        return scales

    def _wholes(self, parts: Parts, rows: int, start: int) -> Floats:
        """The scales of whole tensors for some rows: [1, 1] or [rows, 1]; of a stack, each is for as many rows."""
        stored = parts["whole"].reshape(-1).view(np.float32)
        stored = np.where(np.isfinite(stored), stored, np.float32(np.nan))  # dividing by infinity would hide it
        if self.encoding.whole == "largest":
            stored = stored / np.float32(LARGEST_PRODUCT)
        if stored.size == 1:
            return stored.reshape(1, 1)
        together = int(np.prod(parts["data"].shape[:-1])) // stored.size
        chosen: Floats = stored[np.arange(start, start + rows) // together][:, None]
        return chosen

    def _of_rows(self, parts: Parts, name: str, rows: int, start: int, columns: int) -> Floats:
        how, array = self.encoding, parts[name]
        dtype = self._scale_dtype if name == "scales" else how.zero
        if how.form in ("one", "scalar"):
            return np.full((rows, 1), widened(array.reshape(-1), dtype)[0], np.float32)
        grid = array.reshape(-1, -(-columns // how.columns) if how.columns else 1)
        if how.rows == 1:
            chosen = grid[start : start + rows]
        else:
            chosen = grid[self._grid_rows(parts["data"].shape[-2], rows, start)]
        return widened(np.ascontiguousarray(chosen), dtype)

    def _grid_rows(self, height: int, rows: int, start: int) -> NDArray[np.intp]:
        """The row of the grid for each of some rows of a matrix, or a stack of matrices of this height."""
        together = min(self.encoding.rows, height) or height
        number = np.arange(start, start + rows)
        return number // height * -(-height // together) + number % height // together

    def _chosen_scales(self, values: Values, out: Parts, start: int) -> Floats:
        """Store the scales of some rows; what was stored, one row of groups for each row of values."""
        how, (rows, columns) = self.encoding, values.shape
        if how.form in ("one", "scalar"):
            return self._scales(out, rows, start, columns)
        group = how.columns or columns
        groups = -(-columns // group)
        largest = np.empty((rows, groups), np.float32)
        scaled.largest_sizes(values.reshape(-1), columns, group, largest.reshape(-1))
        grid = out["scales"].reshape(-1, groups)
        height = 1 if how.rows == 1 else out["data"].shape[-2]
        first, begins = np.unique(self._grid_rows(height, rows, start), return_index=True)
        top = np.float32(LARGEST[how.element])
        most = np.maximum.reduceat(largest, begins, axis=0)
        most[most == 0] = top
        # transformers divides by the scale's inverse, which is what it stores
        inverse = how.kind in ("inv", "stack-inv")
        scales: Floats = np.asarray(1 / (top / most) if inverse else most / top, np.float32)
        store_scales(scales, self._scale_dtype, grid[first[0] : first[-1] + 1])
        return self._scales(out, rows, start, columns)

    def _encode_as_mlx(self, values: Values, out: Parts, start: int) -> None:
        """The scales and codes that MLX chooses."""
        how, (rows, columns) = self.encoding, values.shape
        groups, rounding = columns // how.columns, ROUNDING[how.chosen_in]
        flat, quotients = np.ascontiguousarray(values).reshape(-1), np.empty(values.size, np.float32)
        scales = out["scales"].reshape(-1)[start * groups : (start + rows) * groups]
        if how.e4m3_bytes:
            mlx_floats.over_e4m3(flat, how.columns, rounding, scales, quotients)
        else:
            mlx_floats.over_powers(flat, how.columns, int(LARGEST[how.element]), rounding, scales, quotients)
        width = columns * ELEMENT_BITS[how.element] // 8
        stored = out["data"].reshape(-1).view(np.uint8)[start * width : (start + rows) * width]
        if how.element != "F4":
            DenseCodec(DTYPES[how.element], saturate=True).encode(quotients[None], {"data": stored[None]})
            return
        codes = np.empty(values.size, np.uint8)
        # there distances are computed in float32: the scale of the whole tensor that MLX may have is one
        mlx_floats.nearest_e2m1(quotients, 0 if how.e4m3_bytes else rounding, codes)
        stored[...] = codes[0::2] | codes[1::2] << 4

    def _encode_e2m1(
        self, values: Values, out: Parts, start: int, importance: Values | None, search: bool = True
    ) -> None:
        """search: for the scale of least error; else that which reaches the largest value."""
        how, (rows, columns) = self.encoding, values.shape
        dtype = self._scale_dtype
        if dtype not in _TRIED:
            raise UnsupportedError(f"{how.label} is read, not written", hint="choose NVFP4 or MXFP4")
        table = small_float_table(dtype)[: 127 if dtype == "F8_E4M3" else 255]
        if how.whole:
            whole = out["whole"].reshape(-1)[0]
            table = table / whole if how.whole == "divides" else table * whole
        weights = np.ones(columns, np.float32) if importance is None else np.ascontiguousarray(importance, np.float32)
        if weights.shape not in (values.shape, values.shape[1:]):
            raise ValueError(f"an importance of shape {weights.shape} does not fit values of shape {values.shape}")
        groups = columns // how.columns
        codes = out["data"].reshape(-1).view(np.uint8)[start * columns // 2 : (start + rows) * columns // 2]
        scales = out["scales"].reshape(-1).view(np.uint8)[start * groups : (start + rows) * groups]
        below, above = _TRIED[dtype] if search else (0, 0)
        neutral = 0x38 if dtype == "F8_E4M3" else 127
        flat, table = np.ascontiguousarray(values).reshape(-1), np.ascontiguousarray(table, np.float32)
        sizes = (columns, weights.ndim, how.columns, below, above, neutral)
        scaled.encode_e2m1(flat, weights.reshape(-1), table, *sizes, scales, codes)


def scaled_codec(encoding: Scaled) -> ScaledCodec:
    """The codec of one encoding."""
    return ScaledCodec(encoding)


def widened(array: NDArray[Any], dtype: str) -> Floats:
    """Stored numbers as float32."""
    if dtype in ("I8", "U8", "I32"):
        return array.astype(np.float32)
    out = np.empty((1, array.size), np.float32)
    dense_codec(DTYPES[dtype]).decode({"data": array.reshape(-1).view(DTYPES[dtype].numpy)}, out)
    return out.reshape(array.shape)


def store_scales(scales: Floats, dtype: str, out: NDArray[Any]) -> None:
    """Store scales in their dtype, and leave in `out` what is stored; powers of two are rounded up."""
    if dtype == "F8_E8M0":
        bits = np.ascontiguousarray(scales, np.float32).view(np.uint32)
        exponents = bits >> 23
        if not (bits & 0x807FFFFF).any() and (exponents - 1 < 254).all():  # powers of two, as most scales are already
            out[...] = exponents.astype(np.uint8).reshape(out.shape)
            return
        fraction, exponent = np.frexp(scales)
        byte = np.where(fraction == 0.5, exponent - 1, exponent) + 127
        out[...] = np.where(np.isnan(scales), 255, np.clip(byte, 0, 254)).astype(np.uint8).reshape(out.shape)
        return
    stored = np.empty(scales.size, DTYPES[dtype].numpy)
    DenseCodec(DTYPES[dtype], saturate=True).encode(scales.reshape(1, -1), {"data": stored})
    out[...] = stored.view(out.dtype).reshape(out.shape)


def round_to(values: Values, dtype: str) -> None:
    """Round float32 values to what a half or a bfloat16 holds, in place."""
    if dtype == "F32":
        return
    codec = dense_codec(DTYPES[dtype])
    narrow = {"data": np.empty(values.shape, DENSE[dtype].dtype.numpy)}
    codec.encode(values, narrow)
    codec.decode(narrow, values)
