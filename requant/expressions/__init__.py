"""What the values of a tensor are: a tree of frozen nodes over stored tensors.

A step of a plan is such a tree and the encoding in which it will be stored. Executor, fidelity, the bound on memory and
the printed plan ask the root, which asks its children; nobody asks what kind of node it is.

A new node is one file here, its line in the table below, and its naive twin in `tests/naive_expressions.py`; nothing
else is touched:

* moves whole rows: derive from `Moving` and say in `places` which row comes from where; every form passes through.
* changes each value by itself: derive from `Elementwise` and write `change`.
* any other arithmetic on the rows of one child or of several: derive from `Arithmetic` and write `fill`, which asks the
  children for the same rows in buffers of `context.scratch`, and `run_bytes`, which says how much that takes.
* can have its rows some at a time only: derive from `InGranules` and write `granule`, `fill_granules`, `granule_bytes`.
* must know something of whole tensors first: declare it in `reductions` (see `Reduction`), and find the result in
  `context.results(self)`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from requant.expressions.affine import Affine
    from requant.expressions.arithmetic import Arithmetic
    from requant.expressions.balanced import Balanced
    from requant.expressions.chosen import Chosen
    from requant.expressions.columns import Columns
    from requant.expressions.columns_joined import ColumnsJoined
    from requant.expressions.columns_scaled import ColumnsScaled
    from requant.expressions.context import Context, Scratch, Shared
    from requant.expressions.deinterleaved import Deinterleaved
    from requant.expressions.elementwise import Elementwise
    from requant.expressions.exponentials import LogExpLess, LogNeg, NegExp, Softplus
    from requant.expressions.factors import Computed, Factors
    from requant.expressions.form import DTYPES, Form
    from requant.expressions.granules import InGranules
    from requant.expressions.interleaved import Interleaved
    from requant.expressions.joined import Joined, Stacked
    from requant.expressions.moving import Moving
    from requant.expressions.node import Node
    from requant.expressions.patched import Patched
    from requant.expressions.permuted import Permuted
    from requant.expressions.reduction import Reduction, part_of, slabs
    from requant.expressions.regarded import Regarded, Reshaped, reshaped
    from requant.expressions.regrouped import Regrouped
    from requant.expressions.rope_order import RopeOrder
    from requant.expressions.single import Single
    from requant.expressions.slice import Slice
    from requant.expressions.stored import Stored
    from requant.expressions.transposed import Transposed
    from requant.expressions.wording import listed

#: Name -> the file that has it, imported when the name is used: few commands need every node.
_HOMES: Final = {
    "Affine": "affine",
    "Arithmetic": "arithmetic",
    "Balanced": "balanced",
    "Chosen": "chosen",
    "Columns": "columns",
    "ColumnsJoined": "columns_joined",
    "ColumnsScaled": "columns_scaled",
    "Computed": "factors",
    "Context": "context",
    "DTYPES": "form",
    "Deinterleaved": "deinterleaved",
    "Elementwise": "elementwise",
    "Factors": "factors",
    "Form": "form",
    "InGranules": "granules",
    "Interleaved": "interleaved",
    "Joined": "joined",
    "LogExpLess": "exponentials",
    "LogNeg": "exponentials",
    "Moving": "moving",
    "NegExp": "exponentials",
    "Node": "node",
    "Patched": "patched",
    "Permuted": "permuted",
    "Reduction": "reduction",
    "Regarded": "regarded",
    "Regrouped": "regrouped",
    "Reshaped": "regarded",
    "RopeOrder": "rope_order",
    "Scratch": "context",
    "Shared": "context",
    "Single": "single",
    "Slice": "slice",
    "Softplus": "exponentials",
    "Stacked": "joined",
    "Stored": "stored",
    "Transposed": "transposed",
    "listed": "wording",
    "part_of": "reduction",
    "reshaped": "regarded",
    "slabs": "reduction",
}

__all__ = [
    "DTYPES",
    "Affine",
    "Arithmetic",
    "Balanced",
    "Chosen",
    "Columns",
    "ColumnsJoined",
    "ColumnsScaled",
    "Computed",
    "Context",
    "Deinterleaved",
    "Elementwise",
    "Factors",
    "Form",
    "InGranules",
    "Interleaved",
    "Joined",
    "LogExpLess",
    "LogNeg",
    "Moving",
    "NegExp",
    "Node",
    "Patched",
    "Permuted",
    "Reduction",
    "Regarded",
    "Regrouped",
    "Reshaped",
    "RopeOrder",
    "Scratch",
    "Shared",
    "Single",
    "Slice",
    "Softplus",
    "Stacked",
    "Stored",
    "Transposed",
    "listed",
    "part_of",
    "reshaped",
    "slabs",
]


def __getattr__(name: str) -> object:
    """Nodes are looked up in their files, none of which has the name of what is in it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
