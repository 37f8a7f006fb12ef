"""bitsandbytes' NF4, FP4 and int8, bit for bit as its CPU code computes them.

Tables: `create_normal_map` and the FP4 table of bitsandbytes 0.50 (`functional.py`); the boundaries between codes are
the midpoints of neighbours, and a value on one belongs to the lower.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from requant.codecs import Halves, Parts, Values
from requant.encodings.bitsandbytes import NESTED, FourBit, RowInt8
from requant.kernels_cpu._jit import BYTES, FLOATS, NUMBER, OUT_BYTES, OUT_FLOATS, Bytes, Floats, kernel
from requant.kernels_cpu.dense import narrowed
from requant.kernels_cpu.groups import ROUNDING, rounded
from requant.kernels_cpu.nibbles import nibbles_to_halves
from requant.kernels_cpu.simd import load, load_chars16, load_ints, splat_int, store, to_float, where
from requant.kernels_cpu.simd_lookup import permute

_F = np.float32

_NF4: Final = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4_SIZES: Final = (0.0, 0.0052083333, 0.6666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)

TABLES: Final = {
    "nf4": np.array(_NF4, _F),
    "fp4": np.array([*_FP4_SIZES, *(-size for size in _FP4_SIZES)], _F) + _F(0),  # the second zero is positive too
}

#: Where the eight codes of four bytes begin: the first of a byte is in its high bits.
_NIBBLES: Final = np.array([4, 0, 12, 8, 20, 16, 28, 24], np.int32)
#: What a scale of zero is divided by instead.
_LEAST: Final = _F(1e-38)


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def _decode(codes: Bytes, scales: Floats, table: Floats, first: int, block: int, rounding: int, out: Floats) -> None:
    """out[i] = table[code] * scale for the numbers from `first` on; scales are those of whole blocks from 0 on."""
    levels, shifts, done = np.empty(16, np.float32), load_ints(_NIBBLES, 0), 0
    while done < out.size:
        number = first + done
        scale, stop = scales[number // block], min(out.size, done + block - number % block)
        below = rounded(load(table, 0) * scale, rounding)  # the products of a block are only sixteen
        above = rounded(load(table, 8) * scale, rounding)
        store(levels, 0, below)
        store(levels, 8, above)
        if number & 1:
            out[done] = levels[codes[number >> 1] & np.uint8(15)]
            done += 1
        byte = (first + done) >> 1
        while done + 8 <= stop:
            word = np.uint32(codes[byte]) | np.uint32(codes[byte + 1]) << np.uint32(8)
            word |= np.uint32(codes[byte + 2]) << np.uint32(16) | np.uint32(codes[byte + 3]) << np.uint32(24)
            code = splat_int(int(word)) >> shifts
            store(out, done, where((code & 8) == 0, permute(below, code), permute(above, code)))
            done, byte = done + 8, byte + 4
        while done < stop:
            shift = np.uint8(4 - 4 * ((first + done) & 1))
            out[done] = levels[codes[(first + done) >> 1] >> shift & np.uint8(15)]
            done += 1


@kernel(FLOATS, FLOATS, BYTES, NUMBER, OUT_FLOATS, OUT_BYTES)
def _encode(values: Floats, bounds: Floats, order: Bytes, block: int, scales: Floats, codes: Bytes) -> None:
    """Whole blocks, the last one perhaps short."""
    count = values.shape[0]
    ranks = np.empty(block + 1, np.int32)
    for n in range(scales.shape[0]):
        start, stop = n * block, min(count, n * block + block)
        size = _F(0)
        for i in range(start, stop):
            size = max(size, abs(values[i]))
        full = stop - start == block
        scales[n] = size if full else max(size, _LEAST)  # as the reference has it
        divisor = max(size, _LEAST)
        inverse = _F(1) / divisor
        for i in range(stop - start):
            x = values[start + i] * inverse if full else values[start + i] / divisor
            x = min(_F(1), max(_F(-1), x))
            rank = np.int32(0)
            for k in range(15):
                rank += np.int32(x > bounds[k])
            ranks[i] = rank
        if not full:  # an odd number of values leaves half a byte, which the reference fills with the code of 0
            rank = np.int32(0)
            for k in range(15):
                rank += np.int32(_F(0) > bounds[k])
            ranks[stop - start] = rank
        for k in range((stop - start + 1) >> 1):
            codes[(start >> 1) + k] = order[ranks[2 * k]] << 4 | order[ranks[2 * k + 1]]


@cache
def sorted_table(name: str) -> tuple[Floats, Floats, Bytes]:
    """A table, the midpoints between its entries in ascending order, and the code of each rank in that order."""
    table = TABLES[name]
    order = np.argsort(table, kind="stable").astype(np.uint8)
    bounds = ((table[order[:-1]] + table[order[1:]]) / 2).astype(np.float32)
    return table, bounds, order


@cache
def dynamic_map() -> Floats:
    """The signed 8-bit table of the second quantization, ascending: fractions of more bits the larger the exponent."""
    sizes: list[float] = []
    for exponent in range(7):
        # steps from both ends, each rounded once, as torch.linspace takes them
        count, step = 2**exponent, float((_F(1) - _F(0.1)) / _F(2**exponent))
        index = np.arange(count + 1)
        low, high = float(_F(0.1)) + step * index, 1 - step * (count - index)
        edges = np.where(index < (count + 1) // 2, low, high).astype(np.float32)
        means = (edges[:-1] + edges[1:]) / _F(2)
        sizes += (means * _F(10.0 ** (exponent - 6))).tolist()
    return np.sort(np.array([*sizes, *(-size for size in sizes), 0.0, 1.0], np.float32))


def _nested(scales: Floats, out: Parts) -> float:
    """Store the scales of a whole tensor as 8-bit codes around their mean; the mean."""
    offset = scales.mean(dtype=np.float32)
    table = dynamic_map()
    bounds = (table[:-1] + table[1:]) / _F(2)
    groups = out["nested_absmax"].reshape(-1)
    for n in range(groups.size):
        part = scales[n * NESTED : (n + 1) * NESTED] - offset
        largest = np.abs(part).max()
        full = part.size == NESTED
        groups[n] = largest if full else max(largest, _LEAST)
        divisor = max(largest, _LEAST)
        scaled = part * (_F(1) / divisor) if full else part / divisor
        ranks = np.searchsorted(bounds, np.clip(scaled, -1, 1))
        out["absmax"].reshape(-1)[n * NESTED : n * NESTED + part.size] = ranks
    out["nested_quant_map"][...] = table
    return float(offset)


@kernel(BYTES, FLOATS, NUMBER, OUT_FLOATS)
def _decode_rows(codes: Bytes, scales: Floats, columns: int, out: Floats) -> None:
    """(int8 * scale of the row) * (1/127), in this order."""
    inverse = _F(1 / 127)
    for row in range(out.size // columns):
        first, last, scale = row * columns, (row + 1) * columns, scales[row]
        for i in range(first, last - 15, 16):
            store(out, i, to_float(load_chars16(codes, i)) * scale * inverse)
        for i in range(last - columns % 16, last):
            out[i] = _F((codes[i] ^ 128) - 128) * scale * inverse


@dataclass(frozen=True, slots=True)
class FourBitCodec:
    """NF4 or FP4."""

    encoding: FourBit

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Table entry times scale in float32, then rounded to the dtype the tensor was made from."""
        codes, scales, table, first = self._from(parts, start * out.shape[1], out.size)
        rounding = ROUNDING[self.encoding.values.label]
        _decode(codes, scales, table, first, self.encoding.block, rounding, out.reshape(-1))

    def decode_halves(self, parts: Parts, out: Halves, start: int = 0) -> None:
        """The same as F16 or BF16."""
        label, block = self.encoding.values.label, self.encoding.block
        codes, scales, table, first = self._from(parts, start * out.shape[1], out.size)
        if first or out.size % 32 or block % 32:  # blocks do not end with rows
            narrowed(lambda values: self.decode(parts, values, start), label, out)
            return
        nibbles_to_halves(codes, table, scales, np.zeros_like(scales), block, label, out, high_first=True)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """The nearest code for every value; the scale is the block's largest size, so importance cannot change it."""
        encoding = self.encoding
        table, bounds, order = sorted_table(encoding.table)
        out["quant_map"][...] = table
        first = start * values.shape[1]
        count = -(-values.size // encoding.block)
        scales = np.empty(count, np.float32)
        codes = out["data"].reshape(-1).view(np.uint8)[first // 2 :]
        _encode(values.reshape(-1), bounds, order, encoding.block, scales, codes)
        rows = 2 * out["data"].nbytes // values.shape[1]
        shape = [rows, values.shape[1]]
        state = {"quant_type": encoding.table, "blocksize": encoding.block, "dtype": encoding.dtype, "shape": shape}
        if encoding.double:
            offset = _nested(scales, out)
            state |= {"nested_blocksize": NESTED, "nested_dtype": "float32", "nested_offset": offset}
        else:
            out["absmax"].reshape(-1)[first // encoding.block :][:count] = scales
        text = json.dumps(state).encode()
        out["quant_state"][...] = np.frombuffer(text.ljust(encoding.state_nbytes), np.uint8)

    def _from(self, parts: Parts, first: int, count: int) -> tuple[Bytes, Floats, Floats, int]:
        """Codes and scales of the blocks that hold `count` numbers from `first` on, the table, and where they begin."""
        block = self.encoding.block
        blocks = slice(first // block, -(-(first + count) // block))
        codes = parts["data"].reshape(-1).view(np.uint8)[blocks.start * block // 2 :]
        return codes, self._scales(parts, blocks), parts["quant_map"].astype(np.float32, copy=False), first % block

    def _scales(self, parts: Parts, blocks: slice) -> Floats:
        absmax = parts["absmax"].reshape(-1)[blocks]
        if not self.encoding.double:
            return absmax.astype(np.float32, copy=False)
        with np.errstate(over="ignore"):  # infinite values are told of where they would be stored
            offset = np.float32(json.loads(parts["quant_state"].tobytes())["nested_offset"])
        nested = parts["nested_absmax"].reshape(-1)[np.arange(blocks.start, blocks.start + absmax.size) // NESTED]
        scales: Floats = parts["nested_quant_map"].reshape(-1)[absmax] * nested + offset
        return scales


@dataclass(frozen=True, slots=True)
class RowInt8Codec:
    """LLM.int8."""

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """(code * row scale) * (1/127), in this order."""
        columns = out.shape[1]
        codes = parts["data"].reshape(-1).view(np.uint8)[start * columns :]
        scales = parts["SCB"].reshape(-1)[start:].astype(np.float32, copy=False)
        if out.size:
            _decode_rows(codes, scales, columns, out.reshape(-1))

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """The row's largest size becomes 127; ties to even."""
        largest = np.abs(values).max(axis=1)
        out["SCB"].reshape(-1)[start : start + len(values)] = largest
        # the reference writes 127 / largest, which torch computes as a reciprocal and a product
        scale = np.divide(np.float32(1), largest, out=np.zeros_like(largest), where=largest > 0) * np.float32(127)
        codes = out["data"].reshape(-1, values.shape[1])
        codes[start : start + len(values)] = np.rint(values * scale[:, None])


def four_bit_codec(encoding: FourBit) -> FourBitCodec:
    """The codec of a 4-bit encoding."""
    return FourBitCodec(encoding)


def int8_codec(encoding: RowInt8) -> RowInt8Codec:
    """The codec of int8 rows."""
    return RowInt8Codec()
