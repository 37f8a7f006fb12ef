"""mergekit whose sums and sorts are exact, for the comparison of values: `PYTHON exact_mergekit.py RECIPE FOLDER ...`.

It is run by the interpreter of mergekit's environment and takes the arguments of `mergekit-yaml`. Three things are not
as torch does them, and nothing else is changed:

* Sums, means, norms, dot products and softmax along the last dimension, or over all, are taken in double precision
  and rounded once. torch adds up in float32, whose error over millions of values moves roundings of the result.
* Sorts are stable. Which of equal magnitudes torch's unstable sort leaves differs from processor to processor.
* `arcee_fusion` finds quartiles of all values, not of a million random ones.

What still differs then is not the order of summation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from mergekit.merge_methods import arcee_fusion
from mergekit.scripts.run_yaml import main

#: Values that are widened at a time.
PIECE = 1 << 20


def along(x: torch.Tensor, dim: Any) -> bool:
    """Whether a reduction is one over all values, or along the last dimension."""
    return x.is_floating_point() and (dim is None or dim in (-1, x.ndim - 1))


def exactly(x: torch.Tensor, dim: Any, keepdim: bool, of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The sum of what `of` makes of the values, in float64."""
    flat = x.reshape(-1) if dim is None else x
    total = torch.zeros(flat.shape[:-1], dtype=torch.float64)
    for part in flat.split(PIECE, dim=-1):
        total += of(part.double()).sum(dim=-1, dtype=torch.float64)
    return total.unsqueeze(-1) if keepdim and dim is not None else total


def widen(name: str, owners: tuple[Any, ...], exact: Callable[..., torch.Tensor]) -> None:
    """Put `exact` in a function's place where it is along the last dimension."""
    plain = getattr(owners[0], name)

    def function(x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        dim = named.get("dim", next((a for a in arguments if isinstance(a, int) and not isinstance(a, bool)), None))
        if named.get("dtype") is not None or not along(x, dim):
            return plain(x, *arguments, **named)
        return exact(x, dim, bool(named.get("keepdim", False))).to(x.dtype)

    for owner in owners:
        setattr(owner, name, function)


def sort_stably() -> None:
    """In all spellings."""
    argsort, sort = torch.argsort, torch.sort
    torch.argsort = lambda x, dim=-1, descending=False: argsort(x, dim=dim, descending=descending, stable=True)
    torch.Tensor.argsort = torch.argsort
    torch.sort = lambda x, dim=-1, descending=False: sort(x, dim=dim, descending=descending, stable=True)
    torch.topk = lambda x, k, largest=True: tuple(part[:k] for part in sort(x, descending=largest, stable=True))


def added(x: torch.Tensor, dim: Any, keepdim: bool) -> torch.Tensor:
    """A sum."""
    return exactly(x, dim, keepdim, lambda part: part)


def averaged(x: torch.Tensor, dim: Any, keepdim: bool) -> torch.Tensor:
    """A mean."""
    return added(x, dim, keepdim) / (x.numel() if dim is None else x.shape[-1])


def rooted(x: torch.Tensor, dim: Any, keepdim: bool) -> torch.Tensor:
    """A Euclidean norm."""
    return exactly(x, dim, keepdim, torch.square).sqrt()


def multiplied(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A dot product."""
    pairs = zip(x.split(PIECE), y.split(PIECE), strict=True)
    return torch.stack([(one.double() * other.double()).sum() for one, other in pairs]).sum().to(x.dtype)


if __name__ == "__main__":
    sort_stably()
    both = (torch, torch.Tensor)
    widen("sum", both, added)
    widen("mean", both, averaged)
    widen("norm", both, rooted)
    widen("vector_norm", (torch.linalg,), rooted)
    torch.dot = multiplied
    softmax = arcee_fusion.F.softmax
    arcee_fusion.F.softmax = lambda x, dim: softmax(x.double(), dim=dim).to(x.dtype)
    arcee_fusion._QUANTILE_SAMPLE_SIZE = sys.maxsize
    main()
