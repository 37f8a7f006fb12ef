"""Which size of groups fits a model that the one asked for does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from requant.encodings import Dense
from requant.ir import Json
from requant.losses import LossKind
from requant.plan import Move
from requant.schemes.linear import Applied
from requant.schemes.scheme import Scheme


def proposal(scheme: Scheme, applied: Applied, moves: Sequence[Move], config: Mapping[str, Json]) -> str:
    """`--to GPTQ-4-64 fits all 210 layers, as does GPTQ-4-32`: the sizes that leave the fewest layers unquantized.

    applied: what `scheme` makes of `moves`. Each size is tried on the same tensors. "" where none fits more of them.
    """
    misfits = _misfits(applied, moves)
    if not misfits:
        return ""
    tried = [(name, _misfits(other.apply(moves, config), moves)) for name, other in scheme.regrouped(moves)]
    fewest = min((left for _, left in tried), default=misfits)
    if fewest >= misfits:
        return ""
    first, *others = [name for name, left in tried if left == fewest]
    layers = misfits + sum(not isinstance(encoding, Dense) for encoding in applied.encodings)
    share = f"{layers - fewest} of {layers} layers" if fewest else f"all {layers} layers" if layers > 1 else "the layer"
    also = f", as {'do' if len(others) > 1 else 'does'} {', '.join(others)}" if others else ""
    return f"--to {first} fits {share}{also}"


def _misfits(applied: Applied, moves: Sequence[Move]) -> int:
    """Tensors that are not quantized, though the scheme is for such."""
    names = {move.name for move in moves}
    return sum(loss.kind is LossKind.SUBSTITUTED and loss.subject in names for loss in applied.losses)
