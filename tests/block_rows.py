"""Rows and importances that a quantizer may get wrong, for the suites of the block types."""

import numpy as np

_LARGEST = float(np.finfo(np.float32).max)


def _signs(rng, shape):
    return rng.integers(0, 2, shape) * 2 - 1


def _with(x, where, value):
    x[where] = value
    return x


#: kind -> (random generator, normal float32 numbers of size 0.02) -> values
_KINDS = {
    "normal": lambda rng, x: x,
    "outliers": lambda rng, x: np.where(rng.random(x.shape) < 0.004, x * 40, x),
    "heavy tails": lambda rng, x: rng.standard_t(2, x.shape),
    "sparse": lambda rng, x: np.where(rng.random(x.shape) < 0.95, 0, x),
    "every other zero": lambda rng, x: _with(x, np.s_[:, ::2], 0),
    "zeros": lambda rng, x: np.where(np.arange(x.shape[1]) // 256 % 3 == 1, x, 0 * _signs(rng, x.shape)),
    "minus zeros": lambda rng, x: np.where(rng.random(x.shape) < 0.9, np.float32(-0.0), abs(x)),
    "constant": lambda rng, x: np.repeat(x[:, ::32], 32, 1),
    "almost constant": lambda rng, x: np.repeat(x[:, ::32], 32, 1) * (1 + rng.integers(-2, 3, x.shape) * 2.0**-23),
    "far from zero": lambda rng, x: -60000 + rng.integers(0, 4, x.shape) * 2.0**-8,
    "one hot": lambda rng, x: _with(0 * x, (np.arange(len(x)), rng.integers(0, x.shape[1], len(x))), 0.7),
    "same size": lambda rng, x: 0.5 * _signs(rng, x.shape),
    "largest twice": lambda rng, x: np.clip(x, -0.02, 0.02),
    "positive": lambda rng, x: abs(x),
    "negative": lambda rng, x: -abs(x),
    "small": lambda rng, x: x * 1e-6,
    "tiny": lambda rng, x: x * 1e-18,
    "tinier": lambda rng, x: x * 1e-34,
    "around the least normal number": lambda rng, x: _signs(rng, x.shape) * 10.0 ** rng.uniform(-40, -36, x.shape),
    "subnormal": lambda rng, x: _signs(rng, x.shape) * rng.integers(0, 1 << 23, x.shape) * 2.0**-149,
    "a few subnormal steps": lambda rng, x: rng.integers(-3, 4, x.shape) * 2.0**-149,
    "edge of zero": lambda rng, x: _signs(rng, x.shape) * 10.0 ** rng.uniform(-17, -6, x.shape),
    "large": lambda rng, x: x * 1e9,
    "huge": lambda rng, x: x * 1e30,
    "largest numbers": lambda rng, x: (
        _signs(rng, x.shape) * np.finfo(np.float32).max * rng.choice([1, 0.5, 0.01], x.shape)
    ),
    "beyond halves": lambda rng, x: x * 1e8,
    "powers of two": lambda rng, x: _signs(rng, x.shape) * 2.0 ** rng.integers(-20, 12, x.shape),
    "ties": lambda rng, x: rng.integers(-24, 25, x.shape) * 0.5,
    "small integers": lambda rng, x: rng.integers(-2, 3, x.shape),
    "sizes by group": lambda rng, x: x * np.repeat(2.0 ** rng.integers(-30, 20, (len(x), x.shape[1] // 16)), 16, 1),
    "wide": lambda rng, x: _signs(rng, x.shape) * 10.0 ** rng.uniform(-37, 38, x.shape),
}
KINDS = tuple(_KINDS)


def rows(kind, rng, shape=(16, 1024)):
    """float32 [rows, columns]; columns a multiple of 256."""
    x = (rng.standard_normal(shape) * 0.02).astype(np.float32)
    return np.ascontiguousarray(_KINDS[kind](rng, x), np.float32)


IMPORTANCES = ("usual", "ones", "some zero", "zero", "wide", "tiny")


def importance(kind, rng, columns):
    """float32 [columns], as an importance matrix may have them."""
    w = rng.chisquare(1, columns)
    match kind:
        case "ones":
            w[:] = 1
        case "some zero":
            w[rng.random(columns) < 0.3] = 0
            w[:64] = 0
        case "zero":
            w[:] = 0
        case "wide":
            w = 10.0 ** rng.uniform(-8, 6, columns)
        case "tiny":
            w *= 1e-30
    return w.astype(np.float32)
