"""Rounding one matrix with error feedback, beside GPTQModel's own class: time, and squared error of the outputs.

    python benchmarks/feedback.py [--threads 2] [576x576 1536x576 576x1536 2048x2048 ...]

Both are given the same random weights and the same inputs, which depend on each other and of which some columns are
large; GPTQModel sums them up itself, which is not timed. Both round to 4 bits in groups of 64 (rows that hold no whole
groups: 32), symmetric, with a damping of 0.05, columns as they lie; ours with scales from a group's range, as GPTQModel
has them, and with those of least error, which are requant's default. The best of three runs each. Errors are of tokens
that were not summed up; to the nearest is with the clip of each group that is best by the diagonal.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import numpy as np
import torch

from requant.feedback import FeedbackOptions, Scales, correction_of
from requant.kernels_cpu.corrected import corrected_groups
from requant.kernels_cpu.groups import dequantize, round_to_groups

DAMPING = 0.05


def made(rows: int, columns: int, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, inputs, and inputs that are held out."""
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(rows, columns)).astype(np.float32) / 50
    mixing = draw.normal(size=(columns, columns)) / np.sqrt(columns) + np.eye(columns)
    x = (draw.normal(size=(2 * tokens, columns)) @ mixing * np.exp(draw.normal(size=columns))).astype(np.float32)
    return weights, x[:tokens], x[tokens:]


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """The best of three, and what was made."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - began)
    return min(seconds), found


def ours(
    weights: np.ndarray, x: np.ndarray, group: int, scales: Scales | None, threads: int
) -> tuple[float, np.ndarray]:
    """scales: None rounds to the nearest, with the clip of least weighted error."""
    mean = (x.T @ x / np.float32(len(x))).astype(np.float32)

    def work() -> np.ndarray:
        correction = None if scales is None else correction_of(mean, FeedbackOptions(DAMPING, scales=scales), "h")

        def run(part: np.ndarray) -> np.ndarray:
            found = np.empty_like(part)
            if correction is None:
                codes = round_to_groups(part, np.ascontiguousarray(np.diagonal(mean)), group, 4, True, "F16")
            else:
                codes = corrected_groups(part, correction, group, 4, True, "F16")
            dequantize(codes, group, "F32", found)
            return found

        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(run, np.array_split(weights, threads))))

    work()  # compiles
    return timed(work)


def theirs(weights: np.ndarray, x: np.ndarray, group: int) -> tuple[float, np.ndarray]:
    """GPTQModel's class, fed anew for each run."""
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    layer = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(weights)
    how = QuantizeConfig(
        bits=4, group_size=group, desc_act=False, act_group_aware=False, damp_percent=DAMPING, sym=True
    )
    seconds = []
    for _ in range(3):
        task = GPTQ(layer, how)
        task.quantizer.configure(perchannel=True)
        task.add_batch(torch.from_numpy(x)[None], None)
        began = time.perf_counter()
        with torch.inference_mode():
            found = task.quantize()[0]
        seconds.append(time.perf_counter() - began)
    return min(seconds), found.float().numpy()


def main() -> None:
    """A line for each matrix and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=["576x576", "1536x576", "576x1536", "2048x2048"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    print("matrix     what                     seconds   of GPTQModel's   squared error of outputs, nearest = 1")
    for shape in words.shapes:
        rows, columns = map(int, shape.split("x"))
        weights, x, held_out = made(rows, columns, words.tokens)
        group = 64 if columns % 64 == 0 else 32
        found = {
            "GPTQModel": theirs(weights, x, group),
            "requant, minmax": ours(weights, x, group, Scales.RANGE, words.threads),
            "requant, mse": ours(weights, x, group, Scales.MSE, words.threads),
            "requant, to the nearest": ours(weights, x, group, None, words.threads),
        }
        errors = {name: float(np.square(held_out @ (made - weights).T).sum()) for name, (_, made) in found.items()}
        for name, (seconds, _) in found.items():
            ratio, share = found["GPTQModel"][0] / seconds, errors[name] / errors["requant, to the nearest"]
            print(f"{shape:10} {name:24} {seconds:7.3f}   {ratio:11.1f}x   {share:10.3f}", flush=True)


if __name__ == "__main__":
    main()
