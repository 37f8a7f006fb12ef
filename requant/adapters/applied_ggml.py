"""A GGUF adapter put on a model: in ggml's names and orders of rows, whatever the model's are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from requant.adapters.applied import Applied, with_product
from requant.adapters.changes import Adapter, Change, Product
from requant.adapters.low_rank import Norms
from requant.adapters.placed import Placed
from requant.encodings import BF16, Dense
from requant.errors import PlanError
from requant.expressions import Node, Stored
from requant.ir import Checkpoint, Naming, Tensor
from requant.passes import made
from requant.passes.claim import Claim
from requant.passes.companions import FoldScales
from requant.passes.graft import Graft, origin_of, stand_in
from requant.passes.translation import translation
from requant.passes.unwrap import Unwrap
from requant.plan import unchanged


def ggml_applied(adapter: Adapter, source: Checkpoint[Tensor], tensors: Mapping[str, Node]) -> Applied:
    """`tensors`, what `source` is in Hugging Face's names, with everything that the adapter changes.

    The model is said as ggml says it, changed, and said back. Raises `PlanError` for what fits no tensor.
    """
    described, values = _in_ggml(source)
    if adapter.architecture != described.architecture:
        raise PlanError(
            f"{adapter.path} is an adapter of {adapter.architecture!r}, the model is {described.architecture!r}"
        )
    changed = {change.target: _changed(adapter, change, values) for change in adapter.changes}
    stand_ins = tuple(
        stand_in(tensor.name, changed[tensor.name], tensor.encoding) if tensor.name in changed else tensor
        for tensor in described.tensors
    )
    said, _ = made(
        [Claim(Naming.HF), FoldScales(), *translation(Naming.HF)], unchanged(replace(described, tensors=stand_ins))
    )
    touched = {move.name for move in said.moves if any(origin_of(leaf) in changed for leaf in move.inputs)}
    graft = Graft({**values, **changed})
    found = {move.name: move.values for move in graft(said).moves if move.name in touched}
    if missing := next((name for name in found if name not in tensors), None):
        raise PlanError(f"{adapter.path}: it changes {missing!r}, which the model has not under this name")
    return Applied({name: found.get(name, node) for name, node in tensors.items()})


def _in_ggml(source: Checkpoint[Tensor]) -> tuple[Checkpoint[Tensor], dict[str, Node]]:
    """The model as a GGUF, and what its tensors are."""
    if source.naming is Naming.GGML:
        return source, {tensor.name: Stored(tensor) for tensor in source.tensors}
    said, _ = made([Claim(Naming.GGML), Unwrap(Naming.GGML), *translation(Naming.GGML)], unchanged(source))
    values = {move.name: move.values for move in said.moves}
    tensors = tuple(stand_in(name, node, _dense(node)) for name, node in values.items())
    return Checkpoint(Naming.GGML, said.architecture, tensors, metadata=said.metadata), values


def _dense(node: Node) -> Dense:
    first = node.encodings()[0]
    return first if isinstance(first, Dense) else BF16


def _changed(adapter: Adapter, change: Change, values: Mapping[str, Node]) -> Node:
    of = values.get(change.target)
    if of is None:
        raise PlanError(
            f"{adapter.path}: {change.name!r}: the model has no {change.target!r}",
            hint="is it another model's adapter?",
        )
    if not isinstance(change, Product):
        shape, node = change.values.shape, change.values
    else:
        up, down = change.up.shape, change.down.shape
        shape = (*up[:-1], down[-1])
        fits = up[:-2] == down[:-2] and up[-1] == down[-2]
        if not fits:
            raise PlanError(f"{adapter.path}: {change.name!r}: {list(up)} and {list(down)} are no factors")
        norms = Norms.ROWS
        placed = Placed(change.target, change.up, change.down, change.kinds[0].scale, change, None, norms)
        node = with_product(of, placed) if shape == of.shape else of
    if shape != of.shape:
        raise PlanError(f"{adapter.path}: {change.name!r} is for {list(shape)}, {change.target!r} is {list(of.shape)}")
    return node
