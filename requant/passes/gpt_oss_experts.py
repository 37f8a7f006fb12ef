"""The experts of gpt-oss in Hugging Face folders.

Parameters [experts, in, out] where they are plain numbers; where they are MXFP4, stacks of linear layers
[experts, out, in], whose names end in ".weight".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from requant.encodings.scaled import Scaled
from requant.plan import Move

_PARAMETER: Final = re.compile(r".*\.mlp\.experts\.(?:gate_up|down)_proj")


def as_parameters(moves: Sequence[Move]) -> tuple[Move, ...]:
    """`moves` with what was stored as gpt-oss stores MXFP4 as parameters."""
    encodings = [move.inputs[0].encoding for move in moves]
    return tuple(
        _turned(move, move.name.removesuffix(".weight"))
        if isinstance(encoding, Scaled) and encoding.kind.startswith("gpt-oss") and move.name.endswith(".weight")
        else move
        for move, encoding in zip(moves, encodings, strict=True)
    )


def upright(moves: Sequence[Move]) -> tuple[Move, ...]:
    """`moves` with parameters as stacks of linear layers."""
    return tuple(
        _turned(move, f"{move.name}.weight") if len(move.shape) == 3 and _PARAMETER.fullmatch(move.name) else move
        for move in moves
    )


def _turned(move: Move, name: str) -> Move:
    """The move by another name, every matrix transposed, or no longer."""
    return Move(name, move.values.turned())
