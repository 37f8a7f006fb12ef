"""The classic block types of ggml, one block at a time in plain numpy: slow, obvious twins of the kernels.

Sums are `np.cumsum`, which adds in order, in float32, as the reference does.
"""

import numpy as np

F = np.float32


def total(terms):
    """Their sum, in order."""
    return np.cumsum(terms, dtype=F)[-1]


def nearest(x):
    """To the nearest integer, ties to even, by the reference's way with the bits."""
    return ((np.asarray(x, F) + F(12582912)).view(np.int32) & 0x7FFFFF) - 0x400000


def half(x):
    """A number rounded to a half: its bytes and its value."""
    bits = np.asarray(x, np.float16)
    return np.frombuffer(bits.tobytes(), np.uint8), F(bits)


def nibbles(codes):
    """32 codes as the low and high halves of 16 bytes."""
    return codes[:16] & 15 | (codes[16:] & 15) << 4


def pairs(codes):
    """256 two-bit codes as 64 bytes."""
    parts = codes.reshape(2, 4, 32)
    return (parts[:, 0] | parts[:, 1] << 2 | parts[:, 2] << 4 | parts[:, 3] << 6).reshape(-1)


# Searches: of the scale of one group


def affine(x, w, top, first, step, tries, absolute):
    """Scale, minimum and codes with the least weighted error."""
    low, high = min(x), max(x)
    low = F(0) if low > 0 else low
    if high <= low:
        return F(0), low, np.zeros(len(x), int)

    def attempt(wanted):
        inverse = wanted / (high - low)
        return inverse, np.clip(nearest(inverse * (x - low)), 0, top)

    def error(scale, minimum, codes):
        gap = scale * codes.astype(F) + minimum - x
        return total(w * (abs(gap) if absolute else gap * gap))

    sum_w, sum_x = total(w), total(w * x)
    inverse, best_codes = attempt(F(top))
    scale = F(1) / inverse
    best = error(scale, low, best_codes)
    for k in range(tries + 1):
        _, codes = attempt(F(first) + F(step) * F(k) + F(top))
        numbers = codes.astype(F)
        sum_l, sum_l2, sum_xl = total(w * numbers), total(w * numbers * numbers), total(w * numbers * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        if determinant > 0:
            this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
            this_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
            if this_low > 0:
                this_low, this_scale = F(0), sum_xl / sum_l2
            here = error(this_scale, this_low, codes)
            if here < best:
                best, best_codes, scale, low = here, codes, this_scale, this_low
    return scale, low, best_codes


def extreme(x):
    """The first of the numbers whose size is largest; NaN has none, and of zeros it is +0."""
    sizes = np.where(np.isnan(x), F(0), abs(x))
    return x[np.argmax(sizes)] if max(sizes) > 0 else F(0)


def signed(x, w, top):
    """Scale and codes, which are 0..2 * top - 1 and stand for themselves minus top."""
    if abs(extreme(x)) < F(1e-15):
        return F(0), np.zeros(len(x), int)
    scale, best, best_codes = F(0), F(0), None
    for k in (0, *range(-9, 0), *range(1, 10)):
        inverse = -(F(top) + F(0.1) * F(k)) / extreme(x)
        codes = np.clip(nearest(inverse * x), -top, top - 1)
        numbers = codes.astype(F)
        sum_lx, sum_l2 = total(w * x * numbers), total(w * numbers * numbers)
        if k == 0:
            scale = sum_lx / sum_l2 if sum_l2 else F(0)
            best, best_codes = scale * sum_lx, codes
        elif sum_l2 > 0 and sum_lx * sum_lx > best * sum_l2:
            scale = sum_lx / sum_l2
            best, best_codes = scale * sum_lx, codes
    return scale, best_codes + top


def descending(x, top):
    """The same by improving one code after another, up to five rounds."""
    if abs(extreme(x)) < F(1e-15):
        return F(0), np.zeros(len(x), int)
    codes = np.clip(nearest(F(-top) / extreme(x) * x), -top, top - 1)
    w = x * x
    sum_lx, sum_l2 = total(w * x * codes.astype(F)), total(w * codes.astype(F) * codes.astype(F))
    for _ in range(5):
        before = codes.copy()
        for i in range(len(x)):
            lx, l2 = sum_lx - w[i] * x[i] * F(codes[i]), sum_l2 - w[i] * F(codes[i]) * F(codes[i])
            if lx > 0:
                other = np.clip(nearest(x[i] * l2 / lx), -top, top - 1)
                lx, l2 = lx + w[i] * x[i] * F(other), l2 + w[i] * F(other) * F(other)
                if other != codes[i] and l2 > 0 and lx * lx * sum_l2 > sum_lx * sum_lx * l2:
                    codes[i], sum_lx, sum_l2 = other, lx, l2
        if (codes == before).all():
            break
    return (sum_lx / sum_l2 if sum_l2 > 0 else F(0)), codes + top


def positive(x, w, top):
    """Scale and codes 0..top of numbers that are not negative."""
    if max(x) < F(1e-15):
        return F(0), np.zeros(len(x), int)
    inverse = F(top) / max(x)
    gap = x - F(1) / inverse * (nearest(inverse * x) & 255).astype(F)
    best = total(w * gap * gap)
    for k in (*range(-4, 0), *range(1, 5)):
        candidate = (F(0.1) * F(k) + F(top)) / max(x)
        gap = x - F(1) / candidate * np.minimum(nearest(candidate * x), top).astype(F)
        here = total(w * gap * gap)
        if here < best:
            best, inverse = here, candidate
    first = np.minimum(nearest(inverse * x), top)
    codes = first & 255
    sum_lx, sum_l2 = total(w * x * first.astype(F)), total(w * first.astype(F) * first.astype(F))
    for _ in range(5):
        changed = False
        for i in range(len(x)):
            lx, l2 = sum_lx - w[i] * x[i] * F(codes[i]), sum_l2 - w[i] * F(codes[i]) * F(codes[i])
            if lx > 0 and l2 > 0:
                other = min(nearest(x[i] * l2 / lx), top)
                if other != codes[i]:
                    lx, l2 = lx + w[i] * x[i] * F(other), l2 + w[i] * F(other) * F(other)
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2:
                        codes[i], sum_lx, sum_l2, changed = other & 255, lx, l2, True
        if not changed:
            break
    return (sum_lx / sum_l2 if sum_l2 > 0 else F(0)), codes


# Types of one scale per 32 values


def legacy(x, bits, offset, w=None, row=None):
    """Q4_0 (4 bits), Q5_0 (5 bits) and, with an offset, Q4_1 and Q5_1."""
    top = 1 << bits - 1
    if w is not None:
        w = w * np.sqrt(total(row * row) / F(len(row)) + x * x)
    if offset:
        if w is not None:
            d, low, codes = affine(x, w, 2 * top - 1, -0.9, 0.05, 36, False)
        else:
            low = x[np.argmin(x)]
            d = (x[np.argmax(x)] - low) / F(2 * top - 1)
            inverse = F(1) / d if d else F(0)
            codes = np.minimum(in_a_byte((x - low) * inverse + F(0.5)), 2 * top - 1)
        head = [half(d)[0], half(low)[0]]
    else:
        if w is not None:
            d, codes = signed(x, w, top)
        else:
            d = extreme(x) / F(-top)
            inverse = F(1) / d if d else F(0)
            codes = np.minimum(in_a_byte(x * inverse + F(top + 0.5)), 2 * top - 1)
        head = [half(d)[0]]
    if bits == 5:
        head.append(np.packbits(codes >> 4 & 1, bitorder="little"))
    return np.concatenate([*head, nibbles(codes)]).astype(np.uint8)


def in_a_byte(x):
    """Towards zero; what no byte holds is 0, as x86 converts."""
    return np.where(abs(x) < 128, np.trunc(x), 0).astype(int)


def q8_0(x):
    d = max(abs(x)) / F(127)
    scaled = x * (F(1) / d if d else F(0))
    whole = np.trunc(scaled)
    away = whole + np.copysign(abs(scaled - whole) >= 0.5, scaled)
    return np.concatenate([half(d)[0], in_a_byte(away).astype(np.int8).view(np.uint8)])


# Super-blocks of 256 values


def variance(x, factor, w):
    """The weights of the types with an importance."""
    return w * np.sqrt(F(factor) * total(x * x) / F(256) + x * x)


def rounded(group, step, low, own, bottom, top):
    """Final codes by the stored scale; the search's own where that is zero."""
    return own if step == 0 else np.clip(nearest((group + low) / step), bottom, top) - bottom


def six_bits(scales, minima):
    """Eight scales and minima as 12 bytes, and as they are read again."""
    high = scales[4:] >> 4
    packed = np.concatenate(
        [scales[:4] | high << 6, minima[:4] | minima[4:] >> 4 << 6, scales[4:] & 15 | (minima[4:] & 15) << 4]
    ).astype(np.uint8)
    low, mid, last = packed[:4], packed[4:8], packed[8:]
    return packed, np.r_[low & 63, last & 15 | low >> 6 << 4], np.r_[mid & 63, last >> 4 | mid >> 6 << 4]


def q4_q5_k(x, bits, w=None):
    top, groups = (1 << bits) - 1, x.reshape(8, 32)
    if w is None:
        search = (-1, 0.1, 20, False) if bits == 4 else (-0.5, 0.1, 15, False)
        weights = [np.sqrt(total(g * g) / F(32)) + abs(g) for g in groups]
    else:
        search, weights = (-0.9, 0.05, 36, False), variance(x, 2, w).reshape(8, 32)
    found = [affine(g, v, top, *search) for g, v in zip(groups, weights, strict=True)]
    scales, minima = np.array([f[0] for f in found]), np.array([-f[1] for f in found])
    if w is None:
        high, low_high = max(F(0), *scales), max(F(0), *minima)
        s = np.minimum(nearest((F(63) / high if high > 0 else F(0)) * scales) & 255, 63)
        m = np.minimum(nearest((F(63) / low_high if low_high > 0 else F(0)) * minima) & 255, 63)
        d, dmin = high / F(63), low_high / F(63)
    else:
        sums = np.array([total(v) for v in weights])
        (d, s), (dmin, m) = positive(scales, sums, 63), positive(minima, sums, 63)
    (dbytes, d), (mbytes, dmin) = half(d), half(dmin)
    packed, s, m = six_bits(s, m)
    codes = np.stack([rounded(groups[k], d * F(s[k]), dmin * F(m[k]), found[k][2], 0, top) for k in range(8)])
    low = codes[::2] & 15 | (codes[1::2] & 15) << 4
    high_bits = [np.bitwise_or.reduce((codes >> 4) << np.arange(8)[:, None], 0)] if bits == 5 else []
    return np.concatenate([dbytes, mbytes, packed, *high_bits, low.reshape(-1)]).astype(np.uint8)


def q2_k(x, w=None):
    groups = x.reshape(16, 16)
    search = (-0.5, 0.1, 15, True) if w is None else (-0.9, 0.05, 36, False)
    weights = abs(groups) if w is None else variance(x, 1, w).reshape(16, 16)
    found = [affine(g, v, 3, *search) for g, v in zip(groups, weights, strict=True)]
    scales, minima = np.array([f[0] for f in found]), np.array([-f[1] for f in found])
    if w is None:
        high, low_high = max(F(0), *scales), max(F(0), *minima)
        s = nearest((F(15) / high if high > 0 else F(0)) * scales)
        m = nearest((F(15) / low_high if low_high > 0 else F(0)) * minima)
        d, dmin = high / F(15), low_high / F(15)
    else:
        sums = np.array([total(v) for v in weights])
        (d, s), (dmin, m) = positive(scales, sums, 15), positive(minima, sums, 15)
    (dbytes, d), (mbytes, dmin) = half(d), half(dmin)
    packed = (s | m << 4) & 255
    codes = [rounded(groups[k], d * F(packed[k] & 15), dmin * F(packed[k] >> 4), found[k][2], 0, 3) for k in range(16)]
    return np.concatenate([packed, pairs(np.concatenate(codes)), dbytes, mbytes]).astype(np.uint8)


def q3_k(x, w=None):
    groups = x.reshape(16, 16)
    if w is None:
        found = [descending(g, 4) for g in groups]
        top = extreme(np.array([f[0] for f in found]))
        inverse = F(-32) / top if top else F(0)
        s = np.clip(nearest(inverse * np.array([f[0] for f in found])), -32, 31) + 32 if top else np.zeros(16, int)
        d = F(1) / inverse if top else F(0)
    else:
        weights = variance(x, 2, w).reshape(16, 16)
        found = [signed(g, v, 4) for g, v in zip(groups, weights, strict=True)]
        d, s = signed(np.array([f[0] for f in found]), np.array([total(v) for v in weights]), 32)
    dbytes, d = half(d)
    codes = np.concatenate([rounded(groups[k], d * F(s[k] - 32), F(0), found[k][1], -4, 3) for k in range(16)])
    high = np.bitwise_or.reduce((codes >> 2).reshape(8, 32) << np.arange(8)[:, None], 0)
    tops = s.reshape(4, 4) >> 4
    packed = np.concatenate([s[:8] & 15 | (s[8:] & 15) << 4, tops[0] | tops[1] << 2 | tops[2] << 4 | tops[3] << 6])
    return np.concatenate([high, pairs(codes & 3), packed, dbytes]).astype(np.uint8)


def q6_k(x, w=None):
    groups = x.reshape(16, 16)
    weights = groups * groups if w is None else w.reshape(16, 16)
    found = [signed(g, v, 32) for g, v in zip(groups, weights, strict=True)]
    scales = np.array([f[0] for f in found])
    top = extreme(scales)
    if abs(top) < F(1e-15):
        return np.zeros(210, np.uint8)
    inverse = F(-128) / top
    s = np.minimum(nearest(inverse * scales), 127)
    dbytes, d = half(F(1) / inverse)
    codes = np.stack([rounded(groups[k], d * F(s[k]), F(0), found[k][1], -32, 31) for k in range(16)])
    quarters = codes.reshape(2, 4, 32)
    low = np.stack([quarters[:, k] & 15 | (quarters[:, k + 2] & 15) << 4 for k in (0, 1)], 1)
    return np.concatenate([low.reshape(-1), pairs(codes.reshape(-1) >> 4), s & 255, dbytes]).astype(np.uint8)


#: label -> (256 values, their importance or None, the whole row) -> bytes
ENCODE = {
    "Q4_0": lambda x, w, row: _blocks(x, w, lambda b, v: legacy(b, 4, False, v, row)),
    "Q4_1": lambda x, w, row: _blocks(x, w, lambda b, v: legacy(b, 4, True, v, row)),
    "Q5_0": lambda x, w, row: _blocks(x, w, lambda b, v: legacy(b, 5, False, v, row)),
    "Q5_1": lambda x, w, row: _blocks(x, w, lambda b, v: legacy(b, 5, True, v, row)),
    "Q8_0": lambda x, w, row: _blocks(x, w, lambda b, v: q8_0(b)),
    "Q2_K": lambda x, w, row: q2_k(x, w),
    "Q3_K": lambda x, w, row: q3_k(x, w),
    "Q4_K": lambda x, w, row: q4_q5_k(x, 4, w),
    "Q5_K": lambda x, w, row: q4_q5_k(x, 5, w),
    "Q6_K": lambda x, w, row: q6_k(x, w),
}


def _blocks(x, w, encode):
    return np.concatenate([encode(x[k : k + 32], None if w is None else w[k : k + 32]) for k in range(0, len(x), 32)])


def encode(label, values, importance=None):
    """values: float32 [rows, columns], columns a multiple of 256; returns uint8 [rows, bytes]."""
    parts = []
    with np.errstate(all="ignore"):
        for row in values:
            for k in range(0, len(row), 256):
                w = None if importance is None else importance[k : k + 256]
                parts.append(ENCODE[label](row[k : k + 256], w, row))
    return np.concatenate(parts).reshape(len(values), -1)
