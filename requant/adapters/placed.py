"""Which tensor of a model each product of an adapter is added to, and which way round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from requant.adapters.changes import Adapter, Kind, Product
from requant.adapters.low_rank import Norms
from requant.errors import PlanError
from requant.expressions import Columns, Node, Stacked
from requant.ir import Json, flat_config

#: Model types whose stacks of experts are [experts, in, out]; it shows in nothing but the code (`is_transposed`).
_TURNED_STACKS: Final = frozenset({"gpt_oss"})


@dataclass(frozen=True, slots=True)
class Placed:
    """scale * up @ down is added to the tensor `name`: a matrix, or a stack of them, whose rows are those of `up`.

    up: [..., rows, rank]. down: [..., rank, columns]. lengths: of DoRA, of rows or columns as `norms` says.
    """

    name: str
    up: Node
    down: Node
    scale: float
    product: Product
    lengths: Node | None = None
    norms: Norms = Norms.ROWS


class Names:
    """The names of a model's tensors, to be found by those that its modules have in memory."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        self._ends: dict[str, list[str]] = {}
        for name in self._names:
            for end in _ends(name):
                self._ends.setdefault(end, []).append(name)

    def find(self, name: str) -> str | None:
        """The tensor of this name; else the only one that has it below another prefix: `model.` is not in every file,
        and of models that also see the text model's differs between versions."""
        if name in self._names:
            return name
        for end in _ends(name):
            found = self._ends.get(end, [])
            if found:
                return found[0] if len(found) == 1 else None
        return None


def _ends(name: str) -> Iterator[str]:
    """The name without one, two, ... of what stands before it, down to the layer, or to two words."""
    parts = name.split(".")
    number = next((n for n, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
    for start in range(max(number, 1)):
        yield ".".join(parts[start:])


@dataclass(frozen=True, slots=True)
class Places:
    """tensors: of the model, in Hugging Face's names. config: its config.json."""

    adapter: Adapter
    tensors: Mapping[str, Node]
    config: Mapping[str, Json]
    names: Names

    def placed(self, product: Product) -> tuple[Placed, ...]:
        """One for a tensor, or for each of single experts; raises `PlanError` for what fits nothing."""
        found = [one for kind in product.kinds if (one := self._of_kind(product, kind))]
        if len(found) > 1:
            # shapes do not tell: PEFT wraps a module's parameters in the order in which the module has them
            order = sorted(found, key=lambda one: list(self.tensors).index(one[0].name))
            found = [order[-1 - product.depth]] if product.depth < len(order) else []
        if not found:
            raise self._unfit(product)
        return found[0]

    def _of_kind(self, product: Product, kind: Kind) -> tuple[Placed, ...]:
        name = f"{product.target}.{kind.parameter}"
        own = self.names.find(name)
        if own is not None:
            one = self._whole(product, kind, own, self.tensors[own])
            return () if one is None else (one,)
        return self._apart(product, kind, name)

    def _whole(self, product: Product, kind: Kind, name: str, of: Node) -> Placed | None:
        """On a tensor that the model has as PEFT sees it; None where shapes differ."""
        *stack, rows, columns = of.shape if len(of.shape) > 1 else (1, *of.shape)
        count = stack[0] if stack else 1
        if len(stack) > 1 or product.down.rows != kind.rank * count:
            return None
        up, down = product.up.rows, product.down.columns
        ways = [turned for turned, fits in ((False, (up, down)), (True, (down, up))) if fits == (rows, columns)]
        if not ways:
            return None
        turned = ways[0] if len(ways) == 1 else self._is_turned(stacked=bool(stack))
        ups, downs = self._factors(product, kind, count) if stack else ([product.up], [product.down])
        if turned:
            ups, downs = [one.turned() for one in downs], [one.turned() for one in ups]
        norms = Norms.COLUMNS if turned or product.embedding else Norms.ROWS
        pair = (Stacked(tuple(ups)), Stacked(tuple(downs))) if stack else (ups[0], downs[0])
        return Placed(name, *pair, kind.scale, product, product.lengths, norms)

    def _is_turned(self, *, stacked: bool) -> bool:
        """Whether a square matrix is [in, out]."""
        config = self.adapter.config
        if stacked:
            return str(flat_config(self.config).get("model_type")) in _TURNED_STACKS
        return config is not None and config.turned

    def _factors(self, product: Product, kind: Kind, count: int) -> tuple[list[Node], list[Node]]:
        """Of each matrix of a stack, as PEFT interleaves them."""
        rank, every = kind.rank, product.up.columns
        ups: list[Node] = [Columns(product.up, range(e, every, count)) for e in range(count)]
        return ups, [product.down.section(e * rank, (e + 1) * rank) for e in range(count)]

    def _apart(self, product: Product, kind: Kind, name: str) -> tuple[Placed, ...]:
        """On tensors that files keep otherwise than memory does: single experts, halves of a fused projection."""
        from requant.architectures import kept_as

        found: list[Placed] = []
        count = product.down.rows // kind.rank
        for kept in kept_as(name, self.config):
            single = "{e}" in kept.name
            if (not single and count > 1) or product.down.rows % kind.rank or product.up.rows % kept.of:
                return ()
            ups, downs = self._factors(product, kind, count)
            height = product.up.rows // kept.of
            for e in range(count):
                own = self.names.find(kept.name.format(e=e))
                if own is None or self.tensors[own].shape != (height, product.down.columns):
                    return ()
                part = ups[e].section(kept.part * height, (kept.part + 1) * height)
                found.append(Placed(own, part, downs[e], kind.scale, product))
            if single and self.names.find(kept.name.format(e=count)) is not None:
                return ()  # of fewer experts than there are
        return tuple(found)

    def _unfit(self, product: Product) -> PlanError:
        """The error for a product that fits no tensor of the model."""
        names = [f"{product.target}.{kind.parameter}" for kind in product.kinds]
        there = [own for name in names if (own := self.names.find(name)) is not None]
        base = f"; it was made for {self.adapter.base}" if self.adapter.base else ""
        made = f"[{product.up.rows}, {product.down.columns}], rank {product.down.rows}"
        if there:
            what = f"of {made}, does not fit {there[0]!r}, {list(self.tensors[there[0]].shape)}"
        else:
            what = f"the model has no {' or '.join(repr(name) for name in names)}"
        return PlanError(f"{self.adapter.path}: {product.name!r}: {what}", hint=f"is it another model's adapter?{base}")
