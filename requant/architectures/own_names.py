"""The tensors of an HF checkpoint by its family's own names, whatever library has stored them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from requant.architectures.foreign import refuse_foreign
from requant.architectures.names import SPLIT, heads, named_like
from requant.architectures.rules import Apart, Config, Family, Order, Rule
from requant.encodings.scaled import BESIDE
from requant.errors import PlanError
from requant.expressions import Interleaved, Node, Stacked, Transposed, reshaped
from requant.plan import Move

#: Numbers of layers and experts in names.
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)", re.ASCII)


def own_names(moves: Sequence[Move], config: Config, family: Family | None, *, single: bool) -> tuple[Move, ...]:
    """`moves` by the names that transformers loads: stacks of MLX, numbers after projections, … as single experts.

    family: None for an unknown one, whose names are kept. single: stacks that transformers 5 loads as they are become
    single experts, too. Raises `UnsupportedError` for names of other libraries that no table has, and `PlanError` for
    experts that are missing from a stack, and for tensors that a class of the family does not have.
    """
    if family is not None:
        moves = _upright(moves, family)
        moves = _gathered(moves, family, single=single)
    claimed = [] if family is None else [named_like(family, name) for name in _templates(family)]
    ignored = [] if family is None else [re.compile(item.pattern) for item in family.ignored]
    if config:
        refuse_foreign((move.name for move in moves), [*claimed, *ignored])
    classes = config.get("architectures")
    if family is not None and isinstance(classes, list) and set(family.classes) & set(map(str, classes)):
        _refuse_unclaimed((move.name for move in moves), family, claimed, ignored)
    return tuple(moves)


def _refuse_unclaimed(
    names: Iterable[str], family: Family, claimed: Sequence[re.Pattern[str]], ignored: Sequence[re.Pattern[str]]
) -> None:
    """`PlanError` for a tensor that transformers would not load, or would load as something else."""
    kinds: dict[str, str] = {}
    for name in names:
        kinds.setdefault(_NUMBER.sub("0", name), name)
    for name in kinds.values():
        bare = name.removesuffix(".bias") + ".weight" if name.endswith(".bias") else name  # quantizers add biases
        known = any(pattern.fullmatch(one) for pattern in claimed for one in dict.fromkeys((name, bare)))
        if not known and not BESIDE.fullmatch(name) and not any(pattern.fullmatch(name) for pattern in ignored):
            raise PlanError(
                f"tensor {name!r} does not belong to a {family.model_type} model ({family.classes[0]}): transformers "
                "would not load it",
                hint="if config.json names the class that the model has, convert what was saved of that class alone",
            )


def _templates(family: Family) -> Iterable[str]:
    """Names in the language of rules: the family's own, and what becomes of them where they are quantized or split."""
    yield from family.besides
    yield from (name for base in family.bases for name in heads(base))
    for rule in family.rules:
        yield rule.hf
        yield from (other.name for other in rule.apart if other.loaded)
        if rule.order is Order.TRANSPOSED:
            yield f"{rule.hf}.weight"
        module, _, layer = rule.hf.removesuffix(".weight").rpartition(".")
        yield from (f"{module}.{part}.weight" for part in SPLIT.get(layer, ()))
        yield from (rule.hf.removesuffix(new) + old for old, new in family.renamed if rule.hf.endswith(new))


@dataclass(frozen=True, slots=True)
class Kept:
    """Where files keep what has another name in memory. name: with `{e}` for the expert, where each has its own. part,
    of: which of how many equal parts of each matrix's rows it is."""

    name: str
    part: int
    of: int


def kept_as(name: str, family: Family) -> tuple[Kept, ...]:
    """Where a tensor that transformers 5 (or another library) calls `name` lies by the family's own names, part by
    part; nothing where it has that name there, too."""
    found = []
    for rule in family.rules:
        for other in rule.apart:
            match = None if "{e}" in other.name else named_like(family, other.name).fullmatch(name)
            if match is not None and rule.turn is None:
                said = match.groupdict()
                kept = rule.hf.format(base=said.get("base") or "", n=said.get("n") or "", e="{e}")
                found.append(Kept(kept, other.part, other.of))
    return tuple(found)


@dataclass(slots=True)
class _Gathered:
    """What is found of one HF tensor, or of one for each expert. nodes: (rule's turn, expert) -> its matrix."""

    rule: Rule
    base: str
    layer: str
    nodes: dict[tuple[int, int], Node] = field(default_factory=dict)

    def moves(self) -> Iterable[Move]:
        """By the family's names."""
        count = 1 + max(expert for _, expert in self.nodes)
        turns = sorted({turn for turn, _ in self.nodes})
        for turn in turns:
            for expert in range(count):
                if (turn, expert) not in self.nodes:
                    raise PlanError(f"expert {expert} of {self._name(expert)!r} is missing: there are {count}")
        if "{e}" in self.rule.hf:
            return [Move(self._name(expert), self.nodes[0, expert]) for expert in range(count)]
        stacks = [Stacked(tuple(self.nodes[turn, expert] for expert in range(count))) for turn in turns]
        if self.rule.turn is None:
            node = stacks[0] if count > 1 else self.nodes[0, 0]
            return [Move(self._name(0), Transposed(node) if self.rule.order is Order.TRANSPOSED else node)]
        if len(turns) < 2:
            raise PlanError(f"{self._name(0)!r} is made of two tensors, of which one is missing")
        return [Move(self._name(0), _woven(stacks, turned=self.rule.order is Order.TRANSPOSED))]

    def _name(self, expert: int) -> str:
        return self.rule.hf.format(base=self.base, n=self.layer, e=expert)


def _woven(stacks: Sequence[Node], *, turned: bool) -> Node:
    """Rows of gate and up in turn; of biases, one for each row, the numbers."""
    if turned:
        return Transposed(Interleaved(tuple(stacks)))
    upright = Interleaved(tuple(reshaped(node, (*node.shape, 1)) for node in stacks))
    return reshaped(upright, upright.shape[:-1])


def _gathered(moves: Sequence[Move], family: Family, *, single: bool) -> list[Move]:
    """Tensors that lie elsewhere put where the family has them."""
    table = [
        (named_like(family, other.name), rule, other)
        for rule in family.rules
        for other in rule.apart
        if single or not other.loaded
    ]
    found: dict[tuple[str, str, str], _Gathered] = {}
    result: list[Move | _Gathered] = []
    kinds: dict[str, list[tuple[re.Pattern[str], Rule, Apart]]] = {}
    for move in moves:
        kind = _NUMBER.sub("0", move.name)  # of thousands of experts few are of a kind of their own
        if kind not in kinds:
            kinds[kind] = [entry for entry in table if entry[0].fullmatch(move.name)]
        matches = [
            (rule, other, match) for pattern, rule, other in kinds[kind] if (match := pattern.fullmatch(move.name))
        ]
        for rule, other, match in matches:
            said = match.groupdict()
            base, layer = said.get("base") or "", said.get("n") or ""
            gathered = found.get((rule.hf, base, layer))
            if gathered is None:
                gathered = found[rule.hf, base, layer] = _Gathered(rule, base, layer)
                result.append(gathered)
            for expert, node in _matrices(move, rule, other, said):
                gathered.nodes[rule.turn or 0, expert] = node
        if not matches:
            result.append(move)
    return [move for one in result for move in ([one] if isinstance(one, Move) else one.moves())]


def _matrices(move: Move, rule: Rule, other: Apart, said: Mapping[str, str | None]) -> Iterable[tuple[int, Node]]:
    """(expert, matrix) of what is stored elsewhere; a tensor that is none of experts is that of expert 0."""
    node, shape = move.values, move.values.shape
    stacked = "{e}" not in other.name and rule.each in (*rule.shape, "experts") and _of_experts(rule)
    if not stacked:
        expert = int(said.get("e") or 0)
        return [(expert, _part(node, other))]
    if len(shape) == 2:  # one bias for each row
        return [(e, reshaped(node.section(e, e + 1), (shape[1],))) for e in range(shape[0])]
    if len(shape) != 3 or shape[-2] % other.of:
        raise PlanError(f"{move.name!r} has the shape {list(shape)}, which is no stack of experts")
    height = shape[-2]
    rows, first = height // other.of, other.part * (height // other.of)
    return [(e, node.section(e * height + first, e * height + first + rows)) for e in range(shape[0])]


def _part(node: Node, other: Apart) -> Node:
    rows = node.rows // other.of
    return node if other.of == 1 else node.section(other.part * rows, (other.part + 1) * rows)


def _of_experts(rule: Rule) -> bool:
    """Whether a rule is of the experts, and not of what chooses them."""
    return "_exps." in rule.ggml


def _upright(moves: Sequence[Move], family: Family) -> list[Move]:
    """MLX's matrices, [out, in], where the family has them [in, out], under the prefix that tells."""
    embedding = next(rule for rule in family.rules if rule.ggml == family.embedding).hf
    if not family.upright or not any(move.name == embedding.format(base=family.upright) for move in moves):
        return list(moves)
    turned = [
        re.compile(re.escape(rule.hf.format(base="", n="\0")).replace(re.escape("\0"), r"\d{1,6}"))
        for rule in family.rules
        if rule.order is Order.TRANSPOSED
    ]
    made = []
    for move in moves:
        name = move.name.removeprefix(family.upright)
        values = move.values.turned() if any(pattern.fullmatch(name) for pattern in turned) else move.values
        made.append(Move(name if name == move.name else family.bases[0] + name, values))
    return made
