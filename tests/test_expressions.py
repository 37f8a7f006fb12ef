"""Nodes by themselves: rows in any order of any step are those of the naive twin."""

from inspect import isabstract

import numpy as np
import pytest

from requant import expressions
from requant.encodings import BF16, BLOCKS, F16, F32
from requant.expressions import (
    Affine,
    Balanced,
    Chosen,
    Columns,
    ColumnsJoined,
    ColumnsScaled,
    Context,
    Deinterleaved,
    Form,
    Interleaved,
    Joined,
    LogExpLess,
    LogNeg,
    NegExp,
    Node,
    Regrouped,
    RopeOrder,
    Slice,
    Softplus,
    Stacked,
    Stored,
    Transposed,
    reshaped,
)
from requant.ir import Tensor
from requant.sources import Memory
from tests.naive_expressions import carried_out, twin


def stored(shape, dtype="<f4"):
    array = np.random.default_rng(len(shape)).standard_normal(shape, np.float32).astype(dtype)
    encoding = {"<f4": F32, "<f2": F16}[dtype]
    return Stored(Tensor("t", shape, encoding, {"data": Memory(array.tobytes())}))


NODES = [
    stored((7, 5)),
    Slice(stored((40, 6), "<f2"), 3, 31),
    Transposed(stored((3, 8, 10))),
    Affine(Transposed(stored((9, 4))), 0.5, -1),
    Transposed(Slice(stored((3, 8, 10)), 8, 16)),
    Joined((stored((5, 4)), stored((1, 4), "<f2"), stored((7, 4)))),
    Stacked((stored((5, 4)), Slice(stored((9, 4)), 2, 7))),
    Interleaved((stored((2, 6, 4)), stored((2, 6, 4), "<f2"))),
    Interleaved((Transposed(stored((2, 4, 6))), stored((2, 6, 4), "<f2"), stored((2, 6, 4)))),
    Deinterleaved(stored((2, 9, 4)), 1, 3),
    Deinterleaved(Interleaved((stored((2, 6, 4)), stored((2, 6, 4), "<f2"))), 1),
    Deinterleaved(Transposed(stored((3, 4, 8))), 0),
    RopeOrder(stored((24, 3)), 4),
    RopeOrder(RopeOrder(stored((24, 3)), 2), 4, inverse=True),
    RopeOrder(Joined((stored((8, 3)), stored((16, 3)))), 3),
    Regrouped(stored((24, 3)), (2, 3, 2), (2, 0, 1)),
    Chosen(stored((24, 3)), (5, 6, 7, 2, 3, 23, 0, 0)),
    reshaped(stored((24, 3)), (2, 12, 3)),
    reshaped(stored((24, 3)), (8, 9)),
    reshaped(stored((8, 9)), (24, 3)),
    reshaped(stored((4, 6)), (3, 8)),
    reshaped(RopeOrder(reshaped(stored((24,)), (24, 1)), 2), (24,)),
    Columns(stored((5, 8)), range(2, 7)),
    Columns(stored((5, 8)), range(1, 8, 2)),
    Columns(Transposed(stored((5, 8))), (4, 0, 0, 3)),
    ColumnsJoined((stored((5, 8)), Transposed(stored((4, 5))), stored((5, 3)))),
    ColumnsScaled(stored((5, 8)), stored((8,))),
    Balanced(stored((5, 8)), np.arange(1, 9, dtype=np.float32)),
    Balanced(stored((8, 5)), np.arange(1, 9, dtype=np.float32), by_row=True),
    LogNeg(NegExp(stored((9, 4)))),
    LogExpLess(Softplus(stored((9, 4)))),
]


@pytest.mark.parametrize("node", NODES, ids=[f"{n} {type(node).__name__}" for n, node in enumerate(NODES)])
@pytest.mark.parametrize("rows", [(0, None, 1), (1, 4, 1), (0, None, 3), (2, None, 2), (3, 3, 1)])
def test_any_rows_are_those_of_the_twin(node, rows):
    wanted = range(*slice(*rows).indices(node.rows))
    out = np.full((2 * len(wanted), node.columns), np.nan, np.float32)
    node.fill(Form.VALUES, wanted, out[::2], Context())  # with gaps between its rows
    assert np.allclose(
        out[::2], carried_out(node).reshape(node.rows, -1)[rows[0] : rows[1] : rows[2]], rtol=1e-6, atol=1e-7
    )
    assert np.isnan(out[1::2]).all()


def test_forms_and_what_is_held_exactly():
    node = Slice(stored((40, 32), "<f2"), 0, 20)
    assert node.forms(F16) == Form.VALUES | Form.HALVES | Form.BYTES
    assert node.forms(BF16) == node.forms(BLOCKS["Q8_0"]) == Form.VALUES
    assert node.holds(F32) and not node.holds(BF16)
    assert Affine(node, 1, 1).forms(F16) == Form.VALUES and not Affine(node, 1, 1).holds(F32)
    assert Transposed(node).holds(F32) and Transposed(node).forms(F16) == Form.VALUES
    assert node.origin(3)[1] == 3 and Transposed(node).origin(3) is None
    assert Transposed(node).turned() is node


def test_every_node_has_its_twin():
    """And is tried above, in trees that are drawn at random, or both."""
    public = [getattr(expressions, name) for name in expressions.__all__]
    kinds = {one for one in public if isinstance(one, type) and issubclass(one, Node) and not isabstract(one)}
    assert kinds and kinds <= set(twin.registry)
