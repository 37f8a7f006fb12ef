"""How MLX quantizes on the CPU, number by number."""

import math

import numpy as np

from requant.kernels_cpu.dense import E2M1, small_float_table

_F = np.float32


def rounded(values, dtype):
    """float32 numbers to the nearest of a dtype, ties to even."""
    values = np.asarray(values, np.float32)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1) >> 16) << 16).astype(np.uint32).view(np.float32)
    return values


def affine(values, bits, group):
    """Codes, scales and offsets before they are stored."""
    groups = values.reshape(-1, group)
    codes = np.empty(groups.shape, np.uint8)
    scales, offsets = np.empty(len(groups), np.float32), np.empty(len(groups), np.float32)
    top = _F(2**bits - 1)
    for k, x in enumerate(groups):
        low, high = x.min(), x.max()
        scale = max((high - low) / top, _F(1e-7))
        edge = low if abs(low) > abs(high) else high
        scale = scale if abs(low) > abs(high) else -scale
        levels, offset = np.rint(edge / scale), _F(0)
        if levels:
            scale, offset = edge / levels, edge
        codes[k] = [min(max(np.rint((one - offset) / scale), 0), top) for one in x]
        scales[k], offsets[k] = scale, offset
    shape = (len(values), -1)
    return codes.reshape(shape), scales.reshape(shape), offsets.reshape(shape)


def floats(values, mode, dtype):
    """The bytes of the codes, and of the scales."""
    group = 16 if mode == "nvfp4" else 32
    table = small_float_table("F8_E4M3")[:127]
    codes, scales = [], []
    for x in values.reshape(-1, group):
        size = rounded(np.abs(x).max() / _F(448 if mode == "mxfp8" else 6), dtype)
        if mode == "nvfp4":
            scale = _nearest(table, size)
            unit = table[scale]
        else:
            exponent = 0 if size == 0 else math.ceil(np.log2(size, dtype=np.float32))
            scale, unit = max(exponent + 127, 0), rounded(_F(2.0**exponent), dtype)
        with np.errstate(divide="ignore", invalid="ignore"):
            quotients = rounded(x / unit, dtype)
        scales.append(scale)
        codes += [_code(one, mode, dtype) for one in quotients]
    codes = np.array(codes, np.uint8)
    if mode != "mxfp8":
        codes = codes[0::2] | codes[1::2] << 4
    return codes.reshape(len(values), -1), np.array(scales, np.uint8).reshape(len(values), -1)


def _code(x, mode, dtype):
    if mode == "mxfp8":
        return _nearest(small_float_table("F8_E4M3")[:127], abs(x)) | (0x80 if np.signbit(x) else 0)
    if not np.isfinite(x):
        return 0
    distances = np.abs(rounded(x - E2M1, "F32" if mode == "nvfp4" else dtype))
    return int(np.argmin(distances))


def _nearest(table, x):
    """The code of the nearest number; of two, the even one."""
    distances = np.abs(table.astype(np.float64) - np.float64(x))
    least = np.flatnonzero(distances == distances.min())
    return int(next((code for code in least if code % 2 == 0), least[0]))
