"""Which tensors of a model are thinned out, how much, and by which scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.errors import PlanError
from requant.expressions import Node
from requant.hessians import Hessian
from requant.losses import Loss, LossKind
from requant.measuring import on_measured
from requant.plan import Move
from requant.printable import printable
from requant.pruning.bounds import over_model
from requant.pruning.masked import Masked, MaskedInRows, MaskedInTensor
from requant.pruning.owl import Owl, shares
from requant.pruning.scores import Scores
from requant.pruning.sparsegpt import SparseGpt
from requant.pruning.sparsity import Sparsity
from requant.schemes.linear import is_linear

#: Mean squares of what each column of a matrix is given, [matrices, columns], by the tensor's name.
Squares = Mapping[str, NDArray[np.float32]]
#: E[x xᵀ] of what each matrix is given, and which of these columns it has: None for all.
Outer = Mapping[str, tuple[tuple[Hessian | None, ...], tuple[int, ...] | None]]
#: Among which weights scores are compared.
SCOPES: Final = ("row", "tensor", "model")
METHODS: Final = ("magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True, slots=True)
class Masks:
    """What the user asks for.

    scope: as of `SCOPES`; None is a row for Wanda, and a tensor for sizes. each: (regular expression, sparsity); the
    first that is found in a tensor's name decides, and `sparsity` where none is. skip: tensors that stay as they are.
    owl: how layers get shares of their own.
    """

    sparsity: Sparsity
    method: str = "magnitude"
    scope: str | None = None
    each: tuple[tuple[str, Sparsity], ...] = ()
    skip: tuple[str, ...] = ()
    owl: Owl | None = None

    def __post_init__(self) -> None:
        if self.owl is not None and (self.sparsity.of or self.each or self.scope == "model"):
            raise PlanError(
                "OWL gives each layer a share of its own; a pattern, a file of sparsities or one bound contradict it",
                hint="leave out --owl, or give --sparsity a share",
            )
        if self.scope is not None and self.method == "sparsegpt":
            raise PlanError(
                "SparseGPT compares in blocks of 128 columns; --scope says nothing of it", hint="leave it out"
            )
        if self.scope == "model" and self.each:
            raise PlanError(
                "over the whole model there is one bound; a sparsity of its own contradicts it",
                hint="compare in each tensor or row: --scope tensor",
            )
        patterns = [one for one in (self.sparsity, *(own for _, own in self.each)) if one.of]
        if patterns and self.scope not in (None, "row"):
            raise PlanError(
                f"{patterns[0]} compares neighbours in a row; --scope says nothing of it", hint="leave it out"
            )

    def of(self, name: str) -> Sparsity | None:
        """Of a tensor that could be thinned out; None where it stays as it is."""
        if any(re.search(one, name) for one in self.skip):
            return None
        found = next((own for regex, own in self.each if re.search(regex, name)), self.sparsity)
        return found if found.share else None


@dataclass(frozen=True, slots=True)
class Thinned:
    """tensors: all of the model, by name. zeros, weights: in the tensors that are thinned out, of which there are
    `count`."""

    tensors: Mapping[str, Node]
    zeros: int
    weights: int
    count: int
    losses: tuple[Loss, ...]


def thinned(tensors: Mapping[str, Node], masks: Masks, squares: Squares, outer: Outer, *, transposed: bool) -> Thinned:
    """The model with its linear layers thinned out.

    squares, outer: what was measured; Wanda needs the one, SparseGPT the other. transposed: matrices lie as [in, out].
    Raises `PlanError` for a tensor without statistics, and where nothing is left to do.
    """
    scope = masks.scope or ("row" if masks.method == "wanda" else "tensor")
    chosen, losses = {}, []
    for name, node in tensors.items():
        wanted = masks.of(name) if is_linear(Move(name, node)) else None
        if wanted is None:
            continue
        turned = node.turned() if transposed else node
        if wanted.of and turned.columns % wanted.of:
            detail = f"dense instead of {wanted}: rows of {turned.columns} are no whole groups"
            losses.append(Loss(LossKind.SUBSTITUTED, name, detail))
            continue
        chosen[name] = (wanted, Scores(turned, _norms(name, turned, masks.method, squares)))
    if not chosen:
        raise PlanError("no tensor is left to prune", hint="linear layers of a model's blocks are pruned, --skip aside")
    if masks.owl is not None:
        chosen = _by_outliers(chosen, masks.owl, masks.sparsity.share, squares)
    made: Mapping[str, Node]
    if masks.method == "sparsegpt":
        made = {name: _corrected(name, wanted, scores.of, outer) for name, (wanted, scores) in chosen.items()}
    elif scope == "model":
        made = _over_model(chosen, masks)
    else:
        made = {name: _masked(wanted, scores, masks.method, scope) for name, (wanted, scores) in chosen.items()}
    found = dict(tensors)
    for name, mask in made.items():
        found[name] = mask.turned() if transposed else mask
    losses += [
        Loss(LossKind.SUBSTITUTED, name, "dense: experts in one parameter are not pruned by the row")
        for name, node in tensors.items()
        if len(node.shape) == 3 and ".experts." in name and name.endswith(("proj", "proj.weight"))
    ]
    weights = sum(one.of.rows * one.of.columns for _, one in chosen.values())
    return Thinned(found, _zeros(chosen, masks, scope), weights, len(chosen), tuple(losses))


def _by_outliers(
    chosen: Mapping[str, tuple[Sparsity, Scores]], owl: Owl, share: float, squares: Squares
) -> dict[str, tuple[Sparsity, Scores]]:
    """The same, each layer with a share of its own; by Wanda's scores where inputs were measured."""
    weighed = {
        name: Scores(one.of, _norms(name, one.of, "wanda", squares) if squares else None)
        for name, (_, one) in chosen.items()
    }
    own = shares(weighed, owl, share)
    return {name: (Sparsity(own[name]), one) for name, (_, one) in chosen.items()}


def _norms(name: str, node: Node, method: str, squares: Squares) -> NDArray[np.float32] | None:
    if method != "wanda":
        return None
    found = squares.get(name)
    if found is None or found.shape[-1] != node.columns:
        raise PlanError(
            f"the statistics say nothing of {printable(name)}",
            hint="requant calibrate of this very model makes them; --skip leaves a tensor as it is",
        )
    return np.sqrt(np.ascontiguousarray(found, np.float32))


def _corrected(name: str, wanted: Sparsity, node: Node, outer: Outer) -> SparseGpt:
    hessians, chosen = outer.get(name, ((None,), None))
    known = tuple(one for one in hessians if one is not None and one.tokens)
    columns = len(chosen) if chosen is not None else known[0].columns if known else 0
    if len(known) < len(hessians) or columns != node.columns:
        raise PlanError(
            f"the statistics have no Hessian of {printable(name)}",
            hint="requant calibrate --hessians of this very model makes them; --skip leaves a tensor as it is",
        )
    return SparseGpt(node, wanted, known, chosen)


def _masked(wanted: Sparsity, scores: Scores, method: str, scope: str) -> Masked:
    kind = MaskedInRows if wanted.of or scope == "row" else MaskedInTensor
    return kind(scores.of, wanted, method, scores.norms)


def _over_model(chosen: Mapping[str, tuple[Sparsity, Scores]], masks: Masks) -> dict[str, Masked]:
    scores = [one for _, one in chosen.values()]
    total = sum(one.of.rows * one.of.columns for one in scores)
    bounds = over_model(scores, masks.sparsity.pruned(total), _telling(scores))
    return {
        name: MaskedInTensor(one.of, masks.sparsity, masks.method, one.norms, bound)
        for (name, (_, one)), bound in zip(chosen.items(), bounds, strict=True)
    }


def _telling(scores: Sequence[Scores]) -> Callable[[int], None]:
    """Tells whoever wants to know how far the search for a bound is."""
    done, total = 0, 3 * sum(one.of.rows for one in scores)

    def tell(rows: int) -> None:
        nonlocal done
        done += rows
        for hear in on_measured:
            hear(done, total)

    return tell


def _zeros(chosen: Mapping[str, tuple[Sparsity, Scores]], masks: Masks, scope: str) -> int:
    """How many weights become zero, those that are zero already among them."""
    if scope == "model":
        return masks.sparsity.pruned(sum(one.of.rows * one.of.columns for _, one in chosen.values()))
    total = 0
    for wanted, one in chosen.values():
        rows, columns = one.of.rows, one.of.columns
        if wanted.of:
            total += rows * columns // wanted.of * (wanted.of - wanted.kept)
        else:
            total += rows * wanted.pruned(columns) if scope == "row" else wanted.pruned(rows * columns)
    return total
