"""Every method of merging beside mergekit 0.1.5: `fixtures/merging/mergekit.npz`, whose maker says how it was made."""

import json
from pathlib import Path

import numpy as np
import pytest

from requant.merging.methods import METHODS
from requant.merging.methods.sparsity import Bernoulli, Magprune
from requant.merging.precision import Precision
from tests.merging import merged

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "merging" / "mergekit.npz")
ABOUT = json.loads(FIXTURE["cases"].tobytes())
CASES = {name: (method, count, case) for name, method, count, case in ABOUT["cases"]}


def values_of(key, dtype, shape):
    """An array of the fixture as float32."""
    stored = FIXTURE[key].reshape(shape)
    if dtype == "BF16":
        return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return stored.view({"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32)


def steps_apart(one, other, dtype):
    """By how many numbers of the dtype two arrays differ, value by value."""
    bits = {"BF16": 16, "F16": 13, "F32": 0}[dtype]
    if dtype == "F16":
        one, other = (x.astype(np.float16).view(np.int16).astype(np.int64) for x in (one, other))
        flip = 0x8000
        one, other = (np.where(x < 0, -flip - x, x) for x in (one, other))
        return np.abs(one - other)
    one, other = (x.view(np.int32).astype(np.int64) >> bits for x in (one, other))
    least = -(1 << (31 - bits))
    one, other = (np.where(x < 0, least - x, x) for x in (one, other))
    return np.abs(one - other)


@pytest.fixture
def masks(monkeypatch):
    """Random methods keep what mergekit kept."""
    given = {}

    def chosen(self, model, values, base, first, known):
        n = self.thinned().index(model)
        start = first * self.setting.columns
        return np.ascontiguousarray(given[n][start : start + values.size])

    monkeypatch.setattr(Bernoulli, "chosen", chosen)
    monkeypatch.setattr(Magprune, "chosen", chosen)
    return given


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", CASES)
def test_a_method_gives_what_mergekit_gives(name, dtype, masks):
    method, count, case = CASES[name]
    for shape_name, shape in ABOUT["shapes"].items():
        if name == "nuslerp-columns" and len(shape) > 2:
            continue  # refused while planning
        key = f"{shape_name}.{dtype}.{name}"
        masks |= {
            n: np.unpackbits(FIXTURE[f"{key}.mask{n}"])[: np.prod(shape)]
            for n in range(4)
            if f"{key}.mask{n}" in FIXTURE.files
        }
        arrays = [values_of(f"{shape_name}.{dtype}.model{n}", dtype, shape) for n in range(count)]
        found = Precision(dtype).rounded(merged(method, arrays, precision=Precision(dtype), **case))
        expected = values_of(key, dtype, shape)
        apart = steps_apart(found, expected, dtype)
        if (
            method == "arcee_fusion"
        ):  # a threshold for sums that cancel: which value is beyond it is a matter of rounding
            assert (apart > 0).mean() < 0.005
        elif dtype == "F32":
            assert np.allclose(found, expected, rtol=2e-5, atol=1e-7), (shape_name, np.abs(found - expected).max())
        else:
            assert apart.max() <= 1, (shape_name, apart.max())
            assert (apart > 0).mean() <= 0.002, (shape_name, (apart > 0).mean())


def test_every_method_is_compared():
    assert {method for method, _, _ in CASES.values()} == set(METHODS)
