"""ggml's types with codebooks (IQ1, IQ2, IQ3), 256 values at a time in plain numpy: slow, obvious twins."""

import numpy as np

from requant.kernels_cpu.ggml_grids import grid_of
from tests.naive_blocks import F, half, nearest, total
from tests.naive_levels import packed, words


class Lattice:
    """One codebook and ggml's search in it."""

    def __init__(self, label, length, candidates, step, shells, again):
        grid = grid_of(label)
        places = np.arange(grid.dimensions)
        self.points = (grid.codes[:, None] >> grid.bits * places & (1 << grid.bits) - 1).astype(int)
        self.top = self.points.max()
        self.length, self.shells, self.again = length, shells, again
        self.candidates = [F(2 * self.top + 1) + F(i) * F(step) for i in range(-(candidates // 2), candidates // 2 + 1)]

    def rounded(self, x, roots, scale):
        """Index of the point for every group of values, and whether rounding gave it."""
        found, inside = [], []
        size = self.points.shape[1]
        for k in range(0, len(x), size):
            part = x[k : k + size]
            levels = np.clip(nearest(F(0.5) * (scale[1] * part - F(1))), 0, self.top)
            distances = ((self.points - levels) ** 2).sum(1)
            near = np.argsort(distances, kind="stable")
            inside.append(distances[near[0]] == 0)
            if not inside[-1]:
                shells = np.unique(distances)[: self.shells]
                near = near[distances[near] <= shells[-1]]
                gaps = scale[0] * (2 * self.points[near] + 1).astype(F) - part
                costs = np.cumsum(roots[k : k + size] * gaps * gaps, axis=1, dtype=F)[:, -1]
                found.append(near[np.argmin(costs)])
            else:
                found.append(near[0])
        return np.array(found), np.array(inside)

    def fit(self, x, w, found):
        q = (2 * self.points[found].reshape(-1) + 1).astype(F)
        return total(w * x * q), total(w * q * q)

    def search(self, x, w, divisor, scale):
        """The scale of one group and the points of its values."""
        roots, best, chosen = np.sqrt(w), F(0), np.zeros(self.length // self.points.shape[1], int)
        inside = np.full(len(chosen), self.again != "all")
        for numerator in self.candidates:
            inverse = numerator / divisor
            found, on = self.rounded(x, roots, (F(1) / inverse, inverse))
            qx, q2 = self.fit(x, w, found)
            if q2 > 0 and qx * qx > best * q2:
                scale, chosen, inside = qx / q2, found, on
                best = scale * qx
        if scale > 0 and (self.again == "always" or not inside.all()):
            found, _ = self.rounded(x, roots, (scale, F(1) / scale))
            chosen = np.where(inside, chosen, found) if self.again == "outside" else found
            qx, q2 = self.fit(x, w, chosen)
            scale = qx / q2 if q2 > 0 else scale
        return scale, chosen


LATTICES = {
    "IQ2_XXS": Lattice("IQ2_XXS", 32, 13, 0.1, 2, "always"),
    "IQ2_XS": Lattice("IQ2_XS", 16, 19, 0.1, 2, "outside"),
    "IQ2_S": Lattice("IQ2_S", 16, 19, 0.1, 1, "outside"),
    "IQ3_XXS": Lattice("IQ3_XXS", 32, 31, 0.2, 2, "outside"),
    "IQ3_S": Lattice("IQ3_S", 32, 19, 0.2, 3, "all"),
    "IQ1": Lattice("IQ1_S", 32, 1, 0, 3, ""),
}


def lattice(label, x, w, even, smallest):
    """Scales, 4-bit steps, points and signs of all groups of a block (no points for a group that is nothing)."""
    kind, double = LATTICES[label], F(1 if label in ("IQ2_XS", "IQ2_XXS") else 2)
    sigma2 = double * total(x * x) / F(256)
    plain = F(0.25) * sigma2 + x * x if label == "IQ2_S" else x * x
    weights = plain if w is None else w * np.sqrt(sigma2 + x * x)
    sizes, signs = abs(x), (x < 0).reshape(-1, 8)
    for k in range(32 if even else 0):
        if signs[k].sum() % 2:
            least = 8 * k + np.argmin((weights * x * x)[8 * k : 8 * k + 8])
            sizes[least], signs[k, least % 8] = -sizes[least], not signs[k, least % 8]
    scales, points = [], []
    for k in range(0, 256, kind.length):
        group, peak = sizes[k : k + kind.length], max(sizes[k : k + kind.length])
        own = weights[k : k + kind.length]
        start, divisor = peak / F(2 * kind.top + 1), peak
        if label == "IQ2_XXS":
            start = positive_scale(group, own)
            divisor = start * F(3)
        if peak < smallest or not divisor > 0:
            scales.append(F(0)), points.append(None)
            continue
        scale, found = kind.search(group, own, divisor, start)
        if scale < 0:
            signs[k // 8 : (k + kind.length) // 8] ^= True
        scales.append(abs(scale)), points.append(found)
    scales = np.array(scales, F)
    inverse = F(1) / (max(scales) / F(31))
    steps = np.clip(nearest(F(0.5) * (inverse * scales - F(1))), 0, 15)
    return scales, steps, points, np.packbits(signs, axis=1, bitorder="little").reshape(-1).astype(int)


def positive_scale(x, w):
    """ggml's make_qp_quants: codes 0 to 4, kept in bytes, so that those of negative numbers wrap around."""
    top = max(max(x), F(0))
    if top < F(1e-15):
        return F(0)

    def codes(inverse):
        return np.minimum(nearest(inverse * x), 4)

    inverse = F(4) / top
    errors = x - F(1) / inverse * (nearest(inverse * x) & 255).astype(F)
    best = total(w * errors * errors)
    for step in (-4, -3, -2, -1, 1, 2, 3, 4):
        trial = (F(0.1) * F(step) + F(4)) / top
        errors = x - F(1) / trial * codes(trial).astype(F)
        if total(w * errors * errors) < best:
            best, inverse = total(w * errors * errors), trial
    kept = codes(inverse)
    lx, l2 = total(w * x * kept.astype(F)), total(w * kept.astype(F) * kept.astype(F))
    kept = kept & 255
    for _ in range(5):
        for i, (v, number) in enumerate(zip(w, x, strict=True)):
            old = F(kept[i])
            slx, sl2 = lx - v * number * old, l2 - v * old * old
            if slx > 0 and sl2 > 0:
                new = min(4, int(nearest(number * sl2 / slx)))
                slx, sl2 = slx + v * number * F(new), sl2 + v * F(new) * F(new)
                if new != kept[i] and slx * slx * l2 > lx * lx * sl2:
                    kept[i], lx, l2 = new & 255, slx, sl2
    return lx / l2 if l2 > 0 else F(0)


def filled(points, size):
    return np.concatenate([np.zeros(size, int) if p is None else p for p in points])


def silent(signs, points):
    """Signs of groups that are nothing are not stored."""
    return np.where(np.repeat([p is None for p in points], len(signs) // len(points)), 0, signs)


def iq3_xxs(x, w):
    scales, steps, points, signs = lattice("IQ3_XXS", x, w, True, F(1e-8))
    if not scales.any():
        return np.zeros(98, np.uint8)
    signs = silent(signs & 127, points).reshape(8, 4)
    tails = [
        sum(int(s) << 7 * i for i, s in enumerate(four)) | int(t) << 28 for four, t in zip(signs, steps, strict=True)
    ]
    return packed([half(max(scales) / F(31) * F(1.0125))[0], filled(points, 8), words(tails, 4)])


def iq2_xxs(x, w):
    scales, steps, points, signs = lattice("IQ2_XXS", x, w, True, F(1e-15))
    if not scales.any():
        return np.zeros(66, np.uint8)
    tails = (silent(signs & 127, points).reshape(8, 4) << [0, 7, 14, 21]).sum(1) | steps.astype(int) << 28
    found = np.concatenate([filled(points, 4).reshape(8, 4), words(tails, 4).reshape(8, 4)], axis=1)
    return packed([half(max(scales) / F(31))[0], found])


def iq2_xs(x, w):
    scales, steps, points, signs = lattice("IQ2_XS", x, w, True, F(1e-15))
    if not scales.any():
        return np.zeros(74, np.uint8)
    stored = filled(points, 2) | silent(signs & 127, points) << 9
    return packed([half(max(scales) / F(31))[0], words(stored, 2), steps[::2] | steps[1::2] << 4])


def iq2_s(x, w):
    scales, steps, points, signs = lattice("IQ2_S", x, w, False, F(1e-8))
    found = filled(points, 2)
    high = ((found >> 8).reshape(8, 4) << [0, 2, 4, 6]).sum(1)
    any_scale = scales.any()
    head = half(max(scales) / F(31) * F(0.9875))[0] if any_scale else [0, 0]
    tail = steps[::2] | steps[1::2] << 4 if any_scale else [0] * 8
    return packed([head, found & 255, silent(signs, points), high, tail])


def iq3_s(x, w):
    """With the reference's slip: codes and signs of a group of zeros are left out, not left empty."""
    scales, steps, points, signs = lattice("IQ3_S", x, w, False, F(0))
    found = filled(points, 8)
    high = ((found >> 8).reshape(8, 8) << np.arange(8)).sum(1)
    some = [k for k in range(8) if points[k] is not None]
    low = np.zeros((8, 8), int)
    low[: len(some)] = found.reshape(8, 8)[some] & 255
    moved = np.zeros((8, 4), int)
    moved[: len(some)] = signs.reshape(8, 4)[some]
    head = half(max(scales) / F(31) * F(1.033))[0] if scales.any() else [0, 0]
    tail = steps[::2] | steps[1::2] << 4 if scales.any() else [0] * 4
    return packed([head, low, high, moved, tail])


# Codebooks of one bit

UP, DOWN = np.array([-0.875, 0.125, 1.125], F), np.array([-1.125, -0.125, 0.875], F)


def cut(x, weights, halves):
    """Scale, levels and shifts of a group: the best of all cuts of its sorted values into three.

    With `halves` each half of the group has a shift of its own, and sums of its own.
    """
    order, size = np.argsort(x, kind="stable"), len(x)
    parts = [order < size // 2, order >= size // 2] if halves else [order < size]
    runs = [
        [np.concatenate([[F(0)], np.cumsum(np.where(mine, t[order], F(0)), dtype=F)]) for t in (weights * x, weights)]
        for mine in parts
    ]
    best, found = F(-np.finfo(F).max), None
    for i in range(size + 1):
        for j in range(i, size + 1):
            for downs in np.ndindex(*[2] * len(parts)):
                shifts = [DOWN if down else UP for down in downs]
                sums = [part_sums(sx, sw, i, j, q, halves) for (sx, sw), q in zip(runs, shifts, strict=True)]
                qx, q2 = (sums[0][k] + sums[1][k] if halves else sums[0][k] for k in (0, 1))
                if q2 > 0 and qx * qx > best * q2:
                    best, found = qx / q2 * qx, (qx / q2, i, j, downs)
    if found is None:
        return None
    scale, i, j, downs = found
    levels = np.empty(size, int)
    levels[order] = np.repeat([0, 1, 2], [i, j - i, size - j])
    return (-scale, 2 - levels, [1 - d for d in downs]) if scale < 0 else (scale, levels, list(downs))


def part_sums(sx, sw, i, j, q, halves):
    """sum of w * x * q and of w * q * q, each in the order in which the reference adds."""
    if halves:
        first, second = q[0] * q[0] - q[1] * q[1], q[1] * q[1] - q[2] * q[2]
        return sx[-1] * q[2] - (sx[i] + sx[j]), sw[-1] * q[2] * q[2] + sw[i] * first + sw[j] * second
    qx = sx[i] * q[0] + (sx[j] - sx[i]) * q[1] + (sx[-1] - sx[j]) * q[2]
    return qx, sw[i] * q[0] * q[0] + (sw[j] - sw[i]) * q[1] * q[1] + (sw[-1] - sw[j]) * q[2] * q[2]


def one_bit(x, weights, smallest, halves):
    """Scale, index of each eight's point, and shifts; nothing for a group that is nothing."""
    grid = LATTICES["IQ1"]
    made = cut(x, weights, halves) if max(abs(x)) >= smallest else None
    if made is None:
        return F(0), np.zeros(len(x) // 8, int), [0] * (2 if halves else 1)
    scale, levels, downs = made
    found, inside = [], True
    for k in range(len(x) // 8):
        q, part, v = DOWN if downs[k if halves else 0] else UP, x[8 * k : 8 * k + 8], weights[8 * k : 8 * k + 8]
        distances = ((grid.points - levels[8 * k : 8 * k + 8]) ** 2).sum(1)
        near = np.argsort(distances, kind="stable")
        if distances[near[0]]:
            inside, near = False, near[distances[near] <= np.unique(distances)[grid.shells - 1]]
            gaps = scale * q[grid.points[near]] - part
            near = near[[np.argmin(np.cumsum(v * gaps * gaps, axis=1, dtype=F)[:, -1])]]
        found.append(near[0])
    if not inside:
        q = np.concatenate([(DOWN if downs[k if halves else 0] else UP)[grid.points[i]] for k, i in enumerate(found)])
        qx, q2 = total(weights * q * x), total(weights * q * q)
        scale = qx / q2 if qx > 0 and q2 > 0 else scale
    return scale, np.array(found), downs


def iq1_s(x, w):
    weights = w * np.sqrt(F(2) * total(x * x) / F(256) + x * x)
    groups = [one_bit(x[k : k + 32], weights[k : k + 32], F(1e-12), False) for k in range(0, 256, 32)]
    scales, points = np.array([g[0] for g in groups], F), np.array([g[1] for g in groups])
    high = ((points >> 8) << [0, 3, 6, 9]).sum(1)
    d = max(scales) / F(15)
    if d > 0:
        steps = np.clip(nearest(F(0.5) * (F(1) / d * scales - F(1))), 0, 7)
        high |= (steps | 8 * np.array([g[2][0] for g in groups])) << 12
    return packed([half(d * F(1.125))[0], points & 255, words(high, 2)])


def iq1_m(x, w):
    weights = x * x if w is None else w * np.sqrt(F(2) * total(x * x) / F(256) + x * x)
    groups = [one_bit(x[k : k + 16], weights[k : k + 16], F(1e-7), True) for k in range(0, 256, 16)]
    scales, points = np.array([g[0] for g in groups], F), np.array([g[1] for g in groups])
    high = points[:, 0] >> 8 | points[:, 1] >> 8 << 4
    if not scales.any():
        return packed([points & 255, high, [0] * 8])
    d = max(scales) / F(15)
    steps = np.clip(nearest(F(0.5) * (F(1) / d * scales - F(1))), 0, 7)
    high |= np.array([down[1] << 7 | down[0] << 3 for _, _, down in groups])
    levels = LATTICES["IQ1"].points[points]
    ladders = np.array([[(DOWN if d else UP) for d in down] for _, _, down in groups])
    q = (np.take_along_axis(ladders, levels, 2) * (2 * steps + 1).astype(F)[:, None, None]).reshape(-1)
    qx, q2 = total(weights * q * x), total(weights * q * q)
    bits = int.from_bytes(half((qx / q2 if q2 > 0 else d) * F(1.1125))[0].tobytes(), "little")
    packs = (steps.reshape(4, 4) << [0, 3, 6, 9]).sum(1) | (bits >> 4 * np.arange(4) & 15) << 12
    return packed([points & 255, high, words(packs, 2)])


#: label -> (256 values, their importance or None) -> bytes
ENCODE = {
    "IQ1_S": iq1_s,
    "IQ1_M": iq1_m,
    "IQ2_XXS": iq2_xxs,
    "IQ2_XS": iq2_xs,
    "IQ2_S": iq2_s,
    "IQ3_XXS": iq3_xxs,
    "IQ3_S": iq3_s,
}
