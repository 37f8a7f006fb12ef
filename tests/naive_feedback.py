"""GPTQ as its paper has it, one column after another, in double precision: no blocks, no lanes, no factor kept."""

import numpy as np


def inverse_factor(hessian, damping):
    """The upper Cholesky factor of the inverse, from the inverse itself."""
    hessian = hessian.astype(np.float64)
    damped = hessian + damping * np.diagonal(hessian).mean() * np.eye(len(hessian))
    return np.linalg.cholesky(np.linalg.inv(damped)).T


def rounded(values, factor, grid_at):
    """Codes; grid_at(column, weights as they are now) -> (step, base, top) of each row for that column."""
    weights = values.astype(np.float64).copy()
    codes = np.empty(values.shape, np.uint8)
    for i in range(values.shape[1]):
        step, base, top = grid_at(i, weights)
        code = np.clip(np.rint((weights[:, i] - base) / step), 0, top)
        codes[:, i] = code
        error = (weights[:, i] - (code * step + base)) / factor[i, i]
        weights[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    return codes


def range_grid(size, bits, symmetric):
    """Scales of groups from their smallest and largest value when their first column comes, as the first GPTQ."""
    held = {}

    def grid_at(column, weights):
        if column % size == 0:
            group = weights[:, column : column + size]
            low, high = np.minimum(group.min(1), 0), np.maximum(group.max(1), 0)
            if symmetric:
                high = np.maximum(-low, high)
                low = -high
            top = 2**bits - 1
            step = (high - low) / top
            zero = np.full(len(step), 2 ** (bits - 1)) if symmetric else np.rint(-low / step)
            held["grid"] = step, -zero * step, top
        return held["grid"]

    return grid_at


def rounded_to(values, factor, levels, steps_at):
    """The same for codes that are any numbers, ties aside; steps_at(column, weights as they are now) -> step of each
    row. Gives what is stored for each weight, in steps, and the steps [rows, columns]."""
    weights = values.astype(np.float64).copy()
    stored, steps = np.empty(values.shape), np.empty(values.shape)
    for i in range(values.shape[1]):
        steps[:, i] = steps_at(i, weights)
        scaled = weights[:, i] / steps[:, i]
        stored[:, i] = levels[np.abs(scaled[:, None] - levels).argmin(1)]
        error = (weights[:, i] - stored[:, i] * steps[:, i]) / factor[i, i]
        weights[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    return stored, steps
