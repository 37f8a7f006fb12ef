"""The obvious way to pack, unpack and quantize integers in groups: one code at a time, in Python numbers."""

import numpy as np

PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def stream_words(codes, bits):
    """One row of codes as 32-bit words, lowest bits first."""
    number = sum(int(code) << bits * n for n, code in enumerate(codes))
    return [number >> 32 * k & 0xFFFFFFFF for k in range(-(-len(codes) * bits // 32))]


def planar_words(codes, bits):
    """The same, with every 32 codes split into planes."""
    words = []
    for start in range(0, len(codes), 32):
        place = 0
        for width in PLANES.get(bits, (bits,)):
            words += stream_words(
                [int(code) >> place & ((1 << width) - 1) for code in codes[start : start + 32]], width
            )
            place += width
    return words


def columns(codes, bits, planar=False):
    """Codes [rows, columns] packed down the columns: int32 [words, columns]."""
    pack = planar_words if planar else stream_words
    return np.array([pack(column, bits) for column in np.asarray(codes).T], np.uint32).T.copy().view(np.int32)


def rows(codes, bits, planar=False):
    """Codes packed along the rows: int32 [rows, words]."""
    return np.ascontiguousarray(columns(np.asarray(codes).T, bits, planar).T)


def awq_rows(codes):
    """Codes [rows, columns] as AWQ gemm packs them: eight columns to a word, even ones first."""
    codes = np.asarray(codes, np.uint32)
    ordered = codes.reshape(len(codes), -1, 8)[:, :, AWQ_ORDER]
    return (ordered << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)


def error(values, weights, scale, zero, bits):
    """Weighted squared error of rounding to nearest."""
    codes = np.clip(np.rint(values / scale) + zero, 0, (1 << bits) - 1)
    return float((weights * (values - (codes - zero) * scale).astype(np.float64) ** 2).sum())


def best_error(values, weights, bits, symmetric):
    """The least error over a fine grid of scales, and all zeros."""
    top = (1 << bits) - 1
    zeros = [1 << (bits - 1)] if symmetric else range(top + 1)
    widest = max(np.abs(values).max() / max((1 << (bits - 1)) - 1, 1), (values.max() - values.min()) / top)
    scales = np.float16(np.linspace(0.3, 1.05, 300) * widest).astype(np.float64)
    return min(error(values, weights, scale, zero, bits) for scale in scales if scale > 0 for zero in zeros)
