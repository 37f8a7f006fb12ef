"""compressed-tensors' sparse formats: what is not zero with a bit for each number, and tiles of the marlin-24 kernel.

Source: compressed-tensors 0.12.2; 0.13 and later read them no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from requant.codecs import codec_for
from requant.encodings import Dense, Encoding
from requant.encodings.sparse import Bitmask, Marlin24
from requant.errors import PlanError
from requant.expressions import Context, Form, Node, Scratch, Shared, part_of, slabs
from requant.ir import Json
from requant.losses import Loss, LossKind
from requant.measuring import on_measured
from requant.plan import Move
from requant.runs import reducing
from requant.schemes.compressed import Weights, compressed_config
from requant.schemes.linear import Applied, dense_like, dense_modules, is_linear, refuse_transposed
from requant.schemes.scheme import Scheme
from requant.system import processors

_UNREAD: Final = "compressed-tensors reads it up to 0.12; since 0.13 it has no such compressor"


@dataclass(frozen=True, slots=True)
class Counted:
    """Of one tensor: numbers that are not zero, and whether no four neighbours have more than two."""

    stored: int
    halves: bool


def counted(node: Node, target: Dense) -> Counted:
    """How sparse a tensor will be, stored as `target`; it is read for that, some rows at a time."""
    scratch, shared = Scratch(), Shared()
    for one in reducing(node):
        found = shared.results[id(one)] = []
        for reduction in one.reductions():
            total = None
            for rows in slabs(reduction.inputs):
                if reduction.needs(rows, found):
                    part = part_of(reduction, rows, found, Context(scratch, shared))
                    total = part if total is None else reduction.merge(total, part)
            found.append(reduction.result(total))
    stored, halves, codec = 0, node.columns % 4 == 0, codec_for(target)
    for rows in slabs((node,)):
        with scratch.room():
            values = scratch.values(len(rows), node.columns)
            node.fill(Form.VALUES, rows, values, Context(scratch, shared))
            full = scratch.array(np.dtype(target.dtype.numpy), len(rows), node.columns)
            codec.encode(values, {"data": full})
            codec.decode({"data": full}, values)
            stored += int(np.count_nonzero(values))
            halves = halves and bool((np.count_nonzero(values.reshape(-1, 4), axis=1) <= 2).all())
    return Counted(stored, halves)


def counted_all(moves: Sequence[Move]) -> dict[str, Counted]:
    """Of each linear layer, by name."""
    wanted = [move for move in moves if is_linear(move)]
    found = {}
    with ThreadPoolExecutor(processors()) as pool:
        results = pool.map(lambda move: counted(move.values, dense_like(move)), wanted)
        for number, (move, result) in enumerate(zip(wanted, results, strict=True), 1):
            found[move.name] = result
            for tell in on_measured:
                tell(number, len(wanted))
    return found


@dataclass(frozen=True, slots=True)
class BitmaskScheme(Scheme):
    """halves: the 2:4 form, in which exactly half of each row is stored."""

    halves: bool

    @property
    def name(self) -> str:
        """As users write it."""
        return "BITMASK-24" if self.halves else "BITMASK"

    @property
    def measures(self) -> bool:
        """Numbers that are not zero are counted."""
        return True

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Linear layers of the blocks; those that the form does not fit stay dense, and so do those that it would not
        make smaller."""
        refuse_transposed(config, self.name)
        counts = counted_all(moves)
        encodings: list[Encoding] = []
        losses: list[Loss] = []
        stored = total = 0
        for move in moves:
            dense = dense_like(move)
            found = counts.get(move.name)
            why = "" if found is None else self._why_not(move, found, dense)
            if found is None or why:
                encodings.append(dense)
                losses += _told(move, dense, self.name, why)
                continue
            size = prod(move.shape)
            stored, total = stored + found.stored, total + size
            encodings.append(Bitmask(dense, size // 2 if self.halves else found.stored, self.halves, inside=False))
        if not total:
            raise PlanError(
                f"no layer of the model can be stored as {self.name}",
                hint="requant prune --sparsity makes zeros on the way",
            )
        sparsity: dict[str, Json] = {
            "format": "sparse-24-bitmask" if self.halves else "sparse-bitmask",
            "global_sparsity": 1 - stored / total,
            "sparsity_structure": "2:4" if self.halves else "unstructured",
            "targets": ["Linear"],
            "ignore": list[Json](dict.fromkeys((*dense_modules(moves, encodings), "lm_head"))),
        }
        quantization: dict[str, Json] = {"quant_method": "compressed-tensors", "sparsity_config": sparsity}
        losses.append(Loss(LossKind.UNLOADED, str(sparsity["format"]), _UNREAD))
        return Applied(tuple(encodings), quantization, losses=tuple(losses))

    def _why_not(self, move: Move, found: Counted, dense: Dense) -> str:
        if self.halves:
            return "" if found.halves else "more than two of four neighbours are not zero"
        as_mask = Bitmask(dense, found.stored, halves=False, inside=False).parts(move.shape)
        smaller = sum(part.nbytes for part in as_mask.values()) < prod(move.shape) * dense.dtype.bits // 8
        return "" if smaller else "it has too few zeros to be smaller"


@dataclass(frozen=True, slots=True)
class Marlin24Scheme(Scheme):
    """bits: 4 or 8. group: 128 columns to a scale, or -1 for whole rows."""

    bits: int
    group: int

    @property
    def name(self) -> str:
        """As users write it."""
        return f"MARLIN24-{self.bits}-{self.group}"

    @property
    def measures(self) -> bool:
        """Whether layers are 2:4 sparse is looked at."""
        return True

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Linear layers of the blocks that are 2:4 sparse."""
        refuse_transposed(config, self.name)
        counts = counted_all(moves)
        encodings: list[Encoding] = []
        losses: list[Loss] = []
        for move in moves:
            found, dense = counts.get(move.name), dense_like(move)
            why = "" if found is None else self._why_not(move, found)
            fits = found is not None and not why
            encodings.append(Marlin24(self.bits, self.group) if fits else dense)
            losses += _told(move, dense, self.name, why)
        if not any(isinstance(encoding, Marlin24) for encoding in encodings):
            raise PlanError(
                f"no layer of the model can be stored as {self.name}: {next(_reasons(losses), 'it has none')}",
                hint="requant prune --sparsity 2:4 makes zeros on the way",
            )
        strategy = "channel" if self.group < 0 else "group"
        weights = Weights("marlin-24", self.bits, "int", strategy, None if self.group < 0 else self.group)
        losses.append(Loss(LossKind.UNLOADED, "marlin-24", _UNREAD))
        config_of = compressed_config([weights], dense_modules(moves, encodings))
        return Applied(tuple(encodings), config_of, losses=tuple(losses))

    def _why_not(self, move: Move, found: Counted) -> str:
        try:
            Marlin24(self.bits, self.group).parts(move.shape)
        except PlanError:
            return f"{list(move.shape)} are no whole tiles"
        return "" if found.halves else "more than two of four neighbours are not zero"


def _told(move: Move, dense: Dense, name: str, why: str) -> list[Loss]:
    return [Loss(LossKind.SUBSTITUTED, move.name, f"{dense.label} instead of {name}: {why}")] if why else []


def _reasons(losses: Iterable[Loss]) -> Iterator[str]:
    return (loss.detail.rpartition(": ")[2] for loss in losses)


def bitmask(parameters: Sequence[str]) -> BitmaskScheme:
    """`BITMASK`, `BITMASK-24`."""
    if list(parameters) not in ([], ["24"]):
        raise PlanError(f"{'-'.join(('BITMASK', *parameters))} is not understood", hint="BITMASK, or BITMASK-24")
    return BitmaskScheme(bool(parameters))


def marlin24(parameters: Sequence[str]) -> Marlin24Scheme:
    """`MARLIN24` (4 bits in groups of 128), `MARLIN24-8`, `MARLIN24-4--1` (a scale for each row)."""
    text = "-".join(parameters)
    known = {"": (4, 128), "4": (4, 128), "8": (8, 128), "4-128": (4, 128), "8-128": (8, 128)}
    known |= {"4--1": (4, -1), "8--1": (8, -1)}
    if text not in known:
        raise PlanError(f"MARLIN24-{text} is not understood", hint="MARLIN24, MARLIN24-8, MARLIN24-4--1, MARLIN24-8--1")
    return Marlin24Scheme(*known[text])
