"""An adapter put on a model: other expressions for the tensors that it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from requant.adapters.changes import Adapter, Change, Product, Shift, TrainedTokens, Whole
from requant.adapters.low_rank import LowRank
from requant.adapters.placed import Names, Placed, Places
from requant.encodings import DENSE
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Node, Patched, Stacked, Stored, reshaped
from requant.ir import Json, Tensor, flat_config
from requant.losses import Loss, LossKind
from requant.sources import Memory

_EMBEDDING = "embed_tokens.weight"
_HEAD = "lm_head.weight"
_APART = "the adapter changes one of two tensors that are tied; from now on each has its own"


@dataclass(frozen=True, slots=True)
class Applied:
    """The tensors of a model with its adapter. rows: of the embedding, where they are more or fewer than before."""

    tensors: Mapping[str, Node]
    losses: tuple[Loss, ...] = ()
    rows: int | None = None


def applied(adapter: Adapter, tensors: Mapping[str, Node], config: Mapping[str, Json]) -> Applied:
    """`tensors`, in Hugging Face's names, with everything that the adapter changes.

    Raises `PlanError` for what fits no tensor, and `UnsupportedError` for adapters that work on some tokens only.
    """
    if adapter.config is not None and adapter.config.invocation:
        raise UnsupportedError(
            f"{adapter.path}: alora_invocation_tokens: it works only after certain tokens, and cannot be merged"
        )
    return _Applying(adapter, dict(tensors), config).made()


@dataclass(slots=True)
class _Applying:
    """A model's tensors on their way."""

    adapter: Adapter
    tensors: dict[str, Node]
    config: Mapping[str, Json]
    losses: list[Loss] = field(default_factory=list)
    rows: int | None = None

    def made(self) -> Applied:
        """What is replaced whole comes first: products may be of it."""
        self._untie()
        order = sorted(self.adapter.changes, key=lambda change: not isinstance(change, Whole))
        for change in order:
            if isinstance(change, Whole):
                self._replace(change)
        places = Places(self.adapter, self.tensors, self.config, Names(self.tensors))
        self.losses += places.assumptions()
        for change in order:
            if isinstance(change, Product):
                for placed in places.placed(change):
                    self.tensors[placed.name] = with_product(self.tensors[placed.name], placed)
            elif isinstance(change, Shift):
                self._shift(change)
            elif isinstance(change, TrainedTokens):
                self._patch(change)
        return Applied(self.tensors, tuple(self.losses), self.rows)

    def _untie(self) -> None:
        """A head that is the embedding gets a name where the adapter changes but one of the two."""
        embedding = next((name for name in self.tensors if name.endswith(_EMBEDDING)), None)
        if embedding is None or any(name.endswith(_HEAD) for name in self.tensors) or self._keeps_tied():
            return
        targets = {_target(change) for change in self.adapter.changes if not isinstance(change, (Shift, TrainedTokens))}
        head, tokens = any(t.endswith("lm_head") for t in targets), any(t.endswith("embed_tokens") for t in targets)
        if (head or tokens) and not self._resizes():
            self.tensors[_HEAD] = self.tensors[embedding]
            self.losses.append(Loss(LossKind.SUSPECT, _HEAD, _APART))

    def _keeps_tied(self) -> bool:
        """Whether there is no head, or both are trained as one."""
        tied = flat_config(self.config).get("tie_word_embeddings") is False
        return tied or (self.adapter.config is not None and self.adapter.config.tying)

    def _resizes(self) -> bool:
        """Whether the embedding has another number of rows than the model's: then it was resized before the training,
        with its head."""
        names = Names(self.tensors)
        for change in self.adapter.changes:
            if isinstance(change, Whole) and change.target.endswith(_EMBEDDING):
                own = names.find(change.target)
                return own is not None and self.tensors[own].shape != change.values.shape
        return False

    def _replace(self, change: Whole) -> None:
        own = Names(self.tensors).find(change.target)
        if own is None:
            raise self._unknown(change, change.target)
        before, after = self.tensors[own].shape, change.values.shape
        if before != after:
            if not own.endswith((_EMBEDDING, _HEAD)) or before[1:] != after[1:]:
                raise PlanError(f"{self.adapter.path}: {change.name!r} is {list(after)}, {own!r} {list(before)}")
            self.rows = after[0]
        self.tensors[own] = change.values

    def _shift(self, change: Shift) -> None:
        name = f"{change.target}.bias"
        own = Names(self.tensors).find(name)
        if own is None:
            raise PlanError(
                f"{self.adapter.path}: {change.name!r}: the model has no {name!r} that it could be added to",
                hint="PEFT does not merge it either; load the adapter beside the model",
            )
        of, values = self.tensors[own], change.values
        if of.shape != values.shape:
            raise PlanError(
                f"{self.adapter.path}: {change.name!r} has the shape {list(values.shape)}, not {list(of.shape)}"
            )
        self.tensors[own] = LowRank(of, _ones(), values, change.scale)

    def _patch(self, change: TrainedTokens) -> None:
        name = f"{change.target}.weight"
        names = Names(self.tensors)
        own = names.find(name)
        if own is None and change.target.endswith("lm_head"):
            return  # tied: it is the embedding, whose rows are the same
        if own is None:
            raise self._unknown(change, name)
        of = self.tensors[own]
        if change.values.columns != of.columns or change.tokens[-1] >= of.rows:
            raise PlanError(
                f"{self.adapter.path}: {change.name!r}: {list(change.values.shape)} for tokens up to "
                f"{change.tokens[-1]} does not fit {own!r}, {list(of.shape)}"
            )
        self.tensors[own] = Patched(of, change.values, change.tokens)

    def _unknown(self, change: Change, name: str) -> PlanError:
        base = f"; it was made for {self.adapter.base}" if self.adapter.base else ""
        return PlanError(
            f"{self.adapter.path}: {change.name!r}: the model has no {name!r}",
            hint=f"is it another model's adapter?{base}",
        )


def _target(change: Change) -> str:
    return change.target.removesuffix(".weight")


def _ones() -> Node:
    """The matrix [1, 1] of a one."""
    return Stored(Tensor("1", (1, 1), DENSE["F32"], {"data": Memory(b"\0\0\x80\x3f")}))


def with_product(of: Node, placed: Placed) -> Node:
    """A tensor with a product on it; of a stack, matrix by matrix."""
    if len(of.shape) < 3:
        return LowRank(of, placed.up, placed.down, placed.scale, placed.lengths, placed.norms)
    count, height, rank = of.shape[0], of.shape[-2], placed.down.shape[-2]
    matrices = [
        LowRank(
            of.section(e * height, (e + 1) * height),
            placed.up.section(e * height, (e + 1) * height),
            placed.down.section(e * rank, (e + 1) * rank),
            placed.scale,
        )
        for e in range(count)
    ]
    return reshaped(Stacked(tuple(matrices)), of.shape)
