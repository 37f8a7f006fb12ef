"""The numbers of two models beside each other: the kernel and its naive twin, and what is added up from runs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from requant.comparing import numbers
from requant.comparing.numbers import Numbers, compared_numbers
from requant.encodings import F32
from requant.expressions import Stored, reduction
from requant.ir import Tensor
from requant.kernels_cpu.differences import differences
from requant.sources import Memory


def naive(a, b):
    """What the kernel gives, value by value, as its docstring says."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    fine_a, fine_b = np.isfinite(a), np.isfinite(b)
    fine = fine_a & fine_b
    x, y = a[fine], b[fine]
    both_nan = np.isnan(a) & np.isnan(b)
    return np.array(
        [
            *((x * x).sum(), (y * y).sum(), (x * y).sum(), ((y - x) ** 2).sum()),
            np.abs(y - x).max(initial=0),
            ((a != b) & ~both_nan).sum(),
            (np.sign(x) * np.sign(y) < 0).sum(),
            (~fine_a & fine_b).sum(),
            (fine_a & ~fine_b).sum(),
            (~fine_a & ~fine_b).sum(),
        ]
    )


def close(found, wanted, values):
    """Counts exactly; sums as near as float32 sums of 256 products are to the sum of their sizes."""
    np.testing.assert_array_equal(found[5:], wanted[5:])
    np.testing.assert_allclose(found[4], wanted[4], rtol=3e-7)
    np.testing.assert_allclose(found[[0, 1]], wanted[[0, 1]], rtol=3e-6)
    np.testing.assert_allclose(found[2], wanted[2], rtol=0, atol=3e-6 * math.sqrt(wanted[0] * wanted[1]) + 1e-300)
    np.testing.assert_allclose(found[3], wanted[3], rtol=3e-6)


SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38, 1.0, -1.0, 1e-20]


@pytest.mark.parametrize("size", [0, 1, 15, 255, 256, 257, 1024, 5000])
@pytest.mark.parametrize("scale", [1.0, 1e-22, 1e-30, 1e18, 1e25])
def test_the_kernel_is_its_twin(size, scale):
    rng = np.random.default_rng(size)
    a = (rng.standard_normal(size) * scale).astype(np.float32)
    for noise in (0.0, 1e-6, 0.1, 3.0):
        b = (a * (1 + noise * rng.standard_normal(size))).astype(np.float32)
        close(differences(a, b), naive(a, b), size)


@settings(max_examples=60)
@given(st.data())
def test_the_kernel_is_its_twin_whatever_is_in_it(data):
    values = st.sampled_from(SPECIAL) | st.floats(width=32)
    size = data.draw(st.sampled_from([3, 256, 300]))
    a, b = (data.draw(arrays(np.float32, size, elements=values, fill=st.sampled_from([0.0, 1.0]))) for _ in range(2))
    with np.errstate(all="ignore"):
        close(differences(a, b), naive(a, b), size)


def test_sums_of_many_values_are_exact_enough():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(1 << 20).astype(np.float32)
    b = a + np.float32(1e-3) * rng.standard_normal(1 << 20).astype(np.float32)
    np.testing.assert_allclose(differences(a, b)[:4], naive(a, b)[:4], rtol=1e-6)


def stored(values):
    values = np.ascontiguousarray(values, "<f4")
    return Stored(Tensor("x", values.shape, F32, {"data": Memory(values.tobytes())}))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_runs_come_together_in_their_order_whoever_was_first(monkeypatch, workers):
    monkeypatch.setattr(reduction, "SLAB_VALUES", 1 << 10)
    rng = np.random.default_rng(0)
    shapes = [(64, 128), (1,), (0, 5), (7, 33), (3, 8, 256)]
    sides = [[rng.standard_normal(shape) for shape in shapes] for _ in range(2)]
    pairs = [(stored(a), stored(b)) for a, b in zip(*sides, strict=True)]
    done = []
    found = compared_numbers(pairs, workers, done.append)
    assert sum(done) == sum(math.prod(shape) for shape in shapes)
    assert found == compared_numbers(pairs, 1)
    for one, a, b in zip(found, *sides, strict=True):
        error, signal = np.linalg.norm(b.astype("f4") - a.astype("f4")), np.linalg.norm(a.astype("f4"))
        assert one.values == a.size
        assert one.relative == pytest.approx(error / signal if a.size else 0, rel=1e-5)


def test_what_fails_in_a_run_comes_out():
    class Broken:
        nbytes = 40

        def read_into(self, start, out):
            raise OSError("gone")

    broken = Stored(Tensor("x", (10,), F32, {"data": Broken()}))
    with pytest.raises(OSError, match="gone"):
        compared_numbers([(broken, broken)] * 5, 2)


def of(a, b):
    return compared_numbers([(stored(a), stored(b))], 1)[0]


def test_figures_of_what_is_zero_or_equal():
    zero, one = np.zeros(5), np.ones(5)
    assert (of(one, one).relative, of(one, one).cosine, of(one, one).decibels) == (0, 1, math.inf)
    assert (of(zero, zero).relative, of(zero, zero).cosine) == (0, 1)
    assert (of(zero, one).relative, of(zero, one).cosine, of(zero, one).decibels) == (math.inf, 0, -math.inf)
    assert (of(one, zero).relative, of(one, zero).cosine, of(one, zero).decibels) == (1, 0, 0)
    assert (of(one, -one).relative, of(one, -one).cosine, of(one, -one).flipped) == (2, -1, 5)


def test_what_is_not_finite_on_one_side_is_the_worst():
    nan = of([1.0, 2.0], [1.0, np.nan])
    assert nan.worst > of([1.0], [5.0]).worst and nan.bad_b == nan.changed == 1 and nan.relative == 0


def test_groups_are_their_tensors_together():
    total = Numbers()
    parts = [([1.0, 2.0], [1.5, 2.0]), ([3.0], [-3.0]), ([np.nan], [1.0])]
    for a, b in parts:
        total.add(of(a, b))
    whole = of(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    assert total == whole


def test_nodes_that_depend_on_whole_tensors_are_refused(monkeypatch):
    monkeypatch.setattr(numbers, "reducing", lambda node: [node])
    with pytest.raises(NotImplementedError):
        of([1.0], [1.0])
