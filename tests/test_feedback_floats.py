"""Error feedback into small floats and int8 under scales, beside GPTQ as its paper has it (naive_feedback)."""

import numpy as np
import pytest
import torch

from requant.codecs import codec_for
from requant.encodings.scaled import FP8_BLOCK, GPT_OSS, MLX_FLOATS, MXFP4, NVFP4, Scaled
from requant.feedback import ColumnOrder, FeedbackOptions, Scales, correction_of, takes_feedback
from requant.kernels_cpu.feedback import Corrected, FloatCodes, Grid
from tests import naive_feedback
from tests.test_feedback import given, output_error, weights

E2M1 = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])
ENCODINGS = {
    "W8A8": Scaled("ct", "I8"),
    "FP8": Scaled("ct", "F8_E4M3"),
    "FP8-BLOCK": FP8_BLOCK,
    "NVFP4": NVFP4,
    "MXFP4": MXFP4,
}
COLUMNS = 256


def floats_of(dtype):
    """All finite numbers of an 8-bit float, as torch has them."""
    found = torch.arange(256, dtype=torch.uint8).view(dtype).double().numpy()
    return np.unique(found[np.isfinite(found)])


E4M3 = floats_of(torch.float8_e4m3fn)


def stored_parts(encoding, values, correction=None, importance=None, starts=(0,)):
    """The parts of values, with feedback or without, some rows at a time."""
    parts = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(values.shape).items()}
    codec = codec_for(encoding)
    if encoding.whole:
        codec.begin(float(np.abs(values).max()), parts)
    for first, last in zip(starts, (*starts[1:], len(values)), strict=True):
        if correction is None:
            codec.encode(values[first:last], parts, first, importance)
        else:
            codec.encode_corrected(values[first:last], parts, first, correction)
    return parts


def decoded(encoding, parts, shape):
    out = np.empty(shape, np.float32)
    codec_for(encoding).decode(parts, out, 0)
    return out


def steps_of(name, parts):
    """How a step follows from a block of weights [rows, columns], as the documentation of each format has it."""
    largest = {"W8A8": 127.5, "FP8": 448.0, "FP8-BLOCK": 448.0, "NVFP4": 6.0, "MXFP4": 6.0}[name]

    def steps(block):
        ideal = np.abs(block).max(1) / largest
        if name == "FP8-BLOCK":
            ideal = np.concatenate(
                [np.full(len(part), part.max()) for part in np.split(ideal, range(128, len(ideal), 128))]
            )
        if name == "NVFP4":
            scales = E4M3[E4M3 > 0] / float(parts["whole"][0])
            return scales[np.minimum(np.searchsorted(scales, ideal * (1 - 1e-7)), len(scales) - 1)]
        return 2.0 ** np.ceil(np.log2(ideal)) if name == "MXFP4" else ideal

    return steps


@pytest.mark.parametrize("order", [ColumnOrder.STORED, ColumnOrder.STATIC])
@pytest.mark.parametrize("name", ENCODINGS)
def test_codes_are_those_of_the_paper(name, order):
    """In double precision and without blocks; a tie that falls the other way moves the codes after it."""
    encoding, hessian, values = ENCODINGS[name], given(COLUMNS), weights(130, COLUMNS)
    correction = correction_of(hessian, FeedbackOptions(0.01, order, Scales.RANGE), "h")
    parts = stored_parts(encoding, values, correction)
    sequence = np.arange(COLUMNS) if order is ColumnOrder.STORED else correction.order
    factor = naive_feedback.inverse_factor(hessian[np.ix_(sequence, sequence)], 0.01)
    size, steps, held = encoding.columns or COLUMNS, steps_of(name, parts), {}

    def steps_at(i, now):
        column = sequence[i]
        group = column // size
        if group not in held:
            block = now if order is ColumnOrder.STORED else values.astype(np.float64)
            held[group] = steps(block[:, group * size : (group + 1) * size])
        return held[group]

    levels = {"W8A8": np.arange(-128.0, 128), "FP8": E4M3, "FP8-BLOCK": E4M3}.get(name, E2M1)
    stored, chosen = naive_feedback.rounded_to(values[:, sequence], factor, levels, steps_at)
    wanted = np.empty_like(stored)
    wanted[:, sequence] = stored * chosen
    found = decoded(encoding, parts, values.shape)
    assert np.isclose(found, wanted, rtol=1e-5, atol=1e-7).mean() > 0.99


@pytest.mark.parametrize("name", ["NVFP4", "MXFP4"])
def test_the_scale_of_a_group_is_the_one_of_least_error(name):
    """Of all that its dtype has, near the one that reaches the largest value: of the first group, whose weights are as
    they were."""
    encoding, hessian, values = ENCODINGS[name], given(COLUMNS), weights(60, COLUMNS)
    correction = correction_of(hessian, FeedbackOptions(0.01), "h")
    parts, size = stored_parts(encoding, values, correction), encoding.columns
    block, cost = values[:, :size].astype(np.float64), correction.weights[:size].astype(np.float64)
    if name == "NVFP4":
        scales = E4M3[E4M3 > 0] / float(parts["whole"][0])
        found = torch.from_numpy(parts["scales"][:, 0].copy()).view(torch.float8_e4m3fn).double().numpy()
        found, near = found / float(parts["whole"][0]), (0.66, 1.7)
    else:
        scales = 2.0 ** np.arange(-40, 10)
        found, near = 2.0 ** (parts["scales"][:, 0].astype(float) - 127), (0.5, 1.99)

    def costs(step):
        levels = E2M1[np.abs(block[..., None] / step[:, None, None] - E2M1).argmin(-1)]
        return np.square(levels * step[:, None] - block) @ cost

    ideal = np.abs(block).max(1) / 6
    least = np.full(len(values), np.inf)
    for scale in scales:
        inside = (scale >= near[0] * ideal) & (scale <= near[1] * ideal)
        least = np.where(inside, np.minimum(least, costs(np.full(len(values), scale))), least)
    assert (costs(found) <= least * (1 + 1e-5)).all()


@pytest.mark.parametrize("order", [ColumnOrder.STORED, ColumnOrder.STATIC])
@pytest.mark.parametrize("scales", list(Scales))
@pytest.mark.parametrize("name", ENCODINGS)
def test_outputs_are_nearer_than_with_the_same_scales_and_no_feedback(name, scales, order):
    """Without anything off the diagonal nothing is made up for."""
    encoding, hessian, values = ENCODINGS[name], given(512), weights(100, 512)
    errors = []
    for what in (hessian, np.diag(np.diagonal(hessian))):
        parts = stored_parts(encoding, values, correction_of(what, FeedbackOptions(0.01, order, scales), "h"))
        errors.append(output_error(decoded(encoding, parts, values.shape), values, hessian))
    assert errors[0] < 0.75 * errors[1]


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_hessian_that_is_diagonal_rounds_each_weight_to_the_nearest(name):
    encoding, hessian, values = ENCODINGS[name], np.diag(np.diagonal(given(128))), weights(50, 128)
    correction = correction_of(hessian, FeedbackOptions(1e-6), "h")
    plain = stored_parts(encoding, values, None, correction.weights)
    found = stored_parts(encoding, values, correction)
    assert np.array_equal(found["scales"], plain["scales"])
    alike = [decoded(encoding, parts, values.shape) for parts in (plain, found)]
    assert (alike[0] == alike[1]).mean() > 0.999  # ties


@pytest.mark.parametrize("name", ENCODINGS)
def test_rows_come_in_runs(name):
    """Each run stores its own scales and codes: of blocks of 128 rows, whole ones."""
    encoding, hessian, values = ENCODINGS[name], given(COLUMNS), weights(300, COLUMNS)
    correction = correction_of(hessian, FeedbackOptions(0.05), "h")
    whole, parts = (stored_parts(encoding, values, correction, starts=at) for at in ((0,), (0, 128, 256)))
    assert all(np.array_equal(whole[part].view(np.uint8), parts[part].view(np.uint8)) for part in whole)


@pytest.mark.parametrize("encoding", [GPT_OSS, NVFP4, FP8_BLOCK], ids=lambda encoding: encoding.label)
def test_matrices_of_a_stack_have_corrections_of_their_own(encoding):
    values = weights(3 * 128, COLUMNS).reshape(3, 128, COLUMNS)
    flat = values.reshape(-1, COLUMNS)
    parts = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(values.shape).items()}
    codec, found = codec_for(encoding), np.empty_like(flat)
    if encoding.whole:
        codec.begin(float(np.abs(values).max()), parts)
    corrections = [correction_of(given(COLUMNS, seed=seed), FeedbackOptions(0.05), "h") for seed in range(3)]
    for matrix, correction in enumerate(corrections):
        codec.encode_corrected(values[matrix], parts, 128 * matrix, correction)
    codec.decode(parts, found, 0)
    alone = Scaled("packed", "F4", 1, 32, "U8") if encoding is GPT_OSS else encoding
    for matrix, correction in enumerate(corrections):
        single = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in alone.parts((128, COLUMNS)).items()}
        if encoding.whole:
            codec_for(alone).begin(float(np.abs(values).max()), single)
        codec_for(alone).encode_corrected(values[matrix], single, 0, correction)
        assert np.array_equal(decoded(alone, single, (128, COLUMNS)), found[128 * matrix : 128 * (matrix + 1)])


@pytest.mark.parametrize(
    ("dtype", "floats", "top"),
    [
        (torch.float8_e4m3fn, FloatCodes(3, -6, 128), 448),
        (torch.float8_e5m2, FloatCodes(2, -14, 128), 57344),
    ],
)
def test_codes_of_floats_are_torchs(dtype, floats, top):
    """Each number by itself, ties and numbers between all neighbours included; beyond the largest there is no other."""
    every = floats_of(dtype)
    middle = (every[1:] + every[:-1]) / 2
    tried = np.concatenate([every, middle, middle * (1 + 1e-6), middle * (1 - 1e-6)]).astype(np.float32)
    unit, zero = np.ones((len(tried), 1), np.float32), np.zeros((len(tried), 1), np.float32)
    grid = Grid(unit, zero, np.zeros(1, np.int32), top, floats=floats)
    codes = Corrected(tried[:, None], np.ones((1, 1), np.float32)).round(0, 1, grid)[:, 0]
    wanted = torch.from_numpy(tried).to(dtype)
    assert np.array_equal(torch.from_numpy(codes).view(dtype).float().numpy(), wanted.float().numpy())
    assert not (codes == 128).any()  # what rounds to zero is plus zero


@pytest.mark.parametrize("name", ENCODINGS)
def test_columns_by_activation_have_no_place_but_for_their_order(name):
    taken = [takes_feedback(ENCODINGS[name], FeedbackOptions(order=order)) for order in ColumnOrder]
    assert taken == [order is not ColumnOrder.ACT for order in ColumnOrder]


def test_what_takes_none():
    """A scale of the whole tensor alone, zero points, and MLX's."""
    others = [Scaled("ct", "F8_E4M3", form="one"), Scaled("ct", "I8", zero="I8"), *MLX_FLOATS.values()]
    others += [Scaled("ct", "I8", 128, 128), Scaled("packed", "F6_E2M3", 1, 32, "U8")]
    assert not any(takes_feedback(encoding, FeedbackOptions()) for encoding in others)
