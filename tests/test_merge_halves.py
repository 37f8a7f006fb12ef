"""Weighted sums of 16-bit floats go from words to words: the numbers are those by way of float32, as well looked at."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.codecs import codec_for
from requant.encodings import BF16, F16, F32
from requant.errors import FormatError
from requant.expressions import Context, Form, Scratch, Stored
from requant.ir import Tensor
from requant.merging.finite import Finite
from requant.merging.merged import Merged
from requant.merging.methods import METHODS
from requant.merging.precision import Precision
from requant.sources import Memory
from tests.merging import setting

HALVES = {"BF16": BF16, "F16": F16}


def stored(values, encoding):
    words = np.empty(values.shape, np.uint16)
    codec_for(encoding).encode(values, {"data": words})
    return Stored(Tensor("t", values.shape, encoding, {"data": Memory(words.tobytes())}))


def weighted_sum(method, nodes, precision, weights=(), normalize=True):
    arrays = [np.empty(node.shape, np.float32) for node in nodes]
    if method == "linear":
        options = {"each": {"weight": weights}, "shared": {"normalize": normalize}}
    else:
        options = {"base": 1, "shared": {"t": 0.3}}
    formula = METHODS[method].formula(setting(method, arrays, precision=precision, **options))
    return Merged(tuple(Finite(node) for node in nodes), formula, method)


def filled(node, form, rows, results, width):
    context = Context(Scratch())
    context.shared.results[id(node)] = results
    out = np.empty((len(rows), node.columns), np.uint16 if form is Form.HALVES else np.float32)
    node.fill(form, rows, out, context)
    assert context.scratch.most <= node.run_bytes(form, len(rows), width * node.columns, straight=True) + 4096
    return out


@pytest.mark.parametrize("label", HALVES)
@pytest.mark.parametrize("method", ["linear", "slerp"])
@settings(deadline=None, max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 50)),
    seed=st.integers(0, 99),
    models=st.integers(2, 4),
    normalize=st.booleans(),
    first=st.integers(0, 20),
)
def test_words_are_those_of_the_values(label, method, shape, seed, models, normalize, first):
    rng, encoding = np.random.default_rng(seed), HALVES[label]
    count = models if method == "linear" else 2
    scales = 10.0 ** rng.integers(-6, 4, (count, *shape))  # subnormal halves, too
    nodes = [stored((rng.standard_normal(shape) * scale).astype(np.float32), encoding) for scale in scales]
    node = weighted_sum(method, nodes, Precision(label), rng.uniform(0.1, 2, count).tolist(), normalize)
    assert Form.HALVES in node.forms(encoding)
    rows = range(min(first, shape[0] - 1), shape[0])
    results = [np.array([4.0, 9.0, 3.0])]  # two norms, squared, and a dot product
    values = filled(node, Form.VALUES, rows, results, 4)
    words = np.empty(values.shape, np.uint16)
    codec_for(encoding).encode(values, {"data": words})
    assert np.array_equal(filled(node, Form.HALVES, rows, results, 2), words)


def test_only_where_nothing_is_computed_wider():
    x = np.ones((4, 8), np.float32)
    bfloat, half = stored(x, BF16), stored(x, F16)
    one = weighted_sum("linear", [bfloat, bfloat], Precision.BF16, [1, 1])
    assert one.forms(BF16) == Form.VALUES | Form.HALVES
    assert one.forms(F16) == one.forms(F32) == Form.VALUES
    assert weighted_sum("linear", [bfloat, bfloat], Precision.F32, [1, 1]).forms(BF16) == Form.VALUES
    assert weighted_sum("linear", [bfloat, half], Precision.F32, [1, 1]).forms(BF16) == Form.VALUES
    tasks = METHODS["task_arithmetic"].formula(
        setting("task_arithmetic", [x, x], base=0, each={"weight": [0, 1]}, precision=Precision.BF16)
    )
    assert Merged((Finite(bfloat), Finite(bfloat)), tasks, "").forms(BF16) == Form.VALUES


@pytest.mark.parametrize("label", HALVES)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("weight", [1, 0])
def test_what_is_no_number_is_named_in_both_forms(label, value, weight):
    x = np.ones((6, 20), np.float32)
    x[4, 13] = value
    nodes = [stored(np.ones_like(x), HALVES[label]), stored(x, HALVES[label])]
    node = weighted_sum("linear", nodes, Precision(label), [1, weight])
    for form, dtype in ((Form.VALUES, np.float32), (Form.HALVES, np.uint16)):
        with pytest.raises(FormatError, match=rf"row 4, column 13 is {value}"):
            node.fill(form, range(2, 6), np.empty((4, 20), dtype), Context())


def test_a_sum_that_overflows_is_no_fault_of_the_models():
    """It is one of the result, and found there."""
    x = np.full((2, 20), 3e38, np.float32)
    node = weighted_sum("linear", [stored(x, BF16)] * 2, Precision.BF16, [1, 1], normalize=False)
    out = np.empty((2, 20), np.uint16)
    node.fill(Form.HALVES, range(2), out, Context())
    assert (out == 0x7F80).all()
