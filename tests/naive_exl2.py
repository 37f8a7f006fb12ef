"""EXL2 in plain numpy, one number at a time where that is clearest: what `kernels_cpu/exl2.py` must equal."""

import numpy as np


def unpacked(words, bits, rows):
    """Codes [rows, columns] of one group [words, columns]: a stream of bits down each column."""
    words = words.view(np.uint32)
    planes = (words[:, None, :] >> np.arange(32, dtype=np.uint32)[None, :, None] & 1).reshape(-1, words.shape[1])
    codes = planes.reshape(rows, bits, -1).astype(int)
    return (codes << np.arange(bits)[None, :, None]).sum(1)


def groups_of(q_groups, words):
    """(bits, rows, first row of words, end) of each group."""
    bits, starts = q_groups[::2].tolist(), q_groups[1::2].view(np.uint16).tolist()
    return [(b, (e - s) * 32 // b, s, e) for b, s, e in zip(bits, starts, [*starts[1:], words], strict=True)]


def dequantized(parts, outputs):
    """Weights [outputs, inputs] float16, every operation a half's."""
    h = np.float16
    rows = []
    for number, (bits, count, begin, end) in enumerate(groups_of(parts["q_groups"], len(parts["q_weight"]))):
        codes = unpacked(parts["q_weight"][begin:end], bits, count)
        words = parts["q_scale"].view(np.uint32)[number]
        steps = (words[:, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(-1) + 1
        most = h(parts["q_scale_max"][number]) * h(1 / 256)
        rows.append((codes - (1 << (bits - 1))).astype(h) * (np.square(steps).astype(h) * most))
    return np.concatenate(rows)[parts["q_invperm"], :outputs].T


def quantized_group(values, bits, weights):
    """Codes, steps and the largest scale of a group [rows, outputs]."""
    f = np.float32
    low, high = f(-(1 << (bits - 1))), f((1 << (bits - 1)) - 1)
    base = (np.abs(values).max(axis=0) + f(1e-12)) / f(((1 << bits) - 1) / 2)
    steps = np.clip(np.rint(f(16) * np.sqrt(base / base.max())), 1, 16).astype(f)
    scales = np.square(steps / f(16)) * base.max()
    best = None
    for k in range(97):
        factor = f(0.70) + f(0.50) * f(k) / f(96)
        scale = scales * factor
        errors = np.abs(np.clip(np.rint(values / scale), low, high) * scale - values).astype(float)
        total = (errors**3.5).sum(axis=1) @ weights
        if best is None or total < best[0]:
            best = total, factor
    largest = np.float16(base.max() * best[1])
    scale = (np.square(steps).astype(np.float16) * (largest * np.float16(1 / 256))).astype(f)
    codes = np.clip(np.rint(np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)), low, high) - low
    return codes.astype(int), steps.astype(int), largest
