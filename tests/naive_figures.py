"""What numbers are like, the obvious way: all of them at once, in float64."""

import numpy as np


def figures(values):
    """By the names of `requant.inspection.figures.Figures`, without the histogram."""
    values = np.asarray(values, np.float32).ravel()
    finite = values[np.isfinite(values)].astype(np.float64)
    found = {"nan": int(np.isnan(values).sum()), "inf": int(np.isinf(values).sum()), "count": finite.size}
    if not finite.size:
        return found | {"zeros": 0, "outliers": 0}
    mean = finite.mean()
    apart = finite - mean
    std = np.sqrt((apart**2).mean())
    kurtosis = (apart**4).mean() / std**4 - 3 if finite.min() < finite.max() else np.nan
    low, high = beyond(mean - 6 * std, -1), beyond(mean + 6 * std, 1)
    short = truncated(finite)
    outliers = (below(finite, short, low) | ~below(finite, short, high)).sum()
    return found | {
        "least": finite.min(),
        "largest": finite.max(),
        "mean": mean,
        "std": std,
        "kurtosis": kurtosis,
        "zeros": int((finite == 0).sum()),
        "outliers": int(outliers),
    }


def truncated(values):
    """Without the lower half of a float32: what is left is a BF16 number, nearer to zero."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def below(values, short, bound):
    """Whether each lies below a BF16 number; one that is negative, and whose BF16 number that is, does."""
    return np.where(np.signbit(values + 0.0), short <= bound, short < bound)


def beyond(value, direction):
    """The first BF16 number that is above a number, or below it."""
    grid = np.arange(0x7F81, dtype=np.uint32) << np.uint32(16)
    numbers = np.unique(np.concatenate((-grid.view(np.float32), grid.view(np.float32)))).astype(np.float64)
    return numbers[numbers > value][0] if direction > 0 else numbers[numbers < value][-1]
