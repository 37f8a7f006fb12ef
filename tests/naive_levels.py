"""ggml's IQ4, ternary and 4-bit float types, 256 values at a time in plain numpy: slow, obvious twins."""

import math

import numpy as np

from tests.naive_blocks import F, half, nearest, total

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], F)
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], F)


def packed(parts):
    return np.concatenate([np.asarray(part).reshape(-1) for part in parts]).astype(np.uint8)


def words(numbers, nbytes):
    return np.frombuffer(b"".join(int(n).to_bytes(nbytes, "little") for n in numbers), np.uint8)


def nibbles(codes, group=32):
    rows = codes.reshape(-1, 2, group // 2)
    return (rows[:, 0] | rows[:, 1] << 4).reshape(-1)


# IQ4_NL and IQ4_XS


def iq4_codes(x):
    """The nearest level, by differences as the reference compares them."""
    above = np.clip(np.searchsorted(IQ4, x, "right"), 1, 15)
    codes = np.where(x - IQ4[above - 1] < IQ4[above] - x, above - 1, above)
    return np.where(np.isnan(x) | (x >= IQ4[15]), 15, np.where(x <= IQ4[0], 0, codes))


def iq4_scale(x, weights):
    """The best of 16."""
    peak = x[np.argmax(abs(x))]
    if abs(peak) < F(1e-15):
        return F(0)
    scale = best = None
    for inverse in (F(1) / (-peak / IQ4[0]), *((F(t) + IQ4[0]) / peak for t in range(-7, 8))):
        q = IQ4[iq4_codes(inverse * x)]
        qx, q2 = total(weights * q * x), total(weights * q * q)
        if scale is None:
            scale = qx / q2 if q2 > 0 else F(0)
            best = scale * qx
        elif q2 > 0 and qx * qx > best * q2:
            scale, best = qx / q2, qx / q2 * qx
    return scale


def iq4_weights(x, w, whole):
    return x * x if w is None else w * np.sqrt(total(whole * whole) * F(2 / len(whole)) + x * x)


def iq4_nl(x, w):
    parts = []
    for k in range(0, 256, 32):
        group, own = x[k : k + 32], None if w is None else w[k : k + 32]
        scale = iq4_scale(group, iq4_weights(group, own, group))
        parts += [half(scale)[0], nibbles(iq4_codes((F(1) / scale if scale else F(0)) * group))]
    return packed(parts)


def iq4_xs(x, w):
    groups, weights = x.reshape(8, 32), iq4_weights(x, w, x).reshape(8, 32)
    scales = np.array([iq4_scale(g, v) for g, v in zip(groups, weights, strict=True)], F)
    d = -scales[np.argmax(abs(scales))] / F(32)
    steps = np.clip(nearest((F(1) / d if d else F(0)) * scales), -32, 31)
    codes = [iq4_codes((F(1) / (d * F(s)) if d * F(s) else F(0)) * g) for s, g in zip(steps, groups, strict=True)]
    high = sum((int(s) + 32 >> 4) << 2 * k for k, s in enumerate(steps))
    low = steps + 32 & 15
    return packed([half(d)[0], words([high], 2), low[::2] | low[1::2] << 4, nibbles(np.concatenate(codes))])


# 4-bit floats, trits and bits


def fp4_codes(x, d):
    return np.argmin([abs(level * d - x) for level in FP4], axis=0)  # the first of equals


def mxfp4(x, w):
    parts = []
    for group in x.reshape(-1, 32):
        amax = max(abs(group))
        exponent = (math.floor(F(math.log2(amax))) + 125) % 256 if amax > 0 else 0
        parts += [[exponent], nibbles(fp4_codes(group, F(2.0 ** (exponent - 128))))]
    return packed(parts)


def ue4m3(x):
    """As the reference rounds: halves up, everything from 248 on to 448."""
    if not x > 0:
        return 0
    mantissa, exponent = math.frexp(min(x, 448))
    if exponent < -5:
        return min(7, int(F(x) * F(512) + F(0.5)))
    rounded = math.floor(mantissa * 16 + 0.5) - 8 + (exponent + 6) * 8
    return 0x7E if rounded >= 120 else rounded


def nvfp4(x, w):
    parts = []
    for block in x.reshape(-1, 4, 16):
        scales = [ue4m3(max(abs(group)) / F(6)) for group in block]
        sizes = [F((8 + s % 8) * 2.0 ** (s // 8 - 11) if s >= 8 else s * 2.0**-10) for s in scales]
        parts += [scales, *(nibbles(fp4_codes(g, d), 16) for g, d in zip(block, sizes, strict=True))]
    return packed(parts)


def trits(x):
    """-1, 0, 1, halves away from zero; where 1 / d overflows all 0."""
    amax = max(abs(x))
    inverse = F(1) / amax if amax else F(0)
    scaled = x * inverse if np.isfinite(inverse) else 0 * x
    return (scaled >= 0.5).astype(int) - (scaled <= -0.5), amax, np.isfinite(inverse)


def tq1_0(x, w):
    codes, d, _ = trits(x)
    parts = [(codes[:160], 5, 32), (codes[160:240], 5, 16), (np.append(codes[240:], [-1] * 4), 5, 4)]
    numbers = [np.array([3 ** (n - 1 - i) for i in range(n)]) @ (c.reshape(n, size) + 1) for c, n, size in parts]
    return packed([*((number * 256 + 242) // 243 for number in numbers), half(d)[0]])


def tq2_0(x, w):
    codes, d, _ = trits(x)
    fields = (codes.reshape(2, 4, 32) + 1) << 2 * np.arange(4)[:, None]
    return packed([fields.sum(1), half(d)[0]])


def q1_0(x, w):
    return packed(
        part
        for g in x.reshape(-1, 128)
        for part in (half(total(abs(g)) / F(128))[0], np.packbits(g >= 0, bitorder="little"))
    )


def q2_0(x, w):
    parts = []
    for group in x.reshape(-1, 64):
        codes, d, kept = trits(group)
        parts += [half(d)[0], ((codes.reshape(-1, 4) + 1 if kept else 0 * codes.reshape(-1, 4)) << [0, 2, 4, 6]).sum(1)]
    return packed(parts)


#: label -> (256 values, their importance or None) -> bytes
ENCODE = {
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
    "MXFP4": mxfp4,
    "NVFP4": nvfp4,
    "TQ1_0": tq1_0,
    "TQ2_0": tq2_0,
    "Q1_0": q1_0,
    "Q2_0": q2_0,
}
