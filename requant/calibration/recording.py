"""Sums of what goes through a model's matrices, whichever module multiplies with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from requant.calibration.outer import Key, Outer
from requant.calibration.skeleton import Piece, Skeleton
from requant.statistics import NOISE_BLOCKS

Doubles = NDArray[np.float64]


@dataclass(slots=True)
class Sums:
    """Of one matrix: squared inputs [columns] of `inputs` tokens, squared gradients at its outputs [rows].

    weighted: squared inputs [columns], each token's times its gradient's square. noise: what rounding inputs to 8 bits
    in blocks of `NOISE_BLOCKS` columns is predicted to cost, over all tokens with gradients.
    """

    columns: Doubles
    rows: Doubles
    inputs: int = 0
    gradients: int = 0
    weighted: Doubles = field(default_factory=lambda: np.zeros(0))
    noise: Doubles = field(default_factory=lambda: np.zeros(len(NOISE_BLOCKS)))


def rounded_inputs(x: Any, gradients: Any, weight: Any) -> list[float]:
    """Half of Σ (gW)² δ² over tokens, with δ what rounding x to a 127th of the largest of each block is off by.

    x [tokens, columns]; gradients [tokens, rows]; weight [rows, columns]. One for each size of `NOISE_BLOCKS`; 0 where
    columns are no whole blocks.
    """
    matters = (gradients @ weight.detach()).square_()
    found = []
    for block in NOISE_BLOCKS:
        if x.shape[1] % block:
            found.append(0.0)
            continue
        blocks = x.reshape(len(x), -1, block)
        steps = (blocks.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
        off = (blocks - (blocks / steps).round() * steps).reshape(x.shape)
        found.append(float((matters * off.square()).sum()) / 2)
    return found


@dataclass(slots=True)
class Tried:
    """Divergence in nats for each token: what is predicted, and what is measured of `windows` windows, summed up."""

    predicted: float = 0.0
    measured: float = 0.0
    windows: int = 0


class Record:
    """sums: by the name of a tensor of the plan and its matrix. lookups: of embeddings, likewise (rows are counts).
    influences: by the number of a layer, Σ 1 - cos of what goes into it and what comes out, and over how many tokens.
    trials: what `requant.calibration.trials` has found, by name.

    outer: where whole squares of inputs are summed up, too, if they are.
    """

    def __init__(self, skeleton: Skeleton, outer: Outer | None = None) -> None:
        self.skeleton, self.outer = skeleton, outer
        self.sums: dict[Key, Sums] = {}
        self.lookups: dict[str, Sums] = {}
        self.influences: dict[int, tuple[float, int]] = {}
        self.trials: dict[str, Tried] = {}

    def matrices(self, parameter: str) -> Mapping[Piece, Sums]:
        """Room for every matrix of a parameter."""
        found = {}
        for piece in self.skeleton.pieces[parameter]:
            columns, key = self.skeleton.nodes[piece.name].columns, self.key(piece)
            if key not in self.sums:
                rows = np.zeros(piece.stop - piece.start)
                self.sums[key] = Sums(np.zeros(columns), rows, weighted=np.zeros(columns))
            found[piece] = self.sums[key]
        return found

    def add_influence(self, layer: int, before: Any, after: Any) -> None:
        """before, after: [tokens, width], what goes into a layer and what comes out of it."""
        total, tokens = self.influences.get(layer, (0.0, 0))
        alike = functional.cosine_similarity(before.double(), after.double(), dim=-1)
        self.influences[layer] = total + float((1 - alike).clamp(0, 2).sum()), tokens + len(alike)

    def key(self, piece: Piece) -> Key:
        """Where the sums of a piece are."""
        return piece.name, piece.matrix if len(self.skeleton.nodes[piece.name].shape) > 2 else 0


class HeadReached(Exception):
    """The head's inputs are known, and nobody has asked for what it makes of them."""


class Recording(TorchFunctionMode):
    """Within, products with the parameters at `places` (storage -> name) are recorded.

    inputs: squared inputs are summed up. gradients: so are squared gradients at outputs, once they flow back.
    lookups: what embeddings look up is recorded, too. Tables that are not filled work all the same: rows of an
    embedding are made when they are looked up, and a head ends the evaluation by `HeadReached` once its inputs are
    recorded. looked_up: is given the name of a table and what was looked up in it, [1, tokens, columns], to change it.
    """

    def __init__(
        self,
        record: Record,
        places: Mapping[int, str],
        *,
        inputs: bool,
        gradients: bool,
        lookups: bool = True,
        looked_up: Callable[[str, Any], None] | None = None,
    ) -> None:
        super().__init__()
        self._record, self._places, self._inputs, self._gradients = record, places, inputs, gradients
        self._lookups, self._looked_up = lookups, looked_up

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every call of torch comes through here."""
        kwargs = kwargs or {}
        if func is not functional.linear and func is not functional.embedding:
            return func(*args, **kwargs)
        given, weight = (args[n] if len(args) > n else kwargs[key] for n, key in enumerate(("input", "weight")))
        table = self._record.skeleton.tables.get(id(weight))
        name = table or self._places.get(weight.untyped_storage().data_ptr())
        if func is functional.embedding:
            out = func(*args, **kwargs) if table is None else self._record.skeleton.rows(table, given)
            if table is not None and self._looked_up is not None:
                self._looked_up(self._record.skeleton.pieces[table][0].name, out)
            return self._lookup(name, given, out) if name is not None and self._lookups else out
        if table is not None:
            self._product(table, weight, given)
            raise HeadReached
        out = func(*args, **kwargs)
        if name is not None:
            self._product(name, weight, given, out)
        return out

    def _product(self, name: str, weight: Any, x: Any, out: Any = None) -> None:
        matrix = weight.storage_offset() // weight.numel()
        own = [(piece, sums) for piece, sums in self._record.matrices(name).items() if piece.matrix == matrix]
        if self._inputs:
            flat = x.detach().reshape(-1, x.shape[-1])
            squares = flat.square().sum(0).double().numpy()
            for piece, sums in own:
                sums.columns += squares
                sums.inputs += len(flat)
                if self._record.outer is not None:
                    self._record.outer.add(self._record.key(piece), flat)
        if self._gradients and out is not None and out.requires_grad:
            given = x.detach().reshape(-1, x.shape[-1])

            def note(gradient: Any) -> None:
                flat = gradient.detach().reshape(-1, gradient.shape[-1])
                squares = flat.square()
                for piece, sums in own:
                    rows = slice(piece.start, piece.stop)
                    sums.rows += squares[:, rows].sum(0).double().numpy()
                    sums.gradients += len(squares)
                    sums.weighted += (squares[:, rows].sum(1) @ given.square()).double().numpy()
                    sums.noise += rounded_inputs(given, flat[:, rows], weight[rows])

            out.register_hook(note)

    def _lookup(self, name: str, ids: Any, out: Any) -> Any:
        piece = self._record.skeleton.pieces[name][0]
        node = self._record.skeleton.nodes[piece.name]
        if piece.name not in self._record.lookups:
            self._record.lookups[piece.name] = Sums(np.zeros(node.columns), np.zeros(node.shape[0]))
        sums = self._record.lookups[piece.name]
        if self._inputs:
            sums.rows += np.bincount(ids.reshape(-1).numpy(), minlength=len(sums.rows))
            sums.inputs += ids.numel()
        if not self._gradients:
            return out
        out = out.detach().requires_grad_()

        def note(gradient: Any) -> None:
            flat = gradient.detach().reshape(-1, gradient.shape[-1])
            sums.columns += flat.square().sum(0).double().numpy()
            sums.gradients += len(flat)

        out.register_hook(note)
        return out
