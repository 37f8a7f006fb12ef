"""How the work on a step is cut into runs of rows, and how much memory a run takes.

A tensor of any rank is a matrix here: its last dimension is a row. A run `[start, stop)` of the target's rows
is the unit of work and of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm
from typing import Final

from requant.encodings import columns_of, rows_of
from requant.expressions import Form, Node, Reduction, slabs
from requant.plan import Step
from requant.sources import FileSlice

#: Values in one run: small enough to stay in the caches of most machines, large enough to hide the overhead of a task.
RUN_VALUES: Final = 1 << 19
#: The same of 16-bit floats that are moved, or made of each other.
RUN_HALVES: Final = 1 << 20
#: Rows of a run with error feedback, at least: the whole factor is read for each run.
CORRECTED_ROWS: Final = 256


def rows_per_run(step: Step) -> int:
    """Rows of every run but the last: whole granules of what is read and of what is written."""
    granule = lcm(step.values.granule, max(step.target.encoding.granule(step.target.shape), 1))
    values = RUN_HALVES if step.form is Form.HALVES else RUN_VALUES
    if step.corrections is not None:
        values = max(values, CORRECTED_ROWS * columns_of(step.target.shape))
    return granule * max(1, values // max(1, granule * columns_of(step.target.shape)))


def runs_of(step: Step) -> Iterator[tuple[int, int]]:
    """The runs of a step, in order; none for an empty tensor."""
    rows, length = rows_of(step.target.shape), rows_per_run(step)
    for start in range(0, rows, length):
        yield start, min(rows, start + length)


def row_width(step: Step) -> int:
    """Bytes of a row in the form in which the step moves it; of codes, with their scales, an upper bound."""
    columns = columns_of(step.target.shape)
    if step.form is Form.BYTES:
        return step.target.nbytes // max(rows_of(step.target.shape), 1)
    return {Form.HALVES: 2, Form.VALUES: 4, Form.CODES: 6}[step.form] * columns


def files_of(step: Step) -> Iterator[FileSlice]:
    """What a step reads of files."""
    for tensor in step.inputs:
        for source in tensor.sources.values():
            found = getattr(source, "file", source)  # a view of a file has its file
            if isinstance(found, FileSlice):
                yield found


def position(step: Step) -> tuple[str, int]:
    """Where the first of what is read for a step lies: file, and offset in it."""
    return next(((str(one.path), one.offset) for one in files_of(step)), ("", 0))


def run_bytes(step: Step) -> int:
    """Upper bound on a worker's buffers while it does a run of `step`: its rows, what they are made of, and how they
    are stored."""
    rows = max(rows_of(step.target.shape), 1)
    here, form, width = min(rows, rows_per_run(step)), step.form, row_width(step)
    room = here * width + step.values.run_bytes(form, here, width, straight=True)
    if form in (Form.VALUES, Form.CODES):  # what is measured, and what encoders work in
        room += step.target.nbytes * here // rows + here * width + here * width // 4
    if step.corrections is not None:  # weights column by column, their codes and a block's errors
        room += 3 * here * width
    return max(room, *(_slab_bytes(reduction) for reduction in all_reductions(step.values)), 0)


def _slab_bytes(reduction: Reduction) -> int:
    """The same while a slab of a reduction is looked at; its arithmetic may take as much as its inputs."""
    rows = len(next(slabs(reduction.inputs), range(0)))
    values = [4 * rows * node.columns for node in reduction.inputs]
    making = [node.run_bytes(Form.VALUES, rows, 4 * node.columns, straight=True) for node in reduction.inputs]
    return 2 * sum(values) + max(making, default=0)


def held_bytes(step: Step) -> int:
    """Bytes of a step's parts that are held whole while its runs are done."""
    inputs = {id(tensor): tensor.nbytes for tensor in step.inputs if not tensor.encoding.sliced}
    corrections = 0 if step.corrections is None else step.corrections.nbytes
    return sum(inputs.values()) + (0 if step.target.encoding.sliced else step.target.nbytes) + corrections


def all_reductions(node: Node) -> Iterator[Reduction]:
    """Those of a tree, children first."""
    return (reduction for one in reducing(node) for reduction in one.reductions())


def reducing(node: Node) -> list[Node]:
    """The nodes of a tree that must know something of whole tensors, each once, children first."""
    found: dict[int, Node] = {}

    def visit(one: Node) -> None:
        if id(one) not in found:
            for child in one.children:
                visit(child)
            if one.reductions():
                found[id(one)] = one

    visit(node)
    return list(found.values())
