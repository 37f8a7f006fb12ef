"""Methods of merging beside naive twins, whatever the shape, the slabs of reductions and the length of runs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.expressions import reduction
from requant.kernels_cpu.philox import draw
from requant.merging.methods import METHODS
from requant.merging.methods.draws import Draws
from requant.merging.methods.ranks import Wanted, finding, found
from requant.merging.precision import Precision
from tests import naive_merges as naive
from tests.merging import Array, merged, setting

THIN = {"weight": [0, 0.4, 0.7, 0.3], "density": [0, 0.5, 0.31, 1.0], "gamma": [0, 0.1, 0.05, 0.2]}


def thinned(models, keep):
    base, *others = models
    return [
        x - base if d >= 1 else keep(x - base, d, g)
        for x, d, g in zip(others, THIN["density"][1:], THIN["gamma"][1:], strict=True)
    ]


def weights(n):
    return THIN["weight"][1:][:n]


#: name -> (method, number of models, what it is given, the twin of the models)
CASES = {
    "linear": ("linear", 3, {"each": {"weight": [1, 0.5, 2]}}, lambda m: naive.linear(m, [1, 0.5, 2])),
    "slerp": ("slerp", 2, {"base": 0, "shared": {"t": 0.3}}, lambda m: naive.slerp(*m, 0.3)),
    "nuslerp": ("nuslerp", 2, {"each": {"weight": [3, 1]}}, lambda m: naive.slerp_always(*m, 0.25)),
    "nuslerp rows": (
        "nuslerp",
        2,
        {"each": {"weight": [3, 1]}, "shared": {"nuslerp_flatten": False}},
        lambda m: naive.nuslerp_rows(*m, 0.25),
    ),
    "nuslerp columns": (
        "nuslerp",
        2,
        {"each": {"weight": [3, 1]}, "shared": {"nuslerp_flatten": False, "nuslerp_row_wise": True}},
        lambda m: naive.nuslerp_rows(m[0].T, m[1].T, 0.25).T,
    ),
    "multislerp": ("multislerp", 3, {"each": {"weight": [1, 0.5, 2]}}, lambda m: naive.multislerp(m, [1, 0.5, 2])),
    "karcher": ("karcher", 3, {"shared": {"max_iter": 5}}, lambda m: naive.karcher(m, 5)),
    "task_arithmetic": (
        "task_arithmetic",
        4,
        {"base": 0, "each": THIN},
        lambda m: naive.tasks(m[0], [x - m[0] for x in m[1:]], weights(3), False, False),
    ),
    "ties": (
        "ties",
        4,
        {"base": 0, "each": THIN},
        lambda m: naive.tasks(m[0], thinned(m, lambda x, d, g: naive.kept_largest(x, d)), weights(3), True, True),
    ),
    "breadcrumbs": (
        "breadcrumbs",
        4,
        {"base": 0, "each": THIN},
        lambda m: naive.tasks(m[0], thinned(m, naive.kept_middling), weights(3), False, False),
    ),
    "breadcrumbs_ties": (
        "breadcrumbs_ties",
        4,
        {"base": 0, "each": THIN},
        lambda m: naive.tasks(m[0], thinned(m, naive.kept_middling), weights(3), True, False),
    ),
    "sce": ("sce", 3, {"base": 0}, lambda m: naive.sce(m[0], m[1:], 1)),
    "sce some": ("sce", 3, {"base": 0, "shared": {"select_topk": 0.4}}, lambda m: naive.sce(m[0], m[1:], 0.4)),
    "model_stock": ("model_stock", 3, {"base": 0}, lambda m: naive.model_stock(m[0], m[1:], False)),
    "model_stock rows": (
        "model_stock",
        3,
        {"base": 0, "shared": {"filter_wise": True}},
        lambda m: naive.model_stock(m[0], m[1:], True),
    ),
    "nearswap": ("nearswap", 2, {"base": 0, "shared": {"t": 0.3}}, lambda m: naive.nearswap(*m, 0.3)),
    "arcee_fusion": ("arcee_fusion", 2, {"base": 0}, lambda m: naive.arcee_fusion(*m)),
    "ram": ("ram", 3, {"base": 0, "shared": {"epsilon": 0.4}}, lambda m: naive.ram(m[0], m[1:], 0.4)),
    "ramplus_tl": (
        "ramplus_tl",
        3,
        {"base": 0, "shared": {"epsilon": 0.4}},
        lambda m: naive.ram(m[0], m[1:], 0.4, 0.1, 0.2),
    ),
}


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=5)
@given(rows=st.integers(1, 90), columns=st.integers(1, 70), seed=st.integers(0, 99), run=st.integers(1, 40))
def test_a_method_and_its_twin(name, rows, columns, seed, run):
    method, count, options, twin = CASES[name]
    if ("rows" in name and columns < 3) or ("columns" in name and rows < 3):
        columns, rows = columns + 2, rows + 2  # angles between numbers are 0 or 180 degrees
    if rows * columns < 4:
        rows += 4
    rng = np.random.default_rng(seed)
    models = [rng.standard_normal((rows, columns)).astype(np.float32) for _ in range(count)]
    slab, reduction.SLAB_VALUES = reduction.SLAB_VALUES, 257
    try:
        values = merged(method, models, run, **options)
    finally:
        reduction.SLAB_VALUES = slab
    wide = [m.astype(np.float64) for m in models]
    expected = twin(wide)
    if method == "arcee_fusion":  # a threshold for sums that cancel
        assert (np.abs(values - expected) > 1e-5).mean() <= 0.02
    else:
        assert np.allclose(values, expected, rtol=2e-4, atol=3e-5)


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("method", ["ties", "breadcrumbs_ties", "dare_ties", "della", "sce", "karcher", "slerp"])
def test_bytes_do_not_depend_on_runs(method, precision):
    rng = np.random.default_rng(3)
    base = precision.rounded(rng.standard_normal((37, 29)).astype(np.float32))
    models = [
        base,
        *(precision.rounded(base + rng.integers(-9, 9, base.shape).astype(np.float32) / 64) for _ in range(2)),
    ]
    if method == "slerp":
        models = models[1:]
    each = {"weight": [0, 1, 0.5], "density": [1, 0.4, 0.7], "epsilon": [0, 0.1, 0.1]}
    options = {"base": None if method == "karcher" else 0, "each": each, "precision": precision, "seed": 5}
    options["shared"] = {"t": 0.4, "select_topk": 0.5}
    whole = merged(method, models, **options)
    for run in (1, 2, 16, 36):
        assert np.array_equal(merged(method, models, run, **options), whole)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_random_methods_keep_the_share_and_the_size(method):
    base = np.zeros((64, 1024), np.float32)
    task = np.random.default_rng(0).standard_normal(base.shape).astype(np.float32)
    each = {"weight": [0, 1], "density": [0, 0.3], "epsilon": [0, 0.2]}
    found = merged(method, [base, task], base=0, each=each, seed=1)
    kept = found != 0
    assert abs(kept.mean() - 0.3) < 0.006  # three standard deviations of 65,536 draws
    assert np.isclose(np.abs(found).sum(), np.abs(task).sum(), rtol=1e-4)
    other = merged(method, [base, task], base=0, each=each, seed=2) != 0
    assert 0.05 < (kept & other).mean() < 0.2  # another seed keeps others
    if method == "della_linear":
        ranks = np.abs(task).argsort(axis=1).argsort(axis=1) / 1023
        shares = [kept[(ranks >= a) & (ranks < a + 0.2)].mean() for a in (0.0, 0.2, 0.4, 0.6, 0.8)]
        assert np.allclose(shares, 0.1 + 0.4 * np.array([0.1, 0.3, 0.5, 0.7, 0.9]), atol=0.015)


def test_models_and_tensors_have_streams_of_their_own():
    zeros, ones = np.zeros((8, 64), np.float32), np.ones((8, 64), np.float32)
    options = {"base": 0, "each": {"weight": [0, 1, 1], "density": [0, 0.5, 0.5]}, "shared": {"rescale": False}}
    both = merged("dare_linear", [zeros, ones, ones], **options)
    assert set(np.unique(both)) == {0, 1, 2}
    assert not np.array_equal(both, merged("dare_linear", [zeros, ones, ones], name="other", **options))


def test_philox_gives_its_known_answers():
    """Those of Random123, whose counters and keys are (counter, key) -> words."""
    words = np.zeros(64, np.int32)
    draw(np.zeros(4, np.int32), 0, words)
    assert words[:4].tolist() == [w & 0x7FFFFFFF for w in (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)]
    keys = np.array([0xA4093822, 0x299F31D0, 0x13198A2E, 0x03707344], np.uint32).view(np.int32)
    counter = 0x05A308D3_243F6A88
    draw(keys, counter // 16 * 64, words)
    at = 4 * (counter % 16)
    expected = naive_philox((0x243F6A88, 0x05A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
    assert words[at : at + 4].tolist() == [w & 0x7FFFFFFF for w in expected]
    known = naive_philox((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
    assert known == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def naive_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        one, other = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [other >> 32 ^ c[1] ^ k[0], other & 0xFFFFFFFF, one >> 32 ^ c[3] ^ k[1], one & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_draws_are_the_same_wherever_they_begin():
    stream = Draws.of(setting("linear", [np.zeros((2, 2), np.float32)], each={"weight": [1]}), 0)
    whole = stream.values(0, 300)
    assert np.array_equal(stream.values(37, 100), whole[37:137])
    kept = stream.below(1 << 30, 0, 700)
    assert np.array_equal(stream.below(1 << 30, 137, 400), kept[137:537])


def test_masks_are_numbers_below_a_limit():
    """Also where the upper half of a number is that of the limit, which few of millions of values show."""
    stream = Draws.of(setting("linear", [np.zeros((2, 2), np.float32)], each={"weight": [1]}), 0)
    first = (1 << 35) + 256
    numbers = [naive_below(stream, index) for index in range(first, first + 300)]
    for limit in (0, 1 << 29, numbers[7], numbers[7] + 1, numbers[200], numbers[200] + 1, 1 << 31):
        assert stream.below(limit, first, 300).tolist() == [number < limit for number in numbers]


def naive_below(stream, index):
    """The number that `Draws.below` compares: its upper 16 bits from one counter, its lower 15 from another."""
    batch, place = divmod(index, 128)
    half, place = divmod(place, 64)
    counter, word = 16 * batch + place // 4, place % 4
    keys = (stream.seed & 0xFFFFFFFF, stream.seed >> 32)
    streams = (stream.stream & 0xFFFFFFFF, stream.stream >> 32)
    upper = naive_philox((counter & 0xFFFFFFFF, counter >> 32, *streams), keys)[word]
    lower = naive_philox((counter & 0xFFFFFFFF, counter >> 32 | 1 << 31, *streams), keys)[word]
    return (upper >> 16 * half & 0xFFFF) << 15 | (lower >> 16 * half & 0x7FFF)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), rows=st.integers(1, 60), columns=st.integers(1, 40), coarse=st.booleans())
def test_ranks_are_found_without_sorting(seed, rows, columns, coarse):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    x = np.rint(x * 2) / 4 if coarse else x
    precision = Precision.BF16 if coarse else Precision.F32
    order = np.argsort(np.abs(x).ravel(), kind="stable")
    rank = int(rng.integers(0, x.size))
    inputs = (Array(x), Array(np.zeros_like(x)))
    slab, reduction.SLAB_VALUES = reduction.SLAB_VALUES, 97
    try:
        passes = finding(
            inputs, lambda values, key: (values[0], values[1]), (Wanted(0, rank), Wanted(0, rank, True)), precision
        )
        known = reduced(passes)
    finally:
        reduction.SLAB_VALUES = slab
    (bits, index), (same, after) = found(known)
    size = np.abs(x).ravel()[order[rank]]
    assert np.int32(bits).view(np.float32) == size == np.int32(same).view(np.float32)
    if size > 0:
        ties = np.flatnonzero(np.abs(x).ravel() == size)
        before = rank - (np.abs(x) < size).sum()
        assert index == (ties[before] if before else 0)
        assert after == (ties[len(ties) - before] if before else 1 << 62)


def reduced(passes):
    known = []
    for one in passes:
        total = None
        for rows in reduction.slabs(one.inputs):
            if one.needs(rows, known):
                part = one.part([node.array[rows.start : rows.stop] for node in one.inputs], rows, known)
                total = part if total is None else one.merge(total, part)
        known.append(one.result(total))
    return known


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.F16])
def test_importance_of_arcee_fusion_comes_of_powers_that_are_rounded_once(precision):
    """A power that is rounded twice, by way of float32, moves the importance of its whole row: 1 % of all rows."""
    rng = np.random.default_rng(5)
    x = precision.rounded((0.02 * rng.standard_normal((400, 1280))).astype(np.float32))
    formula = METHODS["arcee_fusion"].formula(setting("arcee_fusion", [x, x], base=0, precision=precision))
    exact = torch.softmax(torch.from_numpy(x).double(), dim=-1)
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16}[precision.value]
    assert np.array_equal(formula._softmax(x), exact.to(dtype).float().numpy())
