"""Products of low rank, added to rows where they stand."""

from __future__ import annotations

from requant.kernels_cpu._jit import FLOATS, OUT_FLOATS, Floats, kernel


@kernel(FLOATS, FLOATS, FLOATS, OUT_FLOATS, OUT_FLOATS)
def add_product(up: Floats, down: Floats, scale: Floats, row: Floats, out: Floats) -> None:
    """out += scale * (up @ down).

    up: [rows, rank]. down: [rank, columns]. scale: one number. row: room for one row of the product. Each number is a
    sum in the order of the rank, whatever rows there are: the same bits for runs of any length.
    """
    columns = row.size
    rows = out.size // max(columns, 1)
    rank = down.size // max(columns, 1)
    for i in range(rows):
        for j in range(columns):
            row[j] = 0.0
        for k in range(rank):
            factor = up[i * rank + k]
            for j in range(columns):
                row[j] += factor * down[k * columns + j]
        for j in range(columns):
            out[i * columns + j] += row[j] * scale[0]
