"""Fused layers put together again that exllamav2 has split, for folders that transformers loads."""

from __future__ import annotations

from collections.abc import Sequence

from requant.architectures.names import SPLIT
from requant.architectures.rules import Family
from requant.expressions import Joined
from requant.plan import Move


def joined(moves: Sequence[Move], model_type: str, families: Sequence[Family]) -> tuple[Move, ...]:
    """`moves` of an HF checkpoint, with the parts of each layer that this family has fused as one."""
    rules = [rule.hf for family in families if family.model_type == model_type for rule in family.rules]
    fused = {name: parts for name, parts in SPLIT.items() if any(f".{name}." in rule for rule in rules)}
    known = {move.name: move for move in moves}
    result: list[Move] = []
    for move in moves:
        module, _, layer = move.name.removesuffix(".weight").rpartition(".")
        name = next((name for name, parts in fused.items() if layer in parts), None)
        group = [known.get(f"{module}.{part}.weight") for part in fused[name]] if name else [None]
        parts = [part for part in group if part is not None and len(part.shape) == 2]
        if len(parts) < len(group) or len({part.shape[1] for part in parts}) != 1:
            result.append(move)
        elif move is parts[0]:
            result.append(Move(f"{module}.{name}.weight", Joined(tuple(part.values for part in parts))))
    return tuple(result)
