"""Merges of arrays: a setting for a method, and a node's values by the simplest executor there can be."""

from dataclasses import dataclass

import numpy as np

from requant.encodings import columns_of
from requant.expressions import Context, Form, Node, slabs
from requant.expressions.arithmetic import Arithmetic
from requant.merging.merged import Merged
from requant.merging.methods import METHODS
from requant.merging.methods.method import Scope, Setting
from requant.merging.precision import Precision


@dataclass(frozen=True, eq=False)
class Array(Arithmetic):
    """A leaf that is an array."""

    array: np.ndarray

    @property
    def shape(self):
        return self.array.shape

    @property
    def children(self):
        return ()

    @property
    def granule(self):
        return 1

    def over(self, children):
        return self

    def explain(self):
        return "array"

    def run_bytes(self, form, rows, width):
        return 0

    def fill(self, form, rows, out, context):
        out[...] = self.array.reshape(-1, columns_of(self.array.shape))[rows.start : rows.stop : rows.step]


def setting(method, arrays, *, base=None, shared=None, each=None, precision=Precision.F32, name="tensor", seed=0):
    """As a plan would make it; `each`: name -> a value for each model."""
    shared, each = shared or {}, each or {}
    scopes = {parameter.name: parameter for parameter in METHODS[method].parameters}
    own = {n: shared.get(n, p.default) for n, p in scopes.items() if p.scope is Scope.TENSOR}
    per = [
        {n: each.get(n, [p.default] * len(arrays))[k] for n, p in scopes.items() if p.scope is not Scope.TENSOR}
        for k in range(len(arrays))
    ]
    return Setting(name, arrays[0].shape, base, own, tuple(per), precision, seed)


def merged(method, arrays, run=None, **options):
    """The values of a merge, made in runs of `run` rows."""
    formula = METHODS[method].formula(setting(method, arrays, **options))
    return evaluated(Merged(tuple(Array(array) for array in arrays), formula, method), run)


def evaluated(node: Node, run: int | None = None) -> np.ndarray:
    """All values of a node whose children need no reductions."""
    context, known = Context(), []
    context.shared.results[id(node)] = known
    for reduction in node.reductions():
        total = None
        for rows in slabs(reduction.inputs):
            if reduction.needs(rows, known):
                values = [np.empty((len(rows), child.columns), np.float32) for child in reduction.inputs]
                for child, out in zip(reduction.inputs, values, strict=True):
                    child.fill(Form.VALUES, rows, out, context)
                part = reduction.part(values, rows, known)
                total = part if total is None else reduction.merge(total, part)
        known.append(reduction.result(total))
    out = np.empty((node.rows, node.columns), np.float32)
    for start in range(0, node.rows, run or max(1, node.rows)):
        rows = range(start, min(node.rows, start + (run or node.rows)))
        node.fill(Form.VALUES, rows, out[rows.start : rows.stop], context)
    return out.reshape(node.shape)
