"""Random trees of random depth over random encodings, against numpy: rows, forms, granules, bounds, reductions."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from requant import runs
from requant.codecs import codec_for
from requant.encodings import BF16, BLOCKS, F16, F32
from requant.execution import Options, execute, peak_bytes
from requant.expressions import DTYPES, Context, Form, Joined, RopeOrder, part_of, slabs
from requant.expressions import reduction as reductions
from requant.ir import TensorSpec
from requant.layout import Layout, OutputFile
from requant.plan import Fidelity, Plan, Step
from requant.runs import reducing
from tests.naive_expressions import carried_out
from tests.random_trees import ENCODINGS, Weighted, any_tree, is_dense, read, stored

UNTIMED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def prepared(node, context=None):
    """A context with what all reductions of a tree have found, made slab by slab by one worker."""
    context = context or Context()
    for one in reducing(node):
        found = context.shared.results[id(one)] = []
        for reduction in one.reductions():
            total = None
            for rows in slabs(reduction.inputs):
                part = part_of(reduction, rows, found, context)
                total = part if total is None else reduction.merge(total, part)
            found.append(reduction.result(total))
    return context


def rows_of(draw, node):
    """Any range of rows."""
    start = draw(st.integers(0, node.rows - 1))
    return range(start, draw(st.integers(start, node.rows)), draw(st.integers(1, 4)))


def close(found, wanted):
    """Equal but for the order in which few numbers are added up."""
    return np.allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max(initial=0))))


def any_rows_of_any_tree_in_bounded_memory(node, data):
    wanted = carried_out(node, read).reshape(node.rows, node.columns)
    context = prepared(node)
    assert 1 <= node.granule <= node.rows
    for _ in range(3):
        rows, context = rows_of(data.draw, node), Context(shared=context.shared)
        out = np.empty((len(rows), node.columns), np.float32)
        node.fill(Form.VALUES, rows, out, context)
        assert close(out, wanted[rows.start : rows.stop : rows.step])
        assert context.scratch.most <= node.run_bytes(Form.VALUES, rows.stop - rows.start, 4 * node.columns) + 4096


def whole_granules_in_less_memory(node, data):
    context = prepared(node)
    granules = -(-node.rows // node.granule)
    first = data.draw(st.integers(0, granules - 1))
    last = data.draw(st.integers(first + 1, granules))
    rows = range(first * node.granule, min(node.rows, last * node.granule))
    context, width = Context(shared=context.shared), 4 * node.columns
    node.fill(Form.VALUES, rows, np.empty((len(rows), node.columns), np.float32), context)
    assert context.scratch.most <= node.run_bytes(Form.VALUES, len(rows), width, straight=True) + 4096
    assert node.run_bytes(Form.VALUES, len(rows), width, straight=True) <= node.run_bytes(Form.VALUES, len(rows), width)


def in_form(node, target, form, rows, context):
    """Rows in a form, as a reader of `target` would see them."""
    out = np.empty((len(rows), node.columns), np.float32)
    codec = codec_for(target)
    if form is Form.CODES:
        specs = target.parts((len(rows), node.columns))
        parts = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in specs.items()}
        if target.sliced:
            parts = {name: part.reshape(len(rows), -1) for name, part in parts.items()}
        codec.pack(node.codes(rows, context), parts)
        codec.decode(parts, out)
        return out
    if form is Form.VALUES:
        node.fill(form, rows, out, context)
        return out
    nbytes = sum(part.nbytes for part in target.parts((node.rows, node.columns)).values()) // node.rows
    held = np.empty((len(rows), nbytes), np.uint8)
    node.fill(form, rows, held.view(DTYPES[form]), context)
    codec.decode({"data": held if not is_dense(target) else held.view(target.dtype.numpy)}, out)
    return out


def every_form_gives_the_same_numbers(node, data):
    target = data.draw(st.sampled_from([*{leaf.encoding for leaf in node.leaves()}, F32, F16, BF16, BLOCKS["Q8_0"]]))
    tall, wide = ENCODINGS[target]
    if node.rows % tall or node.columns % wide:
        return
    forms, wanted = node.forms(target), carried_out(node, read).reshape(node.rows, node.columns)
    assert Form.VALUES in forms and forms.strongest in forms
    if node.holds(target) and is_dense(target):
        assert close(wanted.astype(np.float16) if target == F16 else wanted, wanted)
    for form in forms:
        event(f"{form.name} of {target.label}")
        granule = tall if form is Form.CODES else 1
        start = data.draw(st.integers(0, node.rows // granule - 1)) * granule
        rows = range(start, node.rows)
        found = in_form(node, target, form, rows, prepared(node))
        if form is not Form.CODES:
            assert np.array_equal(found, wanted[start:]) if form is not Form.VALUES else close(found, wanted[start:])
        elif node.holds(target):  # products are the reader's affair: GPTQ rounds them to halves, ggml does not
            assert np.array_equal(found.astype(np.float16), wanted[start:].astype(np.float16))


def written(step, workers, folder):
    slots, end = {}, 0
    for name, part in step.target.parts.items():
        slots["t", name] = end
        end += part.nbytes
    plan = Plan((step,), Layout(Path(folder), (OutputFile("out", b"", end, slots),)))
    execute(plan, Options(workers=workers))
    return (Path(folder) / "out").read_bytes()


def neither_threads_nor_runs_change_a_byte(node, data):
    fitting = [one for one, (tall, wide) in ENCODINGS.items() if node.rows % tall == 0 and node.columns % wide == 0]
    step = Step(node, TensorSpec("t", node.shape, data.draw(st.sampled_from(fitting))))
    event(f"{step.fidelity.value} as {step.form.name}")
    found = set()
    for workers, values in ((1, 1 << 19), (3, 64), (2, 1000)):
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "RUN_VALUES", values)
            patch.setattr(runs, "RUN_HALVES", values)
            patch.setattr(reductions, "SLAB_VALUES", 256)
            found.add(written(step, workers, folder))
    assert len(found) == 1
    if step.fidelity is not Fidelity.ROUND and is_dense(step.target.encoding):
        array = np.frombuffer(found.pop(), step.target.encoding.dtype.numpy)
        if step.target.encoding == BF16:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(array.reshape(node.shape), carried_out(node, read))


#: What is checked of which trees.
CHECKS = {
    any_rows_of_any_tree_in_bounded_memory: any_tree(),
    whole_granules_in_less_memory: any_tree(),
    every_form_gives_the_same_numbers: st.booleans().flatmap(lambda computed: any_tree(3, computed=computed)),
    neither_threads_nor_runs_change_a_byte: any_tree(3),
}


@pytest.mark.parametrize("examples", [20, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_trees(check, examples):
    @settings(UNTIMED, max_examples=examples)
    @given(node=CHECKS[check], data=st.data())
    def checked(node, data):
        check(node, data)

    checked()


def test_eight_inputs_and_two_chained_reductions():
    """The tree of a merge: eight models at the same rows, rope order above some, two passes before the first row."""
    inputs = [stored(one, 96, 256, seed) for seed, one in enumerate(itertools.islice(itertools.cycle(ENCODINGS), 8))]
    node = Weighted(tuple(RopeOrder(one, 2) if n % 2 else one for n, one in enumerate(inputs)))
    wanted = carried_out(node, read)
    with TemporaryDirectory() as folder:
        step = Step(node, TensorSpec("t", node.shape, F32))
        assert step.fidelity is Fidelity.ROUND
        found = np.frombuffer(written(step, 2, folder), "<f4").reshape(node.shape)
    assert close(found, wanted)
    assert [len(one.reductions()) for one in reducing(Joined((node, node)))] == [2]  # looked at once


def test_the_bound_of_a_step_with_eight_inputs():
    """A projection of a large model: 8192 by 28672, eight times, into Q4_K."""
    inputs = tuple(RopeOrder(tensor_of(BF16, 28672, 8192), 224) for _ in range(8))
    step = Step(Weighted(inputs), TensorSpec("t", (28672, 8192), BLOCKS["Q4_K"]))
    assert peak_bytes(Plan((step,), Layout(Path(), ())), 2) < 250 << 20


def tensor_of(encoding, rows, columns):
    """A tensor that nobody reads."""
    from requant.expressions import Stored
    from requant.ir import Tensor

    return Stored(Tensor("t", (rows, columns), encoding, {}))
