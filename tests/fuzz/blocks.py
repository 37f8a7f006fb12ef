"""Blocks that searches may get wrong, beside ggml's: `python -m tests.fuzz.blocks --types IQ2_S,Q3_K --seconds 600`.

Our kernels leave out work that cannot matter, where ggml does all of it; what could tell them apart are ties and what
is near a tie. So rows are drawn whose values lie on a type's own levels, between two of them, or a few units in the
last place beside, whose sizes are equal, and of all the kinds of the suites, with and without an importance. Bytes must
be equal; a row that differs is kept as an array file. Prints how many blocks were the same, and how many rows ended
ggml (some groups' best scale is below zero, of which ggml asserts that it is not; it runs in a process of its own).
"""

import argparse
import mmap
import os
import sys
import time

import numpy as np

from requant.encodings import BLOCKS
from tests import ggml_oracle
from tests.block_rows import IMPORTANCES, KINDS, importance, rows
from tests.blocks import decode, encode

COLUMNS = 512
ROWS = 32
#: Rows on which ggml's codebook searches leave their grids and end the process.
ENDS = {"large", "huge", "largest numbers", "wide", "beyond halves", "far from zero"}


def beside(rng, x):
    """Some units in the last place to either side, of some or all values that then are finite."""
    steps = rng.integers(-3, 4, x.shape, np.int32) * (rng.random(x.shape) < rng.choice([0.05, 0.5, 1]))
    moved = (x.view(np.int32) + steps.astype(np.int32)).view(np.float32)
    return np.where((x != 0) & np.isfinite(moved), moved, x)


def on_levels(rng, shape):
    """Odd numbers, times a scale for each group: the levels of most codebooks."""
    top = rng.choice([1, 3, 5, 8])
    scales = np.repeat(rng.choice([1, 0.5, 0.02, 0.3, 1 / 3], (shape[0], shape[1] // 16)), 16, 1)
    return (rng.integers(-top, top, shape) * 2 + 1) * scales


def between_levels(rng, shape):
    """Even numbers, times a scale: where rounding has a tie."""
    scale = rng.choice([1, 0.25, 0.1, 1 / 7])
    return rng.integers(-8, 9, shape) * scale * rng.choice([1, 2])


def few_sizes(rng, shape):
    """Values of two or three sizes."""
    sizes = rng.choice([0.1, 0.2, 0.25, 0.3, 0.5, 0.75, 1, 1.5], rng.integers(2, 4))
    return rng.choice(sizes, shape) * rng.choice([-1, 1], shape)


def halves(rng, shape):
    """Weights as 16-bit checkpoints have them."""
    return (rng.standard_normal(shape) * 0.02).astype(np.float16)


def brain_floats(rng, shape):
    """And with eight bits of precision."""
    return ((rng.standard_normal(shape) * 0.02).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


DRAWN = (on_levels, between_levels, few_sizes, halves, brain_floats)


def draw(rng, label):
    """float32 [rows, columns], and an importance or none."""
    weights = importance(rng.choice(IMPORTANCES), rng, COLUMNS)
    if rng.random() < 0.3:
        weights = rng.integers(1, 4, COLUMNS).astype(np.float32)
    kinds = [kind for kind in KINDS if not (label.startswith(("IQ1", "IQ2", "IQ3")) and kind in ENDS)]
    choice = rng.integers(0, 4)
    if choice == 0:
        x = rows(rng.choice(kinds), rng, (ROWS, COLUMNS))
    elif choice == 1:  # what the type itself makes of others
        x = decode(label, encode(label, rows("normal", rng, (ROWS, COLUMNS)), np.ones(COLUMNS, np.float32)), COLUMNS)
        x = x.reshape(ROWS, COLUMNS)
    else:
        x = DRAWN[rng.integers(0, len(DRAWN))](rng, (ROWS, COLUMNS))
    x = np.ascontiguousarray(x, np.float32)
    if rng.random() < 0.5:
        x = np.ascontiguousarray(beside(rng, x))
    plain = not BLOCKS[label].needs_importance and rng.random() < 0.5
    return x, None if plain else weights


def reference(label, x, w, out):
    """Whether ggml encodes the rows into `out`, which lies in shared memory, without ending its process."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        ggml_oracle.encode(label, x, w, out)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def main():
    """Until the time is over, or the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(label for label in BLOCKS if not label.startswith("IQ1")))
    parser.add_argument("--seconds", type=float, default=60, help="for each type")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ["GGML_NO_BACKTRACE"] = "1"
    for label in asked.types.split(","):
        block, rng, blocks, ended = BLOCKS[label], np.random.default_rng(asked.seed), 0, 0
        width = COLUMNS // block.values * block.nbytes
        theirs = np.frombuffer(mmap.mmap(-1, ROWS * width), np.uint8).reshape(ROWS, width)
        ggml_oracle.encode(label, rows("normal", rng, (1, COLUMNS)), np.ones(COLUMNS, np.float32))  # makes its tables
        began = time.monotonic()
        while time.monotonic() < began + asked.seconds:
            x, w = draw(rng, label)
            if not reference(label, x, w, theirs):
                ended += ROWS
                continue
            ours = encode(label, x, w)
            blocks += x.size // block.values
            if (ours != theirs).any():
                row = int((ours != theirs).any(1).argmax())
                np.savez(f"{label}.npz", x=x[row], w=w if w is not None else np.zeros(0, np.float32))
                sys.exit(f"{label}: row {row} differs after {blocks} blocks of seed {asked.seed}; {label}.npz has it")
        print(f"{label}: {blocks} blocks the same, {ended} rows ended ggml", flush=True)


if __name__ == "__main__":
    main()
