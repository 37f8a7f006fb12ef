"""What a notebook shows of a checkpoint, a plan and a receipt: a heading and a small table, in HTML.

Names and paths are written by strangers: they pass through `printable`, and are escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING, Final

from requant.losses import grouped
from requant.printable import printable

if TYPE_CHECKING:
    from requant.execution import Receipt
    from requant.ir import Checkpoint, TensorSpec
    from requant.plan import Plan

#: Rows of a table before the rest is only counted.
_SHOWN: Final = 20


def checkpoint_html(checkpoint: Checkpoint[TensorSpec]) -> str:
    """What it is, and what its tensors are stored as."""
    return _block(repr(checkpoint).strip("<>"), _HEAD, _by_type(checkpoint.tensors))


def plan_html(plan: Plan) -> str:
    """What would be written, as what, and what would be lost."""
    lost = [[group.kind.value, group.pattern, str(group.count), group.detail] for group in grouped(plan.losses)]
    losses = _table(["loss", "of", "tensors", "why"], lost) if lost else ""
    hints = _table(["hint"], [[hint] for hint in plan.hints]) if plan.hints else ""
    return _block(repr(plan).strip("<>"), _HEAD, _by_type([step.target for step in plan.steps])) + losses + hints


def receipt_html(receipt: Receipt) -> str:
    """What was written, and how long it took."""
    rows = [[name, f"{nbytes:,}"] for name, nbytes in receipt.files.items()]
    worst = sorted(receipt.errors.items(), key=lambda item: -item[1])
    errors = _table(["tensor", "relative error"], [[name, f"{error:.5f}"] for name, error in worst]) if worst else ""
    heading = f"Receipt: {sum(receipt.files.values()):,} bytes written in {receipt.seconds:.1f} s"
    return _block(heading, ["file", "bytes"], rows) + errors


_HEAD: Final = ["type", "tensors", "parameters", "bytes", "bits per weight"]


def _by_type(tensors: Iterable[TensorSpec]) -> list[list[str]]:
    kinds: dict[str, list[TensorSpec]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.encoding.label, []).append(tensor)
    rows = []
    for label, found in kinds.items():
        weights, nbytes = sum(prod(tensor.shape) for tensor in found), sum(tensor.nbytes for tensor in found)
        rows.append([label, f"{len(found):,}", f"{weights:,}", f"{nbytes:,}", f"{8 * nbytes / max(weights, 1):.3f}"])
    return rows


def _block(heading: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<p><b>{_text(heading)}</b></p>{_table(head, rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{_text(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f'<tr><td colspan="{len(head)}">… and {len(rows) - _SHOWN:,} more</td></tr>')
    return f"<table>{''.join(lines)}</table>"


def _text(text: str) -> str:
    return html.escape(printable(text))
