"""Which tensor of a model each product of an adapter is added to, and which way round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from requant.adapters.changes import Adapter, Kind, Product
from requant.adapters.low_rank import Norms
from requant.architectures.own_names import Kept
from requant.errors import PlanError
from requant.expressions import Columns, Node, Stacked
from requant.ir import Json, flat_config
from requant.losses import Loss, LossKind

#: Model types whose stacks of experts are [experts, in, out]; it shows in nothing but the code (`is_transposed`).
_TURNED_STACKS: Final = frozenset({"gpt_oss"})
#: Model types whose experts unsloth before 2026.9.6 trained with the columns of lora_B expert by expert, without saying
#: so (`_LEGACY_GROUPED_LORA_B_FAMILIES` of unsloth_zoo 2026.10.9, which loads them so), and their parameters.
_ONCE_GROUPED: Final = frozenset(
    {
        *("deepseek_v3", "ernie4_5_moe", "ernie4_5_vl_moe", "gemma4", "glm4_moe", "glm4_moe_lite", "gpt_oss"),
        *("lfm2_moe", "mixtral", "qwen3_5_moe", "qwen3_moe", "qwen3_next", "qwen3_vl_moe"),
    }
)
_ASSUMED: Final = (
    "unsloth does not say how its columns follow each other; taken as it had them before 2026.9.6, expert by expert"
)
_FUSED: Final = ("gate_up_proj", "down_proj")
#: PEFT before this version takes the second dimension of any stack for what goes in: [experts, in, out].
_SWAPS: Final = (0, 19)


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
        ups, downs = self._factors(product, kind, count if stack else 1, turned)
        norms = Norms.COLUMNS if turned or product.embedding else Norms.ROWS
        pair = (Stacked(tuple(ups)), Stacked(tuple(downs))) if stack else (ups[0], downs[0])
        return Placed(name, *pair, kind.scale, product, product.lengths, norms)

    def _is_turned(self, *, stacked: bool) -> bool:
        """Whether a square matrix is [in, out]."""
        config = self.adapter.config
        if stacked:
            return self._model_type in _TURNED_STACKS or self._is_swapped
        return config is not None and config.turned

    @property
    def _is_swapped(self) -> bool:
        """Whether its PEFT took every stack for [experts, in, out], which shows where that is not square."""
        config = self.adapter.config
        numbers = tuple(int(part) for part in (config.version if config else "").split(".")[:2] if part.isdecimal())
        return config is not None and numbers < _SWAPS

    @property
    def _model_type(self) -> str:
        return str(flat_config(self.config).get("model_type"))

    def assumptions(self) -> tuple[Loss, ...]:
        """Products that are read in one of two ways, neither of which the adapter contradicts."""
        return tuple(
            Loss(LossKind.SUSPECT, product.name, _ASSUMED)
            for product in self.adapter.products
            if self._is_assumed(product)
        )

    def _is_assumed(self, product: Product) -> bool:
        config = self.adapter.config
        fused = any(kind.parameter in _FUSED for kind in product.kinds)
        return config is not None and config.undated and fused and self._model_type in _ONCE_GROUPED

    def _is_grouped(self, product: Product, kind: Kind) -> bool:
        config = self.adapter.config
        said = config is not None and ("*" in config.grouped or kind.parameter in config.grouped)
        return said or self._is_assumed(product)

    def _factors(self, product: Product, kind: Kind, count: int, turned: bool) -> tuple[list[Node], list[Node]]:
        """Of each matrix of a stack, as PEFT interleaves them, or unsloth."""
        ups, downs, rank, every = [product.up], [product.down], kind.rank, product.up.columns
        if count > 1:
            columns = [range(e, every, count) for e in range(count)]
            if self._is_grouped(product, kind):
                columns = [range(e * rank, (e + 1) * rank) for e in range(count)]
            ups = [Columns(product.up, one) for one in columns]
            downs = [product.down.section(e * rank, (e + 1) * rank) for e in range(count)]
        return ([x.turned() for x in downs], [x.turned() for x in ups]) if turned else (ups, downs)

    def _apart(self, product: Product, kind: Kind, name: str) -> tuple[Placed, ...]:
        """On tensors that files keep otherwise than memory does: single experts, halves of a fused projection."""
        from requant.architectures import kept_as

        count = product.down.rows // kind.rank
        kept = kept_as(name, self.config)
        if product.down.rows % kind.rank or (count > 1 and any("{e}" not in one.name for one in kept)):
            return ()
        likely = count > 1 and self._is_swapped and self._model_type not in _TURNED_STACKS
        for turned in (likely, not likely) if count > 1 else (False,):
            ups, downs = self._factors(product, kind, count, turned)
            if found := self._single(product, kind, kept, ups, downs):
                return found
        return ()

    def _single(
        self, product: Product, kind: Kind, kept: Sequence[Kept], ups: Sequence[Node], downs: Sequence[Node]
    ) -> tuple[Placed, ...]:
        """The factors of every expert on the tensors that hold it; none if one of them does not fit."""
        found: list[Placed] = []
        for place in kept:
            height, left = divmod(ups[0].rows, place.of)
            for e, (up, down) in enumerate(zip(ups, downs, strict=True)):
                own = self.names.find(place.name.format(e=e))
                if own is None or left or self.tensors[own].shape != (height, down.columns):
                    return ()
                part = up.section(place.part * height, (place.part + 1) * height)
                found.append(Placed(own, part, down, kind.scale, product))
            if "{e}" in place.name and self.names.find(place.name.format(e=len(ups))) is not None:
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
