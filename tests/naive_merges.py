"""Every method of merging the obvious way: whole tensors in float64, nothing rounded, sorted where ranks matter."""

import numpy as np


def kept_largest(x, density):
    """The largest share, at least one value; of equal ones the first."""
    mask = np.zeros(x.size)
    mask[np.argsort(-np.abs(x).ravel(), kind="stable")[: max(1, int(density * x.size))]] = 1
    return x * mask.reshape(x.shape)


def kept_middling(x, density, gamma):
    """The share below the largest `gamma`."""
    target = int(density * x.size)
    below = max(0, x.size - target - int(gamma * x.size))
    mask = np.zeros(x.size)
    mask[np.argsort(np.abs(x).ravel(), kind="stable")[below : below + target]] = 1
    return x * mask.reshape(x.shape)


def tasks(base, thinned, weights, vote, normalize):
    """Weighted differences together, of the sign that their sum has if there is a vote."""
    tasks = [task * weight for task, weight in zip(thinned, weights, strict=True)]
    total, divisor = sum(tasks), sum(weights)
    if vote:
        positive = total >= 0
        elected = [np.where(positive, task > 0, task < 0) for task in tasks]
        total = sum(np.where(mask, task, 0) for mask, task in zip(elected, tasks, strict=True))
        divisor = sum(mask * weight for mask, weight in zip(elected, weights, strict=True))
        divisor = np.where(divisor == 0, 1, divisor)
    return base + (total / divisor if normalize else total)


def linear(models, weights):
    return sum(m * w for m, w in zip(models, weights, strict=True)) / sum(weights)


def angle_of(a, b):
    return np.arccos(np.clip((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()), -1, 1))


def slerp(a, b, t):
    angle = angle_of(a, b)
    if abs(np.cos(angle)) > 0.9995:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def nuslerp_rows(a, b, t):
    return np.stack([slerp_always(x, y, t) for x, y in zip(a, b, strict=True)])


def slerp_always(a, b, t):
    angle = angle_of(a, b)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def multislerp(models, weights):
    weights = np.array(weights) / sum(weights)
    norms = [np.sqrt((m * m).sum()) for m in models]
    units = [m / n for m, n in zip(models, norms, strict=True)]
    mean = sum(u * w for u, w in zip(units, weights, strict=True))
    mean /= np.sqrt((mean * mean).sum())
    inside = sum((u - (u * mean).sum() * mean) * w for u, w in zip(units, weights, strict=True))
    length = np.sqrt((inside * inside).sum())
    there = mean * np.cos(length) + inside * np.sin(length) / length
    return there * sum(n * w for n, w in zip(norms, weights, strict=True))


def karcher(models, steps, tolerance=1e-5):
    norms = [np.sqrt((m * m).sum()) for m in models]
    units = [m / n for m, n in zip(models, norms, strict=True)]
    mean = sum(units)
    mean /= np.sqrt((mean * mean).sum())
    for _ in range(steps):
        tangent = np.zeros_like(mean)
        for unit in units:
            dot = np.clip((mean * unit).sum(), -1, 1)
            if np.arccos(dot) >= tolerance:
                tangent += np.arccos(dot) / np.sin(np.arccos(dot)) * (unit - dot * mean) / len(units)
        length = np.sqrt((tangent * tangent).sum())
        if length < tolerance:
            break
        mean = np.cos(length) * mean + np.sin(length) * tangent / length
        mean /= np.sqrt((mean * mean).sum())
    return mean * np.mean(norms)


def sce(base, models, share):
    tasks = np.stack([m - base for m in models])
    if share < 1:
        variance = tasks.var(axis=0)
        kept = int(np.count_nonzero(variance) * share)
        mask = np.zeros(variance.size)
        mask[np.argsort(-variance.ravel(), kind="stable")[:kept]] = 1
        tasks = tasks * mask.reshape(variance.shape)
    means = (tasks**2).reshape(len(tasks), -1).mean(axis=1)
    weights = np.full(len(tasks), 1 / len(tasks)) if means.sum() < 1e-6 else means / means.sum()
    elected = np.where(tasks.sum(axis=0) >= 0, tasks > 0, tasks < 0)
    shares = weights.reshape(-1, *([1] * base.ndim)) * elected
    return base + (tasks * shares).sum(axis=0) / np.maximum(shares.sum(axis=0), 1e-6)


def model_stock(base, models, by_row):
    axes = -1 if by_row else None
    offsets = [m - base for m in models]
    cosines = [
        (a * b).sum(axis=axes) / np.sqrt((a * a).sum(axis=axes) * (b * b).sum(axis=axes))
        for n, a in enumerate(offsets)
        for b in offsets[n + 1 :]
    ]
    cosine, count = np.mean(cosines, axis=0), len(models)
    t = np.asarray(count * cosine / (1 + (count - 1) * cosine))
    t = t[..., None] if t.ndim else t
    return t * np.mean(models, axis=0) + (1 - t) * base


def nearswap(base, other, t):
    weight = np.clip(t / np.maximum(np.abs(base - other), 1e-6), 0, 1)
    return weight * other + (1 - weight) * base


def arcee_fusion(base, other):
    def softmax(x):
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True) + 1e-8

    p, q = softmax(other), softmax(base)
    importance = np.abs(other - base) * (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    low, median, high = np.sort(importance.ravel())[[int(s * (importance.size - 1)) for s in (0.25, 0.5, 0.75)]]
    return np.where(importance >= median + 1.5 * (high - low), other, base)


def ram(base, models, epsilon, rate=0.0, most=0.0):
    tasks = [m - base for m in models]
    changed = [np.abs(task) > epsilon for task in tasks]
    count = np.sum(changed, axis=0)
    total = np.zeros_like(base)
    for task, own in zip(tasks, changed, strict=True):
        shared, alone = (own & (count > 1)).sum(), (own & (count == 1)).sum()
        scale = 1 + rate * min(shared / max(alone, epsilon), most)
        total += np.where(own & (count == 1), task * scale, 0) + np.where(
            own & (count > 1), task / np.maximum(count, 1), 0
        )
    return base + total
